"""ResNets for small images, three stages of basic blocks.

Paper:    He et al., CVPR 2016, https://arxiv.org/abs/1512.03385, section 4.2.
Deviates: projection shortcuts wherever the width changes, as in the published distillation tables.
Keys:     those of the published CIFAR-100 checkpoints, which load unchanged.
"""

from torch import Tensor, nn

from mfkd.models.layers import check_image, check_sizes, conv1x1, conv3x3, init_weights, penultimate_tap, stage_taps
from mfkd.types import TapSpec


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; (B, inputs, H, W) to (B, width, H / stride, W / stride)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = conv3x3(inputs, width, stride), nn.BatchNorm2d(width), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = conv3x3(width, width), nn.BatchNorm2d(width), nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(conv1x1(inputs, width, stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        inner = self.relu1(self.bn1(self.conv1(x)))
        out: Tensor = self.relu2(self.bn2(self.conv2(inner)) + self.downsample(x))
        return out


class ResNet(nn.Module):
    """A CIFAR ResNet; `forward` maps images (B, in_channels, H, W), 8 px or more, to logits (B, num_classes).

    Args:
        depth: 6 n + 2 for n blocks a stage.
        widths: channels of the stem and of the three stages.
        num_classes: classes, 2 or more.
        in_channels: channels of the images.

    Raises:
        ConfigError: sizes that make no network.
        ShapeError: in `forward`, images of other channels or below 8 px.
    """

    classifier_path = "fc"

    def __init__(
        self,
        depth: int,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_sizes(num_classes, in_channels)
        blocks = (depth - 2) // 6
        stem, *stages = widths
        self.in_channels = in_channels
        self.conv1, self.bn1, self.relu = conv3x3(in_channels, stem), nn.BatchNorm2d(stem), nn.ReLU()
        self.layer1 = _stage(stem, stages[0], blocks, stride=1)
        self.layer2 = _stage(stages[0], stages[1], blocks, stride=2)
        self.layer3 = _stage(stages[1], stages[2], blocks, stride=2)
        self.fc = nn.Linear(stages[2], num_classes)
        init_weights(self)
        lasts = [f"layer{number}.{blocks - 1}.relu2" for number in (1, 2, 3)]
        self.tap_points: tuple[TapSpec, ...] = (
            TapSpec("stem", "relu", stem, 1),
            *stage_taps(lasts, stages, (1, 2, 4)),
            penultimate_tap("fc", stages[2]),
        )

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        check_image(image, self.in_channels)
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))
