"""What can be said of methods on one another: differences paired by seed, their intervals, ranks and costs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mfkd.bench import stats
from mfkd.bench.collect import ALONE, Entry, Sheet, collect
from mfkd.bench.published import Quote, quoted
from mfkd.methods import known_methods
from mfkd.records import RunRecord
from mfkd.sections import split_name
from mfkd.summary import gap_closed, spread

SIDES = ("alone", "kd", "partner")
"""What every method is compared with: the student alone, KD, and its own logit partner alone."""


@dataclass(frozen=True)
class Difference:
    """A method minus another one, in points of Top-1 of the last epoch, seed by seed.

    Args:
        to: the other method.
        mean: over the seeds that both have.
        n: how many these are.
        each: by seed.
        ci95: t interval; None for fewer than two seeds, or differences that are all the same.
        p: two-sided, t; None as above.
        p_holm: the same corrected for the family; None outside of it.
        p_permutation: exact sign flips, from n=6 on.
    """

    to: str
    mean: float
    n: int
    each: dict[int, float]
    ci95: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    p_permutation: float | None = None


@dataclass(frozen=True)
class Row:
    """One method.

    Args:
        method: its name.
        settings: all methods in it with all options; empty for the student alone.
        seeds: of its students.
        last: Top-1 of the last epoch: mean, std (None for one seed), n, and by seed.
        best: the same of the best evaluated epoch, which is chosen by what it is measured on.
        differences: by `SIDES`, as far as there are such methods and common seeds.
        rank: 1 + the number of methods that are better by an interval above 0; None without any interval.
        gap_closed: share of the way from the student alone to the teacher; None where it is not known.
        cost: seconds a student (with preparation), shared_seconds once for all seeds, images_per_second,
            times_alone (seconds relative to the student alone), megabytes (peak memory, where recorded).
        quote: what others published for this method and pair.
    """

    method: str
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    last: dict[str, Any]
    best: dict[str, Any]
    differences: dict[str, Difference] = field(default_factory=dict)
    rank: int | None = None
    gap_closed: float | None = None
    cost: dict[str, float | None] = field(default_factory=dict)
    quote: Quote | None = None


@dataclass(frozen=True)
class Comparison:
    """Methods compared on one pair at one budget; `rows` from the best mean down.

    Args:
        title: pair and budget where there are several.
        models: of teacher and student.
        data: name of the data set.
        split: "test" or "val", what all figures are of.
        protocol: how the students were trained, in short.
        teacher: its Top-1; None where it is not known.
        family: methods that were corrected together.
        notes: what a reader must know.
    """

    title: str
    models: dict[str, str]
    data: str
    split: str
    protocol: str
    teacher: float | None
    family: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def compare(paths: Sequence[Path], allow: Sequence[str] = ()) -> list[Comparison]:
    """Compare all students below some paths.

    Args:
        paths: run folders, benches, record files or folders of these.
        allow: dotted settings that may differ.

    Raises:
        MfkdError: nothing to compare, or unlike things; see `collect`.
    """
    return [compare_sheet(sheet) for sheet in collect(paths, allow)]


def compare_sheet(sheet: Sheet) -> Comparison:
    """Compare the students of one sheet, which are alike."""
    groups: dict[str, dict[int, Entry]] = {}
    for entry in sheet.entries:
        groups.setdefault(entry.name, {})[entry.record.seed] = entry
    top1 = {name: {seed: each.record.metrics["top1"] for seed, each in found.items()} for name, found in groups.items()}
    settings = {name: next(iter(found.values())).method for name, found in groups.items()}
    kd = _kd(sheet.kd, settings)
    rows = []
    first = sheet.entries[0].record
    teacher_name = _teacher_name(sheet.entries)
    quotes = quoted(first.config["data"]["name"], teacher_name, first.config["student"]["model"])
    places = stats.ranks(top1)
    for name, found in groups.items():
        others = {"alone": ALONE, "kd": kd, "partner": partner(name, settings)}
        pairs = {side: other for side, other in others.items() if other in groups and other != name}
        compared = {side: difference(top1[name], top1[other], other) for side, other in pairs.items() if other}
        records = [each.record for each in found.values()]
        rows.append(
            Row(
                method=name,
                settings=settings[name],
                seeds=tuple(found),
                last=spread(list(top1[name].values())),
                best=spread([record.best["test_top1"] for record in records]),
                differences={side: value for side, value in compared.items() if value is not None},
                rank=places[name],
                gap_closed=_gap(top1[name], top1.get(ALONE, {}), sheet.teacher) if name != ALONE else None,
                cost=_cost(records, [each.record for each in groups.get(ALONE, {}).values()]),
                quote=quotes.get(name),
            )
        )
    family = tuple(name for name in sheet.family or groups if name in groups and name != ALONE)
    rows = _corrected(rows, family)
    return Comparison(
        title=sheet.title,
        models={"teacher": teacher_name, "student": first.config["student"]["model"]},
        data=first.config["data"]["name"],
        split=first.config["data"].get("evaluate", "test"),
        protocol=told_protocol(first),
        teacher=sheet.teacher,
        family=family,
        rows=tuple(sorted(rows, key=lambda row: -row.last["mean"])),
        notes=tuple(_notes(sheet, rows)),
    )


def difference(mine: Mapping[int, float], theirs: Mapping[int, float], to: str) -> Difference | None:
    """A method minus another, over the seeds that both have; None where there is none."""
    each = {seed: mine[seed] - theirs[seed] for seed in mine if seed in theirs}
    values = list(each.values())
    if not values:
        return None
    found = Difference(to, sum(values) / len(values), len(values), each)
    if len(values) < 2:
        return found
    (low, high), p = stats.t_interval(values), float(stats.t_test(values))
    known = not math.isnan(p)
    return replace(
        found,
        ci95=(float(low), float(high)) if known else None,
        p=p if known else None,
        p_permutation=stats.sign_flips(values) if len(values) >= stats.PERMUTED_FROM else None,
    )


def partner(name: str, settings: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The method that is left when the methods on feature maps are taken away, where it was trained too."""
    known = known_methods()
    parts = {part: options for part, options in settings[name].items() if part == "ce" or _on_logits(known, part)}
    if len(parts) == len(settings[name]) or not parts.keys() - {"ce"}:
        return None
    return next((other for other, found in settings.items() if found == parts), None)


def told_protocol(record: RunRecord) -> str:
    """How a student was trained, in a line."""
    training, data = record.training, record.config["data"]
    share = f"{100 * data['fraction']:g}% of the training images" if data["fraction"] < 1 else "all training images"
    held = f" but {100 * data['val_fraction']:g}% held out" if data["val_fraction"] else ""
    split = split_name(data.get("evaluate"))
    return (
        f"{training['epochs']} epochs, batch {training['batch_size']}, {share}{held}, {training['schedule']} at rate "
        f"{training['lr']:g}, {training['precision']}, last epoch on the {split} images"
    )


def _on_logits(known: Mapping[str, Any], name: str) -> bool:
    """Methods on logits, and those without a teacher, tell so before they are built; the others look at maps."""
    return name in known and (known[name].needs.logits or not known[name].needs_teacher)


def _kd(name: str, settings: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The method that stands for KD: the one of that name, else the first that is nothing but KD."""
    if name in settings:
        return name
    return next((other for other, found in settings.items() if found.keys() - {"ce"} == {"kd"}), None)


def _teacher_name(entries: Sequence[Entry]) -> str:
    config = next((entry.record for entry in entries if entry.name != ALONE), entries[0].record).config
    return " + ".join(teacher["model"] for teacher in (config["teacher"], *config.get("teachers", ())))


def _gap(mine: Mapping[int, float], alone: Mapping[int, float], teacher: float | None) -> float | None:
    seeds = [seed for seed in mine if seed in alone]
    if teacher is None or not seeds:
        return None
    return gap_closed([alone[seed] for seed in seeds], [mine[seed] for seed in seeds], teacher)


def _cost(records: Sequence[RunRecord], alone: Sequence[RunRecord]) -> dict[str, float | None]:
    def mean(of: Callable[[RunRecord], float | None], over: Sequence[RunRecord] = records) -> float | None:
        values = [value for value in map(of, over) if value is not None]
        return sum(values) / len(values) if values else None

    seconds, base = mean(lambda record: record.own_seconds), mean(lambda record: record.own_seconds, alone)
    return {
        "seconds": seconds,
        "shared_seconds": max(sum(record.shared_seconds.values()) for record in records),
        "times_alone": seconds / base if seconds and base else None,
        "images_per_second": mean(lambda record: record.images_per_second),
        "megabytes": mean(lambda record: record.peak_mb or None),
    }


def _corrected(rows: Sequence[Row], family: Sequence[str]) -> list[Row]:
    """Holm's correction, for each side on its own."""
    found = {row.method: row for row in rows}
    for side in SIDES:
        tested = [
            (name, one.p)
            for name in family
            if (one := found[name].differences.get(side)) is not None and one.p is not None
        ]
        if not tested:
            continue
        for (name, _), p in zip(tested, stats.holm([p for _, p in tested]), strict=True):
            row = found[name]
            changed = replace(row.differences[side], p_holm=float(p))
            found[name] = replace(row, differences={**row.differences, side: changed})
    return list(found.values())


def _notes(sheet: Sheet, rows: Sequence[Row]) -> list[str]:
    records = [entry.record for entry in sheet.entries]
    notes = []
    if any(record.config["data"].get("evaluate") == "val" for record in records):
        notes.append("All figures are of the validation images; the test images were not looked at.")
    notes += [f"Compared although unlike: {told}." for told in sheet.unlike]
    if len({row.seeds for row in rows}) > 1:
        notes.append("Methods have different seeds; every difference is over the seeds that both have.")
    if all(row.last["n"] < 2 for row in rows):
        notes.append("One seed each: no interval and no rank can be given.")
    for key, word in (("processor", "processors"), ("device", "devices"), ("threads", "numbers of threads")):
        found = sorted({str(record.environment.get(key)) for record in records})
        if len(found) > 1:
            notes.append(f"Times are from different {word} ({', '.join(found)}) and do not compare.")
    if any(record.environment.get("device") == "cpu" and record.shared_seconds.get("cache") for record in records):
        notes.append(
            "MB are of the whole process, with what it has read of the knowledge cache: pages that all trainings share "
            "and the system takes back when it wants."
        )
    commits = sorted({str(record.environment.get("commit")) for record in records})
    if len(commits) > 1:
        notes.append(f"Trained by different versions of the code (commits {', '.join(commits)}).")
    for error, students in sheet.missing.items():
        if error:
            told = f"Failed: {'; '.join(f'{name}, seed {seed}' for name, seed in students)}: {error}"
        else:
            told = f"Not done yet: {len(students)} of {', '.join(dict.fromkeys(name for name, _ in students))}"
        notes.append(f"{told.rstrip('.')}.")
    return notes
