"""The teachers of a plan: stood in for, loaded or trained, and measured."""

from collections.abc import Callable
from typing import Any

from mfkd.distill import Distiller
from mfkd.files import read_object, write_json
from mfkd.methods import resolve
from mfkd.models import build_model
from mfkd.plan import Plan, card
from mfkd.records import RunRecord
from mfkd.summary import METRICS, spread
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.load import is_ready, load_teacher
from mfkd.teacher.several import together
from mfkd.teacher.tune import tune_head
from mfkd.train.cost import cost
from mfkd.train.runtime import device, processes
from mfkd.train.session import measure, train
from mfkd.train.student import load_student

PLAIN = "none"


def stand_in(plan: Plan) -> FrozenTeacher:
    """The teacher as it will be used, but with random weights in all that is yet to be learnt."""
    return _together(plan, _stand_in)


def _stand_in(plan: Plan) -> FrozenTeacher:
    teacher = plan.config.teacher
    if is_ready(teacher):
        loaded = load_teacher(teacher, plan.data)
        if teacher.head == "keep":
            return loaded
    elif plan.teacher_job().finished:
        return FrozenTeacher(load_student(plan.teacher_job().folder))
    network = build_teacher(plan).student
    return FrozenTeacher(network, image_size=teacher.image_size)


def obtain_teacher(plan: Plan) -> FrozenTeacher:
    """Load the teachers that the recipe names, or train them in the run folder; frozen, on their device."""
    return _together(plan, _obtain_one)


def _together(plan: Plan, make: Callable[[Plan], FrozenTeacher]) -> FrozenTeacher:
    plans = plan.per_teacher()
    weights = [one.config.teacher.weight for one in plans]
    return together([make(one) for one in plans], weights, resolve(plan.config.method).temperature)


def _obtain_one(plan: Plan) -> FrozenTeacher:
    config, data = plan.config, plan.data
    job = plan.teacher_job()
    if is_ready(config.teacher):
        teacher = load_teacher(config.teacher, data).to(device())
        if config.teacher.head == "tune":
            tune_head(teacher, data, config.data, job.folder / "head.safetensors")
        return teacher
    train(job, lambda: build_teacher(plan), data, card(plan, config.teacher))
    return FrozenTeacher(load_student(job.folder)).to(device())


def build_teacher(plan: Plan) -> Distiller:
    """The teacher as a network to be trained."""
    teacher, data = plan.config.teacher, plan.data
    network = build_model(teacher.model, len(data.classes), data.channels, **teacher.options)
    smoothing = plan.config.teacher_training().label_smoothing
    return Distiller(None, network, PLAIN, input_shape=plan.input_shape, label_smoothing=smoothing)


def teacher_figures(plan: Plan, teacher: FrozenTeacher) -> dict[str, Any]:
    """The teacher's metrics in the form of `summary.json`; a loaded one is measured here, once."""
    job = plan.teacher_job()
    path = plan.folder / "teachers.json" if plan.config.teachers else job.folder / "metrics.json"
    best: list[float] = []
    if job.record.exists() and not plan.config.teachers:
        record = RunRecord.load(job.record)
        metrics, best = record.metrics, [record.best["test_top1"]]
    elif path.exists():
        metrics = read_object(path)
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


def doing(plan: Plan) -> str:
    """What `obtain_teacher` does for a single teacher, in a word."""
    if is_ready(plan.config.teacher):
        return "loading"
    return "finished before" if plan.teacher_job().finished else "training"
