"""Image files with Pillow alone, so that an exported network is asked without any training library."""

import errno
import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mfkd.errors import DataError
from mfkd.places import is_dir, is_file

Encoded = Path | bytes
EXTENSIONS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP"}
BROKEN = (
    OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError, LookupError, TypeError, ArithmeticError,
    NotImplementedError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises on a file that is no image, or a damaged one."""
_OF_THE_IMAGE = (None, errno.ENOENT, errno.EINVAL)
"""What the system says of a file that is not there or makes Pillow seek out of it; all else may pass."""
warnings.filterwarnings("ignore", module=r"PIL\.")  # it mutters about what it then reads or refuses
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UnreachedError(DataError):
    """An image of which nothing is known, as disk or memory failed; it may be sound."""


class _UnfitError(ValueError):
    """An image that Pillow can read and we cannot use."""


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
        DataError: the image cannot be read, or has values beyond 8 and 16 bits.
        UnreachedError: disk or memory failed.
    """
    mode = "L" if channels == 1 else "RGB"
    try:
        with open_image(source, formats) as image:
            if image.mode == mode:
                image.load()
                return image
            if image.mode.startswith(("I", "F")):
                return _eight_bits(image).convert(mode)
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
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in _OF_THE_IMAGE):
        why = getattr(error, "strerror", None) or "too little memory"
        return UnreachedError(f"{who} could not be read ({why}); see to disk, permissions and memory, and start again.")
    why = " ".join(str(error).split())
    if isinstance(source, Path):
        why = why.replace(repr(str(source)), "'the file'").replace(str(source), "the file")
    elif not isinstance(error, Image.DecompressionBombError | _UnfitError):
        why = "not an image"  # Pillow tells the address of a buffer
    return DataError(f"{who} cannot be read as an image ({why}); repair or remove it.")


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, by name. Links are followed; what is hidden is left out, folders as a whole.

    A folder to which several ways lead is taken once, under its own name if it stands beside the links to it.
    """
    found: list[Path] = []
    seen = set(folder.resolve().parents)
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        if here.resolve() in seen:  # links may lead in a circle
            folders.clear()
            continue
        seen.add(here.resolve())
        shown = [name for name in folders if not name.startswith(".")]
        folders[:] = sorted(shown, key=lambda name: ((here / name).is_symlink(), name))
        found += [here / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in EXTENSIONS and path.is_file())


def _image_files(path: Path) -> list[Path]:
    if is_file(path):
        return [path]
    if not is_dir(path):
        raise DataError(f"image {path} does not exist; give image files, or folders of them.")
    found = images_below(path)
    if not found:
        raise DataError(f"folder {path} holds no image; known endings: {', '.join(sorted(EXTENSIONS))}.")
    return found


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 or 32 bits or of fractions in 0..255; Pillow's own conversion clips without a word."""
    pixels = np.asarray(image)
    if not np.isfinite(pixels).all():
        raise _UnfitError("NaN or infinite values in it")
    low, high = pixels.min(), pixels.max()
    # Pillow opens a PGM of 16 bits as one of 32, scaled to 0..65535.
    wide = image.mode.startswith("I;16") or (image.mode == "I" and (image.format == "PPM" or 255 < high <= 65535))
    if wide and low >= 0:
        return Image.fromarray((pixels >> 8).astype(np.uint8))
    if low < 0 or high > 255 or (image.mode == "F" and 0 < high <= 1):
        raise _UnfitError(f"values from {low:g} to {high:g}, expected 0 to 255, or whole ones to 65535")
    return image
