"""Bring feature maps of any width and size to one width and size.

Shapes:    B batch; C_i, H_i, W_i the level's own shape; C, h, w the common one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfkd.errors import ShapeError

Size = tuple[int, int]


def shrink(maps: Tensor, size: Size) -> Tensor:
    """(B, C, H, W) to at most (h, w) by adaptive averaging; a side that is smaller already stays."""
    height, width = maps.shape[-2:]
    smaller = (min(height, size[0]), min(width, size[1]))
    if smaller == (height, width):
        return maps
    if height % smaller[0] or width % smaller[1]:
        return F.adaptive_avg_pool2d(maps, smaller)
    return F.avg_pool2d(maps, (height // smaller[0], width // smaller[1]))  # the same, and twice as fast on CPUs


def enlarge(maps: Tensor, size: Size) -> Tensor:
    """(B, C, H, W) to (h, w) by bilinear interpolation where a side is smaller."""
    return maps if tuple(maps.shape[-2:]) == size else F.interpolate(maps, size=size, mode="bilinear")


def to_smaller(who: str, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps at the smaller of their heights and widths, by adaptive averaging.

    Args:
        who: for the message.
        first: (B, C_1, H_1, W_1).
        second: (B, C_2, H_2, W_2).

    Returns:
        (B, C_1, h, w) and (B, C_2, h, w).

    Raises:
        ShapeError: not two maps of one batch.
    """
    if first.ndim != 4 or second.ndim != 4 or len(first) != len(second):
        raise ShapeError(
            f"{who} needs two maps (B, C, H, W) of one batch, got {tuple(first.shape)} and {tuple(second.shape)}; "
            "feed both networks the same images."
        )
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return shrink(first, size), shrink(second, size)


def check_channels(who: str, maps: Tensor, channels: int) -> None:
    """Raise ShapeError unless `maps` is (B, channels, H, W)."""
    if maps.ndim != 4 or maps.shape[1] != channels:
        raise ShapeError(
            f"{who} was built for a map (B, {channels}, H, W), got {tuple(maps.shape)}; "
            "build it from the shapes of the taps that it is fed."
        )


def normalise(norm: nn.BatchNorm2d, maps: Tensor) -> Tensor:
    """Apply BatchNorm; while training, a single value a channel is refused with advice."""
    if norm.training and maps.numel() == maps.shape[1]:
        raise ShapeError(
            "BatchNorm cannot train on one image whose map is 1x1, it needs 2 values a channel; "
            "use batches of 2 or more images."
        )
    return norm(maps)  # type: ignore[no-any-return]


class Align(nn.Module):
    """One level: pool to (h, w), 1x1 convolution without bias and BatchNorm, interpolate.

    Pooling stands before the convolution and interpolation after it, so that the convolution always
    works on the smaller of the two sizes.

    Args:
        channels: C_i of the level.
        width: C of the aligned map.
        size: (h, w) of the aligned map.
    """

    def __init__(self, channels: int, width: int, size: Size) -> None:
        super().__init__()
        self.size, self.width = size, width
        self.conv = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C_i, H_i, W_i) to (B, C, h, w)."""
        check_channels("Align", maps, self.conv.in_channels)
        return enlarge(normalise(self.norm, self.conv(shrink(maps, self.size))), self.size)


class Standardise(nn.Module):
    """One level without parameters: each channel to mean 0 and deviation 1, then to (h, w).

    While training, the statistics of all batches are averaged; in eval they are used. A level with more than `most`
    channels keeps that many: the leading principal components of its standardised channels, found by `settle`.

    Args:
        channels: C_i of the level.
        size: (h, w) of the aligned map.
        most: channels that are kept at most; None keeps all.

    Attributes:
        width: C of the aligned map.
    """

    mean: Tensor
    products: Tensor
    basis: Tensor

    def __init__(self, channels: int, size: Size, most: int | None = None) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.BatchNorm2d(channels, affine=False, momentum=None)
        self.width = min(channels, most or channels)
        self.reduced = self.width < channels
        if self.reduced:
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("products", torch.zeros(channels, channels))
            self.register_buffer("basis", torch.eye(self.width, channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C_i, H_i, W_i) to (B, C, h, w)."""
        check_channels("Standardise", maps, self.norm.num_features)
        smaller = shrink(normalise(self.norm, maps), self.size)
        if self.reduced:
            if self.training:
                self._gather(shrink(maps, self.size))
            smaller = F.conv2d(smaller, self.basis[:, :, None, None].to(smaller.dtype))
        return enlarge(smaller, self.size)

    @torch.no_grad()
    def _gather(self, maps: Tensor) -> None:
        """Average the means and products of the channels as BatchNorm does its statistics, batch by batch."""
        rows = maps.movedim(1, -1).flatten(0, -2).to(self.products.dtype)
        seen = int(self.norm.num_batches_tracked)  # type: ignore[arg-type]
        self.mean += (rows.mean(0) - self.mean) / seen
        self.products += (rows.T @ rows / len(rows) - self.products) / seen

    @torch.no_grad()
    def settle(self) -> None:
        """Find the principal components once all batches were seen; nothing to do where all channels are kept."""
        if not self.reduced:
            return
        mean, products = self.mean.double(), self.products.double()
        scale = (self.norm.running_var.double() + self.norm.eps).rsqrt()  # type: ignore[union-attr]
        spread = (products - torch.outer(mean, mean)) * torch.outer(scale, scale)
        leading = torch.linalg.eigh(spread).eigenvectors.flip(1)[:, : self.width].T
        largest = leading.gather(1, leading.abs().argmax(1, keepdim=True))
        self.basis.copy_(leading * largest.sign())  # a component's sign is arbitrary
