"""Where a network's classifier is, and for how many classes it answers."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from mfkd.errors import CheckpointError

_PREFIXES = ("module.", "_orig_mod.", "model.")


def strip_prefixes(names: Iterable[str]) -> list[str]:
    """The names without the wrappers' prefixes that all of them have."""
    names = list(names)
    while prefix := next((p for p in _PREFIXES if names and all(name.startswith(p) for name in names)), ""):
        names = [name.removeprefix(prefix) for name in names]
    return names


def classifier_paths(model: nn.Module) -> tuple[str, ...]:
    """Paths of the classifiers: as the network declares it, as timm tells them, or its last linear layer.

    timm's distilled networks have two. A network without linear layers ends in its last convolution.

    Returns:
        Dotted paths in the order of the network; () where nothing is found.
    """
    declared = getattr(model, "classifier_path", None)
    if isinstance(declared, str):
        return (declared,)
    timm_head: Any = getattr(model, "get_classifier", None)
    told = timm_head() if callable(timm_head) else None
    heads = told if isinstance(told, list | tuple) else (told,)
    modules = {path: module for path, module in model.named_modules() if path}
    found = tuple(
        path
        for path, module in modules.items()
        if not isinstance(module, nn.Identity) and any(module is head for head in heads)
    )
    for kind in (nn.Linear, nn.Conv2d):
        found = found or tuple(path for path, module in modules.items() if isinstance(module, kind))[-1:]
    return found


def classifier_path(model: nn.Module) -> str:
    """Path of the classifier, the last of `classifier_paths`.

    Raises:
        CheckpointError: none found.
    """
    paths = classifier_paths(model)
    if not paths:
        raise CheckpointError(f"{type(model).__name__} has no linear classifier; set its attribute classifier_path.")
    return paths[-1]


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """What the names of the classifiers' entries begin with, once wrappers' prefixes are taken off."""
    keys = list(model.state_dict())
    cut = len(keys[0]) - len(strip_prefixes(keys)[0]) if keys else 0
    return tuple(f"{path}."[cut:] for path in classifier_paths(model))


def head_classes(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Number of classes for which a file's classifier answers, or None where the file has none.

    Args:
        model: network of the same kind, whose classifier may have other classes.
        state: entries by name, from `read_weights`.
    """
    own, prefixes = model.state_dict(), head_prefixes(model)
    weights = [
        name
        for name, tensor in zip(strip_prefixes(own), own.values(), strict=True)
        if name.startswith(prefixes) and tensor.ndim >= 2
    ]
    found = state.get(weights[-1]) if weights else None
    return None if found is None or found.ndim < 2 else len(found)
