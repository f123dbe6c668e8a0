"""Writes `docs/results.md` from the records in `docs/records`: no figure in it is typed by hand.

Run `python docs/results.py` after adding a record (`summary.json`, and the `record.json` of every
training; or `methods.json` of `docs/smoke.py`); a test checks that page and records agree.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from mfkd.summary import interval, spread

HERE = Path(__file__).parent
HEAD = """# Results

Everything here was measured by the command above each table; `docs/records` holds the full records (settings, curves,
versions, hardware, commit). Top-1 is that of the last epoch on the whole test set; nothing was chosen by it. ± is the
standard deviation over seeds, the interval that of the paired gain (95%, t). Short budgets flatter distillation.
"""


def page() -> str:
    """The whole page."""
    folders = sorted(path.parent for path in (HERE / "records").glob("*/summary.json"))
    smoke = sorted((HERE / "records").glob("*/methods.json"))
    compared = sorted((HERE / "records").glob("*/comparison.json"))
    return HEAD + "".join([*map(_section, folders), *map(_methods, smoke), *map(_comparison, compared)])


def _section(folder: Path) -> str:
    summary = json.loads((folder / "summary.json").read_text())
    text = (folder / "about.md").read_text()
    return f"\n{text.strip()}\n\n{_table(summary)}\n\n{_gain(summary)}\n{_curves(folder)}{_tuning(folder)}"


def _comparison(file: Path) -> str:
    """What `mfkd bench` or `mfkd compare` wrote, one table a comparison."""
    text = (file.parent / "about.md").read_text().strip()
    found = json.loads(file.read_text())
    single = len(found) > 1 and len({row["method"] for one in found for row in one["rows"]}) == 1
    return f"\n{text}\n" + (_budgets(found) if single else "".join(map(_compared, found)))


def _budgets(found: list[dict[str, Any]]) -> str:
    """One method in several budgets: one table, a row a budget."""
    split = "validation" if found[0]["split"] == "val" else "test"
    lines = [
        f"Top-1 of the {split} images in per cent; {found[0]['protocol']}.",
        "",
        "| budget | n | Top-1 | seeds |",
        "|---" * 4 + "|",
    ]
    for one in found:
        (row,) = one["rows"]
        each = ", ".join(f"{value:.2f}" for value in row["last"]["last"])
        lines.append(f"| {one['title'].split(', ')[-1]} | {row['last']['n']} | {_value(row, 'last')} | {each} |")
    return "\n" + "\n".join(lines) + "\n"


def _compared(found: dict[str, Any]) -> str:
    split = "validation" if found["split"] == "val" else "test"
    teacher = f". Teacher {found['teacher']:.2f}" if found["teacher"] is not None else ""
    titles = {"alone": "over alone", "kd": "over KD", "partner": "over partner"}
    sides = [side for side in titles if any(side in row["differences"] for row in found["rows"])]
    lines = [
        f"Top-1 of the {split} images in per cent; {found['protocol']}{teacher}.",
        "",
        f"| {' | '.join(['method', 'n', 'Top-1', *(titles[side] for side in sides)])} |",
        "|---" * (3 + len(sides)) + "|",
    ]
    for row in found["rows"]:
        name = "student alone" if row["method"] == "none" else f"`{row['method']}`"
        cells = [name, str(row["last"]["n"]), _value(row, "last")]
        lines.append(f"| {' | '.join([*cells, *(_over(row['differences'].get(side)) for side in sides)])} |")
    failed = Counter(note.split(",")[0].removeprefix("Failed: ") for note in found["notes"] if note[:7] == "Failed:")
    notes = [f"Failed: {count} of `{name}`, whose loss was not finite." for name, count in failed.items()]
    return "\n" + "\n".join([*lines, "", *notes]).rstrip() + "\n"


def _over(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return "-"
    span = difference["ci95"]
    return f"{difference['mean']:+.2f}" + (f" ({span[0]:+.2f} to {span[1]:+.2f})" if span else "")


def _table(summary: dict[str, Any]) -> str:
    rows = [
        ("teacher", f"teacher, {summary['models']['teacher']}"),
        ("student_alone", f"{summary['models']['student']} alone"),
        ("student_distilled", f"{summary['models']['student']} distilled"),
    ]
    head = "| network | Top-1 | Top-5 | balanced | ECE | agreement | parameters | MFLOPs | best epoch's Top-1 |"
    lines = [head, "|---" * 9 + "|"]
    for key, name in rows:
        group = summary[key]
        best = ", ".join(f"{value:.2f}" for value in group.get("top1", {}).get("best", [])) or "-"
        cells = [_value(group, metric) for metric in ("top1", "top5", "balanced", "ece", "agreement")]
        parameters, flops = group["parameters"]["mean"], group["flops"]["mean"] / 1e6
        lines.append(f"| {name} | {' | '.join(cells)} | {parameters:,.0f} | {flops:,.1f} | {best} |")
    return "\n".join(lines)


def _value(group: dict[str, Any], metric: str) -> str:
    if metric not in group:
        return "-"
    value = group[metric]
    return f"{value['mean']:.2f}" + (f" ± {value['std']:.2f}" if value["std"] is not None else "")


def _gain(summary: dict[str, Any]) -> str:
    gain, environment, seconds = summary["gain"], summary["environment"], summary["seconds"]
    each = ", ".join(f"{value:+.2f}" for value in gain["last"])
    interval = (
        f", 95% interval {gain['ci95'][0]:+.2f} to {gain['ci95'][1]:+.2f}"
        if gain["ci95"]
        else ", no interval from one seed"
    )
    # An installed package knows no commit; the text above names it then.
    commit = f", commit {environment['commit']}" if environment["commit"] else ""
    return (
        f"Gain by distillation **{gain['mean']:+.2f}** points of Top-1 (n={gain['n']}{interval}; a seed: {each}). "
        f"Training took {seconds['alone']['mean']:,.0f} s alone and {seconds['distilled']['mean']:,.0f} s distilled "
        f"on {environment['threads']} thread{'s' if environment['threads'] > 1 else ''} of {environment['processor']}, "
        f"torch {environment['versions']['torch']}{commit}, settings {summary['config_hash']}."
    )


def _curves(folder: Path) -> str:
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.record.json"))]
    curves = {f"{record['kind']}, seed {record['seed']}": record["curves"] for record in records}
    epochs = sorted({row["epoch"] for rows in curves.values() for row in rows if "test_top1" in row})
    if not curves or len(curves) > 4:
        return ""
    lines = ["", "Test Top-1 by epoch:", "", "| training | " + " | ".join(f"{epoch:g}" for epoch in epochs) + " |"]
    lines.append("|---" * (len(epochs) + 1) + "|")
    for name, rows in curves.items():
        found = {row["epoch"]: row["test_top1"] for row in rows if "test_top1" in row}
        lines.append(f"| {name} | " + " | ".join(f"{found[e]:.2f}" if e in found else "-" for e in epochs) + " |")
    return "\n".join(lines) + "\n"


def _tuning(folder: Path) -> str:
    """What was tried on the validation split before; it was not selected by the test set, and is told all the same."""
    if not (folder / "tuning.json").exists():
        return ""
    lines = ["", "Tried before, Top-1 on the validation split (mean over the seeds; a gain for each of them):", ""]
    lines += ["| epochs | rate | seeds | alone | distilled | gains |", "|---" * 6 + "|"]
    for trial in json.loads((folder / "tuning.json").read_text()):
        alone, distilled = trial["alone_val_top1"], trial["distilled_val_top1"]
        gains = ", ".join(f"{b - a:+.2f}" for a, b in zip(alone, distilled, strict=True))
        seeds = ", ".join(map(str, trial["seeds"]))
        means = " | ".join(f"{sum(values) / len(values):.2f}" for values in (alone, distilled))
        lines.append(f"| {trial['epochs']} | {trial['lr']:g} | {seeds} | {means} | {gains} |")
    return "\n".join(lines) + "\n"


def _methods(path: Path) -> str:
    text = (path.parent / "about.md").read_text()
    return f"\n{text.strip()}\n\n{methods_table(json.loads(path.read_text()))}"


def methods_table(record: dict[str, Any]) -> str:
    """Every row of `docs/smoke.py`: Top-1, and its difference to plain training, paired by seed."""
    plain = next(row for row in record["rows"] if row["name"] == "plain")
    lines = ["| method | weight | Top-1 | difference to plain | 95% interval | seconds | note |", "|---" * 7 + "|"]
    for row in record["rows"]:
        top1 = spread(row["top1"])
        cells = [f"`{row['name']}`", _weights(row), _value({"top1": top1}, "top1")]
        gaps = [own - other for own, other in zip(row["top1"], plain["top1"], strict=True)]
        ends = interval(gaps)
        cells += ["-", "-"] if row is plain else [f"{spread(gaps)['mean']:+.2f}", _ends(ends)]
        cells += [f"{spread(row['seconds'])['mean']:.1f}", row["why"] or "-"]
        lines.append(f"| {' | '.join(cells)} |")
    for name, reason in record.get("diverged", {}).items():
        lines.append(f"| `{name}` | | diverged | | | | {reason} |")
    return "\n".join([*lines, "", _under(record), ""])


def _weights(row: dict[str, Any]) -> str:
    """Of the one method, or of each; and that of the cross-entropy where it is not 1."""
    weights = {name: options["weight"] for name, options in row["method"].items()}
    shown = {name: weight for name, weight in weights.items() if name != "ce" or weight != 1}
    if len(shown) == 1:
        return f"{next(iter(shown.values())):g}"
    return ", ".join(f"{name} {weight:g}" for name, weight in shown.items()) or "-"


def _ends(ends: list[float] | None) -> str:
    return f"{ends[0]:+.2f} to {ends[1]:+.2f}" if ends else "-"


def _under(record: dict[str, Any]) -> str:
    training, environment, teacher = record["training"], record["environment"], record["teacher"]
    commits = sorted({commit for row in record["rows"] for commit in row["commit"]})
    return (
        f"n={len(record['seeds'])} (seeds {', '.join(map(str, record['seeds']))}), {record['student']}, "
        f"{training['epochs']} epochs, batch {training['batch_size']}, rate {training['lr']:g}; one teacher, "
        f"{teacher['model']} with {teacher['top1']:.2f}. Seconds are those of one training with its preparation, on "
        f"{environment['threads']} thread{'s' * (environment['threads'] > 1)} of {environment['processor']}, torch "
        f"{environment['versions']['torch']}, commit {', '.join(commits)}."
    )


if __name__ == "__main__":
    (HERE / "results.md").write_text(page())
