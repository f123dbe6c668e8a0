"""Regressors: parts that bring the student's maps to the teacher's shape and are thrown away later."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mfkd.errors import ShapeError
from mfkd.nn.align import Align, Size, check_channels, enlarge, normalise, shrink


class Regressor(nn.Module):
    """Maps of several levels, resized and concatenated, through one 1x1 convolution and BatchNorm.

    Args:
        shapes: (C_i, H_i, W_i) of each level.
        channels: C of the result.
        size: (h, w) of the result.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], channels: int, size: Size) -> None:
        super().__init__()
        self.widths = [shape[0] for shape in shapes]
        self.size = size
        self.conv = nn.Conv2d(sum(self.widths), channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One (B, C_i, H_i, W_i) a level to (B, C, h, w)."""
        if len(maps) != len(self.widths):
            raise ShapeError(f"Regressor was built for {len(self.widths)} levels, got {len(maps)} maps.")
        for level, width in zip(maps, self.widths, strict=True):
            check_channels("Regressor", level, width)
        resized = [enlarge(shrink(level, self.size), self.size) for level in maps]
        return normalise(self.norm, self.conv(torch.cat(resized, dim=1)))


class Levels(nn.Module):
    """Maps of several levels, each through a 1x1 convolution and BatchNorm of its own, concatenated.

    Args:
        shapes: (C_i, H_i, W_i) of each level.
        widths: channels that each level is brought to; their sum is C of the result.
        size: (h, w) of the result.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], widths: Sequence[int], size: Size) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Align(shape[0], width, size) for shape, width in zip(shapes, widths, strict=True))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One (B, C_i, H_i, W_i) a level to (B, C, h, w)."""
        return torch.cat(self.apart(maps), dim=1)

    def apart(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One (B, C_i, H_i, W_i) a level to one (B, width, h, w) a level, for what needs no concatenation."""
        if len(maps) != len(self.levels):
            raise ShapeError(f"Levels was built for {len(self.levels)} levels, got {len(maps)} maps.")
        return [level(tap) for level, tap in zip(self.levels, maps, strict=True)]


def answering(student: Sequence[tuple[int, int, int]], teacher: Sequence[int], size: Size) -> Levels | Regressor:
    """The student's side of a teacher's levels that are concatenated: each level answers its own.

    Args:
        student: (C_i, H_i, W_i) of each student level, front first.
        teacher: channels of each of the teacher's levels, likewise; with n times as many levels, as of n teachers, a
            student's level answers n in a row. With any other number all levels together answer all.
        size: (h, w) of the result, whose channels are those of all the teacher's levels.
    """
    each, left = divmod(len(teacher), len(student))
    if left or not each:
        return Regressor(student, sum(teacher), size)
    return Levels(student, [sum(teacher[i : i + each]) for i in range(0, len(teacher), each)], size)
