"""What the forms of a network answer on the images of its run.

Shapes: B batch; N images; C, H, W channels, height, width; K classes.
"""

import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn

from mfkd.data.decode import normalise
from mfkd.data.readers import evaluation_reader
from mfkd.data.sets import Split
from mfkd.export.feed import Feed, batch
from mfkd.export.opened import Opened
from mfkd.seeding import generator

BATCH = 64
CALIBRATION = 512
"""Training images on which int8 learns its ranges."""
PATIENCE = 10.0  # seconds without a word

Form = Callable[[np.ndarray], np.ndarray]
"""(B, H, W, C) uint8 to logits (B, K)."""


def raw_batches(opened: Opened, split: Split, positions: torch.Tensor | None = None) -> Iterator[np.ndarray]:
    """(B, H, W, C) uint8 of a split without augmentation: all images, or those at some positions."""
    places = torch.arange(len(split)) if positions is None else positions
    reader = evaluation_reader(split, opened.data, opened.config.data, torch.device("cpu"))
    for pixels in reader.read(list(places.split(BATCH)), None):
        yield np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def calibration(opened: Opened) -> Iterator[np.ndarray]:
    """Training images for the ranges of int8, drawn once for all; they are never test images."""
    count = len(opened.data.train)
    drawn = torch.randperm(count, generator=generator(0, "calibration"))[:CALIBRATION]
    return raw_batches(opened, opened.data.train, drawn.sort().values)


def logits(
    forms: Mapping[str, Form], batches: Iterator[np.ndarray], say: Callable[[str], None] = lambda _: None
) -> dict[str, np.ndarray]:
    """(N, K) float32 of each form, each batch read once.

    Args:
        forms: by name.
        batches: (B, H, W, C) uint8 each.
        say: gets a line with the images done so far, every ten seconds.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in forms}
    done, told = 0, time.monotonic()
    for images in batches:
        for name, form in forms.items():
            found[name].append(form(images))
        done += len(images)
        if time.monotonic() - told >= PATIENCE:
            say(f"Compared {done:,} images")
            told = time.monotonic()
    return {name: np.concatenate(parts).astype(np.float32) for name, parts in found.items()}


def torch_form(network: nn.Module, feed: Feed) -> Form:
    """A network in PyTorch, fed as in evaluation."""
    mean, std = torch.tensor(feed.mean), torch.tensor(feed.std)

    @torch.no_grad()
    def answer(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        found: np.ndarray = network(normalise(pixels, mean, std, torch.float32)).numpy()
        return found

    return answer


def graph_form(graph: Callable[[np.ndarray], np.ndarray], feed: Feed) -> Form:
    """An exported graph, fed as its own metadata say."""
    return lambda images: graph(batch(images, feed))
