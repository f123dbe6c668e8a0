"""Drawing one figure for light and for dark paper; the only place that knows matplotlib's settings."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mfkd.errors import ConfigError
from mfkd.report.parts import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.1, 2.9
"""Inches of a figure that a phone shows at full size; wide ones are twice as wide."""


@dataclass(frozen=True)
class Theme:
    """Colours of a paper.

    Args:
        ink: text, and what is most important after `accent`.
        soft: axes and what stands back.
        grid: lines behind the data.
        accent: the distilled student, or the best method.
        paper: behind it all.
    """

    ink: str
    soft: str
    grid: str
    accent: str
    paper: str


LIGHT = Theme("#1c2330", "#5c6675", "#e3e6eb", "#0b6b63", "#ffffff")
DARK = Theme("#e8ebf0", "#a3adbb", "#333b47", "#5fd0c3", "#171c23")


@dataclass(frozen=True)
class Style:
    """How one line or point differs from the others, with and without colour."""

    colour: str
    marker: str
    line: Any
    filled: bool = True

    def options(self, theme: Theme) -> dict[str, Any]:
        """Keywords of `Axes.plot`."""
        colour = getattr(theme, self.colour)
        face = colour if self.filled else theme.paper
        return {"color": colour, "marker": self.marker, "linestyle": self.line, "markerfacecolor": face}


STYLES = {
    "teacher": Style("ink", "s", (0, (5, 2))),
    "alone": Style("soft", "o", ":", filled=False),
    "distilled": Style("accent", "^", "-"),
}
NAMES = {"teacher": "teacher", "alone": "student alone", "distilled": "student distilled"}
OTHERS = tuple(
    Style("ink" if place % 2 else "soft", marker, line, filled=place % 3 > 0)
    for place, (marker, line) in enumerate(zip("oDvPXs", ("--", "-.", (0, (1, 1)), "-", ":", (0, (6, 1))), strict=True))
)
"""For methods beside the accented one."""


def draw(  # noqa: PLR0917 - what it is, then how it is drawn
    name: str,
    title: str,
    alt: str,
    paint: "Callable[[Figure, Theme], None]",
    caption: str = "",
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> Picture:
    """Draw a figure twice.

    Args:
        name: of its file.
        title: above it on the page; it is not in the figure.
        alt: what it shows, in words.
        paint: fills an empty figure in the colours of a theme.
        caption: below it.
        size: width and height in inches.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    light, dark = (_svg(paint, theme, size) for theme in (LIGHT, DARK))
    return Picture(name, title, alt, light, dark, caption, wide=size[0] > 1.5 * WIDTH)


def axes(figure: "Figure", theme: Theme, x: str = "", y: str = "", grid: Literal["x", "y", "both"] = "y") -> "Axes":
    """A plot with quiet axes.

    Args:
        figure: an empty one.
        theme: its colours.
        x: what the horizontal axis is; y likewise.
        y: the vertical one.
        grid: of which axis there are lines.
    """
    found = figure.add_subplot()
    found.set_xlabel(x)
    found.set_ylabel(y)
    found.grid(axis=grid, color=theme.grid, linewidth=0.8)
    found.set_axisbelow(True)
    for side in ("top", "right"):
        found.spines[side].set_visible(False)
    return found


def legend(plot: "Axes", theme: Theme, columns: int = 2) -> None:
    """Names of the lines, above the plot, where they cover nothing."""
    plot.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, frameon=False, labelcolor=theme.ink,
        handlelength=2.6, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip


def _svg(paint: "Callable[[Figure, Theme], None]", theme: Theme, size: tuple[float, float]) -> bytes:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("mfkd report needs matplotlib; run `pip install 'mfkd[report]'`.") from None
    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that pages look alike everywhere
        "font.size": 9,
        "text.parse_math": False,  # a class may be called $x
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.soft,
        "axes.linewidth": 0.8,
        "xtick.color": theme.soft,
        "ytick.color": theme.soft,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "hatch.linewidth": 0.8,
        "svg.fonttype": "path",
        "svg.hashsalt": "mfkd",
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of signs that the font does not have: a box stands for them
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        paint(figure, theme)
        for plot in figure.axes:
            plot.patch.set_alpha(0)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
