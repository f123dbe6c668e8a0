"""How far two feature maps of one shape are apart; each distance ignores the maps' scale in its own way.

The student's map may be given as levels, which together have its channels: concatenating them, and taking the gradient
apart again, would cost more than the distance does.

Shapes:    B batch; C channels; h, w positions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mfkd.errors import ShapeError, UnknownNameError
from mfkd.functional.precision import full

EPSILON = 1e-16  # a map of zeros is at distance 1 from everything
MapOrLevels = Tensor | Sequence[Tensor]
MapDistance = Callable[[MapOrLevels, Tensor], Tensor]


def cosine_distance(student: MapOrLevels, teacher: Tensor) -> Tensor:
    """One minus the cosine over channels, mean over positions and batch.

    Args:
        student: (B, C, h, w), or its levels (B, C_i, h, w); gradients flow.
        teacher: (B, C, h, w); held constant.

    Returns:
        () dimensionless, 0 to 2.

    Raises:
        ShapeError: the shapes differ.
    """
    levels, teacher = _pair("cosine_distance", student, teacher)
    gap: Tensor = _Cosine.apply(teacher, *levels)
    return gap


class _Cosine(torch.autograd.Function):
    """`cosine_distance` with its gradient by hand, which passes over memory less often than autograd's."""

    @staticmethod
    def forward(ctx: Any, teacher: Tensor, *levels: Tensor) -> Tensor:
        """(B, C, h, w) and one (B, C_i, h, w) a level of the student."""
        parts = _parts(teacher, levels)
        own = _total([level.square() for level in levels])  # (B, 1, h, w), as all below
        both = (own.sqrt() * torch.linalg.vector_norm(teacher, dim=1, keepdim=True)).clamp_min(EPSILON**0.5)
        cosine = _total([level * part for level, part in zip(levels, parts, strict=True)]) / both
        ctx.save_for_backward(own, both, cosine, teacher, *levels)
        gap: Tensor = 1 - cosine.mean()
        return gap

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the student's levels: across their direction, towards the teacher's."""
        own, both, cosine, teacher, *levels = ctx.saved_tensors
        parts = _parts(teacher, levels)
        each = gradient / cosine.numel()
        away, along = -each / both, each * cosine / own.clamp_min(EPSILON)
        return None, *(torch.addcmul(part * away, level, along) for level, part in zip(levels, parts, strict=True))


def _parts(teacher: Tensor, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What each level of the student is compared with, (B, C_i, h, w)."""
    return teacher.split([level.shape[1] for level in levels], dim=1)  # type: ignore[no-any-return]


def _total(products: list[Tensor]) -> Tensor:
    """Sum over the channels of all levels, (B, 1, h, w)."""
    total = products[0].sum(1, keepdim=True)
    for product in products[1:]:
        total = total + product.sum(1, keepdim=True)
    return total


def standardised_mse(student: MapOrLevels, teacher: Tensor) -> Tensor:
    """Mean squared gap after each channel of both maps has mean 0 and deviation 1 over batch and positions.

    Args:
        student: (B, C, h, w), or its levels (B, C_i, h, w); gradients flow.
        teacher: (B, C, h, w); held constant.

    Returns:
        () dimensionless, 0 to 4: 2 - 2 r for a mean correlation r.

    Raises:
        ShapeError: the shapes differ, or a channel has fewer than 2 values.
    """
    levels, teacher = _pair("standardised_mse", student, teacher)
    return F.mse_loss(_standardise(torch.cat(levels, dim=1)), _standardise(teacher))


def smooth_l1(student: MapOrLevels, teacher: Tensor) -> Tensor:
    """As `standardised_mse`, but gaps above 1 count linearly (half the square below 1).

    Args:
        student: (B, C, h, w), or its levels (B, C_i, h, w); gradients flow.
        teacher: (B, C, h, w); held constant.

    Returns:
        () dimensionless, 0 or more.

    Raises:
        ShapeError: the shapes differ, or a channel has fewer than 2 values.
    """
    levels, teacher = _pair("smooth_l1", student, teacher)
    return F.smooth_l1_loss(_standardise(torch.cat(levels, dim=1)), _standardise(teacher))


DISTANCES: dict[str, MapDistance] = {"cosine": cosine_distance, "mse": standardised_mse, "smooth_l1": smooth_l1}


def map_distance(kind: str) -> MapDistance:
    """The distance called `kind` in `DISTANCES`."""
    if kind not in DISTANCES:
        raise UnknownNameError("distance", kind, DISTANCES)
    return DISTANCES[kind]


def _pair(name: str, student: MapOrLevels, teacher: Tensor) -> tuple[list[Tensor], Tensor]:
    levels = [student] if isinstance(student, Tensor) else list(student)
    shapes = [tuple(level.shape) for level in levels]
    fit = {(len(shape), shape[0], *shape[2:]) for shape in shapes} == {(4, len(teacher), *teacher.shape[2:])}
    if not fit or sum(shape[1] for shape in shapes) != teacher.shape[1]:
        raise ShapeError(
            f"{name} needs two maps (B, C, h, w) of one shape, got student {' and '.join(map(str, shapes))} and "
            f"teacher {tuple(teacher.shape)}; bring both to one size and width first."
        )
    # Side by side in memory: two layouts in one operation cost several times as much.
    last = levels[0].is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return [full(level) for level in levels], full(teacher.detach()).contiguous(memory_format=layout)


def _standardise(maps: Tensor) -> Tensor:
    batch, channels, *size = maps.shape
    if maps.numel() < 2 * channels:
        raise ShapeError(
            f"standardising a map needs 2 or more values a channel, got batch {batch} at {size[0]}x{size[1]}; "
            "use a larger batch or distance=cosine."
        )
    # The statistics of both sides are those of this very batch, so the distance has no state.
    return F.batch_norm(maps, None, None, training=True)
