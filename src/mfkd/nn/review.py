"""The student's maps, reviewed from the deepest to the shallowest, each with what the deeper ones left.

Paper:     Chen, Liu, Zhao and Jia, "Distilling knowledge via knowledge review", CVPR 2021,
           https://arxiv.org/abs/2104.09044
Shapes:    B batch; L levels; C_i, H_i, W_i the student's map; D_i, h_i, w_i the teacher's; M the common width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfkd.errors import ShapeError
from mfkd.nn.align import Size
from mfkd.nn.conv import ConvNorm

Shape = tuple[int, int, int]


class Fuse(nn.Module):
    """One level: to M channels, add the deeper residual by two attention maps, then to the teacher's shape.

    Args:
        channels: C_i.
        mid: M.
        outputs: D_i.
        size: (h_i, w_i).
        deepest: there is no deeper level to fuse with.
    """

    def __init__(self, channels: int, mid: int, outputs: int, size: Size, deepest: bool) -> None:
        super().__init__()
        self.size = size
        self.inner, self.outer = ConvNorm(channels, mid), ConvNorm(mid, outputs, 3)
        self.attention = None if deepest else nn.Conv2d(2 * mid, 2, 1)
        for part in (self.inner, self.outer):
            nn.init.kaiming_uniform_(part.conv.weight, a=1)  # as published

    def forward(self, level: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, C_i, H_i, W_i) and the deeper residual (B, M, h, w) to (B, D_i, h_i, w_i) and (B, M, h_i, w_i)."""
        level = self.inner(level)
        if self.attention is not None and residual is not None:
            residual = _resize(residual, (level.shape[2], level.shape[3]))
            own, deeper = self.attention(torch.cat([level, residual], dim=1)).sigmoid().split(1, dim=1)  # (B, 1, ...)
            level = own * level + deeper * residual
        level = _resize(level, self.size)
        return self.outer(level), level


class Review(nn.Module):
    """All levels of the student, each in the shape of its partner.

    Args:
        student: (C_i, H_i, W_i) of each level, front first.
        teacher: (D_i, h_i, w_i) of each level.
        mid: M.
    """

    def __init__(self, student: Sequence[Shape], teacher: Sequence[Shape], mid: int) -> None:
        super().__init__()
        last = len(student) - 1
        self.levels = nn.ModuleList(
            Fuse(own[0], mid, other[0], other[1:], number == last)
            for number, (own, other) in enumerate(zip(student, teacher, strict=True))
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One (B, C_i, H_i, W_i) a level, front first, to one (B, D_i, h_i, w_i) a level."""
        if len(maps) != len(self.levels):
            raise ShapeError(
                f"Review was built for {len(self.levels)} levels, got {len(maps)} maps; give one map a level."
            )
        results: list[Tensor] = []
        residual = None
        for fuse, level in zip(reversed(self.levels), reversed(maps), strict=True):
            result, residual = fuse(level, residual)
            results.insert(0, result)
        return results


def _resize(maps: Tensor, size: Size) -> Tensor:
    return maps if tuple(maps.shape[2:]) == size else F.interpolate(maps, size=size, mode="nearest")
