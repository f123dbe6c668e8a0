"""Antialiased bilinear scaling of uint8 pixels in numpy, equal to torch's to the bit.

Torch weighs with integers of 16 bits, first along the rows, then along the columns, and rounds in between
(`F.interpolate(..., mode="bilinear", antialias=True)` on the CPU). Pillow has more bits, so that it differs by a
grey level here and there.

Shapes: h, w of the image; H, W of the result; C channels.
"""

import numpy as np

_BITS, _MOST = 15, 22
_LINES = 256  # at a time, as float64 takes eight times the memory


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale (h, w, C) uint8 to (H, W, C) uint8 by a triangle as wide as two pixels of the coarser grid."""
    return _along_rows(_along_rows(pixels, size[1]).swapaxes(0, 1), size[0]).swapaxes(0, 1)


def _along_rows(pixels: np.ndarray, outputs: int) -> np.ndarray:
    """(lines, w, C) to (lines, outputs, C)."""
    lines, inputs, channels = pixels.shape
    if inputs == outputs:
        return pixels
    weight, bits = _weights(inputs, outputs)
    scaled = np.empty((lines, outputs, channels), np.uint8)
    for start in range(0, lines, _LINES):
        # Whole numbers below 2^53: exact in float64, and far faster than products of integers.
        sums = weight @ pixels[start : start + _LINES].astype(np.float64)
        scaled[start : start + _LINES] = np.clip((sums.astype(np.int64) + (1 << bits >> 1)) >> bits, 0, 255)
    return scaled


def _weights(inputs: int, outputs: int) -> tuple[np.ndarray, int]:
    """(outputs, inputs) whole numbers, and how many of their bits stand after the point."""
    scale = inputs / outputs
    reach = max(scale, 1.0)
    centre = scale * (np.arange(outputs)[:, None] + 0.5)
    at = np.arange(inputs)[None]
    inside = (at >= np.trunc(centre - reach + 0.5)) & (at < np.trunc(centre + reach + 0.5))
    weight = np.where(inside, np.maximum(0, 1 - np.abs((at - centre + 0.5) / reach)), 0)
    weight /= weight.sum(1, keepdims=True)
    bits = 0
    while bits < _MOST and int(0.5 + weight.max() * (1 << (bits + 1))) < 1 << _BITS:
        bits += 1
    return np.floor(weight * (1 << bits) + 0.5), bits
