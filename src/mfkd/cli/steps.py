"""`mfkd train` and `mfkd distill`: single steps of `mfkd run`, in the same run folder."""

from collections.abc import Sequence
from typing import Literal

from mfkd.cli.words import EPILOG, Words


def train(words: Words = None) -> None:
    """Train the student alone, without a teacher, for every seed of the recipe."""
    _students(words, "alone")


def distill(words: Words = None) -> None:
    """Distil the student from the teacher, for every seed of the recipe.

    The teacher is loaded, or trained first if the recipe names no weights. With several processes:
    [cyan]torchrun --nproc-per-node 2 -m mfkd distill recipes/digits.yaml[/].
    """
    _students(words, "distilled")


for _command in (train, distill):
    _command.__doc__ = f"{_command.__doc__}\n\n{EPILOG}"


def _students(words: Sequence[str] | None, kind: Literal["alone", "distilled"]) -> None:
    from mfkd.cli import show
    from mfkd.cli.words import plan_from
    from mfkd.pipeline import claim_folder, obtain_teacher, train_student

    plan = plan_from(words)
    claim_folder(plan)
    teacher = obtain_teacher(plan) if kind == "distilled" else None
    for seed in plan.config.seeds:
        record = train_student(plan, kind, seed, teacher)
        show.record(record, plan.student_job(kind, seed).folder)
