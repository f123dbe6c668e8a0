"""A run folder as its records tell it."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mfkd.config import RunConfig, load_config
from mfkd.errors import MfkdError
from mfkd.files import read_json
from mfkd.plan import Kind
from mfkd.records import RunRecord
from mfkd.summary import gap_closed, interval, spread


@dataclass(frozen=True)
class RunFolder:
    """Everything that was written down of a run.

    Args:
        path: the folder.
        config: its recipe, with `out` pointing to the folder.
        students: records by kind and seed.
        teacher: its metrics; empty where nobody measured it.
        taught: the record of its training, where it was trained here.
    """

    path: Path
    config: RunConfig
    students: dict[Kind, dict[int, RunRecord]]
    teacher: dict[str, float] = field(default_factory=dict)
    taught: RunRecord | None = None

    @cached_property
    def alone(self) -> dict[int, RunRecord]:
        """Students without a teacher, by seed."""
        return self.students["alone"]

    @cached_property
    def distilled(self) -> dict[int, RunRecord]:
        """Students with one, by seed."""
        return self.students["distilled"]

    @property
    def first(self) -> RunRecord:
        """A record that stands for all: of a distilled student where there is one."""
        return next(iter((self.distilled or self.alone).values()))

    @property
    def paired(self) -> list[int]:
        """Seeds with both kinds of student."""
        return [seed for seed in self.alone if seed in self.distilled]

    @property
    def models(self) -> tuple[str, str]:
        """Names of teacher and student."""
        named = self.config.named_teachers.values()
        return " + ".join(teacher.model for teacher in named), self.config.student.model

    @property
    def data(self) -> str:
        """Name of the images, without the way to them."""
        return Path(self.config.data.name.rpartition(":")[2]).name

    @property
    def gain(self) -> dict[str, Any] | None:
        """Distilled minus alone in points of Top-1, paired by seed: mean, std, n, last, ci95; None without pairs."""
        values = [
            self.distilled[seed].metrics["top1"] - self.alone[seed].metrics["top1"] for seed in sorted(self.paired)
        ]
        return {**spread(values), "ci95": interval(values)} if values else None

    @property
    def gap_closed(self) -> float | None:
        """Share of the way from the student alone to the teacher; None where there is no such way."""
        teacher, seeds = self.teacher.get("top1"), self.paired
        if teacher is None or not seeds:
            return None
        alone, distilled = ([found[seed].metrics["top1"] for seed in seeds] for found in (self.alone, self.distilled))
        return gap_closed(alone, distilled, teacher)

    def metric(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """Mean, std, n and values of a metric over the seeds; None where no record has it."""
        values = [record.metrics[name] for record in self.students[kind].values() if name in record.metrics]
        return spread(values) if values else None

    def seconds(self, kind: Kind) -> dict[str, Any] | None:
        """Of one training with its own preparation."""
        values = [record.own_seconds for record in self.students[kind].values()]
        return spread(values) if values else None


def is_run(path: Path) -> bool:
    """Whether a folder was written by `mfkd run`, `train` or `distill`."""
    return (path / "config.yaml").is_file()


def read_run(path: Path) -> RunFolder:
    """Read all records of a run folder.

    Raises:
        MfkdError: no finished student there, or a damaged record.
    """
    config = load_config(path / "config.yaml").model_copy(update={"out": str(path)})
    students: dict[Kind, dict[int, RunRecord]] = {"alone": {}, "distilled": {}}
    for kind, found in students.items():
        for file in path.glob(f"{kind}/seed-*/record.json"):
            record = RunRecord.load(file)
            found[record.seed] = record
        students[kind] = dict(sorted(found.items()))
    if not any(students.values()):
        raise MfkdError(f"{path} holds no finished student yet; start its mfkd run again and let it end.")
    file = path / "teacher" / "record.json"
    taught = RunRecord.load(file) if file.is_file() and not config.teachers else None
    return RunFolder(path, config, students, taught.metrics if taught else _measured(path, config), taught)


def _measured(path: Path, config: RunConfig) -> dict[str, float]:
    """Metrics of a teacher that was not trained here."""
    place = path / "teachers.json" if config.teachers else path / "teacher" / "metrics.json"
    if place.is_file():
        return dict(read_json(place))
    if (path / "summary.json").is_file():
        return {name: value["mean"] for name, value in read_json(path / "summary.json").get("teacher", {}).items()}
    return {}
