"""How images become what the network gets: size, crop, interpolation, statistics, and the names of the classes."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfkd.config import DataConfig
from mfkd.data.sets import FileSplit, ImageData
from mfkd.errors import ConfigError, DataError

SIZE, CROP, INTERPOLATION = 224, 0.875, "bilinear"
"""Of large images, unless told otherwise (Krizhevsky et al., 2012: 224 px out of 256)."""


def preprocessed(data: ImageData, config: DataConfig) -> ImageData:
    """A data set with the statistics and, if its images are large, with the size that the recipe names.

    Three statistics are averaged for grey images, as timm adapts a pretrained stem. What the recipe
    leaves open stays as it is, or is the usual for large images.

    Raises:
        ConfigError: keys for large images on small ones, or sizes or statistics that do not fit.
    """
    mean, std = _statistic(data, config.mean, "mean"), _statistic(data, config.std, "std")
    data = replace(data, mean=mean or data.mean, std=std or data.std)
    if not isinstance(data.train, FileSplit):
        for name in ("crop", "interpolation", "image_size"):
            if getattr(config, name) is not None:
                raise ConfigError(
                    f"data.{name}={getattr(config, name)} is for large images, and {data.name} has small ones; "
                    f"set data.{name}=null."
                )
        return data
    size = config.image_size or SIZE
    if config.resize is not None and config.crop is not None:
        raise ConfigError(
            f"data.resize={config.resize} and data.crop={config.crop:g} both tell the shorter side before the crop; "
            "set one of them to null."
        )
    # Rounded down as in timm; the little more is for shares that stand for a whole number of pixels.
    side = config.resize or math.floor(size / (config.crop or CROP) + 1e-6)
    if side < size:
        raise ConfigError(
            f"data.resize={side} is smaller than data.image_size={size}, the crop taken out of it; "
            f"set data.image_size={side} or less."
        )
    return replace(data, size=(size, size), resize=side, interpolation=config.interpolation or INTERPOLATION)


def filled(config: DataConfig, data: ImageData, own: Mapping[str, Any]) -> DataConfig:
    """The recipe with the keys that it leaves open taken from what a network was trained with.

    Args:
        config: its own keys win.
        data: decides which keys apply; size, crop and interpolation are for large images alone.
        own: values by the names of the recipe; None where one is not known.
    """
    names = ["mean", "std"]
    if isinstance(data.train, FileSplit):
        names += ["image_size", "interpolation", *(["crop"] if config.resize is None else [])]
    return config.model_copy(
        update={name: own[name] for name in names if getattr(config, name) is None and own.get(name) is not None}
    )


def named(classes: tuple[str, ...], config: DataConfig) -> tuple[str, ...]:
    """Class names from the file `data.class_names`, one a line, in the order of the labels.

    Raises:
        DataError: no such file, another number of names than classes, or a name that comes twice.
    """
    path = Path(config.class_names or "").expanduser()
    try:
        names = tuple(path.read_text(encoding="utf-8-sig").strip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DataError(f"data.class_names: {path} cannot be read ({why}); give a text file.") from None
    names = tuple(name.strip() for name in names)
    if len(names) != len(classes):
        raise DataError(
            f"data.class_names: {path} has {len(names)} names, {config.name} has {len(classes)} classes; "
            "write one name a line."
        )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"data.class_names: {path} has the name {twice!r} twice; give each class its own.")
    return names


def _statistic(data: ImageData, values: tuple[float, ...] | None, name: str) -> tuple[float, ...] | None:
    if values is None or len(values) == data.channels:
        return values
    if len(values) == 3 and data.channels == 1:
        return (sum(values) / 3,)
    raise ConfigError(
        f"data.{name} has {len(values)} value{'s' if len(values) != 1 else ''}, the images of {data.name} have "
        f"{data.channels} channel{'s' if data.channels > 1 else ''}; give one value a channel."
    )
