"""A memory with one embedding an image and network, from which contrasts are drawn.

Shapes:    N images of the data; M labelled ones; B batch; K negatives; D width of an embedding.
"""

from math import log
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfkd.errors import ConfigError, ShapeError
from mfkd.functional.gather import gather

DRAWN_BITS = 31  # of a random number; a range of it is a product and a shift in int64


class ContrastMemory(nn.Module):
    """Remembers student and teacher embeddings by row, and draws rows of other classes.

    The embeddings are buffers, so they are saved and resumed with the method. They start at random,
    from torch's global generator, with lengths near 1.

    Args:
        labels: (N,) int64 class of each row, -1 without one; such a row is never drawn.
        width: D.
        negatives: K wanted; what is drawn is at most the most rows that a class has in others.
        momentum: share of the old embedding in the new one.

    Attributes:
        drawn: K in effect.

    Raises:
        ConfigError: fewer than two classes.
    """

    BUFFERS: ClassVar = ("student", "teacher", "log_z", "labels", "order", "ends", "others")
    """Equal on all processes at all times."""
    student: Tensor
    teacher: Tensor
    log_z: Tensor
    labels: Tensor
    order: Tensor
    ends: Tensor
    others: Tensor

    def __init__(self, labels: Tensor, width: int = 128, negatives: int = 16384, momentum: float = 0.5) -> None:
        super().__init__()
        labels = labels.cpu()
        sizes = torch.bincount(labels[labels >= 0])
        if (sizes > 0).sum() < 2:
            raise ConfigError(
                f"a contrast needs images of 2 or more classes, got {int((sizes > 0).sum())} among "
                f"{len(labels)} labels; give the training labels of all rows."
            )
        self.momentum = momentum
        self.drawn = min(negatives, int((sizes.sum() - sizes[sizes > 0]).max()))
        bound = (3 / width) ** 0.5  # uniform numbers within it have variance 1 / D
        for name in ("student", "teacher"):
            self.register_buffer(name, torch.empty(len(labels), width).uniform_(-bound, bound))
        self.register_buffer("log_z", torch.full((2,), torch.inf))  # infinite until the first batch
        # Rows in the order of their class: those of other classes are one run of it, taken as a ring.
        for name, value in {
            "labels": labels,
            "order": labels.argsort(stable=True)[int((labels < 0).sum()) :],
            "ends": sizes.cumsum(0),
            "others": sizes.sum() - sizes,
        }.items():
            self.register_buffer(name, value, persistent=False)
        self._known = False
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def draw(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Rows to compare a batch with, drawn with replacement from torch's global generator on the CPU.

        Args:
            index: (B,) int64 rows of the images.

        Returns:
            (B, 1 + K) rows, an image's own first, then those of other classes; (B,) bool, False for an
            image without a label, whose negatives mean nothing.

        Raises:
            ShapeError: a row beyond the memory (on the CPU; elsewhere the device itself complains).
        """
        try:
            label = self.labels[index]
        except IndexError as error:
            raise ShapeError(
                f"row {int(index.max())} is beyond the {len(self.labels)} that the memory was built for; "
                "give num_samples and labels of all rows."
            ) from error
        numbers = torch.empty(len(index), self.drawn, dtype=torch.int32).random_().to(index.device, non_blocking=True)
        known = label.clamp_min(0)
        offset = (numbers.long() * self.others[known][:, None]) >> DRAWN_BITS
        negatives = self.order[(self.ends[known][:, None] + offset) % len(self.order)]
        return torch.cat((index[:, None], negatives), dim=1), label >= 0

    def normaliser(self, scores: Tensor) -> Tensor:
        """(2,) log of the mean exponential score of student and teacher in the very first batch of training.

        Args:
            scores: (2, B, 1 + K) of this batch; used only until the value is known.
        """
        # Asked at every step, so the buffer is read (which waits for the GPU) only until it says yes.
        self._known = self._known or bool(self.log_z.isfinite().all())
        if self._known:
            return self.log_z
        flat = scores.detach().flatten(1)
        means = gather((flat.logsumexp(dim=1) - log(flat.shape[1]))[None])  # (processes, 2)
        log_z = means.logsumexp(dim=0) - log(len(means))
        if self.training:
            self.log_z.copy_(log_z)
        return log_z

    @torch.no_grad()
    def update(self, index: Tensor, student: Tensor, teacher: Tensor) -> None:
        """Mix a batch into the memory, and set the length to 1; every process takes the rows of all.

        Args:
            index: (B,) int64 rows, each once.
            student: (B, D).
            teacher: (B, D).
        """
        index = gather(index)
        for memory, fresh in ((self.student, gather(student)), (self.teacher, gather(teacher))):
            memory[index] = F.normalize(torch.lerp(fresh, memory[index], self.momentum), dim=1)


def _forget(module: nn.Module, _incompatible: object) -> None:
    module._known = False  # type: ignore[assignment]
