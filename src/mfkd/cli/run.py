"""`mfkd run`: the whole job."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json, Overrides, Recipe

if TYPE_CHECKING:
    from mfkd.plan import Plan

EXAMPLES = examples(
    {
        "mfkd run": "the embedded digits, a minute",
        "mfkd run seeds=[0,1,2] out=runs/three": "three seeds, a folder of their own",
        "mfkd run my.yaml --dry-run": "how long would my recipe take?",
        "mfkd run teacher.weights=big.safetensors": "with a teacher that you have",
        "mfkd run --from runs/digits": "does the same come out once more?",
    }
)
DIFFERENT = 1  # exit code where a repetition gave other weights
METRICS = {
    "top1": "Top-1, %",
    "top5": "Top-5, %",
    "balanced": "balanced accuracy, %",
    "ece": "calibration error, %",
    "agreement": "agrees with teacher, %",
    "parameters": "parameters",
    "flops": "MFLOPs an image",
    "latency_ms": "ms an image",
}


def run(  # noqa: PLR0917 - typer calls it
    recipe: Recipe = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps with an estimate of time and disk; write nothing.")
    ] = False,
    keys: Annotated[bool, typer.Option("--keys", help="List every key of a recipe with default and meaning.")] = False,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the shipped recipes.")] = False,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", help="Repeat a finished run in another folder and tell whether the same comes out."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Do the whole job: teacher, student alone and distilled, table.

    The teacher is loaded, or trained first if the recipe names no weights. All three networks are
    measured on the test images; table, weights and records are in the run folder (key `out`).

    What is already done in the run folder is kept: after Ctrl-C the same command goes on.
    """
    if keys:
        return _keys(as_json)
    if recipes:
        return _recipes(as_json)
    if source is None:
        return _do(recipe, overrides, dry_run, None, as_json)
    from mfkd.models.trust import named_by

    with named_by(source / "config.yaml"):  # it may come from others
        return _do(recipe, overrides, dry_run, source, as_json)


def _do(recipe: str | None, overrides: list[str] | None, dry_run: bool, source: Path | None, as_json: bool) -> None:
    plan = _plan(recipe, overrides, source)
    if dry_run:
        from mfkd.estimate import estimate

        return _estimate(estimate(plan, screen.say), as_json)
    from mfkd.pipeline import run as run_plan

    gc.freeze()  # modules and settings stay; what is collected before each training need not look at them
    summary = run_plan(plan, screen.say)
    if not as_json:
        _summary(summary)
    same = None if source is None else _compared(source, plan)
    if as_json:
        screen.dump(summary if same is None else {**summary, "repeated": same})
    elif same is not None:
        _sameness(source, same)
    screen.files(plan.folder / "summary.json", plan.folder / "student.safetensors", quiet=as_json)
    if same is not None and not same["identical"]:
        raise typer.Exit(DIFFERENT)
    return None


def _plan(recipe: str | None, overrides: list[str] | None, source: Path | None) -> "Plan":
    from mfkd.cli.words import plan_from

    if source is None:
        return plan_from(recipe, overrides)
    from mfkd.plan import open_plan
    from mfkd.repeat import recipe_of

    return open_plan(recipe_of(source, [word for word in (recipe, *(overrides or ())) if word is not None]))


def _compared(source: Path, plan: "Plan") -> dict[str, Any]:
    from mfkd.repeat import compare

    return compare(source, plan.folder, plan.config.seeds)


def _sameness(source: Path | None, value: dict[str, Any]) -> None:
    students = value["students"]
    differing = [f"{one['kind']}, seed {one['seed']}" for one in students if one["first"] != one["second"]]
    if not differing:
        digests = ", ".join(one["second"][:12] for one in students if one["kind"] == "distilled")
        return screen.tell(
            f"Identical to {source}: all weights of all students, to the bit (SHA-256 {digests}).", "bold"
        )
    screen.tell(f"Not identical to {source}: the weights differ of {'; '.join(differing)}.", "bold")
    for name, old, new in value["differences"]:
        screen.tell(f"Other than there: {name} was {old} and is {new}.")
    return None


def _summary(value: dict[str, Any]) -> None:
    models, seeds, gain = value["models"], value["seeds"], value["gain"]
    methods = " + ".join(name for name in value["method"] if name != "ce") or "nothing"
    networks = [value[name] for name in ("teacher", "student_alone", "student_distilled")]
    rows = [["network", models["teacher"], models["student"], models["student"]]]
    for name, label in METRICS.items():
        if any(name in network for network in networks):
            rows.append([label, *(_cell(name, network.get(name)) for network in networks)])
    epochs = f"{value['epochs']} epoch{'s' if value['epochs'] > 1 else ''}"
    screen.table(
        f"{value['data']}: {methods}, {epochs}, "
        + (f"mean ± deviation of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"),
        ["", "teacher", "student alone", "student distilled"],
        rows,
    )
    text = f"Gain by distillation: {gain['mean']:+.2f} points of Top-1"
    if gain["ci95"]:
        text += f", 95% interval {gain['ci95'][0]:+.2f} to {gain['ci95'][1]:+.2f} (paired, n={gain['n']})"
    else:
        text += " (one seed: no interval; give more with seeds=[0,1,2])"
    screen.tell(f"{text}.", "bold")
    for note in value["notes"]:
        screen.tell(f"Note: {note}")
    for warning in value["warnings"]:
        screen.tell(f"Warning: {warning}", "bold")


def _cell(name: str, value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    if name == "parameters":
        return screen.number(value["mean"], 0)
    if name == "flops":
        return screen.number(value["mean"] / 1e6, 1)
    return screen.number(value["mean"]) + (f" ± {value['std']:.2f}" if value["std"] is not None else "")


def _keys(as_json: bool) -> None:
    from mfkd.config import describe_keys

    rows = describe_keys()
    if as_json:
        return screen.dump([{"key": key, "default": default, "meaning": meaning} for key, default, meaning in rows])
    cells: list[tuple[str, str, str] | None] = []
    for row in rows:
        if cells and cells[-1] and cells[-1][0].split(".")[0] != row[0].split(".")[0]:
            cells.append(None)
        cells.append(row)
    screen.table("Keys of a recipe", ["key", "default", "meaning"], cells, left=3)
    return screen.tell("Options of the methods (mfkd methods NAME) are written method='{NAME: {OPTION: VALUE}}'.")


def _recipes(as_json: bool) -> None:
    from mfkd.config import recipe_names, recipe_path

    rows = []
    for name in recipe_names():
        first, *_ = recipe_path(name).read_text(encoding="utf-8").splitlines()
        rows.append({"recipe": name, "meaning": first.lstrip("# ") if first.startswith("#") else ""})
    if as_json:
        screen.dump(rows)
    else:
        screen.table("Recipes", ["recipe", "what it does"], [list(row.values()) for row in rows], left=2)
    screen.files(recipe_path(recipe_names()[0]).parent, quiet=as_json)


def _estimate(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return screen.dump(value)
    rows: list[list[str] | None] = [
        [
            step["step"],
            step["folder"],
            screen.duration(step["seconds"]) if step["seconds"] else "done",
            screen.number(step["megabytes"], 1),
        ]
        for step in value["steps"]
    ]
    total = ["all", "", screen.duration(value["seconds"]), screen.number(value["megabytes"], 1)]
    screen.table(
        "What is to be done, estimated from a few measured updates",
        ["step", "folder", "time", "MB on disk"],
        [*rows, None, total],
        left=2,
    )
    return screen.tell("Nothing was written.")
