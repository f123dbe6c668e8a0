"""`mfkd predict` without any training library: numpy, Pillow and ONNX Runtime alone."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mfkd.errors import ConfigError
from mfkd.export.feed import batch, read
from mfkd.export.onnx import OnnxModel
from mfkd.pictures import image_files

GRAPH = "model.onnx"


def graph_of(model: str | Path) -> Path | None:
    """The ONNX file that a user's word means: itself, or that of an export folder; None for all else."""
    path = Path(model).expanduser()
    if path.suffix == ".onnx":
        return path
    return path / GRAPH if (path / GRAPH).is_file() else None


def listed(words: Sequence[str | Path]) -> list[str]:
    """Images as the user named them, with the word - replaced by the lines of standard input.

    Raises:
        ConfigError: an empty list.
    """
    found: list[str] = []
    for word in map(str, words):
        if word != "-":
            found.append(word)
            continue
        lines = [line.strip() for line in sys.stdin]
        found += filter(None, lines)
    if not found:
        raise ConfigError("standard input names no image; write one path a line.")
    return found


def classify(images: Sequence[str | Path], model: str | Path, top: int = 5) -> list[dict[str, Any]]:
    """The likeliest classes of image files, by an ONNX file.

    Args:
        images: files, or folders whose images are taken in order of their names.
        model: from `graph_of`.
        top: classes an image, at most all there are.

    Returns:
        For each image its path as `image`, and `top`: [class name, probability] pairs, likeliest first.

    Raises:
        CheckpointError: no such file, or one that is not from `mfkd export`.
        ConfigError: onnxruntime is not installed.
        DataError: an image that is not there or cannot be read.
    """
    files = image_files(images)
    network = OnnxModel(model)
    return list(_answers(files, network, top))


def likeliest(logits: np.ndarray, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """The first `top` classes with their probabilities, from logits (K,)."""
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:top]
    return [(classes[label], float(shares[label])) for label in best]


def line(row: dict[str, Any]) -> str:
    """One image for people."""
    return f"{row['image']}: " + ", ".join(f"{name} {share:.1%}" for name, share in row["top"])


def _answers(files: Sequence[Path], network: OnnxModel, top: int) -> Iterator[dict[str, Any]]:
    feed = network.feed
    for file in files:
        logits = network(batch(read(file, feed)[None], feed))[0]
        yield {"image": str(file), "top": [[name, share] for name, share in likeliest(logits, feed.classes, top)]}
