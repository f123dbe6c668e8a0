"""What is trained, where, and how far it has come."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from mfkd.config import ModelConfig, RunConfig, TrainConfig, fingerprint, settings
from mfkd.files import sha256
from mfkd.models import local_files
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
        """Digests of the teachers' weights files; "" where there are none, or the job does not depend on them."""
        if self.kind != "distilled":
            return ""
        files = [teacher.weights for teacher in self.config.named_teachers.values()]
        return "+".join(sha256(Path(file).expanduser()) for file in files if file is not None)

    @cached_property
    def files_sha256(self) -> list[str]:
        """Digests of the files from which the trained network starts, and of the code of the user's own networks."""
        student, teachers = self.config.student, list(self.config.named_teachers.values())
        networks: list[ModelConfig] = [] if self.kind == "teacher" else [student]
        networks += {"teacher": teachers[:1], "alone": [], "distilled": teachers}[self.kind]
        files = [file for network in networks for file in local_files(network.model)]
        if self.kind != "teacher" and student.weights is not None:
            files.append(Path(student.weights).expanduser())
        return [sha256(file) for file in files]

    @cached_property
    def hash(self) -> str:
        """Over all that can change this training: a student alone does not depend on teacher or method."""
        parts = {"teacher": ("student", "method"), "alone": ("teacher", "teachers", "method"), "distilled": ()}[
            self.kind
        ]
        chosen = {
            name: value for name, value in settings(self.config).items() if name not in (*parts, "train", "cache")
        }
        if self.kind == "teacher":
            chosen["teacher"].pop("train")  # it is part of `training`
            chosen["teacher"].pop("weight")
            chosen["augment"].pop("views")
        if self.teacher_sha256:
            chosen["teacher_sha256"] = self.teacher_sha256
        if self.files_sha256:
            chosen["files_sha256"] = self.files_sha256
        if self.kind == "distilled" and self.config.cache.views is not None:
            chosen["storage"] = self.config.cache.dtype  # the knowledge is rounded to it
        # Compiling changes roundings alone, as another processor does.
        training = self.training.model_dump(mode="json", exclude={"compile"})
        return fingerprint({**chosen, "training": training, "kind": self.kind})

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
        prepared_epochs: first epochs of the run that such stages took for themselves.
        compiled: networks that run compiled, see `train.compile`; None until it is decided.
        meter: losses and hits of the epoch so far.
        peak_mb: memory held at most so far.
        processes: how many there were, from the start and after each resumption with another number.
    """

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)

    epoch: int = 0
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    preparation_seconds: float = 0.0
    prepared: bool = False
    prepared_epochs: int = 0
    compiled: list[str] | None = None
    meter: Meter = field(default_factory=Meter)
    peak_mb: float = 0.0
    processes: list[int] = field(default_factory=list)
