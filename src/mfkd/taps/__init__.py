"""Where feature maps are read: tap points as data, chosen, measured and read."""

from mfkd.taps.choose import TapRow, TapsOf, describe, find_taps, resolve
from mfkd.taps.norms import batchnorm_before
from mfkd.taps.probe import InputShape, probe
from mfkd.taps.reader import TapReader, read

__all__ = [
    "InputShape",
    "TapReader",
    "TapRow",
    "TapsOf",
    "batchnorm_before",
    "describe",
    "find_taps",
    "probe",
    "read",
    "resolve",
]
