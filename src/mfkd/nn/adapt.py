"""Regressors: parts that bring the student's maps to the teacher's shape and are thrown away later."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mfkd.errors import ShapeError
from mfkd.nn.align import Size, check_channels, enlarge, normalise, shrink


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
