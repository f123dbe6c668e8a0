"""Trains every method with its defaults on digits and writes `docs/records/methods-digits/methods.json`.

`python docs/smoke.py` does all of it, and after an interruption goes on where it was; then `python
docs/results.py` puts the table into the results. `python docs/smoke.py kd at --seeds 0` runs some rows
and shows them, and writes no record. Everything but the method and the number of epochs is that of
`recipes/digits.yaml`.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfkd.config import RunConfig, load_config
from mfkd.errors import TrainingError
from mfkd.methods import METHODS, PRESETS
from mfkd.pipeline import share_knowledge, train_student
from mfkd.plan import Plan, open_plan
from mfkd.records import RunRecord
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teachers import obtain_teacher

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "digits.yaml"
RECORD = HERE / "records" / "methods-digits" / "methods.json"
SEEDS = (0, 1, 2)
EPOCHS = 16  # four times the recipe's: a stage of an eighth of the run, or a replaced head, needs some room
PLAIN = "plain"
FAR = 2.0  # points of Top-1 below plain training that want an explanation in about.md beside the record
SCALED: dict[str, tuple[float, str]] = {
    "at": (1000 / 16, "a 16th: its term grows as 1 / (h w)"),
    "fitnet": (10.0, "a tenth: the published weight is for 240 epochs"),
    "mlld": (0.09, "a tenth: it adds up fifteen terms, and the published weight is for 240 epochs"),
    "nst": (5.0, "a tenth: the published weight is for 240 epochs"),
    "semckd": (10.0, "a 40th: its term grows with the square of the teacher's activations"),
}
"""Rows beside the default: a smaller weight, and why."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        name: of the row and of its folder.
        method: as in a recipe.
        why: how its options came about, where they are not the defaults.
    """

    name: str
    method: str | dict[str, dict[str, Any]] = field(default_factory=dict)
    why: str = ""


def rows() -> Iterator[Row]:
    """Plain training, every method with its defaults, presets, and scaled weights."""
    yield Row(PLAIN, "none")
    for name in METHODS:
        preset = PRESETS.get(name)
        yield Row(name, {name: {}} if preset is None else preset, "the preset" if preset else "")
        if preset is not None and "ce" not in preset:
            yield Row(f"{name}-64+kd", {name: {"weight": 64.0}, "kd": {}}, "as the recipe: without the preset's fade")
            yield Row(f"{name}-alone", {name: {}}, "without the preset's other parts")
        if name in SCALED:
            weight, why = SCALED[name]
            yield Row(f"{name}-{weight:g}", {name: {"weight": weight}}, why)


def train_all(
    chosen: list[Row], seeds: tuple[int, ...], folder: Path, base: RunConfig
) -> dict[str, "list[RunRecord] | str"]:
    """Records by row, one a seed, or why a training diverged; what is finished is not trained again.

    Args:
        chosen: rows.
        seeds: of the students; the teacher's is that of the recipe.
        folder: of all trainings.
        base: the recipe; method, seeds and folder are replaced.
    """
    base = base.model_copy(update={"seeds": seeds, "log": base.log.model_copy(update={"trackers": ()})})
    first = open_plan(base.model_copy(update={"out": str(folder), "method": "none"}))
    teacher = obtain_teacher(first)
    weights = first.teacher_job().weights
    if base.teacher.weights is None:
        own: dict[str, Any] = {"weights": str(weights), "train": {}}
        base = base.model_copy(update={"teacher": base.teacher.model_copy(update=own)})
    found = {}
    for number, row in enumerate(chosen, 1):
        print(f"{row.name} ({number} of {len(chosen)})", flush=True)  # noqa: T201
        plan = open_plan(base.model_copy(update={"out": str(folder / row.name), "method": row.method}))
        try:
            found[row.name] = _train(plan, row, teacher)
        except TrainingError as error:
            found[row.name] = str(error).partition(";")[0]
    return found


def _train(plan: Plan, row: Row, teacher: FrozenTeacher) -> list[RunRecord]:
    if row.name == PLAIN:
        return [train_student(plan, "alone", seed, teacher) for seed in plan.config.seeds]
    shared = share_knowledge(plan, teacher, print)
    return [train_student(plan, "distilled", seed, teacher, shared) for seed in plan.config.seeds]


def summary(
    chosen: list[Row], found: dict[str, "list[RunRecord] | str"], base: RunConfig, teacher: RunRecord
) -> dict[str, Any]:
    """The compact record: what was run, and of each row Top-1 and seconds of every seed."""
    known = {row.name: row for row in chosen}
    trained = {name: records for name, records in found.items() if not isinstance(records, str)}
    first = trained[PLAIN][0]
    return {
        "data": base.data.name,
        "teacher": {"model": base.teacher.model, "top1": teacher.metrics["top1"]},
        "student": base.student.model,
        "training": first.training,
        "seeds": [record.seed for record in trained[PLAIN]],
        "environment": {key: first.environment[key] for key in ("python", "versions", "processor", "threads")},
        "rows": [
            {
                "name": name,
                "method": records[0].method,
                "why": known[name].why,
                "top1": [record.metrics["top1"] for record in records],
                "seconds": [round(_seconds(record), 2) for record in records],
                "commit": sorted({str(record.environment["commit"]) for record in records}),
            }
            for name, records in trained.items()
        ],
        "diverged": {name: reason for name, reason in found.items() if isinstance(reason, str)},
    }


def _seconds(record: RunRecord) -> float:
    return record.seconds + record.preparation_seconds + sum(record.shared_seconds.values())


def main() -> None:
    """Run what the command line names."""
    known = list(rows())
    parser = argparse.ArgumentParser(description="Train every method on digits.")
    parser.add_argument(
        "names", nargs="*", metavar="ROW", help="some rows, in place of all: " + " ".join(r.name for r in known)
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--folder", type=Path, default=Path("runs/methods-digits"), help="of the trainings")
    words = parser.parse_args()
    unknown = set(words.names) - {row.name for row in known}
    if unknown:
        parser.error(f"unknown rows: {', '.join(sorted(unknown))}")
    chosen = [row for row in known if not words.names or row.name in {PLAIN, *words.names}]
    base = load_config(RECIPE, [f"train.epochs={EPOCHS}"])
    found = train_all(chosen, tuple(words.seeds), words.folder, base)
    teacher = RunRecord.load(words.folder / "teacher" / "record.json")
    record = summary(chosen, found, base, teacher)
    if chosen == known and tuple(words.seeds) == SEEDS:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    for row in record["rows"]:
        print(row["name"], " ".join(f"{value:.2f}" for value in row["top1"]), row["seconds"])  # noqa: T201
    for name, reason in record["diverged"].items():
        print(name, reason)  # noqa: T201
    print(f"diverged, or more than {FAR:g} points below plain training:", ", ".join(far_below(record)) or "none")  # noqa: T201


def far_below(record: dict[str, Any]) -> list[str]:
    """Rows that diverged, or whose mean is more than `FAR` points below plain training."""
    means = {row["name"]: sum(row["top1"]) / len(row["top1"]) for row in record["rows"]}
    return [*(name for name, mean in means.items() if mean < means[PLAIN] - FAR), *record.get("diverged", ())]


if __name__ == "__main__":
    main()
