"""How alike two networks see the same images: linear CKA.

Paper:     Kornblith et al., ICML 2019, https://arxiv.org/abs/1905.00414; the unbiased estimator of HSIC by Song et
           al., JMLR 2012, as used for CKA by Nguyen et al., ICLR 2021, https://arxiv.org/abs/2010.15327.
Deviates:  maps are averaged to at most 8 x 8 cells before, to bound the memory.
Shapes:    N images; D features.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mfkd.errors import ShapeError
from mfkd.nn.align import shrink

SIDE = 8


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Likeness of two sets of features of the same images.

    Args:
        first: (N, ...) of any shape, N at least 4.
        second: (N, ...) of any shape.

    Returns:
        1 for features that are the same but for rotation and scale, about 0 for unrelated ones (a little below too,
        since the estimator is unbiased).

    Raises:
        ShapeError: not the same images, or fewer than 4.
    """
    if len(first) != len(second) or len(first) < 4:
        raise ShapeError(
            f"linear_cka needs features of the same 4 images or more, got {len(first)} and {len(second)}; "
            "feed both networks the same images."
        )
    return cka(gram(first), gram(second))


def gram(features: Tensor) -> Tensor:
    """(N, ...) to the inner products of all pairs, (N, N) float64 with an empty diagonal."""
    maps = shrink(features, (SIDE, SIDE)) if features.ndim == 4 else features
    flat = maps.flatten(1).double()
    flat = flat - flat.mean(0)  # changes nothing but the rounding
    return (flat @ flat.T).fill_diagonal_(0)


def cka(first: Tensor, second: Tensor) -> float:
    """CKA of two matrices of `gram`; 0 where one of them is constant."""
    own = _hsic(first, first) * _hsic(second, second)
    return float(_hsic(first, second) / own.sqrt()) if own > 0 else 0.0


def matrix(rows: Mapping[str, Tensor], columns: Mapping[str, Tensor]) -> list[list[float]]:
    """CKA of each with each."""
    return [[cka(row, column) for column in columns.values()] for row in rows.values()]


def _hsic(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased estimate from two (N, N) with an empty diagonal."""
    count = len(first)
    trace = (first * second).sum()
    sums = first.sum() * second.sum() / ((count - 1) * (count - 2))
    mixed = 2 * torch.dot(first.sum(0), second.sum(0)) / (count - 2)
    return (trace + sums - mixed) / (count * (count - 3))
