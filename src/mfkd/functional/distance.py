"""How far two feature maps of one shape are apart; each distance ignores the maps' scale in its own way.

Shapes:    B batch; C channels; h, w positions.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

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
    student, teacher = _pair("cosine_distance", student, teacher)
    # Three sums of products: half the work of torch's own function, forward and backward.
    dot, own, other = (student * teacher).sum(1), student.square().sum(1), teacher.square().sum(1)
    return 1 - (dot * (own * other).clamp_min(EPSILON).rsqrt()).mean()


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
    return full(student), full(teacher.detach())


def _standardise(maps: Tensor) -> Tensor:
    batch, channels, *size = maps.shape
    if maps.numel() < 2 * channels:
        raise ShapeError(
            f"standardising a map needs 2 or more values a channel, got batch {batch} at {size[0]}x{size[1]}; "
            "use a larger batch or distance=cosine."
        )
    # The statistics of both sides are those of this very batch, so the distance has no state.
    return F.batch_norm(maps, None, None, training=True)
