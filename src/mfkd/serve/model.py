"""The network that is served: an ONNX file without PyTorch, or the weights of a run with it.

Shapes: B batch; H, W, C height, width, channels; K classes.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mfkd.export.classify import graph_of, likeliest
from mfkd.export.feed import Feed, batch
from mfkd.export.onnx import OnnxModel
from mfkd.serve.pictures import pixels


@dataclass(frozen=True, eq=False)
class Served:
    """A network with what it wants and says.

    Args:
        file: that it was read from.
        feed: name, classes, preprocessing.
        logits: (B, H, W, C) uint8 as the graph takes it to logits (B, K); called from several threads.
    """

    file: Path
    feed: Feed
    logits: Callable[[np.ndarray], np.ndarray]

    def answer(self, data: bytes, top: int, most: int) -> list[tuple[str, float]]:
        """The likeliest classes of a picture with their probabilities; for `most` and errors see `pixels`."""
        raw = pixels(data, self.feed, most)
        return likeliest(self.logits(batch(raw[None], self.feed))[0], self.feed.classes, top)


def open_model(model: str | Path, threads: int = 1) -> Served:
    """Read a network, and ask it once: the first answer takes longer than all others.

    Args:
        model: an export folder, an ONNX file of one, a run folder or a weights file.
        threads: of one prediction.

    Raises:
        CheckpointError: nothing there, or a damaged file.
        ConfigError: onnxruntime is not installed.
    """
    file = graph_of(model)
    if file is None:
        served = _in_torch(model, threads)
    else:
        graph = OnnxModel(file, threads)
        served = Served(file, graph.feed, graph)
    with io.BytesIO() as picture:
        Image.new("L", served.feed.size).save(picture, "PNG")
        served.answer(picture.getvalue(), 1, math.prod(served.feed.size))
    return served


def _in_torch(model: str | Path, threads: int) -> Served:
    import torch

    from mfkd.export.layout import feed_of
    from mfkd.export.opened import weights_of
    from mfkd.train.student import load_with_card

    file = weights_of(model)
    network, card = load_with_card(file)
    torch.set_num_threads(threads)

    @torch.no_grad()
    def logits(images: np.ndarray) -> np.ndarray:
        found: np.ndarray = network(torch.from_numpy(images)).numpy()
        return found

    return Served(file, feed_of(card, embedded=False), logits)
