"""What a data set is once it is read: splits, class names, statistics and augmentation defaults.

Shapes: N images; C, H, W channels, height, width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mfkd.types import UNLABELLED

SMALL = 96
"""Longest side, in pixels, of images that are kept in memory as they are."""
UNREADABLE = "unreadable.txt"
"""In the run folder: one line for each image that was left out."""
NAMED = 10  # images that a note names


@dataclass(frozen=True, eq=False)
class MemorySplit:
    """Small images, all of one size, in memory.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64 class, or -1 without one.
        rows: (N,) int64 row in the data source.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: Tensor) -> "MemorySplit":
        """The images at these positions, in this order."""
        return MemorySplit(self.images[positions], self.labels[positions], self.rows[positions])


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Large images, read anew for every batch by worker processes.

    Args:
        paths: N image files; an encoded image (bytes) where the source is a table.
        labels: (N,) int64 class, or -1 without one.
        rows: (N,) int64 row in the data source.
    """

    paths: tuple[Path | bytes, ...]
    labels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: Tensor) -> "FileSplit":
        """The images at these positions, in this order."""
        paths = tuple(self.paths[position] for position in positions.tolist())
        return FileSplit(paths, self.labels[positions], self.rows[positions])


Split = MemorySplit | FileSplit


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set, ready for the loaders.

    Args:
        name: as in `data.name`.
        classes: class names; a label is a position in them.
        channels: 1 or 3.
        size: (height, width) in pixels that the network gets.
        mean: of each channel, on the scale 0..1.
        std: deviation of each channel, on the same scale.
        crop_padding: zero padding before a random crop in pixels, the set's own default.
        flip: whether to flip horizontally, the set's own default.
        train: what is trained on, after `data.fraction` and `data.val_fraction`.
        val: what choices are made by: cut off by `data.val_fraction`, else the source's own
            validation split where it has a test split besides, else None.
        test: only ever reported; the validation images themselves with `data.evaluate=val`.
        num_rows: upper bound of a training row + 1; unlabelled rows come after the labelled ones.
        resize: shorter side that large images are scaled to before the central crop of evaluation;
            None for images in memory.
        interpolation: by which large images are scaled.
        unreadable: one line for each image that `data.unreadable=skip` left out.
        place: folder where it is remembered what a look at every file has shown; None: nowhere.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool
    train: Split
    val: Split | None
    test: Split
    num_rows: int
    resize: int | None = None
    interpolation: str = "bilinear"
    unreadable: tuple[str, ...] = ()
    place: Path | None = None

    @cached_property
    def notes(self) -> list[str]:
        """What a user must know of the images: how many were left out, and how many are trained and tested on alike.

        Looks at the sizes of all files at its first call.
        """
        from mfkd.data.overlap import overlap

        found = []
        if self.unreadable:
            found.append(
                f"left out as unreadable (data.unreadable=skip): {len(self.unreadable):,} "
                f"image{'s' if len(self.unreadable) > 1 else ''}, all of them in {UNREADABLE} of the run folder: "
                f"{_first(self.unreadable)}."
            )
        same = overlap(self.train, self.test, self.place)
        if same:
            found.append(
                f"{len(same):,} of {len(self.test):,} test images are trained on too, so that the figures are too "
                f"good: {_first(same)}; take them out of one of the two."
            )
        return found

    def train_labels(self) -> Tensor:
        """(num_rows,) int64 label by source row, -1 where there is no labelled training image."""
        labels = torch.full((self.num_rows,), UNLABELLED)
        labels[self.train.rows] = self.train.labels
        return labels


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as its reader found it, before any share is taken or held out.

    Args:
        classes: class names.
        train: every labelled training image, rows rising.
        val: the source's own validation split, only where it has a test split besides.
        test: the test split.
        num_rows: rows of the source that `train.rows` points into.
        mean: published statistics, or None to measure them on `train`.
        std: the same for the deviation.
        crop_padding: default augmentation of the set.
        flip: default augmentation of the set.
        unreadable: as in `ImageData`.
    """

    classes: tuple[str, ...]
    train: Split
    val: Split | None
    test: Split
    num_rows: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_padding: int = 0
    flip: bool = False
    unreadable: tuple[str, ...] = ()


def _first(lines: Sequence[str]) -> str:
    return ", ".join(lines[:NAMED]) + (", ..." if len(lines) > NAMED else "")
