"""Chooses the taps of any network, by declaration where there is one, else by one dry run."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from mfkd.errors import ConfigError, ShapeError, UnknownNameError
from mfkd.taps.discover import Found, discover
from mfkd.taps.own import own_maps
from mfkd.taps.probe import InputShape, mark, probe
from mfkd.taps.record import record
from mfkd.types import TapSpec

TAP_NAMES = ("stem", "penultimate", "front", "middle", "bottom")
"""Names of taps besides `stage1`, `stage1.pre` and so on."""


class TapRow(NamedTuple):
    """One line of the table that `mfkd taps` prints; shape is (C, H, W) or (C,)."""

    name: str
    path: str
    shape: tuple[int, ...]
    side: str
    reason: str


def find_taps(model: nn.Module, input_shape: InputShape) -> dict[str, TapSpec]:
    """All taps of a network by name, measured, with the aliases `front`, `middle` and `bottom`.

    For n stages these are the first, stage floor(n / 2) + 1 and the last. A network tells its taps in
    `tap_points`; one of timm by its own intermediate maps (`taps.own`); any other is recorded (`taps.discover`).
    A map that a later operation changes in place is read before it where the network declares the tap; one that was
    found is read as it stands at the end, which is what the next layers got: DenseNet's last map after its ReLU.

    Args:
        model: any network that maps (B, C, H, W) to logits (B, K).
        input_shape: (C, H, W) of its images.

    Raises:
        ShapeError: no feature map, logits of another shape, or a declared tap that measures otherwise.
    """
    return {found.spec.name: found.spec for found in _find(model, input_shape)}


class TapsOf(Mapping[str, TapSpec]):
    """The taps of `find_taps`, and besides any module path; nothing is looked for before it is asked for.

    So a method that needs no maps takes a network without any.
    """

    def __init__(self, model: nn.Module, input_shape: InputShape) -> None:
        self._model, self._input_shape = model, input_shape
        self._found: dict[str, TapSpec] | None = None
        self._named: dict[str, TapSpec] = {}

    def _known(self) -> dict[str, TapSpec]:
        if self._found is None:
            self._found = find_taps(self._model, self._input_shape)
        return self._found

    def __getitem__(self, name: str) -> TapSpec:
        if name not in self._named:
            # A path needs no stages; the network may have none that can be found.
            known = {} if _is_path(self._model, name) else self._known()
            self._named |= resolve(self._model, self._input_shape, [name], known)
        return self._named[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())


def describe(model: nn.Module, input_shape: InputShape) -> list[TapRow]:
    """The taps of `find_taps` as rows, each with the reason for its choice."""
    return [
        TapRow(spec.name, spec.path, spec.shape or (), _side(spec), reason)
        for spec, reason in _find(model, input_shape)
    ]


def _side(spec: TapSpec) -> str:
    return f"{spec.side} {spec.item + 1}" if spec.item else spec.side


def resolve(
    model: nn.Module, input_shape: InputShape, names: Iterable[str], known: Mapping[str, TapSpec]
) -> dict[str, TapSpec]:
    """Measured taps for names, each a known tap or the path of a module whose output is then read.

    What a module gave is read as it gave it, also where a later operation changes it in place.

    Args:
        model: the network.
        input_shape: (C, H, W) of its images.
        names: tap names or module paths.
        known: from `find_taps`.

    Raises:
        UnknownNameError: neither a tap nor a module.
        ShapeError: a module that does not run, or gives neither a map nor a vector.
    """
    names = tuple(names)
    modules = {path for path, _ in model.named_modules() if path}
    for name in names:
        if name not in known and name not in modules:
            raise UnknownNameError("tap", name, [*known, *modules], f"taps: {', '.join(known)}; or give a module path.")
    paths = [name for name in names if name not in known]
    raw = _raw(model, input_shape, paths) if paths else {}
    return {name: known[name] if name in known else raw[name] for name in names}


def _is_path(model: nn.Module, name: str) -> bool:
    """Whether a name is a module's and cannot be a tap's, such as `stage1` in a network with such a module."""
    own = name.removesuffix(".pre").removeprefix("stage").isdigit() or name in TAP_NAMES
    return not own and name in dict(model.named_modules())


def _raw(model: nn.Module, input_shape: InputShape, paths: Iterable[str]) -> dict[str, TapSpec]:
    visits = {visit.path: visit for visit in record(model, input_shape)[0]}
    specs = []
    for path in paths:
        spec = visits[path].spec(path) if path in visits else None
        if spec is None:
            got = f"gave shape {visits[path].gave}" if path in visits else "did not run in the forward pass"
            raise ShapeError(
                f"tap {path!r}: the module {got}, expected a map (B, C, H, W), tokens (B, N, C) or a vector (B, C); "
                "name another module."
            )
        specs.append(spec)
    return mark(model, input_shape, probe(model, input_shape, specs))


def _find(model: nn.Module, input_shape: InputShape) -> list[Found]:
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise ConfigError(
            f"{type(getattr(model, '_orig_mod', model)).__name__} is compiled, and feature maps are read within it; "
            "give the network itself, and compile the Distiller."
        )
    points = getattr(model, "tap_points", None)
    if points:
        found = [Found(spec, "declared by the network") for spec in points]
    else:
        head = getattr(model, "classifier_path", None)
        found = discover(*record(model, input_shape), own_maps(model, input_shape), head)
    stages = [spec for spec, _ in found if spec.name.removeprefix("stage").isdigit()]
    if not stages:
        raise ShapeError(
            f"{type(model).__name__} has no feature map larger than 1 x 1 for images {input_shape}; "
            "name module paths as taps, or set its tap_points."
        )
    places = {"front": 0, "middle": len(stages) // 2, "bottom": len(stages) - 1}
    aliases = [
        Found(replace(stages[place], name=alias), f"{stages[place].name} of {len(stages)}")
        for alias, place in places.items()
    ]
    found += aliases
    measured = probe(model, input_shape, (spec for spec, _ in found))
    if points:
        measured = mark(model, input_shape, measured)
    return [Found(measured[spec.name], reason) for spec, reason in found]
