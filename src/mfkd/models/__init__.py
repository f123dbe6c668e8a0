"""Networks by name: the CIFAR families here, those of timm and torchvision, and those of the user's own code."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mfkd.errors import ConfigError, UnknownNameError
from mfkd.models.mobilenetv2 import MobileNetV2
from mfkd.models.resnet import ResNet
from mfkd.models.resnet50 import ResNet50
from mfkd.models.shufflenetv1 import ShuffleNetV1
from mfkd.models.shufflenetv2 import ShuffleNetV2
from mfkd.models.vgg import VGG
from mfkd.models.wrn import WideResNet

_X4 = (32, 64, 128, 256)

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet8": partial(ResNet, 8),
    "resnet14": partial(ResNet, 14),
    "resnet20": partial(ResNet, 20),
    "resnet32": partial(ResNet, 32),
    "resnet44": partial(ResNet, 44),
    "resnet56": partial(ResNet, 56),
    "resnet110": partial(ResNet, 110),
    "resnet8x4": partial(ResNet, 8, _X4),
    "resnet32x4": partial(ResNet, 32, _X4),
    "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, (1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, (2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, (2, 2, 4, 4, 4)),
    "wrn_16_1": partial(WideResNet, 16, 1),
    "wrn_16_2": partial(WideResNet, 16, 2),
    "wrn_40_1": partial(WideResNet, 40, 1),
    "wrn_40_2": partial(WideResNet, 40, 2),
    "ResNet50": ResNet50,
    "MobileNetV2": partial(MobileNetV2, 6, 0.5),
    "ShuffleV1": ShuffleNetV1,
    "ShuffleV2": ShuffleNetV2,
}
"""The one list of our own networks; each factory takes `num_classes` and `in_channels`."""

_FOREIGN = ("timm/", "torchvision/", "hf-hub:", "hf_hub:", "local-dir:")
_FORMS = (
    "other forms: timm/NAME, torchvision/NAME, hf-hub:OWNER/NAME, local-dir:FOLDER, package.module:factory, "
    "path/to/file.py:factory."
)


def model_names() -> tuple[str, ...]:
    """Names of our own networks; `build_model` accepts other forms besides."""
    return tuple(MODELS)


def build_model(
    name: str,
    num_classes: int | None = 100,
    in_channels: int = 3,
    weights: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """Build a classifier by name.

    Args:
        name: one of `model_names()`, or `timm/NAME`, `torchvision/NAME`, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`
            (timm's sources, also after `timm/`), `package.module:factory` or `path/to/file.py:factory`.
        num_classes: classes of the head; None keeps those of timm's or torchvision's own head.
        in_channels: channels of the images.
        weights: file to load, see `mfkd.models.weights.load_weights`; None starts from random weights.
        **options: further keywords of timm's, torchvision's or the user's factory, such as `pretrained=True`.

    Returns:
        A module that maps (B, in_channels, H, W) to logits (B, num_classes), in training mode.

    Raises:
        UnknownNameError: no such network; the nearest names are told.
        ConfigError: an option that the factory does not know, or a user's factory that cannot be used.
        CheckpointError: weights that cannot be read or belong to another network.
    """
    if name.startswith(_FOREIGN):
        from mfkd.models.adapters import build_foreign

        model = build_foreign(name, num_classes, in_channels, options)
    elif ":" in name:
        from mfkd.models.user import build_user

        model = build_user(name, num_classes, in_channels, options)
    else:
        model = _build_own(name, num_classes, in_channels, options)
    if weights is not None:
        from mfkd.models.weights import load_weights

        load_weights(model, weights)
    return model


def local_files(name: str) -> tuple[Path, ...]:
    """Files on this disk that a name stands for: the user's own code, or what lies in a folder of timm's.

    What they import, and installed packages, are not followed.
    """
    source, _, rest = name.removeprefix("timm/").rpartition(":")
    if source == "local-dir":
        return tuple(sorted(file for file in Path(rest).expanduser().glob("*") if file.is_file()))
    if source.endswith(".py"):
        return (Path(source).expanduser(),)
    module = Path(*source.split(".")).with_suffix(".py") if source else Path()
    return (module,) if module.is_file() else ()


def _build_own(name: str, num_classes: int | None, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    if name.endswith(".py"):
        raise ConfigError(f"{name} is a file, expected a factory in it; name a function or class, {name}:NAME.")
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS, _FORMS)
    if options:
        raise ConfigError(
            f"{name} has no option {', '.join(map(repr, options))}; accepted: num_classes, in_channels, weights."
        )
    if num_classes is None:
        raise ConfigError(f"{name} needs a number of classes; give num_classes.")
    return MODELS[name](num_classes=num_classes, in_channels=in_channels)
