"""Classes, confusions and calibration: sections of a run that its networks' answers tell."""

import torch
from torch import Tensor

from mfkd.plan import Kind
from mfkd.report import answers
from mfkd.report.answers import Change
from mfkd.report.figures import curves, points
from mfkd.report.figures.canvas import NAMES
from mfkd.report.images import thumbnail
from mfkd.report.networks import Answers, Networks, inputs
from mfkd.report.parts import Block, Card, Cards, Image, Section, Table, Text

SHOWN = 10
"""Classes at either end of a figure; all of them where there are no more than twice as many."""
PAIRS, EXAMPLES = 4, 4


def classes_section(networks: Networks, found: Answers) -> Section | None:
    """Per-class gains and losses and changed confusions; None unless both kinds of student are there."""
    names, labels = networks.data.classes, found.labels
    if not {"alone", "distilled"} <= found.students.keys():
        return None
    seeds = {kind: list(networks.students[kind]) for kind in found.students}
    common = [seed for seed in seeds["alone"] if seed in seeds["distilled"]]
    if not common:
        return None
    kinds: tuple[Kind, Kind] = ("alone", "distilled")
    alone, distilled = (found.said(kind)[[seeds[kind].index(seed) for seed in common]] for kind in kinds)
    before, after = (answers.recall(labels, said, len(names)) for said in (alone, distilled))
    gains = after - before  # (S, K)
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    mean = gains.mean(0).tolist()
    order = sorted((place for place in range(len(names)) if counts[place]), key=lambda place: -mean[place])
    shown = order if len(order) <= 2 * SHOWN else [*order[:SHOWN], *order[-SHOWN:]]
    rows = [points.Interval(names[place], mean[place], None, gains[:, place].tolist()) for place in shown]
    rest = "" if len(shown) == len(order) else f" The {SHOWN} classes at either end; all are in the table."
    bars = points.bars(
        "classes",
        "Gain of each class",
        "points of recall",
        rows,
        f"Distilled minus alone, mean of {len(common)} seed{'s'[: len(common) > 1]}; small strokes are the seeds, "
        f"hatched bars are losses.{rest}",
    )
    table = Table(
        "Recall of every class, %",
        ("class", "images", "alone", "distilled", "gain"),
        [
            [names[place], str(counts[place]), f"{before.mean(0)[place]:.1f}", f"{after.mean(0)[place]:.1f}",
             f"{mean[place]:+.1f}"]
            for place in order
        ],
        folded=len(order) > 2 * SHOWN,
    )  # fmt: skip
    blocks: list[Block] = [bars, table]
    changed = answers.changes(labels, alone, distilled, len(names))
    better = [change for change in changed if change.gain > 0][:PAIRS]
    worse = [change for change in reversed(changed) if change.gain < 0][:PAIRS]
    for title, group, wrong, right in (
        ("Confused less often than before", better, alone, distilled),
        ("Confused more often than before", worse, distilled, alone),
    ):
        if group:
            blocks.append(Cards(title, [_card(networks, labels, change, wrong, right) for change in group]))
    if not changed:
        blocks.append(Text("No pair of classes is confused more or less often than before."))
    return Section("classes", "Classes and confusions", blocks)


def calibration_section(found: Answers) -> Section | None:
    """Reliability of all networks; seeds are pooled for the diagram and told apart in the table."""
    diagram = {} if found.teacher is None else {"teacher": answers.reliability(found.teacher, found.labels)}
    for kind, each in found.students.items():
        diagram[kind] = answers.reliability(each.flatten(0, 1), found.labels.repeat(len(each)))
    if not diagram:
        return None
    rows = []
    if found.teacher is not None:
        rows.append(_calibration("teacher", found.teacher[None], found.labels))
    rows += [_calibration(kind, each, found.labels) for kind, each in found.students.items()]
    table = Table(
        "Confidence, accuracy and expected calibration error (15 bins), mean over seeds, %",
        ("network", "confidence", "accuracy", "ECE"),
        rows,
    )
    return Section("calibration", "Calibration", [curves.reliability(diagram), table])


def _card(networks: Networks, labels: Tensor, change: Change, wrong: Tensor, right: Tensor) -> Card:
    names = networks.data.classes
    places = answers.examples(labels, wrong, right, change, EXAMPLES)
    images = []
    for place in places:
        source, small = thumbnail(inputs(networks.split, networks.data, networks.plan.config.data, [place])[1][0])
        images.append(Image(source, f"test image {place}: {names[change.true]}", "", pixels=small))
    text = f"Images a seed: {change.before:.3g} alone, {change.after:.3g} distilled"
    return Card(f"{names[change.true]} taken for {names[change.said]}", text, images)


def _calibration(kind: str, each: Tensor, labels: Tensor) -> list[str]:
    eces = [100 * answers.reliability(one, labels).ece for one in each]
    confidence, right = 100 * each.max(2).values.mean(), 100 * (each.argmax(2) == labels).double().mean()
    return [NAMES[kind], f"{confidence:.1f}", f"{right:.1f}", f"{sum(eces) / len(eces):.2f}"]
