"""Where a method's knowledge comes from: the network itself, batch by batch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from mfkd.methods.objective import Objective
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.types import Batch, Knowledge, Taps, TapSpec


class Source(Protocol):
    """What a distiller asks about the teacher; neither it nor the trainer can tell whether the answer is live."""

    def raw(self, batch: Batch) -> Knowledge:
        """Logits and raw taps; what a preparation is fed."""

    def knowledge(self, batch: Batch) -> Knowledge:
        """What the methods are fed."""

    def ahead(self, batch: Batch) -> Knowledge | None:
        """The knowledge, where it is better read before the step; None where it is computed in it."""


class LiveSource:
    """The frozen teacher, asked anew for each batch.

    Args:
        teacher: the network.
        specs: its taps by name and alias.
        objective: whose needs decide what is read.
    """

    def __init__(self, teacher: FrozenTeacher, specs: Mapping[str, TapSpec], objective: Objective) -> None:
        self.teacher = teacher
        self.objective = objective
        # Named by the key, since one module may be read under several names.
        self.specs = [replace(specs[name], name=name) for name in objective.needs.teacher]

    def raw(self, batch: Batch) -> Knowledge:
        """Logits and raw taps as the network gave them; what a preparation is fed."""
        outputs = self.teacher(batch.image, self.specs)
        return Knowledge(outputs.logits, outputs.taps)

    def knowledge(self, batch: Batch) -> Knowledge:
        """What the methods are fed: their transforms of the taps, and the logits if one needs them."""
        wanted = self.objective.needs.logits
        raw = self.raw(batch) if wanted else Knowledge(None, self.teacher.maps(batch.image, self.specs))
        taps: Taps = {}
        for _, method in self.objective.awake():
            taps |= method.knowledge({name: raw.taps[name] for name in method.needs.teacher})
        return Knowledge(raw.logits, taps)

    def quicken(self, shape: tuple[int, int, int]) -> None:
        """Let the teacher answer the fast way for images of `shape`; see `FrozenTeacher.quicken`."""
        self.teacher.quicken(shape, self.specs, logits=self.objective.needs.logits)

    def ahead(self, batch: Batch) -> Knowledge | None:  # noqa: ARG002
        """None: the network answers within the step."""
        return None


class Remembered:
    """Knowledge of one batch, given for all: what costs as little as reading from disk, for measurements.

    Args:
        live: asked once.
    """

    def __init__(self, live: Source) -> None:
        self.live = live
        self.known: Knowledge | None = None

    def raw(self, batch: Batch) -> Knowledge:
        """Logits and raw taps of the live source."""
        return self.live.raw(batch)

    def knowledge(self, batch: Batch) -> Knowledge:
        """That of the first batch."""
        self.known = self.known or self.live.knowledge(batch)
        return self.known

    def ahead(self, batch: Batch) -> Knowledge:
        """The same."""
        return self.knowledge(batch)
