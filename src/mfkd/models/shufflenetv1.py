"""ShuffleNetV1 for small images: grouped 1x1 convolutions with a channel shuffle between them.

Paper:    Zhang et al., CVPR 2018, https://arxiv.org/abs/1707.01083.
Deviates: a 1x1 stem of stride 1 without max pool and an activation after the depthwise convolution, as in
          the published distillation tables; torch's own first weights.
Keys:     those of the published CIFAR-100 checkpoints, which load unchanged.
"""

import torch
from torch import Tensor, nn

from mfkd.models.layers import (
    channel_shuffle,
    check_image,
    check_sizes,
    conv1x1,
    depthwise3x3,
    penultimate_tap,
    stage_taps,
)
from mfkd.types import TapSpec

_STEM = 24
_WIDTHS = (240, 480, 960)
_BLOCKS = (4, 8, 4)
_GROUPS = 3


class ShuffleUnit(nn.Module):
    """Grouped bottleneck beside a shortcut; (B, inputs, H, W) to (B, width, H / stride, W / stride).

    At stride 2 the pooled input makes up `inputs` of the channels, else the input is added.
    """

    def __init__(self, inputs: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        made = width - inputs if stride == 2 else width
        inner = made // 4
        self.conv1, self.bn1, self.relu1 = conv1x1(inputs, inner, groups=groups), nn.BatchNorm2d(inner), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = depthwise3x3(inner, stride), nn.BatchNorm2d(inner), nn.ReLU()
        self.conv3, self.bn3 = conv1x1(inner, made, groups=_GROUPS), nn.BatchNorm2d(made)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else nn.Identity()
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        inner = channel_shuffle(self.relu1(self.bn1(self.conv1(x))), self.groups)
        inner = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(inner)))))
        short = self.shortcut(x)
        out: Tensor = self.relu3(torch.cat((inner, short), 1) if self.stride == 2 else inner + short)
        return out


class ShuffleNetV1(nn.Module):
    """A CIFAR ShuffleNetV1; `forward` maps images (B, in_channels, H, W), 8 px or more, to logits (B, num_classes).

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
        self.conv1, self.bn1, self.relu = conv1x1(in_channels, _STEM), nn.BatchNorm2d(_STEM), nn.ReLU()
        self.layer1 = _stage(_STEM, _WIDTHS[0], _BLOCKS[0], first_groups=1)
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], _BLOCKS[1])
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], _BLOCKS[2])
        self.linear = nn.Linear(_WIDTHS[2], num_classes)
        lasts = [f"layer{number}.{blocks - 1}.relu3" for number, blocks in enumerate(_BLOCKS, start=1)]
        self.tap_points: tuple[TapSpec, ...] = (
            TapSpec("stem", "relu", _STEM, 1),
            *stage_taps(lasts, _WIDTHS, (2, 4, 8)),
            penultimate_tap("linear", _WIDTHS[2]),
        )

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        check_image(image, self.in_channels)
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, width: int, blocks: int, first_groups: int = _GROUPS) -> nn.Sequential:
    first = ShuffleUnit(inputs, width, 2, first_groups)
    return nn.Sequential(first, *(ShuffleUnit(width, width, 1, _GROUPS) for _ in range(blocks - 1)))
