"""Encoded images to splits: small ones are decoded into memory once, large ones stay files."""

from collections.abc import Mapping
from pathlib import Path

import torch

from mfkd.config import DataConfig
from mfkd.data.decode import decode, measure
from mfkd.data.readable import Part, listed, readable
from mfkd.data.sets import SMALL, FileSplit, MemorySplit, Split
from mfkd.errors import DataError
from mfkd.pictures import images_below
from mfkd.places import is_dir
from mfkd.types import UNLABELLED


def make_splits(parts: Mapping[str, Part], resize: int | None, name: str) -> dict[str, Split]:
    """One split for each part, all of one kind.

    Images live in memory when none is longer than 96 px and they are of equal size, be it by
    `resize`. They are grey when all of them are, else RGB; large ones are always RGB.

    Args:
        parts: by the name of the split.
        resize: `data.resize`.
        name: of the table or folder, for errors.

    Raises:
        DataError: an empty split, an image that cannot be read, or small ones of unequal size.
    """
    sizes: set[tuple[int, int]] = set()
    grey = True
    for key, (sources, _, _) in parts.items():
        if not sources:
            raise DataError(f"the {key} split of {name} holds no image.")
        found, all_grey = measure(sources, f"{name} {key}")
        sizes |= found
        grey &= all_grey
    longest = max(max(size) for size in sizes)
    small = longest <= SMALL
    if small and resize is None and len(sizes) > 1:
        raise DataError(
            f"{name} has small images of {len(sizes)} sizes, the longest side {longest} px; "
            f"bring them to one with data.resize={longest}, or another size."
        )
    splits: dict[str, Split] = {}
    for key, (sources, labels, rows) in parts.items():
        if small:
            size = (resize, resize) if resize else next(iter(sizes))
            images = decode(sources, 1 if grey else 3, size, f"{name} {key}")
            splits[key] = MemorySplit(images, labels, rows)
        else:
            splits[key] = FileSplit(tuple(sources), labels, rows)
    return splits


def append_unlabelled(train: Split, folder: Path, first_row: int, config: DataConfig) -> tuple[Split, tuple[str, ...]]:
    """Add every image below a folder, with label -1 and rows from `first_row` on.

    Args:
        train: images in memory decide size and channels of the added ones.
        folder: searched with all its subfolders.
        first_row: rows of the labelled source.
        config: decides about images that cannot be read.

    Returns:
        The larger split, and one line for each image that was left out.
    """
    if not is_dir(folder):
        raise DataError(f"data.unlabelled: folder {folder} does not exist; give a folder that holds images.")
    paths = images_below(folder)
    if not paths:
        raise DataError(f"data.unlabelled: {folder} holds no image; expected files such as .png or .jpg.")
    found = listed(paths, torch.full((len(paths),), UNLABELLED))
    kept, left_out = readable({"train": found}, ("unlabelled",), config, str(folder))
    sources, more, places = kept["train"]
    labels, rows = torch.cat([train.labels, more]), torch.cat([train.rows, first_row + places])
    if isinstance(train, FileSplit):
        return FileSplit((*train.paths, *sources), labels, rows), left_out
    channels, height, width = train.images.shape[1:]
    added = decode(sources, channels, (height, width))
    return MemorySplit(torch.cat([train.images, added]), labels, rows), left_out
