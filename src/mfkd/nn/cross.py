"""Attention of every student layer over all teacher layers, image by image.

Paper:     Chen, Mei, Zhang, Wang, Feng and Chen, "Cross-layer distillation with semantic calibration",
           AAAI 2021, https://arxiv.org/abs/2012.03236
Shapes:    B batch; S, T layers of student and teacher; W width of the similarity rows; D of their embedding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfkd.nn.conv import ConvNorm

REDUCTION = 4
"""W / D, as published."""


def similarity_rows(maps: Tensor, width: int) -> Tensor:
    """Inner products of each image with the images of its group.

    A group is `width` images in the batch's order; the last one is filled up with zeros.

    Args:
        maps: (B, ...).
        width: W; the published code has W = B only.

    Returns:
        (B, W).
    """
    flat = maps.flatten(1)
    groups = F.pad(flat, (0, 0, 0, -len(flat) % width)).unflatten(0, (-1, width))  # (groups, W, features)
    rows: Tensor = (groups @ groups.mT).flatten(0, 1)
    return rows[: len(flat)]


class CrossAttention(nn.Module):
    """Queries of the student's layers and keys of the teacher's, embedded from their similarity rows.

    Args:
        student: S.
        teacher: T.
        width: W, 4 or more.
    """

    def __init__(self, student: int, teacher: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.queries = nn.ModuleList(_embedding(width) for _ in range(student))
        self.keys = nn.ModuleList(_embedding(width) for _ in range(teacher))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """S and T maps (B, ...) to weights (B, S, T), which sum to 1 over the teacher's layers."""
        queries, keys = (
            torch.stack(
                [
                    F.normalize(embed(similarity_rows(maps, self.width)))
                    for embed, maps in zip(parts, side, strict=True)
                ],
                dim=1,
            )
            for parts, side in ((self.queries, student), (self.keys, teacher))
        )
        return torch.softmax(queries @ keys.mT, dim=2)


def _embedding(width: int) -> nn.Sequential:
    small = width // REDUCTION
    return nn.Sequential(nn.Linear(width, 2 * small), nn.ReLU(), nn.Linear(2 * small, small))


def projection(channels: int, outputs: int) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolution with BatchNorm and ReLU between, (B, channels, h, w) to (B, outputs, h, w)."""
    mid = 2 * outputs
    return nn.Sequential(
        ConvNorm(channels, mid), nn.ReLU(), ConvNorm(mid, mid, 3), nn.ReLU(), nn.Conv2d(mid, outputs, 1, bias=False)
    )
