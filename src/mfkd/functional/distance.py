"""How far two feature maps of one shape are apart; each distance ignores the maps' scale in its own way.

Shapes:    B batch; C channels; h, w positions.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mfkd.errors import ShapeError, UnknownNameError
from mfkd.functional.precision import full

EPSILON = 1e-16  # a map of zeros is at distance 1 from everything
MapDistance = Callable[[Tensor, Tensor], Tensor]


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine over channels, mean over positions and batch.

    Args:
        student: (B, C, h, w); gradients flow.
        teacher: (B, C, h, w); held constant.

    Returns:
        () dimensionless, 0 to 2.

    Raises:
        ShapeError: the shapes differ.
    """
    gap: Tensor = _Cosine.apply(*_pair("cosine_distance", student, teacher))
    return gap


class _Cosine(torch.autograd.Function):
    """`cosine_distance` with its gradient by hand: a quarter of the passes over memory of torch's own function."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        """Both (B, C, h, w)."""
        own = torch.linalg.vector_norm(student, dim=1, keepdim=True)  # (B, 1, h, w), as all below
        both = (own * torch.linalg.vector_norm(teacher, dim=1, keepdim=True)).clamp_min(EPSILON**0.5)
        cosine = (student * teacher).sum(1, keepdim=True) / both
        ctx.save_for_backward(student, teacher, own, both, cosine)
        gap: Tensor = 1 - cosine.mean()
        return gap

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of the student's map: across its direction, towards the teacher's."""
        student, teacher, own, both, cosine = ctx.saved_tensors
        each = gradient / cosine.numel()
        along = each * cosine / own.square().clamp_min(EPSILON)
        return torch.addcmul(teacher * (-each / both), student, along), None


def standardised_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared gap after each channel of both maps has mean 0 and deviation 1 over batch and positions.

    Args:
        student: (B, C, h, w); gradients flow.
        teacher: (B, C, h, w); held constant.

    Returns:
        () dimensionless, 0 to 4: 2 - 2 r for a mean correlation r.

    Raises:
        ShapeError: the shapes differ, or a channel has fewer than 2 values.
    """
    student, teacher = _pair("standardised_mse", student, teacher)
    return F.mse_loss(_standardise(student), _standardise(teacher))


def smooth_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """As `standardised_mse`, but gaps above 1 count linearly (half the square below 1).

    Args:
        student: (B, C, h, w); gradients flow.
        teacher: (B, C, h, w); held constant.

    Returns:
        () dimensionless, 0 or more.

    Raises:
        ShapeError: the shapes differ, or a channel has fewer than 2 values.
    """
    student, teacher = _pair("smooth_l1", student, teacher)
    return F.smooth_l1_loss(_standardise(student), _standardise(teacher))


DISTANCES: dict[str, MapDistance] = {"cosine": cosine_distance, "mse": standardised_mse, "smooth_l1": smooth_l1}


def map_distance(kind: str) -> MapDistance:
    """The distance called `kind` in `DISTANCES`."""
    if kind not in DISTANCES:
        raise UnknownNameError("distance", kind, DISTANCES)
    return DISTANCES[kind]


def _pair(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ShapeError(
            f"{name} needs two maps (B, C, h, w) of one shape, got student {tuple(student.shape)} and "
            f"teacher {tuple(teacher.shape)}; bring both to one size and width first."
        )
    # Side by side in memory: two layouts in one operation cost several times as much.
    last = student.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return full(student), full(teacher.detach()).contiguous(memory_format=layout)


def _standardise(maps: Tensor) -> Tensor:
    batch, channels, *size = maps.shape
    if maps.numel() < 2 * channels:
        raise ShapeError(
            f"standardising a map needs 2 or more values a channel, got batch {batch} at {size[0]}x{size[1]}; "
            "use a larger batch or distance=cosine."
        )
    # The statistics of both sides are those of this very batch, so the distance has no state.
    return F.batch_norm(maps, None, None, training=True)
