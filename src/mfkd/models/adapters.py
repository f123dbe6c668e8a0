"""Networks of timm and torchvision by name; both libraries are imported only when one is asked for."""

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mfkd.errors import CheckpointError, ConfigError, UnknownNameError
from mfkd.models.layers import check_sizes
from mfkd.models.weights import classifier_path


def build_foreign(name: str, num_classes: int | None, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    """Build `timm/NAME` or `torchvision/NAME`.

    Args:
        name: with the library in front.
        num_classes: classes of the head; None keeps those of the library.
        in_channels: channels of the images; torchvision's networks take 3 alone.
        options: keywords of the library's constructor; `pretrained=True` fetches its weights in both.
            The auxiliary heads of torchvision's networks are left out unless `aux_logits=True`.

    Returns:
        The network; a pretrained one has `pretrained_cfg`, with the `mean` and `std` that it expects.

    Raises:
        UnknownNameError: no such network; the nearest names are told.
        ConfigError: an option that the network does not have, or channels that it cannot take.
        CheckpointError: pretrained weights that cannot be fetched.
    """
    check_sizes(2 if num_classes is None else num_classes, in_channels)
    library, _, short = name.partition("/")
    build = _timm if library == "timm" else _torchvision
    try:
        return build(short, num_classes, in_channels, dict(options))
    except OSError as error:
        raise CheckpointError(
            f"pretrained weights of {name} cannot be fetched ({type(error).__name__}); "
            "connect to the network, or give a file as weights."
        ) from error


def _timm(short: str, num_classes: int | None, in_channels: int, options: dict[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(short) and ":" not in short:  # hf-hub:NAME and local-dir:PATH are timm's own
        raise UnknownNameError(
            "model", f"timm/{short}", [f"timm/{known}" for known in timm.list_models()], "see timm.list_models()."
        )
    if num_classes is not None:
        options["num_classes"] = num_classes
    entry = timm.model_entrypoint(short) if ":" not in short else timm.create_model
    model: nn.Module = _call(timm.create_model, short, options | {"in_chans": in_channels}, entry, "timm")
    return model


def _torchvision(short: str, num_classes: int | None, in_channels: int, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if short not in known:
        raise UnknownNameError(
            "model",
            f"torchvision/{short}",
            [f"torchvision/{name}" for name in known],
            "see torchvision's list_models().",
        )
    if in_channels != 3:
        raise ConfigError(
            f"torchvision/{short} takes images of 3 channels, got in_channels={in_channels}; "
            "use a timm/NAME or one of our own networks."
        )
    if options.pop("pretrained", False):
        options.setdefault("weights", "DEFAULT")
    pretrained = options.get("weights") is not None
    if num_classes is not None and not pretrained:
        options["num_classes"] = num_classes
    auxiliary = options.get("aux_logits", False)
    if pretrained and not auxiliary:
        options.pop("aux_logits", None)  # torchvision refuses to build without what the file holds
    model: nn.Module = _call(models.get_model, short, options, models.get_model_builder(short), "torchvision")
    if not auxiliary:
        _drop_auxiliary_heads(model)
    # GoogLeNet and Inception can shift their input themselves; a reloaded student would not know of it.
    shifts = bool(vars(model).get("transform_input", False))
    if shifts:
        vars(model)["transform_input"] = False
    if pretrained:
        trained_on = models.get_model_weights(short).verify(options["weights"]).transforms()
        # Under timm's name for it.
        mean, std = ((0.5,) * 3,) * 2 if shifts else (tuple(trained_on.mean), tuple(trained_on.std))
        vars(model)["pretrained_cfg"] = {"mean": mean, "std": std}
        if num_classes is not None:
            _replace_head(model, num_classes)
    return model


def _drop_auxiliary_heads(model: Any) -> None:
    """GoogLeNet and Inception return more than logits while training, as long as they have theirs."""
    if getattr(model, "aux_logits", False):
        model.aux_logits = False
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, name):
                setattr(model, name, None)


def _replace_head(model: nn.Module, num_classes: int) -> None:
    """A pretrained head has its own classes; another number gets a new one."""
    path = classifier_path(model)
    old = model.get_submodule(path)
    if isinstance(old, nn.Linear) and old.out_features != num_classes:
        model.set_submodule(path, nn.Linear(old.in_features, num_classes))


def _call(
    create: Callable[..., Any], short: str, options: Mapping[str, Any], entry: Callable[..., Any], library: str
) -> Any:
    try:
        return create(short, **options)
    except TypeError as error:
        wrong = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if wrong is None or wrong[2] not in options:
            raise
        # The text names the class, which stands in the file of the network's factory.
        owner = getattr(sys.modules[entry.__module__], wrong[1], entry)
        accepted = sorted({"pretrained", *inspect.signature(owner).parameters} - {"self", "args", "kwargs"})
        raise ConfigError(f"{library}/{short} has no option {wrong[2]!r}; accepted: {', '.join(accepted)}.") from error
