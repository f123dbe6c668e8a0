"""One dry run of a network on a zero image, and what it tells about the taps."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mfkd.errors import ShapeError
from mfkd.taps.reader import TapReader, read
from mfkd.types import TapSpec

InputShape = tuple[int, int, int]
"""(C, H, W) of one image."""


def probe(model: nn.Module, input_shape: InputShape, specs: Iterable[TapSpec]) -> dict[str, TapSpec]:
    """Measure taps by one forward pass of one zero image.

    The pass runs in eval mode without gradients; modes, statistics and random state stay as they were.

    Args:
        model: the network, on any device and in any floating type.
        input_shape: (C, H, W) of its images.
        specs: taps to measure.

    Returns:
        The specs by name with `shape` filled, and `stride` where it was not declared.

    Raises:
        ShapeError: a tap has other channels or another stride than declared, or cannot be read; or see `dry_run`.
    """
    specs = tuple(specs)
    with dry_run(model, input_shape) as image:
        taps = read(model, image, specs).taps
    return {spec.name: _measured(spec, tuple(taps[spec.name].shape[1:]), input_shape) for spec in specs}


def mark(model: nn.Module, input_shape: InputShape, specs: Mapping[str, TapSpec]) -> dict[str, TapSpec]:
    """The specs, `overwritten` wherever the network changes the tap in place later in the pass.

    As ResNets of torchvision and timm do to what a BatchNorm gives: they add the shortcut to it and let the ReLU work
    in place. What is read at such a tap is then a copy.
    """
    reader = TapReader(model, specs.values())
    reader.raw = noted = _Versions()
    with dry_run(model, input_shape) as image, reader:
        model(image)
    changed = {name for name, then in noted.then.items() if _version(noted[name]) != then}
    return {key: replace(spec, overwritten=spec.overwritten or spec.name in changed) for key, spec in specs.items()}


class _Versions(dict[str, Any]):
    """Holds what the hooks read, and how often each tensor had been changed in place by then."""

    def __init__(self) -> None:
        super().__init__()
        self.then: dict[str, int] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.then[name] = _version(value)


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) else 0


@contextmanager
def dry_run(model: nn.Module, input_shape: InputShape) -> Iterator[Tensor]:
    """A block in eval mode without gradients, with a zero image (1, C, H, W); everything is restored after it.

    Raises:
        ShapeError: the network cannot take the image, for example because it is too small.
    """
    modes = [(module, module.training) for module in model.modules()]
    like = next((t for t in chain(model.parameters(), model.buffers()) if t.is_floating_point()), torch.empty(0))
    try:
        # The flags themselves, since a network may override train().
        for module, _ in modes:
            module.training = False
        # Tensors of inference mode have no version that `mark` could look at.
        with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield torch.zeros(1, *input_shape, device=like.device, dtype=like.dtype)
    except (RuntimeError, AssertionError) as error:  # transformers assert the size of the image
        if type(error) not in (RuntimeError, AssertionError):  # such as too little memory
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise ShapeError(
            f"{type(model).__name__} cannot take an image of shape {input_shape} ({reason}); "
            "give images that it takes (a teacher's: teacher.image_size), or name another network."
        ) from error
    finally:
        for module, training in modes:
            module.training = training


def count_classes(model: nn.Module, input_shape: InputShape) -> int:
    """Classes K of a network's logits (B, K), told by a dry run.

    Raises:
        ShapeError: the network returned something else than logits.
    """
    with dry_run(model, input_shape) as image:
        return int(read(model, image).logits.shape[1])


def _measured(spec: TapSpec, shape: tuple[int, ...], input_shape: InputShape) -> TapSpec:
    where = f"tap {spec.name!r} at {spec.path!r}"
    if shape[0] != spec.channels:
        raise ShapeError(
            f"{where} gave {shape[0]} channels, expected {spec.channels} as declared; correct its TapSpec."
        )
    if len(shape) == 1:
        return replace(spec, shape=shape)
    if spec.stride is None:
        return replace(spec, shape=shape, stride=max(1, round(input_shape[1] / shape[1])))
    for cells, pixels in zip(shape[1:], input_shape[1:], strict=True):
        # Convolutions round up and pools down, so one cell is left open.
        if cells not in (pixels // spec.stride, -(-pixels // spec.stride)):
            raise ShapeError(
                f"{where} gave a map of {shape[1]} x {shape[2]} for an image of {input_shape[1]} x {input_shape[2]}, "
                f"expected stride {spec.stride} as declared; correct its TapSpec."
            )
    return replace(spec, shape=shape)
