"""Sections of a run that its records alone tell."""

import json
from collections.abc import Mapping
from typing import Any

from mfkd.plan import Kind
from mfkd.records import RunRecord
from mfkd.report.figures import curves, points
from mfkd.report.figures.canvas import NAMES, STYLES
from mfkd.report.folder import RunFolder
from mfkd.report.parts import Block, Picture, Section, Table, Text
from mfkd.report.words import duration, spread

MEASURED = {  # label, unit, digits
    "top1": ("Top-1", "%", 2),
    "top5": ("Top-5", "%", 2),
    "balanced": ("Balanced accuracy", "%", 2),
    "ece": ("Calibration error (ECE)", "%", 2),
    "agreement": ("Agrees with the teacher", "%", 2),
    "parameters": ("Parameters", "", 0),
    "flops": ("FLOPs an image", "", 0),
    "latency_ms": ("One image on its own", "ms", 2),
}
KINDS: tuple[Kind, Kind] = ("alone", "distilled")


def gain_figure(run: RunFolder) -> list[Picture]:
    """The figure of the first screen; none without pairs."""
    seeds = sorted(run.paired)
    if not seeds:
        return []
    before, after = ([found[seed].metrics["top1"] for seed in seeds] for found in (run.alone, run.distilled))
    return [points.gain_of_seeds(before, after, seeds, run.teacher.get("top1"))]


def cost_section(run: RunFolder) -> Section:
    """Accuracy against cost, with all metrics as a table."""
    blocks: list[Block] = []
    for name, title, unit in (
        ("parameters", "Top-1 by parameters", "parameters"),
        ("latency_ms", "Top-1 by the time of one image", "ms an image"),
    ):
        if spots := _spots(run, name):
            blocks.append(points.against(f"cost-{name.partition('_')[0]}", title, unit, spots))
    spots = [
        points.Spot(NAMES[kind], STYLES[kind], seconds["mean"], top1["mean"], top1["std"] or 0.0)
        for kind in KINDS
        if (seconds := run.seconds(kind)) and (top1 := run.metric(kind, "top1"))
    ]
    if spots:
        caption = "With the preparation that each student needs of its own. Lines are one standard deviation."
        blocks.append(
            points.against("cost-training", "Top-1 by the time of training", "s of training", spots, caption=caption)
        )
    return Section("cost", "Accuracy against cost", [*blocks, _metrics(run)])


def curves_section(run: RunFolder) -> Section | None:
    """Learning curves; None where no record has any."""
    kinds: dict[str, list[RunRecord]] = {"teacher": [run.taught]} if run.taught else {}
    kinds |= {kind: list(run.students[kind].values()) for kind in KINDS if run.students[kind]}
    found = [curves.learning(kinds), curves.losses(list(run.distilled.values()))]
    pictures = [picture for picture in found if picture is not None]
    if not pictures:
        return None
    rows = [
        [NAMES[kind], str(seed), f"{record.last['test_top1']:.2f}", f"{record.best['test_top1']:.2f}",
         f"{record.best['epoch']:.0f} of {record.training['epochs']}"]
        for kind in KINDS for seed, record in run.students[kind].items()
        if {"test_top1"} <= record.last.keys() and {"test_top1", "epoch"} <= record.best.keys()
    ]  # fmt: skip
    table = Table(
        "Top-1 of the last and of the best epoch, %. The last one counts; the best one is chosen by the images "
        "it is measured on, and only told.",
        ("student", "seed", "last epoch", "best epoch", "which"),
        rows,
    )
    return Section("curves", "Learning curves", [*pictures, table])


def settings_section(run: RunFolder) -> Section:
    """Hyperparameters, environment, commit and notes."""
    record = run.first
    notes = sorted({note for found in run.students.values() for one in found.values() for note in one.notes})
    environment = record.environment
    about = [[name, str(value)] for name, value in environment.items() if name != "versions"]
    about += [["recipe (hash)", record.config_hash], ["processes", str(record.processes)]]
    blocks: list[Block] = [
        Table("Options of the method", ("option", "value"), flat(record.method), left=2),
        Table("Where it ran", ("what", "value"), about, left=2),
        Table("Versions", ("package", "version"), flat(environment.get("versions", {})), left=2, folded=True),
        Table("The whole recipe", ("key", "value"), flat(record.config), left=2, folded=True),
    ]
    if not record.method:
        blocks.pop(0)
    blocks += [Text(f"Note: {note}") for note in notes]
    return Section("settings", "Settings and environment", blocks)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """Nested values as rows of dotted key and value."""
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append([f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)])
    return rows


def _spots(run: RunFolder, name: str) -> list[points.Spot]:
    spots = []
    if name in run.teacher and "top1" in run.teacher:
        spots.append(points.Spot(NAMES["teacher"], STYLES["teacher"], run.teacher[name], run.teacher["top1"]))
    for kind in KINDS:
        cost, top1 = run.metric(kind, name), run.metric(kind, "top1")
        if cost and top1:
            spots.append(points.Spot(NAMES[kind], STYLES[kind], cost["mean"], top1["mean"], top1["std"] or 0.0))
    return spots


def _metrics(run: RunFolder) -> Table:
    columns = ["metric", *(["teacher"] if run.teacher else []), *(NAMES[kind] for kind in KINDS if run.students[kind])]
    rows = []
    for name, (label, unit, digits) in MEASURED.items():
        cells = [f"{run.teacher[name]:,.{digits}f}" if name in run.teacher else "-"] if run.teacher else []
        for kind in KINDS:
            if run.students[kind]:
                value = run.metric(kind, name)
                cells.append(spread(value, digits) if value and digits else f"{value['mean']:,.0f}" if value else "-")
        if any(cell != "-" for cell in cells):
            rows.append([f"{label}, {unit}" if unit else label, *cells])
    seconds = [run.seconds(kind) for kind in KINDS if run.students[kind]]
    taught = [duration(run.taught.seconds) if run.taught else "-"] if run.teacher else []
    rows.append(["Training", *taught, *(duration(value["mean"]) if value else "-" for value in seconds)])
    return Table("All that was measured, on the last epoch: mean ± standard deviation over seeds", columns, rows)
