"""What is trained, where, and how far it has come."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from mfkd.config import RunConfig, TrainConfig, fingerprint, settings
from mfkd.files import sha256
from mfkd.train.meter import Meter


@dataclass(frozen=True)
class Job:
    """One training to be done in one folder.

    Args:
        kind: what is trained; decides which images (`train.batches`) and what is written down.
        folder: run folder of this training.
        config: the complete recipe; `training` is the part that applies here.
        training: how it is trained.
        seed: of weights, order, mixing and dropout.
    """

    kind: Literal["teacher", "alone", "distilled"]
    folder: Path
    config: RunConfig
    training: TrainConfig
    seed: int

    @cached_property
    def teacher_sha256(self) -> str:
        """Digest of the teacher's weights file; "" where there is none, or the job does not depend on it."""
        weights = self.config.teacher.weights
        return sha256(Path(weights).expanduser()) if weights is not None and self.kind == "distilled" else ""

    @cached_property
    def hash(self) -> str:
        """Over all that can change this training: a student alone does not depend on teacher or method."""
        parts = {"teacher": ("student", "method"), "alone": ("teacher", "method"), "distilled": ()}[self.kind]
        chosen = {
            name: value for name, value in settings(self.config).items() if name not in (*parts, "train", "cache")
        }
        if self.kind == "teacher":
            chosen["teacher"].pop("train")  # it is part of `training`
        if self.teacher_sha256:
            chosen["teacher_sha256"] = self.teacher_sha256
        return fingerprint({**chosen, "training": self.training.model_dump(mode="json"), "kind": self.kind})

    @property
    def checkpoint(self) -> Path:
        """Where the training goes on from."""
        return self.folder / "checkpoints" / "last.pt"

    @property
    def record(self) -> Path:
        """What was run and what came out."""
        return self.folder / "record.json"

    @property
    def finished(self) -> bool:
        """Whether all is there that the training leaves."""
        return self.record.exists() and self.weights.exists()

    @property
    def weights(self) -> Path:
        """The trained network."""
        return self.folder / ("teacher.safetensors" if self.kind == "teacher" else "student.safetensors")

    @property
    def title(self) -> str:
        """For people."""
        return f"{'teacher' if self.kind == 'teacher' else f'student {self.kind}'}, seed {self.seed}"


@dataclass
class State:
    """What moves while training, besides weights and optimiser.

    Args:
        epoch: epochs done; `step` updates done in the next one.
        rows: one row of the log an epoch.
        seconds: of training, without evaluation; `preparation_seconds` before it.
        prepared: whether the methods' stages before training are done.
        meter: losses and hits of the epoch so far.
    """

    epoch: int = 0
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    preparation_seconds: float = 0.0
    prepared: bool = False
    meter: Meter = field(default_factory=Meter)
