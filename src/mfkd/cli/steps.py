"""`mfkd train` and `mfkd distill`: single steps of `mfkd run`, in the same run folder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json, Overrides, Recipe, plan_from

if TYPE_CHECKING:
    from mfkd.records import RunRecord

TRAIN_EXAMPLES = examples(
    {
        "mfkd train": "resnet8 on the digits",
        "mfkd train student.model=resnet14 out=runs/b": "another network",
        "mfkd train my.yaml train.epochs=30 seeds=[0,1,2]": "your recipe, three seeds",
    }
)
DISTILL_EXAMPLES = examples(
    {
        "mfkd distill": "the digits",
        "mfkd distill method=kd out=runs/kd": "with another method",
        "mfkd distill teacher.weights=big.safetensors": "with a teacher that you have",
        "torchrun --nproc-per-node 2 -m mfkd distill": "with two processes",
    }
)


def train(recipe: Recipe = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Train the student alone, without a teacher, for every seed.

    A step of `mfkd run` in the same run folder: what is done here is not done there again.
    """
    _students(recipe, overrides, "alone", as_json)


def distill(recipe: Recipe = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Distil the student from the teacher, for every seed.

    The teacher is loaded, or trained first if the recipe names no weights. A step of `mfkd run` in
    the same run folder: what is done here is not done there again.
    """
    _students(recipe, overrides, "distilled", as_json)


def _students(
    recipe: str | None, overrides: Sequence[str] | None, kind: Literal["alone", "distilled"], as_json: bool
) -> None:
    plan = plan_from(recipe, overrides)
    from mfkd.pipeline import claimed, share_knowledge, train_student
    from mfkd.teachers import obtain_teacher

    with claimed(plan, screen.say):
        teacher = obtain_teacher(plan) if kind == "distilled" else None
        shared = share_knowledge(plan, teacher, screen.say) if teacher is not None else None
        records = [train_student(plan, kind, seed, teacher, shared) for seed in plan.config.seeds]
    if as_json:
        screen.dump([record.model_dump(mode="json") for record in records])
    else:
        _records(records)
    screen.files(*(plan.student_job(kind, seed).folder for seed in plan.config.seeds), quiet=as_json)


def _records(records: "list[RunRecord]") -> None:
    from mfkd.sections import split_name

    first = records[0]
    epochs = first.training["epochs"]
    split = split_name(first.config["data"].get("evaluate"))
    screen.table(
        f"Student {first.kind}: {first.config['student']['model']} on {first.config['data']['name']}, "
        f"{epochs} epoch{'s' if epochs > 1 else ''}, {first.metrics['n']:,.0f} {split} images",
        ["seed", "Top-1, %", "Top-5, %", "images/s", "time"],
        [
            [
                str(record.seed),
                *(screen.number(record.metrics[name]) for name in ("top1", "top5")),
                screen.number(record.images_per_second, 0),
                screen.duration(record.own_seconds),
            ]
            for record in records
        ],
    )
    for note in dict.fromkeys(note for record in records for note in record.notes):
        screen.tell(f"Note: {note}")
