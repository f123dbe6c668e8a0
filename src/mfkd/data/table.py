"""Image tables: parquet files in the layout of the Hugging Face hub, and the hub itself.

A table has one column of images, {bytes, path} or plain bytes, and one of labels.
"""

import json
import reprlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfkd.config import DataConfig
from mfkd.data import stats
from mfkd.data.encoded import make_splits
from mfkd.data.readable import listed, readable
from mfkd.data.sets import FileSplit, Source
from mfkd.errors import ConfigError, DataError, cut
from mfkd.pictures import Encoded
from mfkd.places import is_dir, is_file

_SPLITS = {"train": "train", "test": "test", "validation": "val", "valid": "val", "val": "val"}


@dataclass(frozen=True)
class Columns:
    """Which columns a table has.

    Args:
        image: name of the image column.
        label: name of the label column.
        classes: class names, if the table tells them.
        known: published statistics, if the table is CIFAR, whichever of its label columns is taken.
    """

    image: str
    label: str
    classes: tuple[str, ...] | None
    known: stats.Stats | None

    @property
    def names(self) -> list[str]:
        """Both columns."""
        return [self.image, self.label]


def parquet(config: DataConfig) -> Source:
    """`parquet:PATH`: a folder with train-*.parquet and test-*.parquet or validation-*.parquet.

    PATH may also be a pattern such as `data/*-of-00001.parquet`.

    Raises:
        DataError: missing files, columns or labels.
    """
    from pyarrow import ArrowInvalid
    from pyarrow import parquet as pq

    place = config.name.partition(":")[2]
    files: dict[str, list[Path]] = {}
    for path in _find(place):
        split = _SPLITS.get(path.name.lower().replace(".", "-").split("-")[0])
        if split:
            files.setdefault(split, []).append(path)
    _check_splits(files, place)
    try:
        schemas = {path: pq.read_schema(path) for paths in files.values() for path in paths}
        first = schemas[files["train"][0]]
        columns = choose_columns(first.names, _features(first.metadata), config.label, place)
        for path, schema in schemas.items():
            _check_alike(path, schema.names, _features(schema.metadata), columns)
        tables = {split: pq.read_table(paths, columns=columns.names) for split, paths in files.items()}
    except (ArrowInvalid, OSError) as error:
        raise DataError(
            f"{place} holds a damaged parquet file ({' '.join(str(error).split())}); copy it anew."
        ) from None
    return _source(tables, columns, config, place)


def hugging_face(config: DataConfig) -> Source:
    """`hf:NAME`: a data set of the Hugging Face hub, or a local folder that `datasets` can read.

    Raises:
        ConfigError: the extra is not installed.
        DataError: the data set cannot be loaded, or lacks splits, columns or labels.
    """
    place = config.name.partition(":")[2]
    try:
        import datasets
    except ModuleNotFoundError:
        raise ConfigError(f"data.name={config.name} needs the package datasets; run `pip install mfkd[hf]`.") from None
    try:
        saved = is_file(Path(place) / "dataset_dict.json")
        found = datasets.load_from_disk(place) if saved else datasets.load_dataset(place)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # The library says "an error occurred", and its cause which one.
        told = ": ".join(" ".join(str(one).split()) for one in (error, error.__cause__) if one is not None)
        raise DataError(f"data set {place} cannot be loaded ({cut(told)}).") from None
    splits = {_SPLITS[name]: part for name, part in found.items() if name in _SPLITS}
    _check_splits(splits, place)
    features = {name: _plain(feature) for name, feature in splits["train"].features.items()}
    columns = choose_columns(list(features), features, config.label, place)
    tables = {split: part.select_columns(columns.names).with_format("arrow")[:] for split, part in splits.items()}
    return _source(tables, columns, config, place)


def choose_columns(names: list[str], features: Mapping[str, Any], label: str | None, place: str) -> Columns:
    """Find the image and the label column.

    Args:
        names: columns of the table.
        features: the hub's description of the columns, as far as there is one.
        label: `data.label`; by default `fine_label`, `label`, or the only column beside the image.
        place: named in errors.
    """
    images = [name for name in names if name in ("img", "image")]
    images += [name for name in names if features.get(name, {}).get("_type") == "Image"]
    if not images:
        raise DataError(f"{place} has no column img or image; its columns are {', '.join(names)}.")
    rest = [name for name in names if name != images[0]]
    labels = [name for name in ([label] if label else ["fine_label", "label"]) if name in rest]
    if not labels and not label and len(rest) == 1:
        labels = rest
    if not labels:
        wanted = f"column {label}" if label else "label column"
        raise DataError(f"{place} has no {wanted}; its columns are {', '.join(names)}; choose one with data.label.")
    told = features.get(labels[0], {}).get("names")
    published = (stats.published(tuple(feature.get("names") or ())) for feature in features.values())
    return Columns(images[0], labels[0], tuple(told) if told else None, next(filter(None, published), None))


def _check_splits(splits: Iterable[str], place: str) -> None:
    found = sorted(splits)
    if "train" not in found or len(found) < 2:
        raise DataError(
            f"{place} needs a train split and a test or validation split, found {', '.join(found) or 'none'}; "
            f"name them so."
        )


def _source(tables: Mapping[str, Any], columns: Columns, config: DataConfig, place: str) -> Source:
    values = {split: table.column(columns.label).to_pylist() for split, table in tables.items()}
    _check_labels(values, columns.label, place)
    classes = columns.classes or _classes(values["train"])
    if len(classes) < 2:
        raise DataError(f"{place} has the one class {classes[0]}; classification needs two or more.")
    local = config.name.startswith("parquet:")
    found = {
        split: listed(
            _images(table.column(columns.image).to_pylist(), split, columns, place, local),
            _labels(values[split], classes, split, columns, place),
        )
        for split, table in tables.items()
    }
    parts, left_out = readable(found, classes, config, place)
    splits = make_splits(parts, config.resize, place)
    train = splits["train"]
    test = splits["test" if "test" in splits else "val"]
    val = splits.get("val") if "test" in splits else None
    mean, std = columns.known or (None, None)
    padding = 4 if columns.known else 0
    flip = columns.known is not None or isinstance(train, FileSplit)
    rows = len(values["train"])
    return Source(classes, train, val, test, rows, mean, std, crop_padding=padding, flip=flip, unreadable=left_out)


def _check_alike(path: Path, names: list[str], features: Mapping[str, Any], columns: Columns) -> None:
    """Every file must have the columns of the first one, and number the same classes in the same way."""
    for name in columns.names:
        if name not in names:
            raise DataError(f"{path} has no column {name}, as other files have; its columns are {', '.join(names)}.")
    told = features.get(columns.label, {}).get("names")
    if told and columns.classes and tuple(told) != columns.classes:
        differing = sorted(set(told) ^ set(columns.classes))
        how = f"the classes {', '.join(differing[:5])}" if differing else "the order of its classes"
        raise DataError(f"{path} differs from the training images in {how}; give both the same.")


def _check_labels(values: Mapping[str, list[Any]], label: str, place: str) -> None:
    for split, labels in values.items():
        for row, value in enumerate(labels):
            if isinstance(value, list | dict):
                raise DataError(
                    f"{place}: {label} of {split} row {row} is {reprlib.repr(value)}, expected one class; "
                    "choose another column with data.label."
                )


def _classes(values: Iterable[Any]) -> tuple[str, ...]:
    """Class names where the table tells none: the texts themselves, or the numbers from 0 on."""
    found = {value for value in values if value is not None}
    if all(isinstance(value, int) for value in found):
        return tuple(str(number) for number in range(max([0, *found]) + 1))
    return tuple(sorted(map(str, found)))


def _labels(values: list[Any], classes: tuple[str, ...], split: str, columns: Columns, place: str) -> Tensor:
    position = {name: number for number, name in enumerate(classes)}
    numbered = columns.classes is not None or classes == tuple(map(str, range(len(classes))))
    labels = [value if numbered and isinstance(value, int) else position.get(str(value), -1) for value in values]
    for row, label in enumerate(labels):
        if not 0 <= label < len(classes):
            raise DataError(
                f"{place}: {columns.label} of {split} row {row} is {values[row]!r}, "
                f"expected one of the {len(classes)} classes; correct the table."
            )
    return torch.tensor(labels, dtype=torch.int64)


def _images(values: list[Any], split: str, columns: Columns, place: str, local: bool) -> list[Encoded]:
    """`local`: paths lie beside the table; those of the hub's library lie in its own cache."""
    images: list[Encoded] = []
    root = Path(place).expanduser()
    folder = root if is_dir(root) else root.parent
    for row, value in enumerate(values):
        encoded, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(encoded, bytes):
            images.append(encoded)
        elif encoded is None and isinstance(path, str):
            if local and (Path(path).is_absolute() or ".." in Path(path).parts):
                raise DataError(
                    f"{place}: {columns.image} of {split} row {row} is {reprlib.repr(path)}, which leads out of the "
                    "folder of the table; put the image beside it."
                )
            images.append(folder / path)
        else:
            raise DataError(
                f"{place}: {columns.image} of {split} row {row} is {reprlib.repr(value)}, "
                "expected the bytes or the path of an image; correct the table."
            )
    return images


def _find(place: str) -> list[Path]:
    root, found = Path(place).expanduser(), list[Path]()
    if is_dir(root):
        found = sorted(root.rglob("*.parquet"))
    elif is_file(root):
        found = [root]
    else:
        with suppress(ValueError):  # no pattern, such as **.parquet
            found = sorted(root.parent.glob(root.name)) if is_dir(root.parent) else []
    if not found:
        raise DataError(f"no parquet file at {place}; give a folder with train-*.parquet and test-*.parquet.")
    return found


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The hub's description of the columns, from the schema's metadata, as far as it makes sense."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"].items()
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: {**feature, "names": feature["names"] if _are_texts(feature.get("names")) else None}
        for name, feature in features
        if isinstance(feature, dict)
    }


def _are_texts(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _plain(feature: Any) -> dict[str, Any]:
    return {"_type": type(feature).__name__, "names": getattr(feature, "names", None)}
