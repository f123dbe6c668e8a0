"""Images as one finds them: sound, cut off, enormous."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

BROKEN = "; repair or remove it."
SIZE = 8


def picture(number, mode="RGB", size=SIZE):
    shape = (size, size) if mode == "L" else (size, size, 3)
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8))


def encoded(number, form="PNG"):
    file = io.BytesIO()
    picture(number).save(file, form)
    return file.getvalue()


def bomb():
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def not_a_number():
    file = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE), np.nan, np.float32)).save(file, "TIFF")
    return file.getvalue()


def write(path, content):
    path.write_bytes(content)
