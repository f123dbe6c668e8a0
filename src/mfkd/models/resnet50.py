"""ResNet50 for small images: four stages of bottlenecks behind a 3x3 stem that does not shrink the image.

Paper:    He et al., CVPR 2016, https://arxiv.org/abs/1512.03385, table 1.
Deviates: a 3x3 stem of stride 1 and no max pool, as in the published distillation tables.
Keys:     those of the published CIFAR-100 checkpoints, which load unchanged.
"""

from torch import Tensor, nn

from mfkd.models.layers import check_image, check_sizes, conv1x1, conv3x3, init_weights, penultimate_tap, stage_taps
from mfkd.types import TapSpec

_WIDTHS = (256, 512, 1024, 2048)
_BLOCKS = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; (B, inputs, H, W) to (B, width, H / stride, W / stride)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        inner = width // 4
        self.conv1, self.bn1, self.relu1 = conv1x1(inputs, inner), nn.BatchNorm2d(inner), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = conv3x3(inner, inner, stride), nn.BatchNorm2d(inner), nn.ReLU()
        self.conv3, self.bn3, self.relu3 = conv1x1(inner, width), nn.BatchNorm2d(width), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if inputs != width:
            self.shortcut = nn.Sequential(conv1x1(inputs, width, stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        inner = self.relu1(self.bn1(self.conv1(x)))
        inner = self.relu2(self.bn2(self.conv2(inner)))
        out: Tensor = self.relu3(self.bn3(self.conv3(inner)) + self.shortcut(x))
        return out


class ResNet50(nn.Module):
    """A CIFAR ResNet50; `forward` maps images (B, in_channels, H, W), 8 px or more, to logits (B, num_classes).

    Args:
        num_classes: classes, 2 or more.
        in_channels: channels of the images.

    Raises:
        ConfigError: sizes that make no network.
        ShapeError: in `forward`, images of other channels or below 8 px.
    """

    classifier_path = "linear"

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        check_sizes(num_classes, in_channels)
        self.in_channels = in_channels
        self.conv1, self.bn1, self.relu = conv3x3(in_channels, 64), nn.BatchNorm2d(64), nn.ReLU()
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(inputs, width, blocks, stride)
            for inputs, width, blocks, stride in zip((64, *_WIDTHS), _WIDTHS, _BLOCKS, (1, 2, 2, 2), strict=False)
        )
        self.linear = nn.Linear(_WIDTHS[-1], num_classes)
        init_weights(self)
        lasts = [f"layer{number}.{blocks - 1}.relu3" for number, blocks in enumerate(_BLOCKS, start=1)]
        self.tap_points: tuple[TapSpec, ...] = (
            TapSpec("stem", "relu", 64, 1),
            *stage_taps(lasts, _WIDTHS, (1, 2, 4, 8)),
            penultimate_tap("linear", _WIDTHS[-1]),
        )

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        check_image(image, self.in_channels)
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(inputs, width, stride)
    return nn.Sequential(first, *(Bottleneck(width, width, 1) for _ in range(blocks - 1)))
