"""Networks of timm and torchvision by name; both libraries are imported only when one is asked for."""

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from mfkd.errors import CheckpointError, ConfigError, UnknownNameError
from mfkd.files import read_json, write_json
from mfkd.models.heads import classifier_path, head_classes
from mfkd.models.hush import hub_hushed
from mfkd.models.layers import check_sizes


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """How those who trained a network fed it.

    Args:
        mean: of each channel on the scale 0..1, and `std` its deviation.
        image_size: height and width in px.
        crop: share of the shorter side that evaluation keeps.
        interpolation: "bilinear", "bicubic" and so on.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    crop: float
    interpolation: str


def data_config(model: nn.Module) -> EvalConfig | None:
    """What timm, or our adapter of torchvision, says of a network's images; None where nothing is said.

    The central crop is assumed, which is that of nearly all; `crop_mode` is not looked at.
    """
    told = getattr(model, "pretrained_cfg", None)
    if not isinstance(told, Mapping) or not told.get("mean") or not told.get("std"):
        return None
    from timm.data import config

    resolve: Callable[..., dict[str, Any]] = config.resolve_data_config
    found = resolve(pretrained_cfg=dict(told))
    # The option img_size of transformers changes the network, not what is said of it.
    built = getattr(getattr(model, "patch_embed", None), "img_size", None)
    size = built if isinstance(built, tuple) else found["input_size"][1:]
    mean, std = tuple(found["mean"]), tuple(found["std"])
    return EvalConfig(mean, std, int(size[0]), float(found["crop_pct"]), found["interpolation"])


def fixed_size(model: nn.Module) -> int | None:
    """Height and width in px of a network of timm or torchvision that takes no other images; None for all else.

    Whatever its weights are. A network that was built for images that are not square tells nothing.
    """
    told = getattr(model, "pretrained_cfg", None)
    patches = getattr(model, "patch_embed", None)
    loose = getattr(patches, "strict_img_size", True) is False  # timm's option dynamic_img_size
    if not isinstance(told, Mapping) or not told.get("fixed_input_size") or loose:
        return None
    built = getattr(patches, "img_size", None)
    height, width = built if isinstance(built, tuple) else told["input_size"][1:]
    return int(height) if height == width else None


def layer_groups(model: nn.Module) -> dict[str, int] | None:
    """Number of the layer of each parameter as timm has it, rising to the head; None for other networks."""
    matcher = getattr(model, "group_matcher", None)
    if not callable(matcher):
        return None
    from timm.models import group_parameters

    groups: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
    return groups


_OF_OTHER_WEIGHTS = ("tag", "license", "origin_url", "paper_ids", "paper_name", "notes", "description")
"""What timm says of its own weights for a network, and not of those that were trained since."""


def write_timm_config(model: nn.Module, path: Path, classes: Sequence[str], preprocessing: Mapping[str, Any]) -> None:
    """Write the `config.json` from which timm builds one of its networks again, in `local-dir:` and on the hub.

    Args:
        model: built by timm, which remembers its arguments.
        path: the file.
        classes: names in the order of the logits.
        preprocessing: of evaluation, under timm's names.

    Raises:
        ConfigError: an argument of the network that JSON cannot hold.
    """
    from timm.models import _hub

    try:
        _hub.save_config_for_hf(model, str(path), {"label_names": list(classes)}, data_config=dict(preprocessing))
    except ValueError as error:
        raise ConfigError(f"timm cannot describe this network ({error}); build it with plain arguments.") from error
    told = read_json(path)
    for name in _OF_OTHER_WEIGHTS:
        told["pretrained_cfg"].pop(name, None)
    write_json(path, told)


def licence(name: str) -> str | None:
    """The licence that timm or torchvision tells of the weights that `pretrained` means; None where it tells none.

    Of the hub, timm's own repositories are known, and of a folder what its `config.json` says.
    """
    told: Any = None
    source, _, short = name.replace("hf_hub:", "hf-hub:").replace("hf-hub:timm/", "timm/").partition("/")
    if name.startswith("local-dir:"):
        file = Path(name.removeprefix("local-dir:")).expanduser() / "config.json"
        told = read_json(file).get("pretrained_cfg", {}).get("license") if file.is_file() else None
    elif source == "timm":
        import timm

        told = getattr(timm.get_pretrained_cfg(short, allow_unregistered=True), "license", None)
    elif source == "torchvision":
        from torchvision import models

        told = models.get_model_weights(short).verify("DEFAULT").meta.get("license")
    return told if isinstance(told, str) and told.lower() != "unknown" else None


def build_foreign(name: str, num_classes: int | None, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    """Build `timm/NAME`, `torchvision/NAME`, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.

    Args:
        name: with the library or timm's source in front.
        num_classes: classes of the head; None keeps those of the library, the hub or the folder.
        in_channels: channels of the images; torchvision's networks take 3 alone.
        options: keywords of the library's constructor; `pretrained=True` fetches or reads its weights in all of
            them, with a new head where it has other classes.
            The auxiliary heads of torchvision's networks are left out unless `aux_logits=True`.

    Returns:
        The network; a pretrained one has `pretrained_cfg`, with the `mean` and `std` that it expects and the
        `num_classes` of its own head.

    Raises:
        UnknownNameError: no such network; the nearest names are told.
        ConfigError: an option that the network does not have or cannot use, or channels that it cannot take.
        CheckpointError: pretrained weights that cannot be fetched, or a folder that holds no network.
    """
    check_sizes(2 if num_classes is None else num_classes, in_channels)
    library = "torchvision" if name.startswith("torchvision/") else "timm"
    short = name.removeprefix(f"{library}/")
    build = _timm if library == "timm" else _torchvision
    return build(short, num_classes, in_channels, dict(options))


def _timm(short: str, num_classes: int | None, in_channels: int, options: dict[str, Any]) -> nn.Module:
    import timm

    home: Any = timm.models
    if ":" not in short:
        if not timm.is_model(short):
            raise UnknownNameError(
                "model", f"timm/{short}", [f"timm/{known}" for known in timm.list_models()], "see timm.list_models()."
            )
        home = sys.modules[timm.model_entrypoint(short).__module__]
    elif short.startswith("local-dir:"):
        short = f"local-dir:{Path(short.removeprefix('local-dir:')).expanduser()}"
    if num_classes is not None:
        options["num_classes"] = num_classes
    model: nn.Module = _call(timm.create_model, short, options | {"in_chans": in_channels}, home, "timm")
    return model


WARNING = ("googlenet", "inception_v3")  # torchvision warns unless they are told how to draw their weights


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
    if short in WARNING and not pretrained:
        options.setdefault("init_weights", True)
    builder = models.get_model_builder(short)
    auxiliary = options.get("aux_logits", False)
    if pretrained and not auxiliary:
        options.pop("aux_logits", None)  # torchvision refuses to build without what the file holds
    home = sys.modules[builder.__module__]
    model: nn.Module = _call(models.get_model, short, options, home, "torchvision")
    _check_taken(model, short, options, home)
    if not auxiliary:
        _drop_auxiliary_heads(model)
    # GoogLeNet and Inception can shift their input themselves; a reloaded student would not know of it.
    shifts = bool(vars(model).get("transform_input", False))
    if shifts:
        vars(model)["transform_input"] = False
    told: dict[str, Any] = {}  # under timm's names
    if short == "maxvit_t" or short.startswith("vit_"):
        side = options.get("image_size", 224)
        told = {"input_size": (3, *options.get("input_size", (side, side))), "fixed_input_size": True}
    if pretrained:
        trained_on = models.get_model_weights(short).verify(options["weights"]).transforms()
        mean, std = ((0.5,) * 3,) * 2 if shifts else (tuple(trained_on.mean), tuple(trained_on.std))
        (size,), (side,) = trained_on.crop_size, trained_on.resize_size
        told |= {
            "mean": mean,
            "std": std,
            "input_size": (3, size, size),
            "crop_pct": size / side,
            "interpolation": trained_on.interpolation.value,
            "num_classes": head_classes(model, model.state_dict()),
        }
        if num_classes is not None:
            _replace_head(model, num_classes)
    if told:
        vars(model)["pretrained_cfg"] = told
    return model


def _check_taken(model: nn.Module, short: str, options: Mapping[str, Any], home: ModuleType) -> None:
    """Refuse what some of torchvision's networks leave out without a word: they take any keyword."""
    own = inspect.signature(type(model)).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in own.values()):
        makers = [maker for _, maker in inspect.getmembers(home, inspect.isfunction)]
        known = {name for maker in makers for name in inspect.signature(maker).parameters} | set(own)
        for name in sorted(options.keys() - known):
            accepted = ", ".join(sorted({"pretrained", *own} - {"kwargs"}))
            raise ConfigError(f"torchvision/{short} has no option {name!r}; accepted: {accepted}.")


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
        model.set_submodule(path, nn.Linear(old.in_features, num_classes, bias=old.bias is not None))
    elif isinstance(old, nn.Conv2d) and old.out_channels != num_classes:  # SqueezeNet ends in a 1 x 1 convolution
        model.set_submodule(path, nn.Conv2d(old.in_channels, num_classes, 1))


def _call(create: Callable[..., Any], short: str, options: Mapping[str, Any], home: Any, library: str) -> Any:
    """Create a network; `home` is the module in which the class that refuses an option is looked up."""
    name = f"{library}/{short}"
    try:
        with hub_hushed():
            return create(short, **options)
    except Exception as error:  # both libraries raise almost anything
        wrong = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if isinstance(error, TypeError) and wrong is not None and wrong[2] in options:
            owner = getattr(home, wrong[1], create)
            accepted = sorted({"pretrained", *inspect.signature(owner).parameters} - {"self", "args", "kwargs"})
            raise ConfigError(f"{name} has no option {wrong[2]!r}; accepted: {', '.join(accepted)}.") from error
        told = " ".join(str(error).split())
        told = f"{type(error).__name__}: {told[:200]}{'...' if len(told) > 200 else ''}"
        if short.startswith("local-dir:"):
            raise CheckpointError(
                f"{name} cannot be read ({told}); expected a folder with timm's config.json and its weights."
            ) from error
        if isinstance(error, OSError):
            advice = "name a folder that you have, local-dir:PATH" if ":" in short else "give a file as weights"
            raise CheckpointError(
                f"pretrained weights of {name} cannot be fetched ({type(error).__name__}); "
                f"check the name and the connection, or {advice}."
            ) from error
        raise ConfigError(f"{name} cannot be built ({told}); correct its name or its options.") from error
