"""Puts weights files into networks, completely or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from mfkd.errors import CheckpointError
from mfkd.models.files import Part, State, read_weights, save_weights, strip_prefixes

__all__ = ["LoadReport", "State", "classifier_path", "head_classes", "load_weights", "read_weights", "save_weights"]

_COUNTER = "num_batches_tracked"  # absent from files of PyTorch 0.4


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was loaded.

    Args:
        metadata: of a safetensors file, else empty.
        loaded: number of entries taken from the file.
        fresh: entries of the network that kept their values: a reset head, counters that the file lacks.
    """

    metadata: dict[str, str]
    loaded: int
    fresh: tuple[str, ...]


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    head: Literal["strict", "reset"] = "strict",
    who: str = "student",
    part: Part | None = None,
) -> LoadReport:
    """Load a file into a network.

    Args:
        model: changed in place.
        path: see `read_weights`.
        head: "reset" leaves the classifier as it is and loads the rest.
        who: "student" or "teacher", for the texts of errors.
        part: see `read_weights`; None goes by `who`.

    Raises:
        CheckpointError: see `read_weights`; or the file belongs to another network, or its head has other classes.
    """
    state, metadata = read_weights(path, part or ("teacher" if who == "teacher" else "student"))
    own = model.state_dict()
    keys = dict(zip(strip_prefixes(own), own, strict=True))  # canonical name to own name
    classifier = classifier_path(model)
    inside = {name for name, key in keys.items() if key.startswith(f"{classifier}.")}
    if head == "reset":
        bare = next(iter(inside)).rpartition(".")[0]
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{bare}.")}
        keys = {name: key for name, key in keys.items() if name not in inside}
    missing = [name for name in keys if name not in state and not name.endswith(_COUNTER)]
    unexpected = [name for name in state if name not in keys]
    misshapen = [name for name in state if name in keys and state[name].shape != own[keys[name]].shape]
    if missing or unexpected or misshapen:
        expected = head_classes(own, classifier)
        got = next((len(state[name]) for name in misshapen if name in inside), None if missing else expected)
        if got != expected and inside.issuperset([*missing, *unexpected, *misshapen]):
            advice = (
                "use teacher.head=tune to fit a new one, and leave teacher.classes out."
                if who == "teacher"
                else "give the same number of classes, or in Python load_weights(..., head='reset') to load the rest."
            )
            raise CheckpointError(
                f"{who} weights {path} have {f'a head of {got} classes' if got else 'no head'}, expected {expected} "
                f"classes; {advice}"
            )
        made_with = f" (made with {metadata['model']})" if "model" in metadata else ""
        raise CheckpointError(
            f"{who} weights {path}{made_with} belong to another network than {type(model).__name__}: "
            f"{_listed('missing', missing)}, {_listed('unexpected', unexpected)}, "
            f"{_listed('of another shape', misshapen)}; name the network that they were made with."
        )
    model.load_state_dict({keys[name]: tensor for name, tensor in state.items()}, strict=False)
    taken = {keys[name] for name in state}
    return LoadReport(metadata, len(taken), tuple(key for key in own if key not in taken))


def head_classes(state: Mapping[str, Tensor], classifier: str) -> int | None:
    """Number of classes of a state dict's classifier, or None where it has none.

    Args:
        state: from `read_weights`.
        classifier: path of the classifier, see `classifier_path`.
    """
    weight = state.get(f"{classifier}.weight")
    return None if weight is None or weight.ndim < 2 else len(weight)


def classifier_path(model: nn.Module) -> str:
    """Path of the classifier: as the network declares it, as timm tells it, or its last linear layer.

    Raises:
        CheckpointError: a network without a linear layer that declares none.
    """
    declared = getattr(model, "classifier_path", None)
    if isinstance(declared, str):
        return declared
    timm_head: Any = getattr(model, "get_classifier", None)
    told = timm_head() if callable(timm_head) else None
    modules: dict[str, nn.Module] = dict(model.named_modules())
    for path, module in reversed(modules.items()):
        if module is told and not isinstance(module, nn.Identity):
            return path
    for path, module in reversed(modules.items()):
        if isinstance(module, nn.Linear):
            return path
    raise CheckpointError(f"{type(model).__name__} has no linear classifier; set its attribute classifier_path.")


def _listed(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
