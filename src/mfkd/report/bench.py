"""The page of a bench: the comparison of `mfkd compare`, with figures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mfkd.bench.collect import ALONE, Sheet, collect
from mfkd.bench.compare import Comparison, Row, compare_sheet
from mfkd.bench.run import read_bench
from mfkd.bench.tables import remarks, tables
from mfkd.errors import MfkdError
from mfkd.records import RunRecord
from mfkd.report.figures import curves, points
from mfkd.report.figures.canvas import STYLES, axes, draw
from mfkd.report.parts import Block, Page, Picture, Section, Table, Text, Tile
from mfkd.report.told import flat
from mfkd.report.words import plural, signed

SHOWN = 10
"""Methods in the figure of the first screen."""
CURVES = 5
"""Methods whose learning curves are drawn, besides the student alone."""


def bench_page(path: Path) -> Page:
    """Everything that a bench says.

    Args:
        path: its folder.

    Raises:
        MfkdError: nothing is finished there, or a damaged record.
    """
    bench = read_bench(path)
    sheets = collect([path])
    comparisons = [compare_sheet(sheet) for sheet in sheets]
    record = sheets[0].entries[0].record
    states = [cell["state"] for cell in bench["cells"]]
    students = [cell["state"] for cell in bench["cells"] if cell["kind"] != "teacher"]  # it may have been loaded
    sections = []
    for number, (sheet, comparison) in enumerate(zip(sheets, comparisons, strict=True), 1):
        sections += _sections(sheet, comparison, "" if len(sheets) == 1 else f"-{number}")
    failed = _failed(bench)
    if failed is not None:
        sections.append(failed)
    sections.append(_settings(record))
    first, lead = comparisons[0], _leader(comparisons[0])
    methods = {row.method for one in comparisons for row in one.rows}
    return Page(
        title=f"{first.models['teacher']} teaches {first.models['student']} on {first.data}"
        if len(comparisons) == 1
        else f"{len(comparisons)} comparisons on {first.data}",
        kicker="Comparison of methods",
        asked=[
            f"{plural(len(methods), 'method')}{', the student alone among them' if ALONE in methods else ''}; "
            f"{students.count('done')} of {len(students)} students trained.",
            f"{first.protocol}.",
        ],
        gained=[sentence for one in comparisons for sentence in conclusions(one)],
        tiles=_tiles(first, lead) if len(comparisons) == 1 else [],
        warnings=[
            f"{states.count('failed')} trainings have failed; they are listed below, and the methods compared without "
            "them."
        ]
        if "failed" in states
        else [],
        first=[picture for picture in (_forest(first, "-first", SHOWN),) if picture is not None]
        if len(comparisons) == 1
        else [],
        sections=sections,
        foot=_foot(record),
    )


def conclusions(comparison: Comparison) -> list[str]:
    """What may be said of the methods, in sentences."""
    title = f"{comparison.title}: " if comparison.title else ""
    alone = next((row for row in comparison.rows if row.method == ALONE), None)
    methods = [row for row in comparison.rows if row.method != ALONE]
    ranked = [row for row in methods if row.rank is not None]
    lead = _leader(comparison)
    if lead is None:
        return [f"{title}No method is finished yet beside the student alone."]
    change = lead.differences.get("alone")
    over = ""
    if change is not None:
        interval = f", 95% interval {signed(change.ci95)}" if change.ci95 else ""
        over = f", {change.mean:+.2f} points over the student alone ({plural(change.n, 'seed')}{interval})"
    said = [f"{title}{lead.method} has the {_highest(comparison)}, {lead.last['mean']:.2f}% Top-1{over}."]
    ties = [row.method for row in ranked if row.rank == lead.rank and row.method != lead.method]
    if lead.rank is None:
        said.append("With one seed each no method can be told from another.")
    elif ties:
        said.append(f"It cannot be told apart from {_listed(ties)} with these seeds.")
    if ranked and len(ranked) < len(methods):
        rest = [f"{row.method} ({row.last['mean']:.2f}%)" for row in methods if row.rank is None]
        said.append(f"Too few seeds to be ranked: {_listed(rest)}.")
    if alone is not None and ranked:
        sure = [row for row in ranked if (found := row.differences.get("alone")) and found.ci95 and found.ci95[0] > 0]
        held = [row for row in sure if (row.differences["alone"].p_holm or 1.0) < 0.05]
        said.append(
            f"{len(sure)} of {len(methods)} methods are better than the student alone by an interval above zero, "
            f"{len(held) or 'none'} of them also after correction for the family of {len(comparison.family)} methods."
        )
    return said


def _sections(sheet: Sheet, comparison: Comparison, number: str) -> list[Section]:
    title = f"{comparison.title}: " if comparison.title else ""
    shown = tables(comparison)
    ranking: list[Block] = []
    if picture := _forest(comparison, number):
        ranking.append(picture)
    against = [points.Interval(row.method, found.mean, found.ci95, list(found.each.values()), row.rank == 1)
               for row in comparison.rows if (found := row.differences.get("kd"))]  # fmt: skip
    if against:
        ranking.append(
            points.forest(
                f"over-kd{number}", "Difference to KD", "points of Top-1", against, "As above, to KD in place of the "
                "student alone."
            )
        )  # fmt: skip
    ranking += [Table(name, columns, rows) for name, columns, rows in shown[:-1]]
    ranking += [Text(remark) for remark in remarks(comparison) if not remark.startswith("Failed: ")]  # told below
    cost: list[Block] = [Table(name, columns, rows) for name, columns, rows in shown[-1:]]
    if picture := _cost(comparison, number):
        cost.insert(0, picture)
    sections = [
        Section(f"ranking{number}", f"{title}Who is better", ranking),
        Section(f"cost{number}", f"{title}Accuracy against cost", cost),
    ]
    if picture := _curves(sheet, comparison, number):
        sections.append(Section(f"curves{number}", f"{title}Learning curves", [picture]))
    if quoted := quotes(comparison):
        sections.append(Section(f"published{number}", f"{title}Published figures", quoted))
    return sections


def _forest(comparison: Comparison, number: str, most: int | None = None) -> Picture | None:
    found = [
        points.Interval(row.method, found.mean, found.ci95, list(found.each.values()), row.rank == 1)
        for row in comparison.rows
        if (found := row.differences.get("alone"))
    ]
    rows = found[:most]
    if not rows:
        return None
    rest = f" The {len(rows)} highest means; all {len(found)} are below." if len(rows) < len(found) else ""
    return points.forest(
        f"over-alone{number}",
        "Difference to the student alone",
        "points of Top-1",
        rows,
        "Mean and 95% interval of the differences, paired by seed. Marks are open where the interval contains zero or "
        f"is not known; methods of rank 1 are in colour.{rest}",
    )


def _cost(comparison: Comparison, number: str) -> Picture | None:
    rows = [row for row in comparison.rows if row.cost.get("seconds")]
    if not rows:
        return None
    lead = [row.method for row in rows].index(rows[0].method)
    spots = [
        points.Spot(row.method, style, float(row.cost["seconds"] or 0), row.last["mean"])
        for row, style in zip(rows, points.styles(len(rows), lead), strict=True)
    ]
    return points.against(
        f"cost{number}", "Top-1 by the time of training", "s a student", spots, many=True,
        caption="Seconds of one student with its own preparation; what all seeds share comes once on top. "
        "Points too close to others carry no name; all are in the table.",
    )  # fmt: skip


def _curves(sheet: Sheet, comparison: Comparison, number: str) -> Picture | None:
    """The best methods, KD and the student alone."""
    ranked = [row.method for row in comparison.rows if row.method != ALONE]
    names = [*ranked[:CURVES], ALONE]
    lines: list[curves.Curve] = []
    styles = iter(points.styles(len(names)))
    for name in names:
        records = [entry.record for entry in sheet.entries if entry.name == name]
        epochs, values = curves.column(records, "test_top1")
        style = STYLES["alone"] if name == ALONE else next(styles)
        if epochs:
            lines.append(("student alone" if name == ALONE else points.shorten(name), style, epochs, values))
    if not lines:
        return None
    told = "; ".join(f"{label} ends at {np.mean(values, 0)[-1]:.1f}%" for label, _, _, values in lines)
    more = f" The {CURVES} methods with the highest means." if len(ranked) > CURVES else ""
    return draw(
        f"learning-curves{number}",
        "Top-1 by epoch",
        f"Learning curves of Top-1: {told}.",
        lambda figure, theme: curves.lines(axes(figure, theme, "epoch", "Top-1, %"), theme, lines, columns=3),
        f"Means over the seeds.{more}",
    )


def quotes(comparison: Comparison) -> list[Block]:
    """Published figures beside ours, marked as quoted; none where nobody has published any."""
    rows = []
    for row in comparison.rows:
        quote = row.quote
        if quote is not None:
            top1 = "-" if quote.top1 is None else f"{quote.top1:.2f}"
            gain = "-" if quote.gain is None else f"{quote.gain:+.2f}"
            rows.append([row.method, f"{row.last['mean']:.2f}", top1, gain, quote.source, quote.protocol])
    if not rows:
        return []
    columns = ("method", "ours, %", "quoted, %", "quoted gain", "source", "how it was obtained")
    text = Text(
        "These are quoted from others and stand beside ours for orientation. Epochs, batches and the way of choosing "
        f"the epoch differ from ours ({comparison.protocol}), so nothing is computed with them."
    )
    return [text, Table("Quoted figures, not measured here", columns, rows)]


def _failed(bench: dict[str, object]) -> Section | None:
    cells = bench["cells"]
    if not isinstance(cells, list):
        raise MfkdError("bench.json was not written by mfkd bench; delete it and run the plan again.")
    rows = [
        [cell["method"] or cell["kind"], cell["error"], str(cell["seed"]),
         ", ".join(part for part in (cell["pair"], cell["budget"]) if part) or "-"]
        for cell in cells if cell["state"] == "failed"
    ]  # fmt: skip
    if not rows:
        return None
    table = Table("Each with the reason", ("method", "error", "seed", "pair"), rows, left=4)
    return Section("failed", "What has failed", [table])


def _settings(record: RunRecord) -> Section:
    environment = record.environment
    about = [[name, str(value)] for name, value in environment.items() if name != "versions"]
    return Section(
        "settings",
        "Settings and environment",
        [
            Table("Where it ran, as the first student tells", ("what", "value"), about, left=2),
            Table("Versions", ("package", "version"), flat(environment.get("versions", {})), left=2, folded=True),
            Table("The recipe of the first student", ("key", "value"), flat(record.config), left=2, folded=True),
        ],
    )


def _leader(comparison: Comparison) -> Row | None:
    """The highest mean of those methods that can be told from others, or of all where none can."""
    methods = [row for row in comparison.rows if row.method != ALONE]
    return next((row for row in methods if row.rank is not None), methods[0] if methods else None)


def _highest(comparison: Comparison) -> str:
    """What the leader has."""
    first = next(row for row in comparison.rows if row.method != ALONE)
    return "highest mean" if first is _leader(comparison) else "highest mean of the ranked methods"


def _tiles(comparison: Comparison, lead: Row | None) -> list[Tile]:
    found = []
    if comparison.teacher is not None:
        found.append(Tile("Teacher", f"{comparison.teacher:.2f}%", comparison.models["teacher"]))
    student = comparison.models["student"]
    found += [
        Tile("Student alone", f"{row.last['mean']:.2f}%", f"n={row.last['n']}, {student}")
        for row in comparison.rows
        if row.method == ALONE
    ]
    if lead is not None:
        highest = _highest(comparison)
        found.append(
            Tile(
                f"{highest[0].upper()}{highest[1:]}: {lead.method}",
                f"{lead.last['mean']:.2f}%",
                f"n={lead.last['n']}",
                True,
            )
        )
        change = lead.differences.get("alone")
        if change is not None:
            interval = f"95% interval {signed(change.ci95)}" if change.ci95 else "no interval"
            found.append(Tile("Over the student alone", f"{change.mean:+.2f} points", interval, True))
    return found


def _foot(record: RunRecord) -> str:
    environment = record.environment
    return f"mfkd {environment.get('versions', {}).get('mfkd', '')}, commit {environment.get('commit') or 'unknown'}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
