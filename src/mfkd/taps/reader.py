"""Reads feature maps while a network runs; the network itself knows nothing of it."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import isqrt
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mfkd.errors import ShapeError, UnknownNameError
from mfkd.types import Outputs, Taps, TapSpec


class TapReader:
    """A context manager that hooks the modules of some taps, and removes the hooks on leaving.

    Where a module runs several times in one forward pass, its last run is read.

    Args:
        model: the network, unchanged but for the hooks.
        specs: taps to read; several names may share one module.

    Attributes:
        raw: by name, what the hooked modules gave or got last.

    Raises:
        UnknownNameError: on entering, a path that names no module.
        ShapeError: in `taps`, a tap that the forward pass did not reach or that does not have its layout.

    Example:
        >>> from mfkd.models import build_model
        >>> import torch
        >>> model = build_model("resnet8", num_classes=10)
        >>> with TapReader(model, model.tap_points) as reader:
        ...     logits = model(torch.zeros(2, 3, 32, 32))
        >>> reader.taps["stage3"].shape
        torch.Size([2, 64, 8, 8])
    """

    def __init__(self, model: nn.Module, specs: Iterable[TapSpec]) -> None:
        self.model = model
        self.specs = tuple(specs)
        self.raw: dict[str, Any] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self.raw.clear()
        modules = dict(self.model.named_modules())
        try:
            for spec in self.specs:
                if spec.path not in modules:
                    raise UnknownNameError("module path", spec.path, modules, f"tap {spec.name!r} is read there.")
                self._handles.append(_hook(modules[spec.path], spec, self.raw))
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the hooks away."""
        while self._handles:
            self._handles.pop().remove()

    @property
    def taps(self) -> Taps:
        """Maps of the last forward pass by name, (B, C, H, W), or (B, C) for vectors."""
        for spec in self.specs:
            if spec.name not in self.raw:
                raise ShapeError(
                    f"tap {spec.name!r} was not reached: the forward pass never ran module {spec.path!r}; "
                    "name a module that it runs."
                )
        return {spec.name: as_map(self.raw[spec.name], spec) for spec in self.specs}


def read(model: nn.Module, image: Tensor, specs: Iterable[TapSpec] = ()) -> Outputs:
    """Run a network once and keep its logits and the wanted taps.

    Args:
        model: any network that maps (B, C, H, W) to logits (B, K).
        image: (B, C, H, W).
        specs: taps to read.

    Raises:
        ShapeError: the network returned something else than logits (B, K).
    """
    with TapReader(model, specs) as reader:
        logits = model(image)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ShapeError(
            f"{type(model).__name__} returned {got}, expected logits (B, K) alone; "
            "wrap it in a module whose forward returns only those."
        )
    return Outputs(logits, reader.taps)


class _Enough(Exception):  # noqa: N818 - no error
    """The last tap was read."""


class _Until(dict[str, Any]):
    """Holds what the hooks read, and ends the forward pass once it holds so many."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        if len(self) == self.count:
            raise _Enough


def read_taps(model: nn.Module, image: Tensor, specs: Iterable[TapSpec]) -> Taps:
    """The wanted taps of a pass that ends as soon as each of them was read once.

    Args:
        model: any network; one that runs a tap's module several times gives the first run.
        image: (B, C, H, W).
        specs: taps to read, at least one.
    """
    reader = TapReader(model, specs)
    reader.raw = _Until(len(reader.specs))
    with reader, suppress(_Enough):
        model(image)
    return reader.taps


class Tapped(nn.Module):
    """A network together with its taps in one `forward`, whose hooks stay until `remove`.

    `torch.compile` traces hooks that are there before, not such as are set within the call.

    Args:
        model: the network.
        specs: taps to read.
        logits: whether they are wanted; what only they need is left out of a compiled graph.
    """

    def __init__(self, model: nn.Module, specs: Iterable[TapSpec], *, logits: bool = True) -> None:
        super().__init__()
        self.model, self.logits = model, logits
        self.reader = TapReader(model, specs).__enter__()

    def forward(self, image: Tensor) -> tuple[Tensor | None, Taps]:
        """Logits (B, K), or None, and taps of images (B, C, H, W)."""
        logits = self.model(image)
        taps = self.reader.taps
        self.reader.raw.clear()  # nothing of the pass is kept
        return logits if self.logits else None, taps

    def remove(self) -> None:
        """Take the hooks away."""
        self.reader.remove()


def as_map(value: Any, spec: TapSpec) -> Tensor:
    """Bring what a module gave or got into (B, C, H, W), or (B, C) for a vector.

    Args:
        value: tensor in the layout of the spec.
        spec: tells layout, prefix tokens and grid.

    Raises:
        ShapeError: not a tensor of that layout.
    """
    if isinstance(value, Tensor):
        if spec.layout == "nchw" and value.ndim == 4:
            return value
        if spec.layout == "nhwc" and value.ndim == 4:
            return value.permute(0, 3, 1, 2)
        if spec.layout == "vector" and value.ndim >= 2 and value.shape[2:].numel() == 1:
            return value.flatten(1)
        if spec.layout == "tokens" and value.ndim == 3:
            return _from_tokens(value, spec)
    got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ShapeError(
        f"tap {spec.name!r} reads the {spec.side} of {spec.path!r} as layout {spec.layout!r}, got {got}; "
        "declare another layout or name another module."
    )


def _from_tokens(tokens: Tensor, spec: TapSpec) -> Tensor:
    tokens = tokens[:, spec.prefix_tokens :]  # (B, N, C)
    side = isqrt(tokens.shape[1])
    height, width = spec.grid or (side, side)
    if height * width != tokens.shape[1]:
        raise ShapeError(
            f"tap {spec.name!r} at {spec.path!r} has {tokens.shape[1]} tokens after "
            f"{spec.prefix_tokens} prefix tokens, expected a grid of {height} x {width}; "
            "declare its grid and prefix_tokens."
        )
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def _hook(module: nn.Module, spec: TapSpec, raw: dict[str, Any]) -> RemovableHandle:
    if spec.side == "input":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raw[spec.name] = _kept((*args, *kwargs.values()), spec)

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        raw[spec.name] = _kept(output, spec)

    return module.register_forward_hook(after)


def _kept(value: Any, spec: TapSpec) -> Any:
    found = pick(value, spec.item)
    return found.clone() if spec.overwritten and isinstance(found, Tensor) else found


def tensors(value: Any) -> list[Tensor]:
    """The tensors in what a module got or gave: a tensor, or a tuple, list or mapping of some."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [tensor for item in items for tensor in tensors(item)]


def pick(value: Any, item: int = 0) -> Any:
    """One of the tensors in what a module got or gave; the value itself where it has no such tensor."""
    found = tensors(value)
    return found[item] if item < len(found) else value
