"""From `data.*` of a recipe to a data set that the loaders understand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mfkd.config import DataConfig
from mfkd.data.builtin import BUILTIN
from mfkd.data.decode import resize
from mfkd.data.encoded import append_unlabelled
from mfkd.data.folder import folder
from mfkd.data.preprocess import named, preprocessed
from mfkd.data.remember import FOLDER
from mfkd.data.sets import FileSplit, ImageData, MemorySplit, Source, Split
from mfkd.data.split import hold_out, keep_share
from mfkd.data.stats import measured
from mfkd.data.table import hugging_face, parquet
from mfkd.errors import ConfigError, UnknownNameError

READERS: dict[str, Callable[[DataConfig], Source]] = {"folder": folder, "parquet": parquet, "hf": hugging_face}
LABELLED = ("parquet", "hf")
"""Readers of tables, whose label column `data.label` chooses."""


def load_data(config: DataConfig) -> ImageData:
    """Read a data set, scale it, take the wanted share and hold validation images out.

    Statistics that are measured are those of the whole training split, so that runs on different
    shares see the same pixels.

    Args:
        config: the `data` part of a recipe.

    Raises:
        UnknownNameError: no such data set.
        ConfigError: options that contradict each other, or a missing extra.
        DataError: images or labels that are missing, unreadable or contradictory.
    """
    source = _read(config)
    train = _scaled(source.train, config.resize)
    published = (source.mean, source.std) if len(source.mean or ()) == _channels(train) else (None, None)
    mean, std = (published[0], published[1]) if published[0] and published[1] else measured(train)
    train = train.take(keep_share(train.labels, config.fraction, config.split_seed)) if config.fraction < 1 else train
    val = _scaled(source.val, config.resize) if source.val is not None else None
    if config.val_fraction:
        stays, held = hold_out(train.labels, config.val_fraction, config.split_seed)
        if not len(held):
            raise ConfigError(
                f"data.val_fraction={config.val_fraction} needs a class with two or more images to hold one out."
            )
        train, val = train.take(stays), train.take(held)
    test = _scaled(source.test, config.resize)
    if config.evaluate == "val":
        if val is None:
            raise ConfigError(
                "data.evaluate=val needs validation images, and there are none; "
                "hold some out with data.val_fraction, such as 0.1."
            )
        test, val = val, None
    num_rows, unreadable = source.num_rows, source.unreadable
    if config.unlabelled is not None:
        train, more = append_unlabelled(train, Path(config.unlabelled).expanduser(), num_rows, config)
        unreadable += more
        num_rows = max(num_rows, int(train.rows.max()) + 1)
    data = ImageData(
        name=config.name,
        classes=source.classes if config.class_names is None else named(source.classes, config),
        channels=_channels(train),
        size=(0, 0) if isinstance(train, FileSplit) else (train.images.shape[-2], train.images.shape[-1]),
        mean=mean,
        std=std,
        crop_padding=source.crop_padding,
        flip=source.flip,
        train=train,
        val=val,
        test=test,
        num_rows=num_rows,
        unreadable=unreadable,
        place=Path(config.root).expanduser() / FOLDER,
    )
    return preprocessed(data, config)


def _read(config: DataConfig) -> Source:
    kind, colon, place = config.name.partition(":")
    known = READERS if colon else BUILTIN
    if kind not in known:
        names = [*BUILTIN, *(f"{reader}:{'NAME' if reader == 'hf' else 'PATH'}" for reader in READERS)]
        raise UnknownNameError("data set", config.name, names, "see data.name.")
    if colon and not place:
        raise ConfigError(f"data.name={config.name} names no place; write what follows {kind}: after the colon.")
    if config.label is not None and kind not in LABELLED:
        raise ConfigError(
            f"data.label={config.label} is for parquet and hf sets, {config.name} has one label an image; "
            "set data.label=null."
        )
    if config.test_fraction is not None and kind != "folder":
        raise ConfigError(
            f"data.test_fraction={config.test_fraction:g} is for folder:PATH, {config.name} has a test split; "
            "leave it out."
        )
    return known[kind](config)


def _scaled(split: Split, side: int | None) -> Split:
    if side is None or isinstance(split, FileSplit):
        return split
    return replace(split, images=resize(split.images, (side, side)))


def _channels(split: Split) -> int:
    return split.images.shape[1] if isinstance(split, MemorySplit) else 3
