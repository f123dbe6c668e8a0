"""What the CIFAR networks share: the check of their input, their first weights, and their tap points."""

from collections.abc import Sequence

from torch import Tensor, nn

from mfkd.errors import ConfigError, ShapeError
from mfkd.types import TapSpec

SMALLEST = 8
"""Smallest side of an image in pixels; the deepest map is then still 1 cell or more."""


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias, the shortcut wherever the width changes."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, groups=groups, bias=False)


def depthwise3x3(width: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that works on each channel alone and keeps the size at stride 1."""
    return nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal the channels (B, C, H, W) of `groups` groups out in turn: the first of each, the second of each, ..."""
    dealt: Tensor = x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
    return dealt


def check_sizes(num_classes: int, in_channels: int) -> None:
    """Refuse a network that cannot classify.

    Raises:
        ConfigError: fewer than 2 classes, or no input channel.
    """
    if num_classes < 2 or in_channels < 1:
        raise ConfigError(
            f"a network needs 2 or more classes and 1 or more input channels, got num_classes={num_classes} "
            f"and in_channels={in_channels}; take both from the data."
        )


def check_image(image: Tensor, in_channels: int) -> None:
    """Refuse images that a CIFAR network cannot take.

    Args:
        image: expected (B, in_channels, H, W) with H, W >= 8.
        in_channels: channels that the first convolution expects.

    Raises:
        ShapeError: another rank, another number of channels, or a side below 8 px.
    """
    if image.ndim != 4 or image.shape[1] != in_channels:
        got = f"{image.shape[1]} channels" if image.ndim == 4 else f"shape {tuple(image.shape)}"
        raise ShapeError(
            f"the network expects images (B, {in_channels}, H, W), got {got}; "
            "build it with the in_channels of the data."
        )
    height, width = image.shape[2:]
    if min(height, width) < SMALLEST:
        raise ShapeError(
            f"the network needs images of {SMALLEST} px or more on both sides, got {height} x {width}; "
            "enlarge them, for example with data.resize=32."
        )


def init_weights(network: nn.Module, linear_std: float | None = None) -> None:
    """First weights by the custom of the published CIFAR networks.

    Args:
        network: changed in place: convolutions Kaiming normal over fan-out, BatchNorm weight 1 and bias 0.
        linear_std: deviation of normal classifier weights with bias 0; None keeps torch's own.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
            nn.init.zeros_(module.bias)


def stage_taps(
    paths: Sequence[str], widths: Sequence[int], strides: Sequence[int | None], first: int = 1
) -> tuple[TapSpec, ...]:
    """Stages numbered from `first` after, and `.pre` before, the ReLU modules at `paths`."""
    return tuple(
        tap
        for number, (path, width, stride) in enumerate(zip(paths, widths, strides, strict=True), first)
        for tap in (
            TapSpec(f"stage{number}", path, width, stride),
            TapSpec(f"stage{number}.pre", path, width, stride, side="input", activated=False),
        )
    )


def penultimate_tap(classifier_path: str, width: int) -> TapSpec:
    """The vector that the classifier gets."""
    return TapSpec("penultimate", classifier_path, width, side="input", layout="vector")
