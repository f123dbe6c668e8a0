"""Puts weights files into networks, completely or not at all."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from mfkd.errors import CheckpointError, cut
from mfkd.models.files import COUNTER, Part, State, read_metadata, read_weights, save_weights
from mfkd.models.finite import first_unsound, soundness
from mfkd.models.heads import classifier_path, head_classes, head_prefixes, strip_prefixes

__all__ = [
    "LoadReport",
    "State",
    "classifier_path",
    "fill",
    "head_classes",
    "load_weights",
    "read_for",
    "read_metadata",
    "read_weights",
    "save_weights",
]


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
    head: Literal["keep", "reset"] = "keep",
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
    state, metadata = read_for(model, path, part or ("teacher" if who == "teacher" else "student"))
    return fill(model, state, metadata, path, head=head, who=who)


def read_for(model: nn.Module, path: str | Path, part: Part) -> tuple[State, dict[str, str]]:
    """Read what a file holds for a network; see `read_weights`."""
    return read_weights(path, part, strip_prefixes(model.state_dict()))


def fill(
    model: nn.Module,
    state: State,
    metadata: dict[str, str],
    path: str | Path,
    *,
    head: Literal["keep", "reset"] = "keep",
    who: str = "student",
) -> LoadReport:
    """The second half of `load_weights`, for what `read_for` gave; `path` is only named in errors."""
    own = model.state_dict()
    keys = dict(zip(strip_prefixes(own), own, strict=True))  # canonical name to own name
    heads = head_prefixes(model)
    if head == "reset":
        state = {name: tensor for name, tensor in state.items() if not name.startswith(heads)}
        keys = {name: key for name, key in keys.items() if not name.startswith(heads)}
    missing = [name for name in keys if name not in state and not name.endswith(COUNTER)]
    unexpected = [name for name in state if name not in keys]
    misshapen = [name for name in state if name in keys and state[name].shape != own[keys[name]].shape]
    faults = [*missing, *unexpected, *misshapen]
    if faults:
        expected = head_classes(model, {name: own[key] for name, key in keys.items()})
        got = head_classes(model, state)
        if got != expected and all(name.startswith(heads) for name in faults):
            advice = (
                "use teacher.head=tune to fit a new one, and leave teacher.classes out."
                if who == "teacher"
                else "give the same number of classes, or student.head=reset "
                "(in Python load_weights(..., head='reset')) to load the rest."
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
    parameters = dict(model.named_parameters(remove_duplicate=False))
    broken = first_unsound(soundness(state, {name for name, key in keys.items() if key in parameters}))
    if broken is not None:
        raise CheckpointError(f"{who} weights {path}: {broken} holds NaN or infinite values; use an intact file.")
    _put(model, {keys[name]: tensor for name, tensor in state.items()}, f"{who} weights {path}")
    taken = {keys[name] for name in state}
    return LoadReport(metadata, len(taken), tuple(key for key in own if key not in taken))


def _put(model: nn.Module, state: State, what: str) -> None:
    """Hand the network its entries; `what` is only named in errors."""
    entries: OrderedDict[str, Tensor] = OrderedDict(state)
    # Names and shapes are the network's own by now, and so are the versions of its modules; MNASNet insists on them.
    vars(entries)["_metadata"] = getattr(model.state_dict(), "_metadata", {})
    try:
        model.load_state_dict(entries, strict=False)
    except Exception as error:  # a network may have its own way of loading, and raise anything there
        raise CheckpointError(
            f"{what} cannot be loaded into {type(model).__name__} ({type(error).__name__}: "
            f"{cut(' '.join(str(error).split()))}); name the network that they were made with."
        ) from error


def _listed(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
