"""The fast way through a frozen network, for one set of taps."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mfkd.taps.probe import InputShape, dry_run
from mfkd.taps.reader import read, read_taps
from mfkd.teacher.fold import fold, random_images
from mfkd.types import Taps, TapSpec

Answer = tuple[Tensor | None, Taps]
"""Logits, where they were asked for, and taps."""


class Quick:
    """A network that answers for these taps alone, with BatchNorms folded and nothing run that nobody reads.

    Args:
        network: in eval; not changed. What cannot be done faster is done as it is.
        input_shape: (C, H, W) of its own images.
        specs: taps to read.
        logits: False where they are not wanted; nothing after the last tap is run then.

    Attributes:
        network: the folded copy, or the network itself.
        specs: the taps.
        logits: whether an answer has them.
        compiled: what answers in place of all this, set by the trainer.
    """

    def __init__(
        self, network: nn.Module, input_shape: InputShape, specs: Sequence[TapSpec], *, logits: bool = True
    ) -> None:
        folded = fold(network, input_shape, specs)
        self.folded = folded is not None
        self.network = network if folded is None else folded
        self.input_shape, self.specs = input_shape, tuple(specs)
        self.logits = logits or not _stops(self.network, input_shape, self.specs)
        self.compiled: Callable[[Tensor], Answer] | None = None

    def __call__(self, image: Tensor) -> Answer:
        """The answer for images (B, C, H, W)."""
        if self.compiled is not None:
            return self.compiled(image)
        if not self.logits:
            return None, read_taps(self.network, image, self.specs)
        outputs = read(self.network, image, self.specs)
        return outputs.logits, outputs.taps

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the copy as the network is moved."""
        if self.folded:
            self.network._apply(fn)


@torch.no_grad()
def _stops(network: nn.Module, input_shape: InputShape, specs: Sequence[TapSpec]) -> bool:
    """Whether the taps are the same if the pass ends with the last of them.

    They are not where a module runs again later, or where a later one changes in place a tap that is not copied.
    """
    if not specs:
        return False
    with dry_run(network, input_shape) as zero:
        image = random_images(zero, input_shape)
        whole, early = read(network, image, specs).taps, read_taps(network, image, specs)
    return all(torch.equal(whole[name], early[name]) for name in whole)
