"""VGG networks with BatchNorm for small images, five blocks and one linear classifier.

Paper:    Simonyan and Zisserman, ICLR 2015, https://arxiv.org/abs/1409.1556.
Deviates: one linear layer on the pooled map instead of three, BatchNorm, and no fifth pool, as in the
          published distillation tables.
Keys:     those of the published CIFAR-100 checkpoints, which load unchanged.
"""

from torch import Tensor, nn

from mfkd.models.layers import check_image, check_sizes, init_weights, penultimate_tap, stage_taps
from mfkd.types import TapSpec

_WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """A CIFAR VGG; `forward` maps images (B, in_channels, H, W), 8 px or more, to logits (B, num_classes).

    Images are halved after blocks 0, 1 and 2, and after block 3 only from 64 px up. `stage1` to `stage4`
    are blocks 0, 1, 2 and 4, the last map at each resolution of a 32 px image, whatever the size; so the
    stride of `stage4` is 8, and 16 from 64 px up.

    Args:
        convolutions: how many 3x3 convolutions each of the five blocks has.
        num_classes: classes, 2 or more.
        in_channels: channels of the images.

    Raises:
        ConfigError: sizes that make no network.
        ShapeError: in `forward`, images of other channels or below 8 px.
    """

    classifier_path = "classifier"

    def __init__(
        self, convolutions: tuple[int, int, int, int, int], num_classes: int = 100, in_channels: int = 3
    ) -> None:
        super().__init__()
        check_sizes(num_classes, in_channels)
        self.in_channels = in_channels
        inputs = (in_channels, *_WIDTHS)
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            _block(inputs[number], width, convolutions[number]) for number, width in enumerate(_WIDTHS)
        )
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(_WIDTHS[-1], num_classes)
        init_weights(self, linear_std=0.01)
        lasts = [f"block{number}.{3 * convolutions[number] - 1}" for number in (0, 1, 2, 4)]
        self.tap_points: tuple[TapSpec, ...] = (
            *stage_taps(lasts, [_WIDTHS[number] for number in (0, 1, 2, 4)], (1, 2, 4, None)),
            penultimate_tap("classifier", _WIDTHS[-1]),
        )

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        check_image(image, self.in_channels)
        x = self.pool(self.block0(image))
        x = self.pool(self.block1(x))
        x = self.pool(self.block2(x))
        x = self.block3(x)
        if min(image.shape[2:]) >= 64:
            x = self.pool(x)
        logits: Tensor = self.classifier(self.block4(x).mean((2, 3)))
        return logits


def _block(inputs: int, width: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(convolutions):
        convolution = nn.Conv2d(width if number else inputs, width, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)
