"""Which parts of a student belong to which stage or layer, and the freezing of some."""

from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any

from torch import nn

from mfkd.errors import ConfigError, ShapeError, UnknownNameError
from mfkd.models.adapters import layer_groups
from mfkd.nn.rest import rest
from mfkd.taps import find_taps
from mfkd.taps.probe import InputShape, dry_run

HEAD = "head"
"""The stage of all that runs after the last tap."""


def module_stages(network: nn.Module, input_shape: InputShape) -> dict[str, str]:
    """The stage of each module, by path: the first of `stem`, `stage1`, ... that ends after the module begins.

    What a network declares no stem for belongs to its first stage. Modules that do not run count with
    the nearest one around them that does, those right below the network with the head.

    Args:
        network: any network.
        input_shape: (C, H, W) of its images.

    Raises:
        ShapeError: a network without feature maps.
    """
    taps = find_taps(network, input_shape)
    ends = [spec for name, spec in taps.items() if name == "stem" or name.removeprefix("stage").isdigit()]
    clock = count()
    begun: dict[str, int] = {}
    done: dict[str, int] = {}

    def note(moments: dict[str, int], path: str, *_: Any) -> None:
        if moments is done or path not in begun:
            moments[path] = next(clock)

    handles = [
        handle
        for path, module in network.named_modules()
        for handle in (
            module.register_forward_pre_hook(partial(note, begun, path)),
            module.register_forward_hook(partial(note, done, path)),
        )
    ]
    try:
        with dry_run(network, input_shape) as image:
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    bounds = sorted(((begun if spec.side == "input" else done)[spec.path], spec.name) for spec in ends)

    def stage(path: str) -> str:
        while path not in begun:
            path = path.rpartition(".")[0]
            if not path:
                return HEAD
        return next((name for end, name in bounds if begun[path] < end), HEAD)

    return {path: stage(path) for path, _ in network.named_modules()}


def freeze(network: nn.Module, names: Sequence[str], input_shape: InputShape) -> tuple[str, ...]:
    """Switch the gradients of parts off and let their BatchNorm statistics and dropout rest.

    Args:
        network: changed in place.
        names: stages of `module_stages`, or paths of modules or parameters; a stage goes before a module
            of its name.
        input_shape: (C, H, W) of its images.

    Returns:
        Paths of the modules to be kept in eval mode, for `rest`.

    Raises:
        UnknownNameError: neither a stage nor a part.
        ConfigError: a part without parameters, or nothing left to learn.
    """
    if not names:
        return ()
    try:
        stages = module_stages(network, input_shape)
    except ShapeError:  # no maps, so no stages; paths will do
        stages = dict.fromkeys(dict(network.named_modules()), "")
    known = [name for name in dict.fromkeys(stages.values()) if name]
    parameters = dict(network.named_parameters())
    chosen: set[str] = set()
    for name in names:
        if name in known:
            inside = {path for path, stage in stages.items() if stage == name}
        else:
            inside = {path for path in stages if f"{path}.".startswith(f"{name}.")}
        own = [p for path, p in parameters.items() if path == name or path.rpartition(".")[0] in inside]
        if not inside and not own:
            raise UnknownNameError(
                "part in train.freeze", name, [*known, *filter(None, stages)], f"stages: {', '.join(known)}."
            )
        if not own:
            raise ConfigError(f"train.freeze: {name} has no weights; name a stage or a module that has some.")
        for parameter in own:
            parameter.requires_grad_(False)
        chosen |= inside
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError(f"train.freeze={list(names)} leaves nothing of the student to learn; name fewer parts.")
    leaves = [path for path, module in network.named_modules() if not any(True for _ in module.children())]
    moving = [path for path in leaves if path not in chosen]
    resting = tuple(path for path in chosen if path and not any(f"{other}.".startswith(f"{path}.") for other in moving))
    rest(network, resting)
    return resting


def layer_depths(network: nn.Module, input_shape: InputShape) -> dict[str, int]:
    """Layers between each parameter and the head, 0 for the head itself.

    A network of timm has timm's own layers, which are its blocks. Others have their stages, and those without
    maps their immediate parts.
    """
    names = [name for name, _ in network.named_parameters()]
    groups = layer_groups(network) or _own_groups(network, names, input_shape)
    top = max(groups.values())
    return {name: top - groups.get(name, top) for name in names}


def _own_groups(network: nn.Module, names: Sequence[str], input_shape: InputShape) -> dict[str, int]:
    try:
        stages = module_stages(network, input_shape)
    except ShapeError:
        place = {name: name.partition(".")[0] for name in names}
        order = list(dict.fromkeys(place.values()))
    else:
        place = {name: stages[name.rpartition(".")[0]] for name in names}
        order = sorted(set(place.values()), key=lambda stage: (stage == HEAD, stage != "stem", len(stage), stage))
    return {name: order.index(stage) for name, stage in place.items()}
