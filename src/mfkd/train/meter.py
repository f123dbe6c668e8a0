"""Running sums of an epoch's losses and hits, kept on the device until somebody looks."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from pydantic import ConfigDict
from torch import Tensor

from mfkd.types import DistillOutput


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
        like = out.loss  # fp32, or fp64 where the networks are
        for name, value in found.items():
            before = self.sums.get(name)
            self.sums[name] = value.to(like.dtype) if before is None else before.to(like.device) + value

    def means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean loss, terms and watched scalars, and train_top1 in per cent of the labelled images.

        Args:
            reduce: sums a tensor over all processes.
        """
        values = dict(zip(self.sums, reduce(torch.stack(list(self.sums.values()))).tolist(), strict=True))
        parts, right, labelled = values.pop("parts"), values.pop("right"), values.pop("labelled")
        means = {name: value / parts for name, value in values.items()}
        return {**means, "train_top1": 100 * right / labelled if labelled else 0.0}
