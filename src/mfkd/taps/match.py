"""Which modules of a network give or get a certain map, told by comparing values while it runs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mfkd.taps.reader import tensors
from mfkd.taps.record import SAME_MAP
from mfkd.types import TapSpec

TOLERANCE = 1e-4
"""Largest gap between two runs on one image, relative to the largest value of the map."""


class Match(NamedTuple):
    """A way to read a map, and how far it is from it."""

    spec: TapSpec
    gap: float


class Matches:
    """A context manager that notes which modules give and get some maps, each at its last run.

    Args:
        model: the network, unchanged but for the hooks.
        maps: each (1, C, h, w).

    Attributes:
        gave: for each map the modules that gave it by path, in the order in which they finished.
        got: the same for modules that got it, in the order in which they began.
    """

    def __init__(self, model: nn.Module, maps: Sequence[Tensor]) -> None:
        self.modules = {path: module for path, module in model.named_modules() if path}
        self.maps = maps
        self.gave: list[dict[str, Match]] = [{} for _ in maps]
        self.got: list[dict[str, Match]] = [{} for _ in maps]
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for path, module in self.modules.items():

            def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: str = path) -> None:
                self._note(self.got, TapSpec("", path, 0, side="input"), (*args, *kwargs.values()))

            def after(_: nn.Module, __: object, output: Any, path: str = path) -> None:
                self._note(self.gave, TapSpec("", path, 0), output)

            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            if not isinstance(module, SAME_MAP):
                self._handles.append(module.register_forward_hook(after))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _note(self, notes: list[dict[str, Match]], spec: TapSpec, value: Any) -> None:
        for wanted, note in zip(self.maps, notes, strict=True):
            note.pop(spec.path, None)  # an earlier run is not what a tap reads
            found = [
                Match(reading, float((picture - wanted).abs().max()))
                for item, tensor in enumerate(tensors(value))
                for reading, picture in readings(tensor, replace(spec, item=item), tuple(wanted.shape))
            ]
            best = min(found, key=lambda match: match.gap, default=None)
            if best is not None and best.gap <= TOLERANCE * float(wanted.abs().max()):
                note[spec.path] = best

    def made_by_norm(self, source: int, target: int) -> bool:
        """Whether one map is the other, or becomes it by a norm or an activation alone."""
        if self.gave[source].keys() & self.gave[target].keys():
            return True
        # The last that gives the target: before training, other norms may do what that one does.
        made = self.choose(target, "", ())
        return made is not None and made.path in self.got[source] and self._light(made.path)

    def choose(self, number: int, named: str, taken: Sequence[TapSpec]) -> TapSpec | None:
        """Where to read a map: at the named module if that gives it, else at the last that gives or first that gets it.

        A module that holds one which is taken already, and a norm that does nothing yet, do not count.
        """
        gave, got = self.gave[number], self.got[number]
        if named in gave:
            return gave[named].spec
        fitting = [
            match
            for path, match in gave.items()
            if not any(spec.path.startswith(path + ".") for spec in taken) and not (path in got and self._light(path))
        ]
        best = min(reversed(fitting), key=lambda match: match.gap, default=None)
        best = best or min(got.values(), key=lambda match: match.gap, default=None)
        return None if best is None else best.spec

    def _light(self, path: str) -> bool:
        """Whether a module has no matrices, as norms and activations."""
        return all(sum(side > 1 for side in p.shape) < 2 for p in self.modules[path].parameters())


def readings(value: Tensor, spec: TapSpec, shape: tuple[int, ...]) -> Iterator[tuple[TapSpec, Tensor]]:
    """The layouts in which a tensor may be read as a map of a shape (1, C, h, w), and the maps."""
    _, channels, height, width = shape
    spec = replace(spec, channels=channels)
    if tuple(value.shape) == shape:
        yield spec, value
    if tuple(value.shape) == (1, height, width, channels):
        yield replace(spec, layout="nhwc"), value.permute(0, 3, 1, 2)
    if value.ndim == 3 and len(value) == 1 and value.shape[2] == channels:
        prefix = value.shape[1] - height * width
        if prefix >= 0:
            picture = value[:, prefix:].transpose(1, 2).unflatten(2, (height, width))
            yield replace(spec, layout="tokens", prefix_tokens=prefix, grid=(height, width)), picture
