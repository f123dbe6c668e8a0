"""Tables on the terminal, and JSON for machines."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mfkd.cli.words import number

if TYPE_CHECKING:
    from mfkd.records import RunRecord

out = Console()
notes = Console(stderr=True, soft_wrap=True)


def say(text: str) -> None:
    """One line of progress, on stderr, from the first process alone."""
    from mfkd.train.runtime import processes

    if processes()[0] == 0:
        notes.print(text, highlight=False, markup=False)


def dump(value: Any) -> None:
    """Print JSON."""
    print(json.dumps(value, indent=1))  # noqa: T201 - rich would wrap it


def table(title: str, columns: list[str], rows: list[list[str]], left: int = 1) -> None:
    """Print a table; the first `left` columns are text, the others figures."""
    shown = Table(title=title, title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        shown.add_column(column, justify="left" if position < left else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    out.print(shown)


def summary(value: dict[str, Any], folder: Path, as_json: bool) -> None:
    """The three networks side by side, and the gain."""
    if not _first():
        return
    if as_json:
        dump(value)
        return
    rows = []
    for key, name in (
        ("teacher", f"teacher ({value['models']['teacher']})"),
        ("student_alone", f"student alone ({value['models']['student']})"),
        ("student_distilled", "student distilled"),
    ):
        group = value[key]
        rows.append(
            [
                name,
                _spread(group["top1"]),
                *(_mean(group, metric) for metric in ("top5", "balanced", "ece", "agreement")),
                number(group["parameters"]["mean"], 0),
                number(group["flops"]["mean"] / 1e6, 1),
                number(group["latency_ms"]["mean"]),
            ]
        )
    seeds, gain = value["seeds"], value["gain"]
    table(
        f"{value['data']}, {value['epochs']} epochs, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}, last epoch",
        ["network", "Top-1 %", "Top-5 %", "balanced %", "ECE %", "agreement %", "parameters", "MFLOPs", "ms/image"],
        rows,
    )
    interval = f", 95% interval {gain['ci95'][0]:+.2f} to {gain['ci95'][1]:+.2f}" if gain["ci95"] else ""
    out.print(
        f"Gain by distillation: [bold]{gain['mean']:+.2f}[/] points of Top-1 (paired, n={gain['n']}{interval}).",
        highlight=False,
    )
    for note in value["notes"]:
        out.print(f"Note: {note}", highlight=False, markup=False, soft_wrap=True)
    out.print(f"Files: {folder}/summary.json, {folder}/student.safetensors", highlight=False, soft_wrap=True)


def record(value: "RunRecord", folder: Path) -> None:
    """One finished training in a line."""
    if _first():
        figures = value.metrics
        out.print(
            f"{value.kind}, seed {value.seed}: Top-1 [bold]{figures['top1']:.2f}%[/], Top-5 {figures['top5']:.2f}% "
            f"on {figures['n']:,.0f} test images after {value.training['epochs']} epochs "
            f"({value.images_per_second:,.0f} images/s).",
            highlight=False,
            soft_wrap=True,
        )
        for note in value.notes:
            out.print(f"Note: {note}", highlight=False, markup=False, soft_wrap=True)
        out.print(f"Files: {folder}/student.safetensors, record.json, log.csv", highlight=False, soft_wrap=True)


def metrics(value: dict[str, Any], model: str, as_json: bool) -> None:
    """All figures of one network."""
    if as_json:
        dump(value)
        return
    names = {
        "top1": ("Top-1", "%"),
        "top5": ("Top-5", "%"),
        "balanced": ("balanced accuracy", "%"),
        "ece": ("expected calibration error", "%"),
        "loss": ("cross-entropy", "nats"),
        "n": ("images", ""),
        "parameters": ("parameters", ""),
        "flops": ("FLOPs an image", ""),
        "latency_ms": ("latency at batch 1", "ms"),
    }
    rows = [
        [label, number(value[key], 0 if key in ("n", "parameters", "flops") else 2), unit]
        for key, (label, unit) in names.items()
        if key in value
    ]
    table(f"{model} ({value['model']}) on {value['data']}, {value['split']}", ["metric", "value", "unit"], rows)


def predictions(value: list[dict[str, Any]], as_json: bool) -> None:
    """Classes of single images."""
    if as_json:
        dump(value)
        return
    for found in value:
        names = ", ".join(f"{name} {100 * share:.1f}%" for name, share in found["top"])
        out.print(f"{found['image']}: {names}", highlight=False, markup=False, soft_wrap=True)


def models(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Networks of our own."""
    if as_json:
        dump(rows)
        return
    table(
        "Networks (parameters at 100 classes, 3 channels)",
        ["model", "tap points", "parameters"],
        [[row["model"], " ".join(row["taps"]), number(row["parameters"], 0)] for row in rows],
        left=2,
    )
    out.print(
        "Besides: timm/NAME and torchvision/NAME, with options such as student.options.pretrained=true.",
        highlight=False,
    )


def methods(name: str | None, as_json: bool) -> None:
    """All methods, or the options of one."""
    from mfkd.methods import METHODS, PRESETS
    from mfkd.methods.describe import options, overview

    if name is None:
        rows = overview()
        if as_json:
            dump(rows)
            return
        table(
            "Methods", ["method", "what the student learns", "paper"],
            [[row["method"], row["idea"], row["paper"]] for row in rows], left=3,
        )  # fmt: skip
        out.print(f"Presets: {', '.join(PRESETS)}. `mfkd methods NAME` lists the options of one.", highlight=False)
        return
    if name not in METHODS:
        from mfkd.errors import UnknownNameError

        raise UnknownNameError("method", name, METHODS)
    rows = options(name)
    if as_json:
        dump(rows)
        return
    table(
        f"Options of {name}", ["option", "default", "meaning"],
        [[row["option"], str(row["default"]), row["meaning"]] for row in rows], left=3,
    )  # fmt: skip


def taps(rows: list[Any], model: str, as_json: bool) -> None:
    """Tap points of one network."""
    found = [
        {"tap": row.name, "path": row.path, "side": row.side, "shape": list(row.shape), "reason": row.reason}
        for row in rows
    ]
    if as_json:
        dump(found)
        return
    table(
        f"Tap points of {model}", ["tap", "module", "read at", "shape", "why"],
        [[row["tap"], row["path"], row["side"], " x ".join(map(str, row["shape"])), row["reason"]] for row in found], left=5,
    )  # fmt: skip


def keys() -> None:
    """Every key of a recipe."""
    from mfkd.config import describe_keys

    table("Keys of a recipe", ["key", "default", "meaning"], [[k, d, m] for k, d, m in describe_keys()], left=3)


def recipes() -> None:
    """The shipped recipes with their first comment line."""
    from mfkd.config import recipe_names, recipe_path

    rows = []
    for name in recipe_names():
        first = recipe_path(name).read_text(encoding="utf-8").splitlines()[0]
        rows.append([name, first.lstrip("# ")])
    table("Recipes", ["recipe", "what it does"], rows, left=2)


def estimate(value: dict[str, Any], as_json: bool) -> None:
    """What a run would do, and what it would take."""
    if as_json:
        dump(value)
        return
    rows = [
        [step["step"], step["folder"], _duration(step["seconds"]), number(step["megabytes"], 1)]
        for step in value["steps"]
    ]
    rows.append(["all", "", _duration(value["seconds"]), number(value["megabytes"], 1)])
    table(
        "Nothing was run. Estimate from a few measured updates of each step:",
        ["step", "folder", "time", "MB on disk"],
        rows,
        left=2,
    )


def _duration(seconds: float) -> str:
    if seconds == 0:
        return "done"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _spread(value: dict[str, Any]) -> str:
    return number(value["mean"]) + (f" ± {value['std']:.2f}" if value["std"] is not None else "")


def _mean(group: dict[str, Any], metric: str) -> str:
    return number(group[metric]["mean"]) if metric in group else "-"


def _first() -> bool:
    from mfkd.train.runtime import processes

    return processes()[0] == 0
