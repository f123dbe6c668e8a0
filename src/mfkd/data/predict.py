"""One image file as the network sees it in evaluation."""

from pathlib import Path

import torch
from torch import Tensor

from mfkd.data.decode import normalise, resize, to_tensor
from mfkd.data.files import evaluation_crop
from mfkd.pictures import read_image


def load_image(  # noqa: PLR0917 - the first five are the public call
    path: Path | str,
    channels: int,
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    side: int | None = None,
    interpolation: str = "bilinear",
) -> Tensor:
    """Read, scale and normalise one image.

    Args:
        path: the file.
        channels: 1 or 3.
        size: (height, width) that the network gets.
        mean: of each channel, on the scale 0..1.
        std: of each channel, on the same scale.
        side: `ImageData.resize`, the shorter side before the central crop; None scales to `size`
            outright, as is done with images in memory.
        interpolation: `ImageData.interpolation`, where there is a `side`.

    Returns:
        (C, H, W) float32.

    Raises:
        DataError: the file cannot be read.
    """
    image = read_image(Path(path), channels)
    if side is None:
        pixels = resize(to_tensor(image)[None], size)[0]
    else:
        pixels = to_tensor(evaluation_crop(image, size, side, interpolation))
    return normalise(pixels, torch.tensor(mean), torch.tensor(std), torch.float32)
