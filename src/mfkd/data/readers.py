"""The reader that suits a split: from memory or from files, for training or for evaluation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mfkd.config import AugmentConfig, DataConfig
from mfkd.data.augment import large_transform, small_transform
from mfkd.data.copies import FOLDER, Copies
from mfkd.data.files import FileReader
from mfkd.data.memory import MemoryReader
from mfkd.data.sets import ImageData, MemorySplit, Split
from mfkd.errors import ConfigError


class Reader(Protocol):
    """Where pixels come from."""

    def read(self, plan: Sequence[Tensor], view: int | None) -> Iterator[Tensor]:
        """Yield (B, C, H, W) uint8 on the device for each (B,) of positions; view None is evaluation."""


def training_reader(
    split: Split, data: ImageData, config: DataConfig, augment: AugmentConfig, device: torch.device
) -> Reader:
    """A reader that augments.

    Args:
        split: of `data`.
        data: from `load_data`.
        config: the `data` part of the recipe.
        augment: the `augment` part; None values stand for the set's own default.
        device: where the batches are made.

    Raises:
        ConfigError: the augmentation does not fit the kind of images.
    """
    flip = data.flip if augment.flip is None else augment.flip
    if isinstance(split, MemorySplit):
        if config.copies is not None:
            raise ConfigError(
                f"data.copies={config.copies} is for large images, and {data.name} has small ones, which are in "
                "memory; leave it out."
            )
        usual = AugmentConfig()
        if (augment.scale, augment.ratio) != (usual.scale, usual.ratio):
            raise ConfigError(
                f"augment.scale and augment.ratio are for large images, and {data.name} has small ones; "
                "leave them out, and set augment.crop_padding instead."
            )
        return MemoryReader(
            split,
            device,
            padding=data.crop_padding if augment.crop_padding is None else augment.crop_padding,
            flip=flip,
            view_seed=augment.view_seed,
            transform=small_transform(augment, data.mean),
        )
    if augment.crop_padding:
        raise ConfigError(
            f"augment.crop_padding={augment.crop_padding} is for small images, and {data.name} has large ones; "
            f"leave it null for random resized crops, or 0 for the central crop."
        )
    side, how = _scaling(data)
    if config.copies is not None and config.copies < side:
        raise ConfigError(
            f"data.copies={config.copies} is less than the {side} px that evaluation scales the shorter side to; "
            f"give {side} or more, or leave it out."
        )
    transform = large_transform(augment.model_copy(update={"flip": flip}), data.size, side, how, data.mean)
    return FileReader(
        split,
        data.size,
        side,
        device,
        config.workers,
        interpolation=how,
        transform=transform,
        view_seed=augment.view_seed,
        copies=Copies(Path(config.root).expanduser() / FOLDER, config.copies, how) if config.copies else None,
    )


def evaluation_reader(split: Split, data: ImageData, config: DataConfig, device: torch.device) -> Reader:
    """A reader of the images as they are; arguments as in `training_reader`."""
    if isinstance(split, MemorySplit):
        return MemoryReader(split, device)
    side, how = _scaling(data)
    return FileReader(split, data.size, side, device, config.workers, interpolation=how)


def _scaling(data: ImageData) -> tuple[int, str]:
    return data.resize or data.size[0], data.interpolation
