"""Lines: learning curves and reliability diagrams."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mfkd.records import RunRecord
from mfkd.report.answers import Bins
from mfkd.report.figures.canvas import NAMES, OTHERS, STYLES, Style, Theme, axes, draw, legend
from mfkd.report.parts import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[str, Style, Sequence[float], np.ndarray]
"""Label, style, epochs, and (seeds, epochs) values."""


IN_TURN = (STYLES["alone"], STYLES["distilled"], STYLES["teacher"], *OTHERS[1:4])
"""Styles of curves that are of one network."""
FEW = 10
"""Images below which the share of right answers in a bin says nothing."""


def column(records: Sequence[RunRecord], name: str) -> tuple[list[float], np.ndarray]:
    """Epochs in which all records have a value, and the values, (records, epochs)."""
    rows = [{row["epoch"]: row[name] for row in record.curves if name in row} for record in records]
    epochs = sorted(set.intersection(*map(set, rows))) if rows else []
    return epochs, np.array([[row[epoch] for epoch in epochs] for row in rows])


def learning(kinds: Mapping[str, Sequence[RunRecord]]) -> Picture | None:
    """Top-1 on the test images by epoch, of teacher, student alone and student distilled."""
    curves: list[Curve] = []
    ends = {kind: max(row["epoch"] for record in found for row in record.curves) for kind, found in kinds.items()}
    alike = len(set(ends.values())) == 1
    for kind, records in kinds.items():
        epochs, values = column(records, "test_top1")
        if epochs:
            places = epochs if alike else [100 * epoch / ends[kind] for epoch in epochs]
            curves.append((NAMES[kind], STYLES[kind], places, values))
    if not curves:
        return None
    unit = "epoch" if alike else "share of the training, %"
    trained = "" if alike else " Epochs: " + ", ".join(f"{NAMES[kind]} {end:.0f}" for kind, end in ends.items()) + "."
    told = [f"{label} from {values.mean(0)[0]:.1f} to {values.mean(0)[-1]:.1f}%" for label, _, _, values in curves]
    return draw(
        "learning-curves",
        "Top-1 by epoch",
        f"Learning curves of Top-1: {'; '.join(told)}.",
        lambda figure, theme: lines(axes(figure, theme, unit, "Top-1, %"), theme, curves),
        f"Lines are means over the seeds, bands reach from the lowest to the highest one.{trained}",
    )


def losses(records: Sequence[RunRecord]) -> Picture | None:
    """The terms of the distilled student's loss by epoch, each relative to its first value."""
    skipped = {"epoch", "lr", "loss", "seconds", "train_top1", "test_top1", "test_loss"}
    names = [name for name in _logged(records) if name not in skipped and "/" not in name]
    curves: list[Curve] = []
    for place, name in enumerate(names[:5]):
        epochs, values = column(records, name)
        if len(epochs) > 1 and (values[:, 0] > 0).all():
            curves.append((name, IN_TURN[place % len(IN_TURN)], epochs, values / values[:, :1]))
    if not curves:
        return None
    told = [f"{label} falls to {100 * values.mean(0)[-1]:.0f}%" for label, _, _, values in curves]
    faded = len({len(epochs) for _, _, epochs, _ in curves}) > 1
    return draw(
        "loss-terms",
        "Terms of the distilled student's loss",
        f"Terms of the loss relative to the first epoch: {'; '.join(told)}.",
        lambda figure, theme: lines(axes(figure, theme, "epoch", "relative to epoch 1"), theme, curves, floor=0.0),
        "Each term without its weight, divided by its value in the first epoch."
        + (" A line ends where its weight has faded out." if faded else ""),
    )


def weights(records: Sequence[RunRecord]) -> Picture | None:
    """Mean weight of each level in the fused map by epoch; None where the fusion does not weigh its levels."""
    curves: list[Curve] = []
    for place, name in enumerate(name for name in _logged(records) if name.startswith("mfkd/")):
        epochs, values = column(records, name)
        if epochs:
            curves.append((name.removeprefix("mfkd/"), IN_TURN[place % len(IN_TURN)], epochs, values))
    if not curves:
        return None
    told = [f"{label} from {values.mean(0)[0]:.2f} to {values.mean(0)[-1]:.2f}" for label, _, _, values in curves]
    return draw(
        "level-weights",
        "Weight of each level over training",
        f"Attention weights of the levels by epoch: {'; '.join(told)}.",
        lambda figure, theme: lines(axes(figure, theme, "epoch", "mean weight"), theme, curves, floor=0.0),
        "How much each level counts in the fused map, mean over positions, images of the epoch and seeds; the levels "
        "of a side sum to 1.",
    )


def lines(plot: "Axes", theme: Theme, curves: Sequence[Curve], floor: float | None = None, columns: int = 2) -> None:
    """Draw curves with bands over the seeds."""
    for label, style, epochs, values in curves:
        every = max(1, len(epochs) // 8)
        plot.plot(epochs, values.mean(0), label=label, markevery=every, **style.options(theme))
        if len(values) > 1 and len(curves) <= 3:  # more of them would cover one another
            colour = getattr(theme, style.colour)
            plot.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
    if floor is not None:
        plot.set_ylim(bottom=floor)
    plot.locator_params(axis="x", integer=True)
    legend(plot, theme, columns)


def _logged(records: Sequence[RunRecord]) -> list[str]:
    """Columns of the log, in their order."""
    return list(records[0].curves[0]) if records and records[0].curves else []


def reliability(bins: Mapping[str, Bins]) -> Picture:
    """Accuracy by confidence, of teacher, student alone and student distilled."""

    def paint(figure: "Figure", theme: Theme) -> None:
        plot = axes(figure, theme, "confidence, %", "right answers, %", grid="both")
        low = 100.0
        plot.plot([0, 100], [0, 100], color=theme.soft, linewidth=1)
        for kind, found in bins.items():
            full = np.array(found.count) >= min(FEW, max(found.count))
            confidence, accuracy = (100 * np.array(values)[full] for values in (found.confidence, found.accuracy))
            plot.plot(confidence, accuracy, label=NAMES[kind], **STYLES[kind].options(theme))
            low = min(low, confidence[0])
        plot.set_xlim(max(0, low - 5), 101.5)
        plot.set_ylim(0, 104)
        legend(plot, theme)

    told = "; ".join(f"{NAMES[kind]} has an error of {100 * found.ece:.1f}%" for kind, found in bins.items())
    return draw(
        "reliability",
        "Are they as sure as they should be?",
        f"Reliability diagram: {told}.",
        paint,
        "On the thin line a network is right as often as it is sure; below it, it is too sure. "
        f"Bins with fewer than {FEW} images are not drawn.",
    )
