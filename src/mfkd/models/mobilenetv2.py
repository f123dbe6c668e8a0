"""MobileNetV2 for small images: inverted residuals, whose narrow ends are linear.

Paper:    Sandler et al., CVPR 2018, https://arxiv.org/abs/1801.04381.
Deviates: ReLU in place of ReLU6, the first block widens by 1 before its depthwise convolution instead of
          leaving that step out, stride 1 in the second, and no dropout, as in the published distillation tables.
Keys:     those of the published CIFAR-100 checkpoints, which load unchanged.
"""

from torch import Tensor, nn

from mfkd.models.layers import (
    check_image,
    check_sizes,
    conv1x1,
    conv3x3,
    depthwise3x3,
    init_weights,
    penultimate_tap,
    stage_taps,
)
from mfkd.types import TapSpec

_GROUPS = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
"""Full width, blocks and first stride of each of the paper's groups."""
_LAST = 1280


class InvertedResidual(nn.Module):
    """Widen, filter, narrow; (B, inputs, H, W) to (B, width, H / stride, W / stride), added to its input if alike."""

    def __init__(self, inputs: int, width: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.adds = stride == 1 and inputs == width
        self.conv = nn.Sequential(
            *(conv1x1(inputs, inner), nn.BatchNorm2d(inner), nn.ReLU()),
            *(depthwise3x3(inner, stride), nn.BatchNorm2d(inner), nn.ReLU()),
            *(conv1x1(inner, width), nn.BatchNorm2d(width)),
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.conv(x)
        return x + out if self.adds else out


class MobileNetV2(nn.Module):
    """A CIFAR MobileNetV2; `forward` maps images (B, in_channels, H, W), 8 px or more, to logits (B, num_classes).

    `stage1` to `stage3` are the ends of the groups 1, 2 and 4, which no activation follows; so they have no
    `.pre`. `stage4`, the last map at its resolution, is the 1x1 convolution before the classifier.

    Args:
        expand: T, factor by which the blocks after the first widen.
        widen: factor of the widths, the last 1280 left out.
        num_classes: classes, 2 or more.
        in_channels: channels of the images.

    Raises:
        ConfigError: sizes that make no network.
        ShapeError: in `forward`, images of other channels or below 8 px.
    """

    classifier_path = "classifier.0"

    def __init__(self, expand: int, widen: float, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        check_sizes(num_classes, in_channels)
        self.in_channels = in_channels
        stem, *widths = (int(full * widen) for full in (32, *(full for full, _, _ in _GROUPS)))
        self.conv1 = nn.Sequential(conv3x3(in_channels, stem, stride=2), nn.BatchNorm2d(stem), nn.ReLU())
        self.blocks = nn.Sequential(
            *(
                _group(inputs, width, blocks, stride, expand if number else 1)
                for number, (inputs, width, (_, blocks, stride)) in enumerate(
                    zip((stem, *widths[:-1]), widths, _GROUPS, strict=True)
                )
            )
        )
        self.conv2 = nn.Sequential(conv1x1(widths[-1], _LAST), nn.BatchNorm2d(_LAST), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(_LAST, num_classes))
        init_weights(self, linear_std=0.01)
        self.tap_points: tuple[TapSpec, ...] = (
            TapSpec("stem", "conv1.2", stem, 2),
            *(
                TapSpec(f"stage{number}", f"blocks.{group}", widths[group], stride, activated=False)
                for number, group, stride in ((1, 1, 2), (2, 2, 4), (3, 4, 8))
            ),
            *stage_taps(["conv2.2"], [_LAST], [16], first=4),
            penultimate_tap("classifier.0", _LAST),
        )

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        check_image(image, self.in_channels)
        x = self.conv2(self.blocks(self.conv1(image)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def _group(inputs: int, width: int, blocks: int, stride: int, expand: int) -> nn.Sequential:
    first = InvertedResidual(inputs, width, stride, expand)
    return nn.Sequential(first, *(InvertedResidual(width, width, 1, expand) for _ in range(blocks - 1)))
