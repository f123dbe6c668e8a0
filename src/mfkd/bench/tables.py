"""A comparison as tables: for the terminal, as Markdown and as CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from mfkd.bench.compare import SIDES, Comparison, Difference, Row
from mfkd.bench.published import quoted

ACCURACY = ("method", "n", "last epoch", "best epoch", "rank", "gap closed", "published")
GAINS = ("method", "over alone", "over KD", "over partner", "p (Holm)", "p (flips)")
COST = ("method", "seconds", "x alone", "once for all", "images/s", "MB")


def accuracy_rows(comparison: Comparison) -> list[list[str]]:
    """Cells of the table `ACCURACY`, the best mean first."""
    return [_accuracy(row) for row in comparison.rows]


def gain_rows(comparison: Comparison) -> list[list[str]]:
    """Cells of the table `GAINS`, in the same order."""
    return [_gains(row) for row in comparison.rows]


def cost_rows(comparison: Comparison) -> list[list[str]]:
    """Cells of the table `COST`: seconds of one student with its preparation, and what its seeds shared."""
    return [
        [
            row.method,
            _figure(row.cost["seconds"], ",.0f"),
            _figure(row.cost["times_alone"], ".2f"),
            _figure(row.cost["shared_seconds"], ",.0f"),
            _figure(row.cost["images_per_second"], ",.0f"),
            _figure(row.cost["megabytes"], ",.0f"),
        ]
        for row in comparison.rows
    ]


def tables(comparison: Comparison) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """All tables, each with title, columns and rows, cost last; columns and tables that say nothing are left out."""
    found = []
    for title, columns, rows in (
        (headline(comparison), ACCURACY, accuracy_rows(comparison)),
        ("Gain in points of Top-1 over the student alone, KD, and the own logit partner", GAINS, gain_rows(comparison)),
        ("Cost of one student", COST, cost_rows(comparison)),
    ):
        told = [place for place in range(len(columns)) if any(row[place] != "-" for row in rows)]
        if told != [0]:
            found.append((title, tuple(columns[place] for place in told), [[row[p] for p in told] for row in rows]))
    return found


def headline(comparison: Comparison) -> str:
    """What is compared, in a line."""
    models = f"{comparison.models['teacher']} teaches {comparison.models['student']} on {comparison.data}"
    teacher = f", teacher {comparison.teacher:.2f}%" if comparison.teacher is not None else ""
    return f"{comparison.title}: {models}{teacher}" if comparison.title else models + teacher


def remarks(comparison: Comparison) -> list[str]:
    """How the figures are to be read, in sentences."""
    said = [
        f"Top-1 in per cent, mean ± standard deviation over seeds; {comparison.protocol}.",
        "Differences are paired by seed, with 95% t intervals (none where all are equal).",
        "The last epoch counts; the best one is chosen by the images it is measured on, and is told beside it.",
        f"p is of the difference to the student alone, corrected by Holm over the family "
        f"({', '.join(comparison.family)}); flips: exact permutation of signs, from six seeds on."
        if comparison.family and any("alone" in row.differences for row in comparison.rows)
        else "",
        "Equal ranks are ties: a method is behind only those whose paired interval is above 0.",
    ]
    quotes = quoted(comparison.data, comparison.models["teacher"], comparison.models["student"])
    sources: dict[str, str] = {}
    for row in comparison.rows:
        if row.quote is not None:
            sources[row.quote.source] = row.quote.protocol
    if sources:
        told = "; ".join(f"{source}: {protocol}" for source, protocol in sources.items())
        teacher = f" (their teacher {quotes['teacher'].top1:.2f}%)" if "teacher" in quotes else ""
        said.append(f"Published figures are quoted{teacher}, and obtained otherwise than ours: {told}.")
    return [*filter(None, said), *comparison.notes]


def markdown(comparisons: Sequence[Comparison]) -> str:
    """All comparisons as a page of Markdown."""
    parts = []
    for one in comparisons:
        parts += [f"## {headline(one)}", *(_pipes(columns, rows) for _, columns, rows in tables(one))]
        parts.append("\n".join(f"- {remark}" for remark in remarks(one)))
    return "\n\n".join(parts) + "\n"


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """All comparisons as CSV, one row a method, figures unrounded."""
    rows = [_raw(one, row) for one in comparisons for row in one.rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _accuracy(row: Row) -> list[str]:
    return [
        row.method,
        str(row.last["n"]),
        _spread(row.last),
        _spread(row.best),
        _figure(row.rank, "d"),
        _figure(None if row.gap_closed is None else 100 * row.gap_closed, ".0f", "%"),
        _quote(row),
    ]


def _gains(row: Row) -> list[str]:
    alone = row.differences.get("alone")
    return [
        row.method,
        *(_difference(row.differences.get(side), side) for side in SIDES),
        _p(alone.p_holm if alone else None),
        _p(alone.p_permutation if alone else None),
    ]


def _difference(value: Difference | None, side: str) -> str:
    if value is None:
        return "-"
    interval = f" [{value.ci95[0]:+.2f}, {value.ci95[1]:+.2f}]" if value.ci95 else ""
    return f"{value.mean:+.2f}{interval}" + (f" ({value.to})" if side == "partner" else "")


def _quote(row: Row) -> str:
    if row.quote is None:
        return "-"
    if row.quote.top1 is None:
        return f"quoted {row.quote.gain:+.2f}"
    return f"quoted {row.quote.top1:.2f}" + (f" ({row.quote.gain:+.2f})" if row.quote.gain is not None else "")


def _spread(value: dict[str, Any]) -> str:
    return f"{value['mean']:.2f}" + (f" ± {value['std']:.2f}" if value["std"] is not None else "")


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _figure(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _pipes(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _raw(comparison: Comparison, row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "comparison": comparison.title,
        **comparison.models,
        "data": comparison.data,
        "split": comparison.split,
        "method": row.method,
        "n": row.last["n"],
        "top1_last_mean": row.last["mean"],
        "top1_last_std": row.last["std"],
        "top1_best_mean": row.best["mean"],
        "top1_best_std": row.best["std"],
    }
    for side in SIDES:
        value = row.differences.get(side)
        for name in ("to", "mean", "n", "p", "p_holm", "p_permutation"):
            found[f"{side}_{name}"] = getattr(value, name, None)
        found[f"{side}_low"], found[f"{side}_high"] = (value and value.ci95) or (None, None)
    found |= {"rank": row.rank, "gap_closed": row.gap_closed, **row.cost}
    quote = row.quote
    return found | {
        "quoted_top1": quote and quote.top1,
        "quoted_gain": quote and quote.gain,
        "quoted_source": quote and quote.source,
        "quoted_protocol": quote and quote.protocol,
    }
