"""What `mfkd run` does, step by step: teacher, student alone, student distilled, summary."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfkd.config import load_config, settings, to_yaml
from mfkd.data.sets import UNREADABLE
from mfkd.distill import Distiller
from mfkd.errors import ConfigError
from mfkd.files import locked, sweep, write_atomic, write_json, write_text
from mfkd.hardware import remarks
from mfkd.models import build_model
from mfkd.models.trust import remember
from mfkd.models.weights import load_weights
from mfkd.plan import Kind, Plan, card
from mfkd.records import RunRecord
from mfkd.summary import summarise
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.load import is_ready
from mfkd.teacher.writing import check_place
from mfkd.teachers import PLAIN, doing, obtain_teacher, stand_in, teacher_figures
from mfkd.train.batches import training_batches
from mfkd.train.finetune import freeze
from mfkd.train.interrupt import stop_at_once
from mfkd.train.job import Job
from mfkd.train.runtime import device, processes, start, together
from mfkd.train.session import measure, train
from mfkd.train.shared import Shared, check_wanted, share
from mfkd.train.student import load_student
from mfkd.validation import differences

PATIENCE = 2.0  # seconds for a process that was just killed to let go of its lock


def rehearse(plan: Plan) -> None:
    """Build all that the run will build, so that it is refused now and not hours later, on any disk.

    Raises:
        MfkdError: a network, weights file, tap, batch size or device option that will not do.
    """
    config, data = plan.config, plan.data
    teacher = stand_in(plan)
    distiller = build_student(plan, "distilled", config.seeds[0], teacher)
    if config.cache.views is not None and distiller.source is not None:  # else its views are used all the same
        check_wanted(distiller)
        if config.cache.folder is not None:
            check_place(Path(config.cache.folder).expanduser())
    distiller.check_epochs()
    freeze(distiller.student, config.train.freeze, plan.input_shape)
    jobs = [plan.student_job("alone", config.seeds[0]), plan.student_job("distilled", config.seeds[0])]
    own = [one.teacher_job() for one in plan.per_teacher() if not is_ready(one.config.teacher)]
    for job in [*own, *jobs]:
        start(job.training, config.log, job.folder)
        training_batches(job, data, "cpu", world=processes()[1])


def claim_folder(plan: Plan) -> None:
    """Write the complete recipe into the run folder, once `check` has found no fault."""
    check(plan)
    if processes()[0] == 0:
        write_text(plan.folder / "config.yaml", to_yaml(plan.config))
        remember(plan.models)


@contextmanager
def claimed(plan: Plan, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """A block that alone writes into the run folder, with the complete recipe there; signals end it in one line.

    Args:
        plan: a resolved recipe.
        say: gets what the user must know of the images.

    Raises:
        ConfigError: another process writes there, or it holds another run.
        MfkdError: whatever `rehearse` refuses; nothing is written then.
        Interrupted: after SIGTERM or SIGUSR1.
    """
    check(plan)
    main, config = processes()[0] == 0, plan.folder / "config.yaml"
    with ExitStack() as stack:
        stack.enter_context(stop_at_once(f"stopped; the same command goes on. Everything is in {plan.folder}."))
        stack.enter_context(together())
        if main:
            busy = ConfigError(
                f"{plan.folder} is being written by another process; wait for its end, "
                "or choose another folder with out=."
            )
            stack.enter_context(locked(plan.folder / ".lock", busy, PATIENCE))
            if config.exists():
                check(plan)  # it may have come in the meantime
            sweep(plan.folder)
            write_text(config, to_yaml(plan.config))
            if plan.data.unreadable:
                write_text(plan.folder / UNREADABLE, "".join(f"{line}\n" for line in plan.data.unreadable))
            for note in [*plan.data.notes, *remarks(plan.config.train.precision)]:
                say(f"Warning: {note}")
            remember(plan.models)
        yield


def check(plan: Plan) -> None:
    """Refuse a run folder that holds another run, or a new run that cannot work; write nothing.

    Raises:
        ConfigError: the folder holds another run; names the first differing key.
        MfkdError: whatever `rehearse` refuses.
    """
    path = plan.folder / "config.yaml"
    if path.exists():
        # Seeds may be added to a run, and where it lies, reads and logs may change.
        difference = next(differences(settings(load_config(path)), settings(plan.config)), None)
        if difference is not None:
            key, old, new = difference
            raise ConfigError(
                f"{plan.folder} holds another run: {key} is {old!r} there and {new!r} here; "
                "choose another folder with out=."
            )
    else:
        rehearse(plan)


def build_student(plan: Plan, kind: Kind, seed: int, teacher: FrozenTeacher | None) -> Distiller:
    """A student to be trained; the teacher is used only where it is distilled."""
    config, data = plan.config, plan.data
    student = build_model(config.student.model, len(data.classes), data.channels, **config.student.options)
    if config.student.weights is not None:
        load_weights(student, config.student.weights, head=config.student.head)
    distilled = kind == "distilled"
    return Distiller(
        teacher if distilled else None,
        student,
        config.method if distilled else PLAIN,
        input_shape=plan.input_shape,
        num_samples=data.num_rows,
        labels=data.train_labels(),
        label_smoothing=config.train.label_smoothing,
        epochs=config.train.epochs,
        seed=seed,
    )


def share_knowledge(plan: Plan, teacher: FrozenTeacher, say: Callable[[str], None], always: bool = False) -> Shared:
    """Do once what all distilled students share: prepare the methods, build or open the knowledge cache.

    Nothing is done where all of them are finished, unless `always` says so.
    """
    jobs = [plan.student_job("distilled", seed) for seed in plan.config.seeds]
    if not always and all(job.finished for job in jobs):
        return Shared()
    return share(shared_job(plan), lambda seed: build_student(plan, "distilled", seed, teacher), plan.data, say)


def shared_job(plan: Plan) -> Job:
    """What is done once for all distilled students, with the seed of the teacher, in their folder."""
    job = plan.student_job("distilled", plan.config.teacher.seed)
    return replace(job, folder=job.folder.parent)


def train_student(
    plan: Plan, kind: Kind, seed: int, teacher: FrozenTeacher | None, shared: Shared | None = None
) -> RunRecord:
    """Train one student; `alone` uses the teacher for nothing but the agreement.

    Args:
        plan: a resolved recipe.
        kind: with the teacher or without.
        seed: of the student.
        teacher: from `obtain_teacher`.
        shared: from `share_knowledge`; None leaves all preparation to this training.
    """
    data, job = plan.data, plan.student_job(kind, seed)
    reference = None
    if teacher is not None and teacher.count_classes(plan.input_shape) == len(data.classes):
        reference = teacher.logits
    record = train(
        job,
        lambda: (shared or Shared()).give(build_student(plan, kind, seed, teacher)),
        data,
        card(plan, plan.config.student),
        reference,
    )
    named = plan.config.model_dump(mode="json")
    if reference is not None and ("agreement" not in record.metrics or _teachers(record.config) != _teachers(named)):
        # A student alone depends on no teacher, so its folder may come from a run with another or none.
        metrics = {**record.metrics, **measure(load_student(job.folder).to(device()), data, job, reference)}
        record = record.model_copy(update={"metrics": metrics, "config": named})
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
    with claimed(plan, say):
        return _run(plan, say)


def _run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    config, seeds = plan.config, plan.config.seeds
    for one in plan.per_teacher():
        say(f"Teacher {one.config.teacher.model}: {doing(one)}")
    teacher = obtain_teacher(plan)
    shared = share_knowledge(plan, teacher, say)
    records: dict[Kind, list[RunRecord]] = {"alone": [], "distilled": []}
    for number, seed in enumerate(seeds, 1):
        for kind, found in records.items():
            say(f"Student {config.student.model} {kind}, seed {seed} ({number} of {len(seeds)})")
            found.append(train_student(plan, kind, seed, teacher, shared if kind == "distilled" else None))
    summary = summarise(config, teacher_figures(plan, teacher), records["alone"], records["distilled"])
    if processes()[0] == 0:
        first = plan.student_job("distilled", seeds[0]).weights
        write_atomic(plan.folder / "student.safetensors", lambda file: file.write(first.read_bytes()))
        write_json(plan.folder / "summary.json", summary)
    return summary


def _teachers(config: dict[str, Any]) -> Any:
    return config["teacher"], list(config.get("teachers", ()))
