"""What a run would take: a few real updates of each kind of training, extrapolated; nothing is written."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median
from typing import Any

import torch
from torch import nn

from mfkd.config import LogConfig
from mfkd.data import eval_loader
from mfkd.data.loader import TrainLoader
from mfkd.distill import Distiller
from mfkd.pipeline import build_student, check, shared_job
from mfkd.plan import Plan
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.load import is_ready
from mfkd.teacher.source import Remembered
from mfkd.teachers import build_teacher, stand_in
from mfkd.train.batches import training_batches
from mfkd.train.cost import SECONDS as COST_SECONDS
from mfkd.train.job import Job
from mfkd.train.loop import EVAL_BATCH
from mfkd.train.optim import build_optimizer
from mfkd.train.runtime import device as running_device
from mfkd.train.runtime import dtype, start
from mfkd.train.shared import foresee, has_cache
from mfkd.types import Batch

WARM, TIMED, PATIENCE = 2, 10, 5.0  # updates not counted, counted, and seconds after which two are enough
PREPARED = 4  # batches a preparation is tried on
MEGA = 1e6


@dataclass(frozen=True)
class Price:
    """Of one training: seconds and bytes of files."""

    seconds: float = 0.0
    size: float = 0.0


def estimate(plan: Plan, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Time and disk that are still needed to carry out a plan.

    Args:
        plan: from `pipeline.open_plan`.
        say: gets a line before each measurement; updates of a large network take minutes on a CPU.

    Returns:
        `steps`, each with step, folder, seconds and megabytes (both 0 where it is finished), and the
        sums `seconds` and `megabytes`.

    Raises:
        MfkdError: what the run itself would refuse.
    """
    check(plan)
    config, teacher = plan.config, stand_in(plan)
    jobs = [(one, one.teacher_job()) for one in plan.per_teacher()]
    for seed in config.seeds:
        jobs += [(plan, plan.student_job("alone", seed)), (plan, plan.student_job("distilled", seed))]
    prices: dict[str, Price] = {}
    steps = []
    for one, job in jobs:
        price, loaded = Price(), job.kind == "teacher" and is_ready(one.config.teacher)
        if loaded:
            if not (job.folder / "metrics.json").exists():
                passes = len(plan.data.test) + (len(plan.data.train) if one.config.teacher.head == "tune" else 0)
                price = Price(COST_SECONDS + passes * _per_image(plan, teacher, torch.float32))
        elif not job.finished:
            name = f"{job.kind} {one.teacher_name}"
            if name not in prices:
                say(f"Measuring a few updates: {job.title}")
                built = (
                    build_teacher(one) if job.kind == "teacher" else build_student(plan, job.kind, job.seed, teacher)
                )
                prices[name] = price_of(plan, job, built, None if job.kind == "teacher" else teacher)
            price = prices[name]
        steps.append(
            {
                "step": "teacher, loaded" if loaded else job.title,
                "folder": str(job.folder),
                "seconds": price.seconds,
                "megabytes": price.size / MEGA,
            }
        )
    open_jobs = [job for _, job in jobs if job.kind == "distilled" and not job.finished]
    if open_jobs and config.cache.views is not None and not has_cache(config):
        cache = estimate_cache(plan)
        own = {"folder": cache["folder"], "seconds": cache["seconds"], "megabytes": cache["bytes"] / MEGA}
        steps.insert(len(plan.per_teacher()), {"step": "knowledge cache", **own})
    return {
        "steps": steps,
        "seconds": sum(step["seconds"] for step in steps),
        "megabytes": sum(step["megabytes"] for step in steps),
    }


def estimate_cache(plan: Plan) -> dict[str, Any]:
    """Size and time of the knowledge cache; see `train.shared.foresee`."""
    check(plan)
    teacher = stand_in(plan)
    return foresee(shared_job(plan), lambda seed: build_student(plan, "distilled", seed, teacher), plan.data)


def price_of(plan: Plan, job: Job, distiller: Distiller, reference: FrozenTeacher | None) -> Price:
    """What one training would take, from a few real updates of it.

    Args:
        plan: of the recipe.
        job: the training.
        distiller: built for it; is used up.
        reference: the teacher, where the agreement with it is measured at the end.
    """
    training, data = job.training, plan.data
    accelerator = start(training, LogConfig(trackers=()), job.folder)
    device = accelerator.device
    distiller.to(device, dtype(training))
    if training.channels_last:
        distiller.student.to(memory_format=torch.channels_last)
        if distiller.teacher is not None:
            distiller.teacher.to(memory_format=torch.channels_last)
    distiller.quicken()
    loader = training_batches(job, data, device)
    few = _Few(loader)
    begun = time.perf_counter()
    distiller.prepare(few, autocast=accelerator.autocast)
    _wait(device)
    seconds = (time.perf_counter() - begun) * loader.steps * training.accumulate / len(few)

    if job.config.cache.views is not None and distiller.source is not None:
        distiller.source = Remembered(distiller.source)
    weights = _bytes(distiller.student.state_dict())
    model, optimizer = accelerator.prepare(distiller, build_optimizer(distiller.trainable_parameters(), training))
    model.train()
    batches = _endless(loader)

    def update() -> None:
        for batch in islice(batches, training.accumulate):
            loss = model(batch.image, batch.label, batch.index, batch.target).loss
            accelerator.backward(loss / training.accumulate)
        optimizer.step()
        optimizer.zero_grad()

    fades = {method.config.fade for _, method in distiller.objective.named() if method.config.fade is not None}
    for progress, until in pairwise(sorted({0.0, *fades, 1.0})):  # from each fade's end on, an update takes less
        distiller.set_progress(progress)
        seconds += _typical(update, device) * loader.steps * training.epochs * (until - progress)

    own = _per_image(plan, distiller.student, dtype(training))
    evaluations = -(-training.epochs // training.evaluate_every)
    seconds += own * evaluations * (len(data.test) + (len(data.val) if data.val is not None else 0))
    seconds += own * len(data.test) + COST_SECONDS
    if reference is not None:  # the agreement at the end
        seconds += _per_image(plan, reference, torch.float32) * len(data.test)
    state = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, torch.Tensor)]
    average = weights if training.ema is not None else 0
    checkpoint = _bytes(distiller.state_dict()) + sum(value.nbytes for value in state) + average
    return Price(seconds, weights + checkpoint * plan.config.checkpoint.keep)


def _typical(update: Callable[[], None], device: torch.device) -> float:
    """Seconds of one update, from a few."""
    taken: list[float] = []
    while not _enough(taken):
        begun = time.perf_counter()
        update()
        _wait(device)
        taken.append(time.perf_counter() - begun)
    return median(taken[WARM:] or taken[-1:])


def _enough(taken: list[float]) -> bool:
    """Whether the updates measured so far will do; where one takes that long, what warms up in it is lost in it."""
    if taken and taken[0] > PATIENCE:
        return len(taken) == 2
    return len(taken) == WARM + TIMED or (len(taken) >= WARM + 2 and sum(taken) >= PATIENCE)


class _Few:
    """The first batches, for a preparation stage."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return min(PREPARED, self.loader.steps * self.loader.accumulate)

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.loader.epoch(0), len(self))


def _endless(loader: TrainLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


@torch.no_grad()
def _per_image(plan: Plan, network: nn.Module, kind: torch.dtype) -> float:
    """Seconds that one image takes in evaluation; a teacher answers as it does in a run, in its own size."""
    data, device = plan.data, running_device()
    network.to(device, kind)
    training = network.training
    answer = network.logits if isinstance(network, FrozenTeacher) else network
    network.eval()
    loader = eval_loader(data.test, data, plan.config.data, batch_size=EVAL_BATCH, device=device, dtype=kind)
    first = next(iter(loader))
    taken = []
    for _ in range(2):  # the first one warms up
        begun = time.perf_counter()
        answer(first.image)
        _wait(device)
        taken.append(time.perf_counter() - begun)
    network.train(training)
    return min(taken) / len(first)


def _bytes(state: dict[str, torch.Tensor]) -> int:
    return sum(value.nbytes for value in state.values())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
