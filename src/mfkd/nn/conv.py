"""A convolution and its BatchNorm, of which methods build their connectors."""

from torch import Tensor, nn

from mfkd.nn.align import check_channels, normalise


class ConvNorm(nn.Module):
    """A convolution without bias that keeps the size, then BatchNorm.

    Args:
        inputs: channels of the map it gets.
        outputs: channels of the map it gives.
        kernel: odd side of the convolution in cells.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W).

        Raises:
            ShapeError: other channels; or, while training, a single value a channel.
        """
        check_channels("ConvNorm", maps, self.conv.in_channels)
        return normalise(self.norm, self.conv(maps))
