"""What the fusion sees, and how alike the features are: sections of a run that look inside of its networks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mfkd.plan import Kind
from mfkd.report import cka, maps
from mfkd.report.classes import SHOWN
from mfkd.report.figures import curves
from mfkd.report.figures.canvas import NAMES
from mfkd.report.figures.matrix import matrix
from mfkd.report.folder import RunFolder
from mfkd.report.images import overlay, thumbnail
from mfkd.report.networks import Answers, Networks, inputs
from mfkd.report.parts import Block, Image, ImageTable, Picture, Section, Text

LOOKED_AT = 500
"""Images for CKA, and for the weights of the levels."""
CHOSEN = 4
"""Images whose maps are shown."""


@dataclass(frozen=True, eq=False)
class Sides:
    """Teacher and student, and how their maps are read."""

    networks: Networks
    look: maps.Look

    @property
    def opened(self) -> dict[str, nn.Module]:
        """The networks that are there, by side."""
        student = self.networks.students["distilled"][self.look.seed]
        teacher = self.networks.teacher
        return {"student": student} if teacher is None else {"teacher": teacher, "student": student}

    def levels(self, side: str, image: Tensor) -> list[Tensor]:
        """The maps that are fused, front first."""
        names = self.look.taps[side]
        taken = maps.stages(self.opened[side], image, names, self.networks.shape)
        return [taken[name] for name in names]

    @torch.no_grad()
    def all(self, image: Tensor) -> dict[str, dict[str, Tensor]]:
        """Every map by side and name, `fused` the last one where it is known."""
        found = {}
        for side in self.opened:
            levels = self.levels(side, image)
            found[side] = dict(zip(self.look.taps[side], levels, strict=True))
            if side in self.look.fuse:
                found[side]["fused"] = self.look.fuse[side](levels)
        return found

    @torch.no_grad()
    def weights(self, side: str, images: Tensor) -> Tensor:
        """(B, L) weight of each level, mean over the positions."""
        weigh = self.look.weigh[side]
        return torch.cat([weigh(self.levels(side, part)).mean((2, 3)) for part in images.split(100)])


def fusion_section(run: RunFolder, networks: Networks, found: Answers) -> Section | None:
    """Maps of the levels and the fused ones, and the weights of the levels by class."""
    look = maps.open_look(run, networks)
    if look is None:
        return None
    sides, names = Sides(networks, look), networks.data.classes
    blocks: list[Block] = [
        Text(
            "A heat map is bright where a map is strong (root mean square over its channels, from its weakest to its "
            f"strongest place) and lies over the image. The student is the distilled one of seed {look.seed}."
        ),
        *(Text(line) for line in look.said),
    ]
    chosen, said = _chosen(networks, found, look.seed), _answers(networks, found, look.seed)
    image, pixels = inputs(networks.split, networks.data, networks.plan.config.data, chosen)
    taken = sides.all(image)
    for number, place in enumerate(chosen):
        answers = ", ".join(f"{NAMES[kind]} says {names[int(each[place])]}" for kind, each in said.items())
        one = {side: {name: each[number] for name, each in levels.items()} for side, levels in taken.items()}
        title = names[int(found.labels[place])]
        blocks.append(_looked_at(title, f"Test image {place}: {answers}.", pixels[number], one))
    places = _spread(len(networks.split), LOOKED_AT)
    images, labels = _inputs(networks, places), networks.split.labels[places]
    blocks += [_weights(side, sides.weights(side, images), labels, names, look.taps[side]) for side in look.weigh]
    if look.weigh:
        if picture := curves.weights(list(run.distilled.values())):
            blocks.append(picture)
        blocks.append(
            Text(
                "The weights by class are those at the end of training. A teacher's fusion that is calibrated before "
                "the student learns is frozen then, so its weights are the same throughout."
            )
        )
    return Section("fusion", "What the fusion sees" if look.fuse else "What the networks see", blocks)


def cka_section(networks: Networks) -> Section | None:
    """CKA of the teacher's stages with those of the student, before and after; None without teacher and student."""
    seeds = [seed for seed in networks.students["distilled"] if seed in networks.students["alone"]]
    if networks.teacher is None or not seeds or len(networks.split) < 4:
        return None
    images = _inputs(networks, _spread(len(networks.split), LOOKED_AT))
    teacher = _grams(networks.teacher, networks, images)
    blocks: list[Block] = []
    means = []
    whens: dict[Kind, str] = {"alone": "Before: student alone", "distilled": "After: student distilled"}
    for kind, when in whens.items():
        student = _grams(networks.students[kind][seeds[0]], networks, images)
        values = cka.matrix(teacher, student)
        means.append(sum(max(line) for line in values) / len(values))
        blocks.append(matrix(f"cka-{kind}", when, values, list(teacher), list(student), (NAMES[kind], "teacher")))
    closer = "closer to" if means[1] > means[0] else "no closer to"
    text = Text(
        f"Linear CKA on {len(images)} test images, seed {seeds[0]}: 1 where two stages see the same, but for rotation "
        f"and scale. For each stage of the teacher the likest one of the student has {means[0]:.2f} on average before "
        f"and {means[1]:.2f} after, so distillation has brought the student {closer} the teacher's features."
    )
    return Section("cka", "Likeness of the features", [text, *blocks])


def _grams(network: nn.Module, networks: Networks, images: Tensor) -> dict[str, Tensor]:
    names = maps.names_of_stages(network, networks.shape)
    parts = [maps.stages(network, part, names, networks.shape) for part in images.split(100)]
    return {name: cka.gram(torch.cat([part[name] for part in parts])) for name in names}


def _inputs(networks: Networks, places: list[int]) -> Tensor:
    """(B, C, H, W) some of the images that are looked at."""
    return inputs(networks.split, networks.data, networks.plan.config.data, places)[0]


def _spread(count: int, most: int) -> list[int]:
    wanted = min(count, most)
    return [place * count // wanted for place in range(wanted)]


def _answers(networks: Networks, found: Answers, seed: int) -> dict[Kind, Tensor]:
    """(N,) likeliest classes of the students of a seed."""
    seeds = {kind: list(networks.students[kind]) for kind in found.students}
    return {kind: found.said(kind)[each.index(seed)] for kind, each in seeds.items() if seed in each}


def _chosen(networks: Networks, found: Answers, seed: int) -> list[int]:
    """Images that the distilled student recognises and the one alone does not, one a class; then any others."""
    labels = found.labels
    right = {kind: (said == labels).double() for kind, said in _answers(networks, found, seed).items()}
    gain = right["distilled"] - right["alone"] if "alone" in right else right["distilled"]
    chosen: list[int] = []
    for place in gain.argsort(descending=True, stable=True).tolist():
        if labels[place] not in labels[chosen]:
            chosen.append(place)
        if len(chosen) == min(CHOSEN, len(networks.data.classes)):
            break
    return chosen


def _looked_at(title: str, text: str, pixels: Tensor, taken: dict[str, dict[str, Tensor]]) -> ImageTable:
    """All maps of one image.

    Args:
        title: of the table.
        text: below it.
        pixels: (C, H, W) uint8.
        taken: by side and name, each (C, h, w), or (C,), which has no places to show.
    """
    size = (int(pixels.shape[1]), int(pixels.shape[2]))
    names = dict.fromkeys(name for levels in taken.values() for name in levels)
    columns = sorted(names, key="fused".__eq__)  # that one last, the others in their order
    rows = []
    for side, levels in taken.items():
        images: list[Image | None] = []
        for name in columns:
            one = levels.get(name)
            if one is None or one.ndim != 3:
                images.append(None)
                continue
            heat = maps.heat(one[None], size)[0]
            images.append(Image(overlay(pixels, heat), f"{side}, {name} map: {maps.place(heat)}"))
        rows.append((side, images))
    source, small = thumbnail(pixels)
    return ImageTable(title, text, columns, rows, Image(source, f"the image itself, of class {title}", pixels=small))


def _weights(side: str, weights: Tensor, labels: Tensor, classes: Sequence[str], names: Sequence[str]) -> Picture:
    """Weights of the levels by class; of many classes those that differ most from the mean."""
    found = maps.by_class(weights, labels, len(classes))
    known = [place for place in range(len(classes)) if not found[place].isnan().any()]
    overall = weights.double().mean(0)
    far = sorted(known, key=lambda place: -float((found[place] - overall).abs().sum()))[: 2 * SHOWN]
    shown = [place for place in known if place in far]
    rest = "" if len(shown) == len(known) else f" The {len(shown)} classes that differ most from all."
    return matrix(
        f"levels-{side}",
        f"Weight of each level, {side}",
        [overall.tolist(), *(found[place].tolist() for place in shown)],
        ["all classes", *(classes[place] for place in shown)],
        names,
        limits=(0.0, 1.0),
        caption=f"How much each level counts in the fused map, mean over positions and {len(weights)} images; "
        f"each row sums to 1.{rest}",
    )
