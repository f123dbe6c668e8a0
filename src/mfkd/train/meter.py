"""Running sums of an epoch's losses and hits, kept on the device until somebody looks."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from pydantic import ConfigDict
from torch import Tensor

from mfkd.types import DistillOutput

PARTS_OF = "parts of "


@dataclass
class Meter:
    """Sums by name: the loss, every term, what methods watch, and what the training accuracy is made from."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # checked where a checkpoint is read

    sums: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, out: DistillOutput, label: Tensor) -> None:
        """Add one part of a batch; nothing waits for the device here."""
        found = {
            "loss": out.loss.detach(),
            **out.terms,
            **out.watched,
            "parts": torch.ones_like(out.loss),
            "right": (out.logits.argmax(1) == label).sum(),
            "labelled": (label >= 0).sum(),
        }
        for name in [name for name in self.sums if name not in found and not name.startswith(PARTS_OF)]:
            self.sums.setdefault(PARTS_OF + name, self.sums["parts"])  # its weight has faded out within the epoch
        like = out.loss  # fp32, or fp64 where the networks are
        for name, value in found.items():
            before = self.sums.get(name)
            self.sums[name] = value.to(like.dtype) if before is None else before.to(like.device) + value

    def means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean loss, terms and watched scalars, and train_top1 in per cent of the labelled images.

        Args:
            reduce: sums a tensor over all processes.
        """
        device = self.sums["parts"].device  # of a run that goes on, what has faded out lies where it was loaded
        sums = reduce(torch.stack([value.to(device) for value in self.sums.values()])).tolist()
        values = dict(zip(self.sums, sums, strict=True))
        parts, right, labelled = values.pop("parts"), values.pop("right"), values.pop("labelled")
        counts = {name: values.pop(PARTS_OF + name, parts) for name in [*values] if not name.startswith(PARTS_OF)}
        means = {name: values[name] / count for name, count in counts.items()}
        return {**means, "train_top1": 100 * right / labelled if labelled else 0.0}
