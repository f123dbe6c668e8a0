"""What `mfkd run` does, step by step: teacher, student alone, student distilled, summary."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mfkd.config import ModelConfig, RunConfig, load_config, settings, to_yaml
from mfkd.data import ImageData, MemorySplit, load_data
from mfkd.distill import Distiller
from mfkd.errors import ConfigError
from mfkd.files import read_json, write_atomic, write_json, write_text
from mfkd.methods import resolve
from mfkd.models import build_model
from mfkd.records import RunRecord
from mfkd.summary import METRICS, spread, summarise
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.load import is_ready, load_teacher
from mfkd.teacher.tune import tune_head
from mfkd.train.batches import training_batches
from mfkd.train.cost import cost
from mfkd.train.job import Job
from mfkd.train.runtime import device, processes, start
from mfkd.train.session import measure, train
from mfkd.train.student import Card, load_student

PLAIN = "none"
Kind = Literal["alone", "distilled"]


@dataclass(frozen=True)
class Plan:
    """A resolved recipe with its data, ready to be worked through in its folder."""

    config: RunConfig
    data: ImageData

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.out).expanduser()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.data.channels, *self.data.size)

    def teacher_job(self) -> Job:
        """The teacher's own training."""
        config = self.config
        return Job("teacher", self.folder / "teacher", config, config.teacher_training(), config.teacher.seed)

    def student_job(self, kind: Kind, seed: int) -> Job:
        """One student of one seed."""
        return Job(kind, self.folder / kind / f"seed-{seed}", self.config, self.config.train, seed)


def open_plan(config: RunConfig) -> Plan:
    """Read the data, fill in the defaults that depend on them, and check the method's options."""
    resolve(config.method)
    data = load_data(config.data)
    augment = config.augment
    filled = augment.model_copy(
        update={
            # Large images have no padding: null stands for random resized crops there.
            "crop_padding": data.crop_padding
            if augment.crop_padding is None and isinstance(data.train, MemorySplit)
            else augment.crop_padding,
            "flip": data.flip if augment.flip is None else augment.flip,
        }
    )
    return Plan(config.model_copy(update={"augment": filled}), data)


def rehearse(plan: Plan) -> None:
    """Build all that the run will build, so that it is refused now and not hours later, on any disk.

    Raises:
        MfkdError: a network, weights file, tap, batch size or device option that will not do.
    """
    config, data = plan.config, plan.data
    teacher = stand_in(plan)
    build_student(plan, "distilled", config.seeds[0], teacher)
    jobs = [plan.student_job("alone", config.seeds[0]), plan.student_job("distilled", config.seeds[0])]
    for job in jobs if is_ready(config.teacher) else [plan.teacher_job(), *jobs]:
        start(job.training, config.log, job.folder)
        training_batches(job, data, "cpu", world=processes()[1])


def stand_in(plan: Plan) -> FrozenTeacher:
    """The teacher as it will be used, but with random weights in all that is yet to be learnt."""
    teacher = plan.config.teacher
    if is_ready(teacher):
        loaded = load_teacher(teacher, plan.data)
        if teacher.head == "keep":
            return loaded
    elif plan.teacher_job().finished:
        return FrozenTeacher(load_student(plan.teacher_job().folder))
    network = build_teacher(plan).student
    return FrozenTeacher(network, image_size=teacher.image_size)


def claim_folder(plan: Plan) -> None:
    """Write the complete recipe into the run folder, once `check` has found no fault."""
    check(plan)
    if processes()[0] == 0:
        write_text(plan.folder / "config.yaml", to_yaml(plan.config))


def check(plan: Plan) -> None:
    """Refuse a run folder that holds another run, or a new run that cannot work; write nothing.

    Raises:
        ConfigError: the folder holds another run; names the first differing key.
        MfkdError: whatever `rehearse` refuses.
    """
    path = plan.folder / "config.yaml"
    if path.exists():
        # Seeds may be added to a run, and where it lies, reads and logs may change.
        difference = next(_differences(settings(load_config(path)), settings(plan.config)), None)
        if difference is not None:
            key, old, new = difference
            raise ConfigError(
                f"{plan.folder} holds another run: {key} is {old!r} there and {new!r} here; "
                "choose another folder with out=."
            )
    else:
        rehearse(plan)


def obtain_teacher(plan: Plan) -> FrozenTeacher:
    """Load the teacher that the recipe names, or train it in the run folder; frozen, on its device."""
    config, data = plan.config, plan.data
    job = plan.teacher_job()
    if is_ready(config.teacher):
        teacher = load_teacher(config.teacher, data).to(device())
        if config.teacher.head == "tune":
            tune_head(teacher, data, config.data, job.folder / "head.safetensors")
        return teacher
    train(job, lambda: build_teacher(plan), data, _card(plan, config.teacher))
    return FrozenTeacher(load_student(job.folder)).to(device())


def build_teacher(plan: Plan) -> Distiller:
    """The teacher as a network to be trained."""
    teacher, data = plan.config.teacher, plan.data
    network = build_model(teacher.model, len(data.classes), data.channels, **teacher.options)
    smoothing = plan.config.teacher_training().label_smoothing
    return Distiller(None, network, PLAIN, input_shape=plan.input_shape, label_smoothing=smoothing)


def build_student(plan: Plan, kind: Kind, seed: int, teacher: FrozenTeacher | None) -> Distiller:
    """A student to be trained; the teacher is used only where it is distilled."""
    config, data = plan.config, plan.data
    student = build_model(
        config.student.model, len(data.classes), data.channels, config.student.weights, **config.student.options
    )
    distilled = kind == "distilled"
    return Distiller(
        teacher if distilled else None,
        student,
        config.method if distilled else PLAIN,
        input_shape=plan.input_shape,
        num_samples=data.num_rows,
        labels=data.train_labels(),
        label_smoothing=config.train.label_smoothing,
        seed=seed,
    )


def train_student(plan: Plan, kind: Kind, seed: int, teacher: FrozenTeacher | None) -> RunRecord:
    """Train one student; `alone` uses the teacher for nothing but the agreement."""
    data, job = plan.data, plan.student_job(kind, seed)
    reference = None
    if teacher is not None and teacher.count_classes(plan.input_shape) == len(data.classes):
        reference = teacher.logits
    record = train(
        job, lambda: build_student(plan, kind, seed, teacher), data, _card(plan, plan.config.student), reference
    )
    own_teacher = plan.config.teacher.model_dump(mode="json")
    if reference is not None and ("agreement" not in record.metrics or record.config["teacher"] != own_teacher):
        # A student alone depends on no teacher, so its folder may come from a run with another or none.
        metrics = {**record.metrics, **measure(load_student(job.folder).to(device()), data, job, reference)}
        record = record.model_copy(update={"metrics": metrics, "config": plan.config.model_dump(mode="json")})
        if processes()[0] == 0:
            record.save(job.record)
    return record


def run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole job; every finished step is kept, so that a second start goes on where the first ended.

    Args:
        plan: from `open_plan`.
        say: gets one line a step.

    Returns:
        The summary that is also written to `summary.json`.
    """
    claim_folder(plan)
    config, seeds = plan.config, plan.config.seeds
    say(f"Teacher {config.teacher.model}: {_doing(plan)}")
    teacher = obtain_teacher(plan)
    records: dict[Kind, list[RunRecord]] = {"alone": [], "distilled": []}
    for number, seed in enumerate(seeds, 1):
        for kind, found in records.items():
            say(f"Student {config.student.model} {kind}, seed {seed} ({number} of {len(seeds)})")
            found.append(train_student(plan, kind, seed, teacher))
    summary = summarise(config, teacher_figures(plan, teacher), records["alone"], records["distilled"])
    if processes()[0] == 0:
        first = plan.student_job("distilled", seeds[0]).weights
        write_atomic(plan.folder / "student.safetensors", lambda file: file.write(first.read_bytes()))
        write_json(plan.folder / "summary.json", summary)
    return summary


def teacher_figures(plan: Plan, teacher: FrozenTeacher) -> dict[str, Any]:
    """The teacher's metrics in the form of `summary.json`; a loaded one is measured here, once."""
    job = plan.teacher_job()
    path = job.folder / "metrics.json"
    best: list[float] = []
    if job.record.exists():
        record = RunRecord.load(job.record)
        metrics, best = record.metrics, [record.best["test_top1"]]
    elif path.exists():
        metrics = read_json(path)
    else:
        metrics = cost(teacher.network, teacher.input_shape(plan.input_shape))
        if teacher.count_classes(plan.input_shape) == len(plan.data.classes):
            metrics = {**measure(teacher, plan.data, job, logits=teacher.logits), **metrics}
        if processes()[0] == 0:
            write_json(path, metrics)
    figures: dict[str, Any] = {name: spread([metrics[name]]) for name in METRICS if name in metrics}
    if best:
        figures["top1"]["best"] = best
    return figures


def _doing(plan: Plan) -> str:
    if is_ready(plan.config.teacher):
        return "loading"
    return "finished before" if plan.teacher_job().finished else "training"


def _card(plan: Plan, model: ModelConfig) -> Card:
    data = plan.data
    options = dict(model.options)
    return Card(model.model, data.classes, data.channels, data.size, data.mean, data.std, options, data.resize)


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new
