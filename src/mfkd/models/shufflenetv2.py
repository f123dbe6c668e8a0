"""ShuffleNetV2 for small images: half the channels pass through each unit, then both halves are mixed.

Paper:    Ma et al., ECCV 2018, https://arxiv.org/abs/1807.11164.
Deviates: a 1x1 stem of stride 1 without max pool, as in the published distillation tables; torch's own first
          weights. The activation stands after the halves are joined and shuffled, so that a map before it
          exists; values and gradients stay the same, for the passing half is activated already.
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
_WIDTHS = (116, 232, 464)
_BLOCKS = (4, 8, 4)
_LAST = 1024


class SplitUnit(nn.Module):
    """Works on the second half of the channels; (B, width, H, W) of activated values to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1, self.bn1, self.relu1 = conv1x1(half, half), nn.BatchNorm2d(half), nn.ReLU()
        self.conv2, self.bn2 = depthwise3x3(half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv1x1(half, half), nn.BatchNorm2d(half)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        passing, inner = x.chunk(2, 1)
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(inner)))))
        inner = self.bn3(self.conv3(inner))
        out: Tensor = self.relu(channel_shuffle(torch.cat((passing, inner), 1), 2))
        return out


class DownUnit(nn.Module):
    """Two branches that halve the size; (B, inputs, H, W) to (B, width, H / 2, W / 2)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = depthwise3x3(inputs, 2), nn.BatchNorm2d(inputs)
        self.conv2, self.bn2 = conv1x1(inputs, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3, self.relu3 = conv1x1(inputs, half), nn.BatchNorm2d(half), nn.ReLU()
        self.conv4, self.bn4 = depthwise3x3(half, 2), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = conv1x1(half, half), nn.BatchNorm2d(half)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(self.relu3(self.bn3(self.conv3(x)))))
        right = self.bn5(self.conv5(right))
        out: Tensor = self.relu(channel_shuffle(torch.cat((left, right), 1), 2))
        return out


class ShuffleNetV2(nn.Module):
    """A CIFAR ShuffleNetV2; `forward` maps images (B, in_channels, H, W), 8 px or more, to logits (B, num_classes).

    `stage3`, the last map at its resolution, is the 1x1 convolution before the classifier.

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
        self.conv1, self.bn1, self.relu1 = conv1x1(in_channels, _STEM), nn.BatchNorm2d(_STEM), nn.ReLU()
        self.layer1 = _stage(_STEM, _WIDTHS[0], _BLOCKS[0])
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], _BLOCKS[1])
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], _BLOCKS[2])
        self.conv2, self.bn2, self.relu2 = conv1x1(_WIDTHS[2], _LAST), nn.BatchNorm2d(_LAST), nn.ReLU()
        self.linear = nn.Linear(_LAST, num_classes)
        lasts = [*(f"layer{number}.{_BLOCKS[number - 1] - 1}.relu" for number in (1, 2)), "relu2"]
        self.tap_points: tuple[TapSpec, ...] = (
            TapSpec("stem", "relu1", _STEM, 1),
            *stage_taps(lasts, (*_WIDTHS[:2], _LAST), (2, 4, 8)),
            penultimate_tap("linear", _LAST),
        )

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        check_image(image, self.in_channels)
        x = self.relu1(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(inputs, width), *(SplitUnit(width) for _ in range(blocks - 1)))
