"""The run record: what was run, on what, and what came out, as JSON."""

import math
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mfkd.errors import MfkdError, cut
from mfkd.files import read_json, write_json

PACKAGES = ("mfkd", "torch", "torchvision", "timm", "accelerate", "torchmetrics", "numpy")


class RunRecord(BaseModel):
    """One training, told so that it can be compared and repeated.

    Args:
        kind: "teacher", "alone" or "distilled".
        config: the complete resolved recipe.
        config_hash: over those of its settings that can change this very training.
        seed: seed of weights, order and mixing.
        training: the training settings that this very run used.
        method: the resolved methods with all options; empty for plain training.
        teacher_sha256: digest of the teacher's weights file, where one was loaded.
        notes: what was switched off or chosen for the user, in sentences.
        curves: one row an epoch, as in `log.csv`.
        last: the row of the last epoch.
        best: the row of the best evaluated epoch by test Top-1; told, never chosen by.
        metrics: everything measured on the last epoch's network: top1, top5, balanced, ece,
            agreement (per cent), loss, n, parameters, flops, latency_ms.
        seconds: wall time of training, without evaluation; `preparation_seconds` before it.
        shared_seconds: spent once for all students of the run, before the first one: `preparation` of the
            methods on the teacher, `cache` for the knowledge on disk (time of all processes together).
        steps: optimiser updates; `images` training images seen in them.
        images_per_second: over all training epochs.
        peak_mb: memory held at most while training, of the GPU, or of the whole process where it ran on the CPU
            (megabytes, of the first process).
        processes: how many took part.
        compiled: networks that ran compiled: "student", "teacher".
    """

    model_config = ConfigDict(extra="forbid")

    kind: str
    config: dict[str, Any]
    config_hash: str
    seed: int
    training: dict[str, Any]
    method: dict[str, Any] = Field(default_factory=dict)
    teacher_sha256: str = ""
    notes: list[str] = Field(default_factory=list)
    curves: list[dict[str, float]] = Field(default_factory=list)
    last: dict[str, float] = Field(default_factory=dict)
    best: dict[str, float] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    seconds: float = 0.0
    preparation_seconds: float = 0.0
    shared_seconds: dict[str, float] = Field(default_factory=dict)
    steps: int = 0
    images: int = 0
    images_per_second: float = 0.0
    peak_mb: float = 0.0
    processes: int = 1
    compiled: list[str] = Field(default_factory=list)
    environment: dict[str, Any] = Field(default_factory=dict)

    @property
    def own_seconds(self) -> float:
        """Of the training with the preparation that it alone needed."""
        return self.seconds + self.preparation_seconds

    def check_finished(self, path: Path) -> None:
        """Refuse a record without what every finished student has.

        Raises:
            MfkdError: names what is missing or no number.
        """
        told = {"metrics.top1": self.metrics.get("top1"), "best.test_top1": self.best.get("test_top1")}
        for name, value in told.items():
            if value is None or not math.isfinite(value):
                raise MfkdError(f"{path} is no record of a finished student ({name} is {value}); run it again.")

    def save(self, path: Path) -> None:
        """Write the record as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> "RunRecord":
        """Read a record; MfkdError if it is missing, damaged or foreign."""
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise MfkdError(
                f"{path} is not a run record ({cut(key)}: {first['msg']}); delete it and run again."
            ) from None


@cache
def commit() -> str | None:
    """Commit of the checkout that mfkd was imported from, with "+" when it has changes; None elsewhere."""
    here = Path(__file__).resolve().parent
    if here.parent.name != "src":
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(device: str) -> dict[str, Any]:
    """Versions, commit, hardware and time, for a record."""
    import torch

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": found,
        "system": platform.system(),
        "processor": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "device": device,
        "threads": torch.get_num_threads(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
