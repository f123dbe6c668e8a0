"""Uploaded bytes to pixels, with every refusal in one sentence.

Shapes: H, W, C height, width, channels.
"""

import re

import numpy as np
from PIL import Image

from mfkd.export.feed import Feed, fitted
from mfkd.pictures import kind, open_image, read_image

KINDS = ("JPEG", "PNG", "WebP", "BMP", "GIF")
"""What is taken, by its content; a name or a type that a client tells is not looked at."""

SCANS, SEGMENTS = 100, 1000
"""Of a JPEG: a scan goes over all pixels in a few bytes, and usual files have about ten; of segments up to hundreds."""
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")  # those that a length follows, and the end


class PictureError(Exception):
    """A picture that is not answered.

    Args:
        status: of HTTP: 400 empty, 413 too large, 415 another type, 422 damaged or made to cost time.
        text: one sentence for the one who sent it.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def pixels(data: bytes, feed: Feed, most: int) -> np.ndarray:
    """A picture as the network wants it, (H, W, C) uint8; of an animation its first frame.

    Args:
        data: the file.
        feed: of the network.
        most: pixels that it may have once decoded; they are counted before.

    Raises:
        PictureError: empty, of another type, too large, damaged or cut off, or a JPEG of more than `SCANS` scans
                or `SEGMENTS` segments.
    """
    if not data:
        raise PictureError(400, "The picture is empty; send one with content.")
    found = kind(data)
    if found is None:
        raise PictureError(415, f"This is no picture of a known type; send {', '.join(KINDS[:-1])} or {KINDS[-1]}.")
    if found == "JPEG" and _is_drawn_out(data):
        text = f"The picture is a JPEG of more than {SCANS} scans or {SEGMENTS:,} segments; save it in the usual way."
        raise PictureError(422, text)
    try:
        with open_image(data, (found,)) as image:
            width, height = image.size
        if width * height <= most:
            return fitted(read_image(data, feed.channels, formats=(found,)), feed)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(413, _too_many("more", most)) from None
    except Exception:  # Pillow's decoders raise almost anything on bytes that somebody has made up
        raise PictureError(422, "The picture is damaged or cut off; send it again.") from None
    raise PictureError(413, _too_many(f"{width:,} x {height:,}", most))


def _is_drawn_out(data: bytes) -> bool:
    """Whether a JPEG has too many parts; what stands within its segments, or behind its end, is not counted."""
    scans, segments, at = 0, 0, 2
    while (found := _MARKER.search(data, at)) is not None and found[0] != b"\xff\xd9":
        scans, segments = scans + (found[0] == b"\xff\xda"), segments + 1
        if scans > SCANS or segments > SEGMENTS:
            return True
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return False


def _too_many(got: str, most: int) -> str:
    return f"The picture has {got} pixels, at most {most / 1e6:g} million are taken; scale it down."
