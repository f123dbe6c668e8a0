"""Wide residual networks, whose blocks normalise before they convolve.

Paper:    Zagoruyko and Komodakis, BMVC 2016, https://arxiv.org/abs/1605.07146.
Keys:     those of the published CIFAR-100 checkpoints, which load unchanged.
"""

from torch import Tensor, nn

from mfkd.models.layers import check_image, check_sizes, conv1x1, conv3x3, init_weights, penultimate_tap, stage_taps
from mfkd.types import TapSpec


class BasicBlock(nn.Module):
    """Two BN-ReLU-convolutions beside a shortcut; (B, inputs, H, W) to (B, width, H / stride, W / stride)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.relu1, self.conv1 = nn.BatchNorm2d(inputs), nn.ReLU(), conv3x3(inputs, width, stride)
        self.bn2, self.relu2, self.conv2 = nn.BatchNorm2d(width), nn.ReLU(), conv3x3(width, width)
        self.convShortcut = conv1x1(inputs, width, stride) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        active = self.relu1(self.bn1(x))
        inner = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        out: Tensor = inner + (x if self.convShortcut is None else self.convShortcut(active))
        return out


class WideResNet(nn.Module):
    """A CIFAR WRN; `forward` maps images (B, in_channels, H, W), 8 px or more, to logits (B, num_classes).

    Stage k after its activation is the BN-ReLU that follows block k, in block k + 1 or before the classifier;
    `stage{k}.pre` is that BatchNorm's output, as in the published code of AB and OFD.

    Args:
        depth: 6 n + 4 for n layers a block.
        widen: factor of the widths 16, 32, 64.
        num_classes: classes, 2 or more.
        in_channels: channels of the images.

    Raises:
        ConfigError: sizes that make no network.
        ShapeError: in `forward`, images of other channels or below 8 px.
    """

    classifier_path = "fc"

    def __init__(self, depth: int, widen: int, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        check_sizes(num_classes, in_channels)
        layers = (depth - 4) // 6
        widths = (16 * widen, 32 * widen, 64 * widen)
        self.in_channels = in_channels
        self.conv1 = conv3x3(in_channels, 16)
        self.block1 = Block(16, widths[0], layers, stride=1)
        self.block2 = Block(widths[0], widths[1], layers, stride=2)
        self.block3 = Block(widths[1], widths[2], layers, stride=2)
        self.bn1, self.relu = nn.BatchNorm2d(widths[2]), nn.ReLU()
        self.fc = nn.Linear(widths[2], num_classes)
        init_weights(self)
        actives = ("block2.layer.0.relu1", "block3.layer.0.relu1", "relu")
        self.tap_points: tuple[TapSpec, ...] = (
            TapSpec("stem", "block1.layer.0.relu1", 16, 1),
            *stage_taps(actives, widths, (1, 2, 4)),
            penultimate_tap("fc", widths[2]),
        )

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        check_image(image, self.in_channels)
        x = self.block3(self.block2(self.block1(self.conv1(image))))
        x = self.relu(self.bn1(x))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    """One resolution: `layers` basic blocks, of which the first changes width and size."""

    def __init__(self, inputs: int, width: int, layers: int, stride: int) -> None:
        super().__init__()
        first = BasicBlock(inputs, width, stride)
        self.layer = nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(layers - 1)))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.layer(x)
        return out
