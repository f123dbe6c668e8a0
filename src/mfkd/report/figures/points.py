"""Points: the gain of each seed, accuracy against cost, gains of classes, differences with intervals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mfkd.report.figures.canvas import HEIGHT, NAMES, OTHERS, STYLES, WIDTH, Style, Theme, axes, draw, legend
from mfkd.report.parts import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Spot(NamedTuple):
    """A point with its spread: label, style, place on both axes, deviation of the height (0: none)."""

    label: str
    style: Style
    x: float
    y: float
    error: float = 0.0


class Interval(NamedTuple):
    """A mean with its interval (None: no interval is known) and single values."""

    label: str
    mean: float
    ends: tuple[float, float] | None
    each: Sequence[float] = ()
    accent: bool = False


def gain_of_seeds(
    alone: Sequence[float], distilled: Sequence[float], seeds: Sequence[int], teacher: float | None
) -> Picture:
    """Top-1 alone and distilled, a line a seed, with the teacher above."""

    def paint(figure: "Figure", theme: Theme) -> None:
        plot = axes(figure, theme, "", "Top-1, %")
        for before, after in zip(alone, distilled, strict=True):
            plot.plot([0, 1], [before, after], color=theme.soft, linewidth=1)
        for place, (kind, values) in enumerate((("alone", alone), ("distilled", distilled))):
            options = {**STYLES[kind].options(theme), "linestyle": "none"}
            plot.plot([place] * len(values), values, **options)
            mean = sum(values) / len(values)
            colour = getattr(theme, STYLES[kind].colour)
            plot.plot([place - 0.14, place + 0.14], [mean, mean], color=colour, linewidth=2.5)
            side = -0.2 if place == 0 else 0.2
            across = "right" if place == 0 else "left"
            plot.text(place + side, mean, f"{mean:.2f}", ha=across, va="center", color=theme.ink, weight="bold")
        if teacher is not None:
            plot.axhline(teacher, color=theme.ink, linewidth=1.2, linestyle=(0, (5, 2)))
            plot.annotate(
                f"teacher {teacher:.2f}", (0.5, teacher), xytext=(0, 4), textcoords="offset points", ha="center",
                color=theme.ink,
            )  # fmt: skip
        plot.set_xlim(-0.65, 1.65)
        plot.set_xticks([0, 1], [NAMES["alone"], NAMES["distilled"]])
        plot.margins(y=0.15)

    pairs = zip(seeds, alone, distilled, strict=True)
    told = "; ".join(f"seed {seed} from {before:.2f} to {after:.2f}%" for seed, before, after in pairs)
    above = f" The teacher has {teacher:.2f}%." if teacher is not None else ""
    return draw(
        "gain",
        "What each seed gained",
        f"Top-1 alone and distilled: {told}.{above}",
        paint,
        "One line a seed, the same initial weights and images at both ends; bars are the means.",
    )


def against(
    name: str, title: str, unit: str, spots: Sequence[Spot], *, caption: str = "", many: bool = False
) -> Picture:
    """Accuracy against a cost; of many, points carry their names themselves where there is room, best first."""
    low = window([spot.y for spot in spots])[0] if many else float("-inf")
    shown = [spot for spot in spots if spot.y >= low]
    hidden = [f"{spot.label} ({spot.y:.1f}% at {spot.x:,.3g})" for spot in spots if spot.y < low]

    def paint(figure: "Figure", theme: Theme) -> None:
        plot = axes(figure, theme, unit, "Top-1, %", grid="both")
        for spot in shown:
            options = {**spot.style.options(theme), "linestyle": "none", "markersize": 6 if many else 8}
            plot.plot([spot.x], [spot.y], label=spot.label, **options)
            if spot.error:
                colour = getattr(theme, spot.style.colour)
                plot.errorbar([spot.x], [spot.y], yerr=[spot.error], color=colour, capsize=3, linewidth=1)
        if max(spot.x for spot in shown) >= 10_000:
            plot.xaxis.set_major_formatter(lambda value, _: _short(value))
        plot.margins(x=0.15, y=0.2)
        if many:
            _name(plot, shown, theme)
        else:
            legend(plot, theme)

    told = "; ".join(f"{spot.label} {spot.y:.2f}% at {spot.x:,.4g} {unit}" for spot in spots)
    below = f" Below the frame: {', '.join(hidden)}." if hidden else ""
    size = (WIDTH, 1.25 * HEIGHT) if many else (WIDTH, HEIGHT)
    return draw(name, title, f"Top-1 against {unit}: {told}.", paint, f"{caption}{below}".strip(), size)


def styles(count: int, accent: int = 0) -> list[Style]:
    """As many styles, the accented one at its place."""
    others = iter(OTHERS * (count // len(OTHERS) + 1))
    return [STYLES["distilled"] if place == accent else next(others) for place in range(count)]


def bars(name: str, title: str, unit: str, rows: Sequence[Interval], caption: str = "") -> Picture:
    """Gains and losses as bars; losses are hatched."""

    def paint(figure: "Figure", theme: Theme) -> None:
        plot = axes(figure, theme, unit, grid="x")
        for place, row in enumerate(rows):
            better = row.mean >= 0
            plot.barh(
                place, row.mean, height=0.66, color=theme.accent if better else theme.paper,
                edgecolor=theme.accent if better else theme.ink, hatch="" if better else "////",
            )  # fmt: skip
            plot.plot(row.each, [place] * len(row.each), color=theme.ink, marker="|", linestyle="none", markersize=6)
        _labels(plot, rows, theme)

    told = ", ".join(f"{row.label} {row.mean:+.1f}" for row in rows)
    height = max(HEIGHT, 0.8 + 0.27 * len(rows))
    return draw(name, title, f"{title}, in {unit}: {told}.", paint, caption, (WIDTH, height))


def forest(name: str, title: str, unit: str, rows: Sequence[Interval], caption: str = "") -> Picture:
    """Differences with their intervals; those that cross zero are open, those far outside are told at the edge."""
    low, high = window([0.0, *(value for row in rows for value in (row.ends or (row.mean, row.mean)))])

    def paint(figure: "Figure", theme: Theme) -> None:
        plot = axes(figure, theme, unit, grid="x")
        for place, row in enumerate(rows):
            sure = row.ends is not None and row.ends[0] * row.ends[1] > 0
            colour = theme.accent if row.accent else theme.ink if sure else theme.soft
            if row.ends is not None:
                plot.plot(row.ends, [place, place], color=colour, linewidth=2, marker="|", markersize=7)
            if low <= row.mean <= high:
                face = colour if sure else theme.paper
                plot.plot([row.mean], [place], "D", color=colour, markersize=6, markerfacecolor=face)
            else:
                edge, side = (low, "left") if row.mean < low else (high, "right")
                told = f"◂ {row.mean:.1f}" if row.mean < low else f"{row.mean:.1f} ▸"
                plot.text(edge, place, told, ha=side, va="bottom", fontsize=8, color=theme.ink)
        _labels(plot, rows, theme)
        plot.set_xlim(low, high)

    told = "; ".join(
        f"{row.label} {row.mean:+.2f}" + (f" ({row.ends[0]:+.2f} to {row.ends[1]:+.2f})" if row.ends else "")
        for row in rows
    )
    height = max(0.8 * HEIGHT, 0.8 + 0.27 * len(rows))
    return draw(name, title, f"{title}, in {unit}: {told}.", paint, caption, (WIDTH, height))


def window(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that are not torn apart by a few values far away from all others."""
    first, middle, last = np.quantile(values, [0.25, 0.5, 0.75])
    reach = 4 * max(last - first, 1e-9)
    near = [value for value in values if abs(value - middle) <= reach]
    margin = 0.05 * (max(near) - min(near)) or 1.0
    return float(min(near) - margin), float(max(near) + margin)


def _name(plot: "Axes", spots: Sequence[Spot], theme: Theme) -> None:
    """Write names beside points as long as they cover no other; the best come first."""
    wide, high = np.ptp(plot.get_xlim()), np.ptp(plot.get_ylim())
    taken: list[tuple[float, float, float]] = [(spot.x / wide, spot.y / high, 0.02) for spot in spots]
    for spot in sorted(spots, key=lambda spot: -spot.y):
        x, y, length = spot.x / wide, spot.y / high, 0.024 * len(spot.label) + 0.03
        others = [one for one in taken if one != (x, y, 0.02)]
        if all(abs(y - b) > 0.045 or x > a + c or x + length < a for a, b, c in others):
            taken.append((x, y, length))
            text = shorten(spot.label)
            plot.annotate(
                text, (spot.x, spot.y), xytext=(6, -3), textcoords="offset points", fontsize=8, color=theme.ink
            )


def _labels(plot: "Axes", rows: Sequence[Interval], theme: Theme) -> None:
    plot.axvline(0, color=theme.ink, linewidth=1)
    plot.set_yticks(range(len(rows)), [shorten(row.label) for row in rows])
    plot.set_ylim(len(rows) - 0.4, -0.6)
    plot.spines["left"].set_visible(False)
    plot.tick_params(axis="y", length=0)


def _short(value: float) -> str:
    """A large number with its unit, such as 250k."""
    unit, sign = next(
        pair for pair in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")) if abs(value) >= pair[0] or pair[0] == 1
    )
    return f"{value / unit:g}{sign}"


def shorten(text: str, most: int = 22) -> str:
    """A label that leaves room for the data."""
    return text if len(text) <= most else text[: most - 1] + "…"
