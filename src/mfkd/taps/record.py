"""What every module of a network got and gave in one dry run, as shapes."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from mfkd.errors import ShapeError
from mfkd.taps.probe import InputShape, dry_run
from mfkd.taps.reader import pick
from mfkd.types import TapSpec

SAME_MAP = (nn.Dropout, nn.Identity, nn.Softmax)
"""Modules that give no map of their own; after Softmax and Dropout stand square attention matrices."""

LARGEST_PREFIX = 8
"""Class and register tokens that are looked for in front of a token map."""


@dataclass(frozen=True, slots=True)
class Visit:
    """The last run of one module in the dry run.

    Args:
        path: its dotted path.
        module: itself.
        got: shape of its first input, () if that was no tensor.
        gave: shape of its output, () if that was no tensor.
        image: (H, W) of the images.
    """

    path: str
    module: nn.Module
    got: tuple[int, ...]
    gave: tuple[int, ...]
    image: tuple[int, int]

    def spec(self, name: str, prefix_tokens: int | None = None) -> TapSpec | None:
        """The output as a tap, with layout, channels and grid told from its shape; None if it is no map or vector.

        Args:
            name: of the tap.
            prefix_tokens: of a token map, where known; None looks for the smallest number that leaves a grid.
        """
        spec = TapSpec(name, self.path, channels=self.gave[-1] if self.gave else 0)
        if len(self.gave) == 2:
            return replace(spec, layout="vector")
        if len(self.gave) == 4 and (layout := map_layout(self.gave, self.image)):
            return replace(spec, layout=layout, channels=self.gave[1 if layout == "nchw" else 3])
        if len(self.gave) == 3:
            choices = range(LARGEST_PREFIX + 1) if prefix_tokens is None else (prefix_tokens,)
            for prefix in choices:
                if grid := token_grid(self.gave[1] - prefix, self.image):
                    return replace(spec, layout="tokens", prefix_tokens=prefix, grid=grid)
        return None


def record(model: nn.Module, input_shape: InputShape) -> tuple[list[Visit], int]:
    """Run a network once on a zero image.

    Args:
        model: any network that returns logits (B, K).
        input_shape: (C, H, W) of its images.

    Returns:
        The last visit of every module that ran, in the order in which they finished, and K.

    Raises:
        ShapeError: the network returned something else than logits.
    """
    visits: dict[str, Visit] = {}
    image_size = (input_shape[1], input_shape[2])
    handles = []

    def listen(path: str, module: nn.Module) -> None:
        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            visits.pop(path, None)
            visits[path] = Visit(path, module, _shape((*args, *kwargs.values())), _shape(output), image_size)

        handles.append(module.register_forward_hook(after, with_kwargs=True))

    try:
        for path, module in model.named_modules():
            if path:
                listen(path, module)
        with dry_run(model, input_shape) as image:
            logits = model(image)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ShapeError(
            f"{type(model).__name__} returned {type(logits).__name__} {_shape(logits)}, expected logits (B, K) alone; "
            "wrap it in a module whose forward returns only those."
        )
    return list(visits.values()), logits.shape[1]


def map_size(shape: tuple[int, ...], image: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w) of a map (B, C, h, w) or (B, h, w, C), told by its proportions; None if it is none."""
    layout = map_layout(shape, image) if len(shape) == 4 else None
    if layout is None:
        return None
    return (shape[2], shape[3]) if layout == "nchw" else (shape[1], shape[2])


def map_layout(shape: tuple[int, ...], image: tuple[int, int]) -> Literal["nchw", "nhwc"] | None:
    """Which axes of a 4-d tensor are the picture's, told by its proportions; None if none are."""
    if _alike(shape[2], shape[3], image):
        return "nchw"
    return "nhwc" if _alike(shape[1], shape[2], image) else None


def token_grid(tokens: int, image: tuple[int, int]) -> tuple[int, int] | None:
    """The (h, w) of square patches that `tokens` make of an image, or None."""
    for patch in range(1, min(image) + 1):
        grid = (image[0] // patch, image[1] // patch)
        if grid[0] * grid[1] == tokens:
            return grid
    return None


def _alike(height: int, width: int, image: tuple[int, int]) -> bool:
    if height > image[0] or width > image[1]:
        return False
    # Rounding moves a side by at most about one cell.
    return abs(height * image[1] - width * image[0]) <= max(image) and (image[0] != image[1] or height == width)


def _shape(value: Any) -> tuple[int, ...]:
    tensor = pick(value)
    return tuple(tensor.shape) if isinstance(tensor, Tensor) else ()
