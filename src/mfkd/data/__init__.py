"""Data sets and loaders: `load_data`, `train_loader`, `eval_loader`, `load_image`."""

from mfkd.data.load import load_data
from mfkd.data.loader import EvalLoader, TrainLoader, eval_loader, train_loader
from mfkd.data.predict import load_image
from mfkd.data.preprocess import filled, preprocessed
from mfkd.data.sets import FileSplit, ImageData, MemorySplit, Split

__all__ = [
    "EvalLoader",
    "FileSplit",
    "ImageData",
    "MemorySplit",
    "Split",
    "TrainLoader",
    "eval_loader",
    "filled",
    "load_data",
    "load_image",
    "preprocessed",
    "train_loader",
]
