"""The trainings that `throughput.py` compares."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from reference import Images, forever, training

from mfkd import build_model
from mfkd.config import load_config
from mfkd.data import ImageData, MemorySplit
from mfkd.models.weights import save_weights
from mfkd.pipeline import build_student
from mfkd.plan import Plan, open_plan
from mfkd.profile import begin, endless
from mfkd.teacher import FrozenTeacher
from mfkd.teachers import obtain_teacher
from mfkd.train.loop import Fit
from mfkd.train.shared import Shared
from mfkd.types import Batch

CLASSES = 100
BEST = {"precision": "auto"}  # everything else is as it comes


@dataclass
class Training:
    """Something that takes updates.

    Args:
        step: takes one.
        workers: processes that feed it and must run while it does.
    """

    step: Callable[[], Any]
    workers: "Workers | None" = None


def plan_of(args: argparse.Namespace, pair: str, batch: int, views: int | None = None, **train: Any) -> Plan:
    """The recipe of one training, with its data."""
    teacher, student = pair.split(":")
    folder = Path(args.folder)
    weights = folder / f"{teacher}.safetensors"
    if not weights.exists():
        torch.manual_seed(0)
        save_weights(weights, build_model(teacher, num_classes=CLASSES).state_dict())
    settings = {**BEST, **train, "batch_size": batch, "epochs": max(1, args.seen // args.images)}
    words = [f"train.{name}={str(value).lower()}" for name, value in settings.items()]
    words += [f"teacher.model={teacher}", f"teacher.weights={weights}", f"student.model={student}", "method=mfkd"]
    words += [f"out={folder / f'{teacher}-{student}-{batch}'}", "log.trackers=[]"]
    if views is not None:
        words += [f"cache.views={views}", f"cache.folder={folder / f'cache-{teacher}-{student}-{batch}'}"]
    if args.data != "generated":
        return open_plan(load_config(None, [*words, f"data.name={args.data}", f"data.fraction={args.fraction}"]))
    config = load_config(None, [*words, "data.name=cifar100", "augment.crop_padding=4", "augment.flip=true"])
    drawn = torch.Generator().manual_seed(0)

    def split(count: int) -> MemorySplit:
        images = torch.randint(0, 256, (count, 3, 32, 32), generator=drawn, dtype=torch.uint8)
        return MemorySplit(images, torch.arange(count) % CLASSES, torch.arange(count))

    made, names = split(args.images), tuple(map(str, range(CLASSES)))
    half, deviation = (0.5,) * 3, (0.25,) * 3
    data = ImageData("generated", names, 3, (32, 32), half, deviation, 4, True, made, None, split(256), args.images)
    augment = config.augment.model_copy(update={"views": views})
    return Plan(config.model_copy(update={"augment": augment}), data)


def ours(plan: Plan, shared: Shared | None, *, fold: bool = True, teacher: FrozenTeacher | None = None) -> Fit:
    """Our own training: plain without `shared`, else distilled with what was prepared, live or cached."""
    if shared is None:
        return begin(plan, "alone", build_student(plan, "alone", 0, None))
    distiller = shared.give(build_student(plan, "distilled", 0, teacher or obtain_teacher(plan)))
    with nullcontext() if fold else patch("mfkd.teacher.quick.fold", lambda *_: None):
        return begin(plan, "distilled", distiller)


def updates(fit: Fit) -> Training:
    """A training with its own input."""
    batches = endless(fit.loader)
    return Training(lambda: fit.update(batches))


class Workers:
    """Batches of PIL images from worker processes, which live only while they are needed."""

    def __init__(self, plan: Plan, batch: int, count: int) -> None:
        data = plan.data
        if not isinstance(data.train, MemorySplit):
            raise SystemExit("the reference loop needs small images in memory")
        self.images = Images(data.train.images, data.train.labels, data.mean, data.std)
        self.batch, self.count = batch, count
        self.batches: Iterator[Any] | None = None

    def start(self) -> None:
        """Start them."""
        self.batches = forever(self.images, self.batch, self.count)

    def stop(self) -> None:
        """End them."""
        self.batches = None

    def __next__(self) -> Any:
        if self.batches is None:
            raise SystemExit("no workers")
        return next(self.batches)


def with_workers(fit: Fit, workers: Workers) -> Training:
    """Our training, fed as the reference loop is."""

    def batches() -> Iterator[Batch]:
        while True:
            image, label, index = next(workers)
            yield Batch(image.contiguous(memory_format=torch.channels_last), label, index)

    endless_batches = batches()
    return Training(lambda: fit.update(endless_batches), workers)


def reference(plan: Plan, workers: Workers, *, distilled: bool) -> Training:
    """The research loop, plain or KD."""
    torch.manual_seed(0)
    student = build_model(plan.config.student.model, num_classes=CLASSES)
    teacher = build_model(plan.config.teacher.model, num_classes=CLASSES).eval() if distilled else None
    step = training(student, teacher)
    return Training(lambda: step(next(workers)), workers)


def teacher_alone(fit: Fit) -> Training:
    """The forward pass of the teacher at our best settings."""
    batch = next(endless(fit.loader))
    quick = fit.distiller.teacher.quick

    @torch.no_grad()
    def step() -> None:
        with fit.accelerator.autocast():
            quick(batch.image)

    return Training(step)
