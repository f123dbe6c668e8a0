"""Where the time of a training goes, phase by phase, beside plain training on data already in memory."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mfkd.data.loader import TrainLoader
from mfkd.distill import Distiller
from mfkd.errors import ConfigError
from mfkd.pipeline import build_student, share_knowledge
from mfkd.plan import Kind, Plan
from mfkd.records import environment
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.source import Remembered
from mfkd.teachers import obtain_teacher, stand_in
from mfkd.train import memory
from mfkd.train.loop import Fit
from mfkd.train.runtime import processes, start
from mfkd.train.shared import has_cache
from mfkd.types import Batch

PHASES = ("input", "teacher", "student", "method", "backward", "optimiser")
OWN = ("teacher", "student", "method", "backward", "optimiser")
"""Phases that any distillation has; what is left of a step is the overhead."""
WARM, PREPARED, TRACED = 3, 4, 5  # updates that are not counted, batches of a preparation, updates in a trace


def profile(plan: Plan, steps: int = 20, trace: Path | None = None) -> dict[str, Any]:
    """Time single updates of the distillation that a plan describes; nothing is written but the trace.

    Each step is taken three times in turn: in phases, with the device waited for after each; whole, as the trainer
    takes it; and as plain training of the same student on one batch in memory, the floor. A teacher that is yet to be
    trained is stood in for by one with random weights, and a knowledge cache that is yet to be built by knowledge in
    memory; both take the same time.

    Args:
        plan: from `open_plan`.
        steps: of each kind that are counted.
        trace: file for the trace of torch's profiler, which Chrome and Perfetto show.

    Returns:
        `phases` (name to ms and its share of a step), step_ms, images_per_second, overhead (share of a step outside
        teacher, student, method, backward and optimiser), floor_ms, floor_images_per_second, ratio (step to floor),
        peak_mb (of the device; of the process where that is the CPU), knowledge ("live", "cache" or "memory"),
        compiled, batch_size, environment. Times are medians.

    Raises:
        MfkdError: what the run itself would refuse, several processes, or a trace that cannot be written.
    """
    if processes()[1] > 1:
        raise ConfigError("profile times one process; start it without torchrun.")
    if trace is not None and not trace.absolute().parent.is_dir():
        raise ConfigError(f"--trace {trace}: there is no folder {trace.absolute().parent}; create it first.")
    quiet = plan.config.log.model_copy(update={"trackers": ()})
    plan = replace(plan, config=plan.config.model_copy(update={"log": quiet}))
    teacher, knowledge = _teacher(plan), "live"
    distiller = build_student(plan, "distilled", plan.config.seeds[0], teacher)
    distiller.set_progress(0.0)  # as `update` does before the first
    if plan.config.cache.views is not None and distiller.source is not None:
        knowledge = "cache" if has_cache(plan.config) else "memory"
        if knowledge == "cache":
            share_knowledge(plan, teacher, lambda _: None, always=True).give(distiller)
    whole = begin(plan, "distilled", distiller)
    if knowledge == "memory" and distiller.source is not None:
        distiller.source = Remembered(distiller.source)
    floor = begin(plan, "alone", build_student(plan, "alone", plan.config.seeds[0], None))
    device = whole.accelerator.device
    batches, plain = endless(whole.loader), _repeated(floor.loader)
    parts: dict[str, list[float]] = {name: [] for name in PHASES}
    wholes, floors, outside = [], [], []
    memory.begin(device)
    for number in range(WARM + steps):
        phases = dict.fromkeys(PHASES, 0.0)
        total = _timed(device, lambda: _phases(whole, batches, phases))  # noqa: B023 - called at once
        taken = [_timed(device, lambda: whole.update(batches)), _timed(device, lambda: floor.update(plain))]
        if number >= WARM:
            for name in PHASES:
                parts[name].append(phases[name])
            outside.append(1 - sum(phases[name] for name in OWN) / total)
            wholes.append(taken[0])
            floors.append(taken[1])
    peak = memory.peak(device)
    if trace is not None:
        _trace(whole, batches, trace)
    for one in (whole, floor):
        one.compiled.remove()
    step, plainly, images = median(wholes), median(floors), plan.config.train.batch_size
    return {
        "phases": {name: {"ms": 1e3 * median(parts[name]), "share": median(parts[name]) / step} for name in PHASES},
        "step_ms": 1e3 * step,
        "images_per_second": images / step,
        "overhead": median(outside),
        "floor_ms": 1e3 * plainly,
        "floor_images_per_second": images / plainly,
        "ratio": median(a / b for a, b in zip(wholes, floors, strict=True)),
        "peak_mb": peak / 1e6,
        "knowledge": knowledge,
        "compiled": whole.compiled.names,
        "batch_size": images,
        "steps": steps,
        "environment": environment(device.type),
    }


def _teacher(plan: Plan) -> FrozenTeacher:
    # A finished cache belongs to a finished teacher.
    return obtain_teacher(plan) if plan.config.cache.views is not None and has_cache(plan.config) else stand_in(plan)


def begin(plan: Plan, kind: Kind, distiller: Distiller) -> Fit:
    """A training that is ready for its first update, its methods prepared on a few batches."""
    job = plan.student_job(kind, plan.config.seeds[0])
    fit = Fit(job, distiller, plan.data, start(job.training, job.config.log, job.folder))
    if job.training.channels_last:
        distiller.to(memory_format=torch.channels_last)
    distiller.quicken()
    distiller.prepare(list(islice(fit.loader.epoch(0), PREPARED)), autocast=fit.accelerator.autocast)
    fit.set_up(None, fit.total)
    return fit


def _phases(fit: Fit, batches: Iterator[Batch], taken: dict[str, float]) -> None:
    """One update as the trainer takes it, with a timer around each of its calls; adds to the seconds of each phase."""
    distiller, device = fit.distiller, fit.accelerator.device
    calls: list[tuple[Any, str, str]] = [
        (distiller, "outputs", "student"),
        (distiller.objective, "forward", "method"),
        (fit.accelerator, "backward", "backward"),
        (fit.optimizer, "step", "optimiser"),
        (fit.optimizer, "zero_grad", "optimiser"),
    ]
    if distiller.source is not None:
        calls += [(distiller.source, "knowledge", "teacher"), (distiller.source, "ahead", "teacher")]

    def timed(call: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def lap(*args: Any, **kwargs: Any) -> Any:
            _wait(device)
            begun, before = time.perf_counter(), taken[phase]
            result = call(*args, **kwargs)
            _wait(device)
            taken[phase] = before + time.perf_counter() - begun  # a call within a call of its phase counts once
            return result

        return lap

    try:
        for owner, name, phase in calls:
            setattr(owner, name, timed(getattr(owner, name), phase))
        fit.update(iter(timed(lambda: next(batches), "input"), None))
    finally:
        for owner, name, _ in calls:
            delattr(owner, name)


def _trace(fit: Fit, batches: Iterator[Batch], path: Path) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if fit.accelerator.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        for _ in range(TRACED):
            fit.update(batches)
    profiler.export_chrome_trace(str(path))


def endless(loader: TrainLoader) -> Iterator[Batch]:
    """One epoch after the other."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _repeated(loader: TrainLoader) -> Iterator[Batch]:
    batch = next(iter(loader.epoch(0)))
    while True:
        yield batch


def _timed(device: torch.device, call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
