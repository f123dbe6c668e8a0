"""`mfkd predict` without any training library: numpy, Pillow and ONNX Runtime alone."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mfkd.errors import ConfigError, DataError
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
        As `answers` gives it.

    Raises:
        CheckpointError: no such file, or one that is not from `mfkd export`.
        ConfigError: onnxruntime is not installed.
        DataError: an image that is not there, or none that can be read.
    """
    files = image_files(images)
    network = OnnxModel(model)
    feed = network.feed

    def ask(file: Path) -> list[tuple[str, float]]:
        return likeliest(network(batch(read(file, feed)[None], feed))[0], feed.classes, top)

    return answers(files, ask)


def answers(files: Sequence[Path], ask: Callable[[Path], list[tuple[str, float]]]) -> list[dict[str, Any]]:
    """What a network says of images; one that cannot be read costs no other its answer.

    Args:
        files: the images.
        ask: gives class names and probabilities of one, likeliest first.

    Returns:
        For each image its path as `image`, and `top`: [class name, probability] pairs, likeliest first; or, of one that
        cannot be read, `error`.

    Raises:
        DataError: none of them can be read.
    """
    rows: list[dict[str, Any]] = []
    errors = []
    for file in files:
        try:
            rows.append({"image": str(file), "top": [[name, share] for name, share in ask(file)]})
        except DataError as error:
            errors.append(error)
            rows.append({"image": str(file), "error": str(error)})
    if len(errors) == len(files):
        raise errors[0]
    return rows


def sorted_out(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The lines of the images that were answered, and those of the ones that could not be read."""
    return [line(row) for row in rows if "top" in row], [row["error"] for row in rows if "error" in row]


def likeliest(logits: np.ndarray, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """The first `top` classes with their probabilities, from logits (K,)."""
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:top]
    return [(classes[label], float(shares[label])) for label in best]


def line(row: dict[str, Any]) -> str:
    """One image for people."""
    return f"{row['image']}: " + ", ".join(f"{name} {share:.1%}" for name, share in row["top"])
