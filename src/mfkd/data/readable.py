"""`data.unreadable=skip`: images that cannot be read are told and left out, never silently.

Shapes: N images.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mfkd.config import DataConfig
from mfkd.data.decode import in_runs
from mfkd.data.remember import FOLDER, remembered
from mfkd.errors import DataError
from mfkd.pictures import Encoded, UnreachedError, read_image


class Part(NamedTuple):
    """The images of one split as their reader lists them: N sources, (N,) labels, (N,) rows in the source."""

    sources: Sequence[Encoded]
    labels: Tensor
    rows: Tensor

    def take(self, positions: Tensor) -> "Part":
        """The part of some of its images, (M,) int64 positions."""
        sources = [self.sources[number] for number in positions.tolist()]
        return Part(sources, self.labels[positions], self.rows[positions])


def listed(sources: Sequence[Encoded], labels: Tensor) -> Part:
    """A part in which no image is left out."""
    return Part(sources, labels, torch.arange(len(labels)))


def readable(
    parts: Mapping[str, Part], classes: Sequence[str], config: DataConfig, name: str
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """The images that can be read, and one line for each that cannot.

    Every image is decoded once; what was found is remembered below `data.root` for as long as no file changes. With
    `data.unreadable=error` nothing is looked at here: whoever reads an image refuses it.

    Args:
        parts: by the name of the split.
        classes: names of the labels.
        config: `unreadable` and `root` decide.
        name: of the table or folder, for errors.

    Raises:
        DataError: a class without an image to train on, or an empty split.
        UnreachedError: an image that disk or memory keeps from being looked at.
    """
    if config.unreadable == "error":
        return dict(parts), ()
    kept: dict[str, Part] = {}
    lines: list[str] = []
    for key, part in parts.items():
        broken = _broken(part.sources, Path(config.root).expanduser() / FOLDER, f"{name} {key}")
        lines += broken.values()
        stays = torch.tensor([number for number in range(len(part.sources)) if number not in broken], dtype=torch.int64)
        kept[key] = part.take(stays)
        if part.sources and not len(stays):
            raise DataError(f"no image of the {key} split of {name} can be read; the first: {lines[-len(broken)]}.")
    lost = set(parts["train"].labels.tolist()) - set(kept["train"].labels.tolist())
    if lost:
        raise DataError(
            f"no training image of the class {classes[min(lost)]} of {name} can be read; repair some of its images, or "
            "remove the class from every split."
        )
    return kept, tuple(lines)


def _broken(sources: Sequence[Encoded], place: Path, name: str) -> dict[int, str]:
    """Position of each image that cannot be read, and why."""

    def look(numbers: range) -> list[tuple[int, str]]:
        found = []
        for number in numbers:
            source = sources[number]
            try:
                read_image(source, 3, f"{name} row {number}" if isinstance(source, bytes) else "")
            except UnreachedError:  # to leave it out would be remembered, and processes might differ in it
                raise
            except DataError as error:
                found.append((number, str(error).removesuffix("; repair or remove it.")))
        return found

    def find() -> list[tuple[int, str]]:
        return [one for run in in_runs(look, len(sources), length=32) for one in run]

    return {int(number): str(why) for number, why in remembered(place, "readable", sources, find)}
