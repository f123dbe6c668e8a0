"""`folder:PATH`: train/ and test/ or val/, in each a folder a class; or the class folders alone."""

from pathlib import Path

import torch

from mfkd.config import DataConfig
from mfkd.data.encoded import make_splits
from mfkd.data.readable import Part, listed, readable
from mfkd.data.sets import FileSplit, Source
from mfkd.data.split import hold_out
from mfkd.data.stats import IMAGENET
from mfkd.errors import ConfigError, DataError
from mfkd.pictures import Encoded, images_below
from mfkd.places import is_dir


def folder(config: DataConfig) -> Source:
    """Read the layout that torchvision's `ImageFolder` made common; class names are sorted.

    Small images are augmented only if the recipe asks for it, for they may be signs or digits.
    test/ is the test split and val/ the validation split; where only one exists it is the test split. Class folders
    without such a split are cut by `data.test_fraction`, class by class.

    Raises:
        DataError: missing or empty folders, or classes that differ between the splits.
        ConfigError: `data.test_fraction` where a split exists.
    """
    root = Path(config.name.partition(":")[2]).expanduser()
    if not is_dir(root):
        raise DataError(f"folder {root} does not exist; give a folder with train/ and val/ or test/.")
    places = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if config.test_fraction is not None:
        found, classes = _cut(root, places, config.test_fraction, config.split_seed)
    else:
        found, classes = _given(root, places)
    parts, left_out = readable(found, classes, config, str(root))
    splits = make_splits(parts, config.resize, str(root))
    test = splits["test" if "test" in splits else "val"]
    val = splits.get("val") if "test" in splits else None
    train = splits["train"]
    rows, flip = int(found["train"].rows.max()) + 1, isinstance(train, FileSplit)
    return Source(classes, train, val, test, rows, *IMAGENET, flip=flip, unreadable=left_out)


def _given(root: Path, places: dict[str, Path]) -> tuple[dict[str, Part], tuple[str, ...]]:
    """The splits as the folder has them, and the classes."""
    if "train" not in places or len(places) == 1:
        lacking = "train/" if "train" not in places else "val/ or test/"
        raise DataError(
            f"{root} has no {lacking}; expected train/ and val/ or test/, each with a folder a class, or "
            "data.test_fraction=0.2 for class folders alone."
        )
    classes = _class_names(places["train"])
    for name, place in places.items():
        if _class_names(place) != classes:
            differing = sorted(set(_class_names(place)) ^ set(classes))
            raise DataError(
                f"{root}: train/ and {name}/ differ in the classes {', '.join(differing[:5])}; give both the same."
            )
    _check_count(places["train"], classes)
    return {name: _listed(place, classes) for name, place in places.items()}, classes


def _cut(root: Path, places: dict[str, Path], share: float, seed: int) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Class folders without a split, cut by a seed, and the classes."""
    if places:
        raise ConfigError(
            f"data.test_fraction is for class folders without a split, and {root} has {', '.join(places)}; "
            "leave it out."
        )
    classes = _class_names(root)
    _check_count(root, classes)
    whole = _listed(root, classes)
    for label, name in enumerate(classes):
        if int((whole.labels == label).sum()) < 2:
            raise DataError(f"{root / name} holds one image, and data.test_fraction needs two or more of each class.")
    stays, held = hold_out(whole.labels, share, seed, "test")
    return {"train": whole.take(stays), "test": whole.take(held)}, classes


def _check_count(place: Path, classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise DataError(f"{place} has {len(classes)} class folders, expected two or more.")


def _class_names(place: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _listed(place: Path, classes: tuple[str, ...]) -> Part:
    paths: list[Encoded] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = images_below(place / name)
        if not found:
            raise DataError(f"{place / name} holds no image; fill the class or remove its folder from every split.")
        paths += found
        labels += [label] * len(found)
    return listed(paths, torch.tensor(labels))
