"""Fuse feature maps of several depths into one map.

Paper:     MFKD's abstract, PLOS ONE 18(8): e0285901, 2023, https://doi.org/10.1371/journal.pone.0285901:
           "integrates" maps of the front, middle and bottom layers into "a final fusion feature map".
Deviates:  the abstract names no operators; align, weigh, mix and the four kinds are ours.
Shapes:    B batch; L levels; C_i, H_i, W_i a level's own shape; C, h, w the fused one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mfkd.errors import ConfigError, ShapeError, UnknownNameError
from mfkd.nn.align import Align, Size, Standardise


def weighted_sum(levels: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Sum over L levels (B, C, h, w), each times its own column of weights (B, L, h, w)."""
    total = levels[0] * weights[:, :1]
    for i, level in enumerate(levels[1:], start=1):
        total = torch.addcmul(total, level, weights[:, i : i + 1])
    return total


def _smooth(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))


class Attention(nn.Module):
    """Weigh each level at each position, sum, 3x3 convolution and BatchNorm.

    Attributes:
        share: (L,) mean weight of each level in the last forward pass, without gradients; None before one.
    """

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.share: Tensor | None = None
        self.score = nn.Conv2d(levels * channels, levels, 1)
        self.smooth = _smooth(channels)

    def weights(self, levels: Sequence[Tensor]) -> Tensor:
        """L aligned maps (B, C, h, w) to (B, L, h, w), which sums to 1 over the levels."""
        return torch.softmax(self.score(torch.cat(list(levels), dim=1)), dim=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """L aligned maps (B, C, h, w) to one."""
        weights = self.weights(levels)
        self.share = weights.detach().float().mean((0, 2, 3))
        return self.smooth(weighted_sum(levels, weights))  # type: ignore[no-any-return]


class Concat(nn.Module):
    """Concatenate the levels, 1x1 convolution and BatchNorm."""

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(levels * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """L aligned maps (B, C, h, w) to one."""
        return self.norm(self.conv(torch.cat(list(levels), dim=1)))  # type: ignore[no-any-return]


class TopDown(nn.Module):
    """From the last level to the first: a gate at each position lets the next level in; then a 3x3 convolution."""

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Conv2d(2 * channels, 1, 1) for _ in range(levels - 1))
        self.smooth = _smooth(channels)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """L aligned maps (B, C, h, w), front first, to one."""
        *upper, fused = levels
        for gate, level in zip(self.gates, reversed(upper), strict=True):
            open_ = torch.sigmoid(gate(torch.cat([fused, level], dim=1)))  # (B, 1, h, w)
            fused = fused + open_ * (level - fused)
        return self.smooth(fused)  # type: ignore[no-any-return]


MIXERS: dict[str, Callable[[int, int], nn.Module]] = {"attention": Attention, "concat": Concat, "topdown": TopDown}
KINDS = (*MIXERS, "static")


class Fusion(nn.Module):
    """Maps of one or more depths to one map (B, C, h, w).

    Kinds: `attention`, `concat` and `topdown` align every level to C channels and mix them with
    learnt weights. `static` has no parameters: every channel is standardised with running
    statistics, resized and concatenated. A level with more channels than `channels` is reduced to
    that many principal components, so C is the sum of what the levels keep.

    Args:
        shapes: (C_i, H_i, W_i) of each level, front first.
        channels: C; of `static` what a level keeps at most.
        size: (h, w).
        kind: one of `KINDS`.

    Attributes:
        channels: C of the fused map.
        widths: channels of each level once it is aligned.

    Raises:
        ConfigError: an unknown kind, or no level at all.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int, int]], channels: int, size: Size, kind: str = "attention"
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UnknownNameError("fusion kind", kind, KINDS)
        if not shapes:
            raise ConfigError("Fusion needs the shape of at least one map, got none; name one tap or more.")
        self.kind, self.size = kind, size
        static = kind == "static"
        levels = [
            Standardise(shape[0], size, channels) if static else Align(shape[0], channels, size) for shape in shapes
        ]
        self.widths = [level.width for level in levels]
        self.channels = sum(self.widths) if static else channels
        self.levels = nn.ModuleList(levels)
        self.mix = None if static else MIXERS[kind](len(shapes), channels)

    def align(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The levels at the common size, each (B, C, h, w), or as wide as `widths` says for `static`."""
        if len(maps) != len(self.levels):
            raise ShapeError(
                f"Fusion was built for {len(self.levels)} levels, got {len(maps)} maps; give one map a level."
            )
        return [level(tap) for level, tap in zip(self.levels, maps, strict=True)]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One (B, C_i, H_i, W_i) a level to the fused (B, C, h, w)."""
        levels = self.align(maps)
        return torch.cat(levels, dim=1) if self.mix is None else self.mix(levels)

    def settle(self) -> None:
        """Make what `static` has gathered of its maps ready for use; nothing to do for the other kinds."""
        for level in self.levels:
            if isinstance(level, Standardise):
                level.settle()

    def attention(self, maps: Sequence[Tensor]) -> Tensor:
        """The weight of each level at each position, (B, L, h, w), for a report.

        Raises:
            ConfigError: the kind has no such weights.
        """
        if not isinstance(self.mix, Attention):
            raise ConfigError(f"fusion kind {self.kind!r} has no attention weights; use kind=attention.")
        return self.mix.weights(self.align(maps))
