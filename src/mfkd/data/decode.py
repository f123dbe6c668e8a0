"""Image files and encoded images to uint8 tensors, many at a time.

Shapes: N images; C, H, W channels, height, width.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mfkd.data.sets import SMALL
from mfkd.pictures import BROKEN, Encoded, open_image, read_image, unreadable

T = TypeVar("T")
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "F")


def measure(sources: Sequence[Encoded], name: str = "") -> tuple[set[tuple[int, int]], bool]:
    """Sizes (height, width) that occur, and whether every image is grey, from the headers alone.

    When the first image is large the others are not looked at.

    Args:
        sources: files or encoded images.
        name: of the table, for errors on encoded images.
    """

    def head(number: int) -> tuple[tuple[int, int], bool]:
        source = sources[number]
        try:
            with open_image(source) as image:
                return (image.height, image.width), image.mode in _GREY
        except BROKEN as error:
            raise unreadable(source, f"{name} row {number}" if name else "", error) from None

    first, grey = head(0)
    if max(first) > SMALL:
        return {first}, grey
    found = set().union(*in_runs(lambda numbers: {head(number) for number in numbers}, len(sources)))
    return {size for size, _ in found}, all(grey for _, grey in found)


def decode(sources: Sequence[Encoded], channels: int, size: tuple[int, int], name: str = "") -> Tensor:
    """All images as one (N, C, H, W) uint8 tensor; those of another size are scaled to `size`.

    Args:
        sources: files or encoded images.
        channels: 1 or 3.
        size: (height, width).
        name: of the table, for errors on encoded images.
    """
    pixels = np.empty((len(sources), *size, channels), dtype=np.uint8)

    def some(numbers: range) -> None:
        for number in numbers:
            image = read_image(sources[number], channels, f"{name} row {number}" if name else "")
            if (image.height, image.width) == tuple(size):
                pixels[number] = np.asarray(image).reshape(*size, channels)
            else:
                pixels[number] = resize(to_tensor(image)[None], size)[0].permute(1, 2, 0).numpy()

    in_runs(some, len(sources))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (N, C, H, W) uint8 to (height, width), bilinear with antialiasing."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


def scale(image: Image.Image, side: int, interpolation: str) -> Image.Image:
    """Bring the shorter side to so many pixels, with antialiasing."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    scaled: Image.Image = tv.resize(image, [side], interpolation=InterpolationMode(interpolation))
    return scaled


def to_tensor(image: Image.Image) -> Tensor:
    """A grey or RGB image as (C, H, W) uint8."""
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def normalise(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """(x / 255 - mean) / std of (..., C, H, W) uint8, computed in float32 at least.

    Args:
        images: (..., C, H, W) uint8.
        mean: (C,) on the scale 0..1.
        std: (C,) on the scale 0..1.
        dtype: of the result.
    """
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    shift, scale = (value.to(images.device, exact)[:, None, None] for value in (mean, std))
    return images.to(exact).div_(255).sub_(shift).div_(scale).to(dtype)


def in_runs(work: Callable[[range], T], count: int, length: int = 256) -> list[T]:
    """Work through 0..count-1 in threads; in runs, as handing over one small image costs more than decoding it."""
    runs = (range(first, min(first + length, count)) for first in range(0, count, length))
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, runs))
