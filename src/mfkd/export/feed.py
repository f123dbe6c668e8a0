"""How images are fed to an exported network, with numpy and Pillow alone.

Shapes: B batch; C, H, W channels, height, width.
"""

import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from mfkd.export.resize import resize
from mfkd.pictures import Encoded, read_image

KEY = "mfkd"
"""Under which a file says of its network what `Feed` holds."""
_MODES = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Feed:
    """What an exported network wants and says; arguments as in `train.student.Card`.

    Args:
        model: name of the network.
        classes: class names, in the order of the logits.
        channels: of an image, 1 or 3.
        size: (h, w) in px.
        mean: of each channel, on the scale 0..1, and `std` its deviation.
        std: see `mean`.
        side: shorter side in px before the central crop; None scales to `size` outright.
        interpolation: where there is a `side`.
        embedded: the graph normalises by itself: it takes (B, H, W, C) uint8, not (B, C, H, W) float32.
    """

    model: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int | None = None
    interpolation: str = "bilinear"
    embedded: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image, as the graph takes it."""
        return (*self.size, self.channels) if self.embedded else (self.channels, *self.size)

    def to_json(self) -> str:
        """For the metadata of a file."""
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Feed":
        """From `to_json`; ValueError, TypeError or KeyError where it is something else."""
        raw: dict[str, Any] = json.loads(text)
        for name in ("classes", "size", "mean", "std"):
            raw[name] = tuple(raw[name])
        return cls(**raw)


def read(source: Encoded, feed: Feed) -> np.ndarray:
    """One image, scaled and cropped as in evaluation, as (H, W, C) uint8.

    Raises:
        DataError: the image cannot be read.
    """
    return fitted(read_image(source, feed.channels), feed)


def fitted(image: Image.Image, feed: Feed) -> np.ndarray:
    """An image at the size of the network, (H, W, C) uint8, equal to what evaluation makes of it to the bit."""
    if feed.side is None:
        return resize(np.asarray(image).reshape(image.height, image.width, feed.channels), feed.size)
    height, width = feed.size
    short, long = sorted(image.size)
    if short != feed.side:
        scaled = int(feed.side * long / short)  # rounded as in torchvision, here and below
        tall = image.height >= image.width
        image = image.resize((feed.side, scaled) if tall else (scaled, feed.side), _MODES[feed.interpolation])
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return np.asarray(image.crop((left, top, left + width, top + height))).reshape(height, width, feed.channels)


def batch(images: np.ndarray, feed: Feed) -> np.ndarray:
    """(B, H, W, C) uint8 as the graph takes it."""
    if feed.embedded:
        return images
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (feed.mean, feed.std))
    floats: np.ndarray = (images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255) - mean) / std
    return floats
