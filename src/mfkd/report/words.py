"""The first screen of a run: what was asked, what was gained, and what to be careful with, in sentences."""

from typing import Any

from mfkd.bench.collect import label
from mfkd.bench.compare import told_protocol
from mfkd.methods import complete
from mfkd.plan import Kind
from mfkd.report.figures.canvas import NAMES
from mfkd.report.folder import RunFolder
from mfkd.report.parts import Tile


def asked(run: RunFolder) -> list[str]:
    """Teacher, student, method, data, budget and seeds."""
    teacher, student = run.models
    seeds = sorted({*run.alone, *run.distilled})
    data = run.data
    if run.distilled:
        how = label(complete(run.first.method))  # options that came later have their defaults
        if "(" not in how:  # else it tells its options itself
            parts = [f"{name} {options['weight']:g}{_fading(options)}" for name, options in run.first.method.items()]
            how += f" (weights: {', '.join(parts)})"
        first = f"{student} learns {data} from {teacher} by the method {how}."
    else:
        first = f"{student} was trained on {data} without a teacher."
    return [first, f"{told_protocol(run.first)}; {plural(len(seeds), 'seed')}: {', '.join(map(str, seeds))}."]


def _fading(options: dict[str, Any]) -> str:
    fade = options.get("fade")  # older runs do not tell, and had none
    return "" if fade is None else f" fading out over {100 * fade:g}% of the run"


def gained(run: RunFolder) -> list[str]:
    """Top-1 of all three, the gain, the gap and the cost."""
    alone, distilled = run.metric("alone", "top1"), run.metric("distilled", "top1")
    said = []
    if alone and distilled and (gain := run.gain):
        change = "raised" if gain["mean"] > 0 else "lowered" if gain["mean"] < 0 else "did not change"
        amount = f" by {abs(gain['mean']):.2f} points, from {spread(alone)} to {spread(distilled)}%"
        sure = f"95% interval of the gain {signed(gain['ci95'])}, paired by seed, " if gain["ci95"] else ""
        said.append(f"Distillation {change} the student's Top-1{amount if gain['mean'] else ''} ({sure}n={gain['n']}).")
    else:
        said += [
            f"{NAMES[kind].capitalize()}: Top-1 {spread(value)}% (n={value['n']})."
            for kind, value in (("alone", alone), ("distilled", distilled))
            if value
        ]
    if "top1" in run.teacher:
        share = run.gap_closed
        closed = f", of whose lead {100 * share:.0f}% is closed" if share is not None else ""
        said.append(f"The teacher has {run.teacher['top1']:.2f}%{closed}.")
    return [*said, *_cost(run)]


def warnings(run: RunFolder) -> list[str]:
    """What speaks against a rash conclusion."""
    gain, alone = run.gain, run.metric("alone", "top1")
    said = []
    if gain is not None and gain["ci95"] is None:
        said.append("One seed says little: the gain has no interval. Add seeds, three or more.")
    elif gain is not None and gain["ci95"][0] <= 0 <= gain["ci95"][1]:
        said.append(
            f"The interval of the gain ({signed(gain['ci95'])}) contains zero: with {gain['n']} seeds this run cannot "
            "tell the gain from chance. More seeds would narrow it."
        )
    elif gain is not None and gain["mean"] < 0:
        said.append("Distillation has harmed here: the whole interval of the gain is below zero.")
    if alone and run.teacher.get("top1", 100.0) <= alone["mean"]:
        said.append("The teacher is not better than the student alone, so there is little to be learnt from it.")
    if run.config.data.evaluate == "val":
        said.append("All figures are of the validation images; the test images were not looked at.")
    if run.distilled and not run.alone:
        said.append(
            "The student was not trained alone here (mfkd distill), so no gain can be told; mfkd run does both."
        )
    if missing := [seed for seed in run.config.seeds if run.distilled and run.alone and seed not in run.paired]:
        said.append(f"Not finished yet: seed {', '.join(map(str, missing))}.")
    return said


def tiles(run: RunFolder) -> list[Tile]:
    """The figures that matter most."""
    teacher, student = run.models
    found = []
    if "top1" in run.teacher:
        found.append(Tile("Teacher", f"{run.teacher['top1']:.2f}%", teacher))
    for kind in ("alone", "distilled"):
        value = run.metric(kind, "top1")
        if value:
            deviation = f"± {value['std']:.2f}, " if value["std"] is not None else ""
            more = f"{deviation}n={value['n']}, {student}"
            found.append(Tile(NAMES[kind].capitalize(), f"{value['mean']:.2f}%", more, accent=kind == "distilled"))
    if gain := run.gain:
        interval = f"95% interval {signed(gain['ci95'])}" if gain["ci95"] else "one seed, no interval"
        found.append(Tile("Gain", f"{gain['mean']:+.2f} points", interval, accent=True))
    return found


def spread(value: dict[str, Any], digits: int = 2) -> str:
    """Mean ± deviation."""
    deviation = f" ± {value['std']:,.{digits}f}" if value["std"] is not None else ""
    return f"{value['mean']:,.{digits}f}{deviation}"


def signed(ends: Any) -> str:
    """An interval."""
    return f"{ends[0]:+.2f} to {ends[1]:+.2f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _cost(run: RunFolder) -> list[str]:
    said = []
    own, other = run.seconds("distilled"), run.seconds("alone")
    if own and other and other["mean"] > 0:
        times = own["mean"] / other["mean"]
        shared = max(sum(record.shared_seconds.values()) for record in run.distilled.values())
        once = f", and {duration(shared)} once for all seeds" if shared else ""
        said.append(
            f"Training took {duration(own['mean'])} a student instead of {duration(other['mean'])} "
            f"({times:.2f} times as long){once}."
        )
    kind: Kind = "distilled" if run.distilled else "alone"
    student, teacher = run.metric(kind, "parameters"), run.teacher.get("parameters")
    if student and teacher:
        before = run.metric("alone", "parameters")
        same = "In use it costs what it does alone: " if before and before["mean"] == student["mean"] else ""
        fewer = f", {teacher / student['mean']:.1f} times fewer than the teacher" if teacher > student["mean"] else ""
        said.append(f"{same or 'The student has '}{student['mean']:,.0f} parameters{fewer}.")
    return said


def plural(count: int, word: str) -> str:
    """A number of things."""
    return f"{count} {word}{'' if count == 1 else 's'}"
