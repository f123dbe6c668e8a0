"""Image files with Pillow alone, so that an exported network is asked without any training library."""

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mfkd.errors import DataError

Encoded = Path | bytes
EXTENSIONS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP"}
BROKEN = (
    OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError, LookupError, TypeError, ArithmeticError,
    NotImplementedError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises on a file that is no image, or a damaged one."""
warnings.filterwarnings("ignore", module=r"PIL\.")  # it mutters about what it then reads or refuses
logging.getLogger("PIL").addHandler(logging.NullHandler())


def kind(data: bytes) -> str | None:
    """Pillow's name of the common format that the first bytes announce; None where it is none of them."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for start, name in _STARTS.items() if data.startswith(start)), None)


def open_image(source: Encoded, formats: tuple[str, ...] | None = None) -> Image.Image:
    """An image whose header has been read and whose pixels have not.

    Args:
        source: a file, or the encoded image itself.
        formats: Pillow's names of those that may be tried; None tries all.
    """
    if not isinstance(source, bytes):
        return Image.open(source, formats=formats)
    likely = kind(source) if formats is None else None
    if likely is not None:  # trying forty formats in turn takes as long as decoding a small image
        with suppress(UnidentifiedImageError):
            return Image.open(io.BytesIO(source), formats=(likely,))
    return Image.open(io.BytesIO(source), formats=formats)


def read_image(source: Encoded, channels: int, name: str = "", formats: tuple[str, ...] | None = None) -> Image.Image:
    """One image, converted to RGB (3 channels) or grey (1 channel).

    Args:
        source: a file, or the encoded image itself.
        channels: 1 or 3.
        name: what an error calls an encoded image; a file is called by its path.
        formats: Pillow's names of those that may be tried; None tries all.

    Raises:
        DataError: the image cannot be read.
    """
    mode = "L" if channels == 1 else "RGB"
    try:
        with open_image(source, formats) as image:
            if image.mode == mode:
                image.load()
                return image
            if image.mode.startswith("I;16"):  # 16 bits a pixel; Pillow's own conversion would clip at 255
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
            if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
                raise ValueError("NaN or infinite values in it")
            if image.mode == "P" and "transparency" in image.info:
                return image.convert("RGBA").convert(mode)
            return image.convert(mode)
    except BROKEN as error:
        raise unreadable(source, name, error) from None


def image_files(places: Sequence[str | Path]) -> list[Path]:
    """The images that a user's words mean: files as they are, and of a folder those in it and below, by name.

    Raises:
        DataError: nothing there, or a folder without images.
    """
    return [file for place in places for file in _image_files(Path(place))]


def unreadable(source: Encoded, name: str, error: Exception) -> DataError:
    """The refusal of an image, in words that tell which one and why."""
    who = str(source) if isinstance(source, Path) else name or "an encoded image"
    why = " ".join(str(error).split())
    if isinstance(source, Path):
        why = why.replace(str(source), "the file")
    elif not isinstance(error, Image.DecompressionBombError):
        why = "not an image"  # Pillow tells the address of a buffer
    return DataError(f"{who} cannot be read as an image ({why}); repair or remove it.")


def _image_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"image {path} does not exist; give image files, or folders of them.")
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
    if not found:
        raise DataError(f"folder {path} holds no image; known endings: {', '.join(sorted(EXTENSIONS))}.")
    return found
