"""One cell of a plan: one training in a folder of its own, carried out by whatever process gets it."""

import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from mfkd.config import RunConfig
from mfkd.files import read_object, sha256, write_json, write_text
from mfkd.records import RunRecord
from mfkd.validation import Frozen

if TYPE_CHECKING:
    from mfkd.data import ImageData
    from mfkd.plan import Plan

_read: "dict[str, ImageData]" = {}
"""The data that this process has read last, by the part of the recipe that names them."""

State = Literal["waiting", "running", "begun", "done", "failed"]


class Cell(Frozen):
    """One training, complete, so that another process or machine can do it.

    Args:
        kind: the teacher of a pair, its student alone, or distilled.
        pair: name of the pair.
        budget: name of the budget; "" where there is one.
        method: name of the method in the plan; "" for the teacher.
        seed: of the training.
        config: the recipe; its `out` is the folder of all seeds of the method.
    """

    kind: Literal["teacher", "alone", "distilled"]
    pair: str
    budget: str = ""
    method: str = ""
    seed: int
    config: RunConfig

    @property
    def key(self) -> str:
        """Its name in the plan."""
        last = "teacher" if self.kind == "teacher" else f"{self.method}/seed-{self.seed}"
        return "/".join(part for part in (self.pair, self.budget, last) if part)

    @property
    def title(self) -> str:
        """For people."""
        name = "teacher" if self.kind == "teacher" else f"{self.method}, seed {self.seed}"
        return ", ".join(part for part in (self.pair, self.budget, name) if part)

    @property
    def home(self) -> Path:
        """Folder of the recipe."""
        return Path(self.config.out)

    @property
    def teachers_in(self) -> Path:
        """Folder of the pair, where its teachers lie."""
        return self.home.parents[1 if self.budget else 0] if self.kind != "teacher" else self.home

    @property
    def folder(self) -> Path:
        """Folder of this training."""
        return self.home / "teacher" if self.kind == "teacher" else self.home / self.kind / f"seed-{self.seed}"

    @property
    def record(self) -> Path:
        """What came out: the run record; for a teacher, its figures."""
        return self.folder / ("figures.json" if self.kind == "teacher" else "record.json")

    @property
    def error(self) -> Path:
        """What went wrong the last time."""
        return self.folder / "error.json"

    @property
    def log(self) -> Path:
        """Everything that was printed while it ran."""
        return self.folder / "output.log"

    @property
    def done(self) -> bool:
        """Whether all is there that the plan needs of it: of a student its record, of a teacher its weights too."""
        needed = weights_of(self.config, self.home).values() if self.kind == "teacher" else ()
        return self.record.exists() and all(path.exists() for path in needed)

    @property
    def state(self) -> State:
        """What the files in its folder say; nobody can tell by them whether it runs at the moment."""
        if self.done:
            return "done"
        if self.error.exists():
            return "failed"
        return "begun" if (self.folder / "checkpoints" / "last.pt").exists() else "waiting"

    @property
    def failure(self) -> str:
        """In one line what went wrong; "" where nothing did."""
        return str(read_object(self.error, "error")["error"]) if self.error.exists() else ""


def opened(config: RunConfig) -> "Plan":
    """The plan of a cell; cells that one process opens one after the other read the same data once."""
    from mfkd.data import load_data
    from mfkd.plan import open_plan

    wanted = config.data.model_dump_json()
    if wanted not in _read:
        _read.clear()  # one data set at a time, it may be large
        _read[wanted] = load_data(config.data)
    return open_plan(config, _read[wanted])


def forget() -> None:
    """Read data anew at the next cell: the files may have changed since."""
    _read.clear()


def attempt(cell: Cell) -> bool:
    """Do a cell, or go on with it; whatever goes wrong is written into its folder.

    Returns:
        False if it was stopped by Ctrl-C; the same call goes on then.
    """
    from mfkd.train.interrupt import Interrupted

    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(cell.folder / ".lock"):  # a process that lost its master may be about to end
            cell.error.unlink(missing_ok=True)
            work(cell)
    except (Interrupted, KeyboardInterrupt):
        return False
    except Exception as error:  # one broken cell must not end a plan of days
        failed(cell, in_a_line(error), traceback.format_exc())
    return True


def failed(cell: Cell, line: str, trace: str = "") -> None:
    """Write down that a cell went wrong, in one line, and how, in full."""
    if trace:
        write_text(cell.folder / "error.log", trace)
    write_json(cell.error, {"cell": cell.key, "error": line})


def work(cell: Cell) -> None:
    """Do a cell; the teacher of its pair is there already, and what its seeds share is made once.

    Raises:
        MfkdError: whatever the training refuses.
        Interrupted: after Ctrl-C, once everything is on disk.
    """
    from mfkd.models.trust import remember
    from mfkd.pipeline import claim_folder, share_knowledge, train_student
    from mfkd.teachers import obtain_teacher, teacher_figures

    if cell.kind == "teacher":
        plan = opened(cell.config)
        remember(plan.models)
        figures = teacher_figures(plan, obtain_teacher(plan))
        return write_json(cell.record, {**figures, "weights": teacher_files(cell.config)})
    plan = replace(opened(with_teachers(cell)), teachers_in=cell.teachers_in)
    cell.home.mkdir(parents=True, exist_ok=True)
    with FileLock(cell.home / ".lock"):  # one prepares, the other seeds of the method wait for it
        claim_folder(plan)
        teacher = obtain_teacher(plan)
        shared = share_knowledge(plan, teacher, print) if cell.kind == "distilled" else None
    train_student(plan, cell.kind, cell.seed, teacher, shared)
    return None


def with_teachers(cell: Cell) -> RunConfig:
    """The recipe of a cell with the teachers that were trained for its pair, by their weights."""
    config, files = cell.config, weights_of(cell.config, cell.teachers_in)
    teachers = [
        teacher.model_copy(update={"weights": str(files[name])}) if name in files else teacher
        for name, teacher in config.named_teachers.items()
    ]
    return config.model_copy(update={"teacher": teachers[0], "teachers": tuple(teachers[1:])})


def weights_of(config: RunConfig, folder: Path) -> dict[str, Path]:
    """Where the teachers lie that a recipe trains, by their names."""
    from mfkd.teacher.load import is_ready

    trained = [name for name, teacher in config.named_teachers.items() if not is_ready(teacher)]
    return {name: folder / name / "teacher.safetensors" for name in trained}


def teacher_files(config: RunConfig) -> dict[str, str]:
    """Digests of the weights that the teachers of a recipe come with, by their names."""
    files = {name: teacher.weights for name, teacher in config.named_teachers.items() if teacher.weights is not None}
    return {name: sha256(Path(file).expanduser()) for name, file in files.items() if Path(file).expanduser().exists()}


def told(cell: Cell) -> dict[str, Any]:
    """Accuracy and time of a finished cell, for lists; empty for others."""
    if not cell.done:
        return {}
    if cell.kind == "teacher":
        top1 = read_object(cell.record).get("top1", {})
        return {"top1": top1.get("mean"), "best": next(iter(top1.get("best", [])), None), "seconds": None}
    record = RunRecord.load(cell.record)
    record.check_finished(cell.record)
    return {
        "top1": record.metrics["top1"],
        "best": record.best["test_top1"],
        "seconds": record.own_seconds,
    }


def in_a_line(error: Exception) -> str:
    """What went wrong, for a list; the kind of error too, where it is not one of ours."""
    from mfkd.errors import MfkdError

    text = " ".join(str(error).split())
    return text if isinstance(error, MfkdError) else f"{type(error).__name__}: {text}".rstrip(": ")
