"""Matrices with their figures in them: CKA, and weights of the levels by class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mfkd.report.figures.canvas import HEIGHT, WIDTH, Theme, draw
from mfkd.report.figures.points import shorten
from mfkd.report.parts import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def matrix(  # noqa: PLR0917 - what it is, then how it is drawn
    name: str,
    title: str,
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    axes: tuple[str, str] = ("", ""),
    limits: tuple[float, float] = (0.0, 1.0),
    caption: str = "",
) -> Picture:
    """Shades with figures.

    Args:
        name: of the file.
        title: above it.
        values: of each row.
        rows: their names.
        columns: names of the columns.
        axes: what columns and rows are.
        limits: values of the lightest and the darkest shade.
        caption: below it.
    """
    array = np.array(values, dtype=float)

    def paint(figure: "Figure", theme: Theme) -> None:
        plot = figure.add_subplot()
        low, high = limits
        weights = np.clip((array - low) / ((high - low) or 1), 0, 1)[..., None]
        shades = (1 - weights) * rgb(theme.paper) + weights * rgb(theme.accent)
        plot.imshow(shades, aspect="auto")
        for (row, column), value in np.ndenumerate(array):
            clear = max((theme.ink, theme.paper), key=lambda colour: contrast(rgb(colour), shades[row, column]))
            size = 9 if len(columns) <= 6 else 7
            plot.text(column, row, f"{value:.2f}", ha="center", va="center", color=clear, fontsize=size)
        plot.set_xticks(range(len(columns)), [shorten(text, 14) for text in columns])
        plot.set_yticks(range(len(rows)), [shorten(text, 14) for text in rows])
        plot.set_xlabel(axes[0])
        plot.set_ylabel(axes[1])
        plot.tick_params(length=0)
        for spine in plot.spines.values():
            spine.set_visible(False)
        plot.set_xticks(np.arange(-0.5, len(columns)), minor=True)
        plot.set_yticks(np.arange(-0.5, len(rows)), minor=True)
        plot.grid(which="minor", color=theme.paper, linewidth=2)
        plot.tick_params(which="minor", length=0)

    told = "; ".join(
        f"{row}: " + ", ".join(f"{column} {value:.2f}" for column, value in zip(columns, line, strict=True))
        for row, line in zip(rows, array.tolist(), strict=True)
    )
    height = max(HEIGHT * 0.85, 0.8 + 0.3 * len(rows))
    return draw(name, title, f"{title}. {told}.", paint, caption, (WIDTH, height))


def rgb(colour: str) -> np.ndarray:
    """#rrggbb as three values from 0 to 1."""
    return np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    """Of two colours, 1 to 21, as WCAG 2 defines it."""
    linear = [np.where(one <= 0.04045, one / 12.92, ((one + 0.055) / 1.055) ** 2.4) for one in (first, second)]
    low, high = sorted(float(one @ (0.2126, 0.7152, 0.0722)) for one in linear)
    return (high + 0.05) / (low + 0.05)
