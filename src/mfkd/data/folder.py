"""`folder:PATH`: train/ and test/ or val/, in each a folder a class."""

from pathlib import Path

import torch

from mfkd.config import DataConfig
from mfkd.data.encoded import image_files, make_splits
from mfkd.data.sets import FileSplit, Source
from mfkd.data.stats import IMAGENET
from mfkd.errors import DataError
from mfkd.pictures import Encoded


def folder(config: DataConfig) -> Source:
    """Read the layout that torchvision's `ImageFolder` made common; class names are sorted.

    Small images are augmented only if the recipe asks for it, for they may be signs or digits.
    test/ is the test split and val/ the validation split; where only one exists it is the test split.

    Raises:
        DataError: missing or empty folders, or classes that differ between the splits.
    """
    root = Path(config.name.partition(":")[2]).expanduser()
    if not root.is_dir():
        raise DataError(f"folder {root} does not exist; give a folder with train/ and val/ or test/.")
    places = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if "train" not in places or len(places) == 1:
        lacking = "train/" if "train" not in places else "val/ or test/"
        raise DataError(f"{root} has no {lacking}; expected train/ and val/ or test/, each with a folder a class.")
    classes = _class_names(places["train"])
    for name, place in places.items():
        if _class_names(place) != classes:
            differing = sorted(set(_class_names(place)) ^ set(classes))
            raise DataError(
                f"{root}: train/ and {name}/ differ in the classes {', '.join(differing[:5])}; give both the same."
            )
    if len(classes) < 2:
        raise DataError(f"{places['train']} has {len(classes)} class folders, expected two or more.")
    splits = make_splits({name: _listed(place, classes) for name, place in places.items()}, config.resize, str(root))
    test = splits["test" if "test" in splits else "val"]
    val = splits.get("val") if "test" in splits else None
    train = splits["train"]
    return Source(classes, train, val, test, len(train), *IMAGENET, flip=isinstance(train, FileSplit))


def _class_names(place: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _listed(place: Path, classes: tuple[str, ...]) -> tuple[list[Encoded], torch.Tensor]:
    paths: list[Encoded] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = image_files(place / name)
        if not found:
            raise DataError(f"{place / name} holds no image; fill the class or remove its folder from every split.")
        paths += found
        labels += [label] * len(found)
    return paths, torch.tensor(labels)
