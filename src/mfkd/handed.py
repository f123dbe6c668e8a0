"""Trained networks handed back: measure one again, or ask it about images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mfkd.config import RunConfig, load_config
from mfkd.data import ImageData, MemorySplit, eval_loader, load_data, load_image
from mfkd.data.decode import EXTENSIONS
from mfkd.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from mfkd.records import RunRecord
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.load import is_ready, load_teacher
from mfkd.teacher.tune import tune_head
from mfkd.train.cost import cost
from mfkd.train.evaluate import evaluate
from mfkd.train.loop import EVAL_BATCH
from mfkd.train.student import Card, load_student, load_with_card, weights_file

SPLITS = ("test", "val")


def evaluate_run(path: str | Path, overrides: Sequence[str] = (), split: str = "test") -> dict[str, Any]:
    """Measure a trained network on the images that its recipe names.

    Args:
        path: a run folder, the folder of one of its trainings, or a weights file in either.
        overrides: other data, such as `data.name=folder:PATH`; the classes must be the network's.
        split: "test" or "val".

    Returns:
        All metrics of `mfkd.train.evaluate.evaluate` (agreement where the run has a teacher with the
        same classes, and the network is not this teacher) and `mfkd.train.cost.cost`; besides model,
        data, split, weights (the file) and notes.

    Raises:
        CheckpointError: no trained network there, or a damaged one.
        UnknownNameError: a split of another name.
        ConfigError: no recipe beside it, or an override that is not about data.
        DataError: images that do not fit the network, or a run without a val split.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    file = weights_of(path)
    network, card = load_with_card(file)
    config, notes = _config(file, overrides), []
    data = load_data(config.data)
    _check_fit(data, card, config.data.name)
    data = replace(data, mean=card.mean, std=card.std)
    images = data.test if split == "test" else data.val
    if images is None:
        raise DataError(f"{data.name} has no val split in this run; hold one out of its training by data.val_fraction.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = None
    try:
        teacher = None if file.name == "teacher.safetensors" else _teacher(_root(file), config, data)
    except CheckpointError as error:
        notes.append(f"agreement is left out, the teacher cannot be loaded: {error}")
    network = network.to(device)
    batches = eval_loader(images, data, config.data, batch_size=EVAL_BATCH, device=device)
    reference = teacher.to(device).logits if teacher is not None else None
    return {
        "model": card.model,
        "data": config.data.name,
        "split": split,
        "weights": str(file),
        **evaluate(network, batches, len(card.classes), reference),
        **cost(network, (card.channels, *card.size)),
        "notes": notes,
    }


@torch.no_grad()
def predict_images(images: Sequence[str | Path], model: str | Path, top: int = 5) -> list[dict[str, Any]]:
    """The likeliest classes of image files.

    Args:
        images: files, or folders whose images are taken in order of their names.
        model: a run folder, or a weights file written by mfkd.
        top: classes an image, at most all there are.

    Returns:
        For each image its path as `image`, and `top`: [class name, probability] pairs, likeliest first.

    Raises:
        CheckpointError: no trained network there, or a damaged one.
        DataError: an image that is not there or cannot be read.
    """
    files = [file for image in images for file in _image_files(Path(image))]
    network, card = load_with_card(weights_of(model))
    count = min(top, len(card.classes))
    found = []
    for file in files:
        pixels = load_image(file, card.channels, card.size, card.mean, card.std, card.side)
        best = network(pixels[None]).softmax(1)[0].topk(count)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        found.append({"image": str(file), "top": [[card.classes[label], share] for label, share in pairs]})
    return found


def weights_of(path: str | Path) -> Path:
    """The weights file that a path given by a user means."""
    path = Path(path).expanduser()
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a run folder such as runs/digits.")
    return weights_file(path)


def _config(file: Path, overrides: Sequence[str]) -> RunConfig:
    """The recipe of a weights file: in the record of its training, or complete in the run folder."""
    for override in overrides:
        if not override.startswith(("data.", "data=")):
            raise ConfigError(f"got {override!r}, expected a key of the data, such as data.name=folder:PATH.")
    record, recipe = file.parent / "record.json", file.parent / "config.yaml"
    if record.exists():
        return load_config(None, overrides, RunRecord.load(record).config)
    if recipe.exists():
        return load_config(recipe, overrides)
    if not any(override.startswith("data.name=") for override in overrides):
        raise ConfigError(f"{file} has no record.json or config.yaml beside it; name the images with data.name=.")
    return load_config(None, overrides)


def _root(file: Path) -> Path:
    """The run folder that a weights file lies in, at its top or in distilled/seed-N, or alone/seed-N."""
    for folder in (file.parent, *file.absolute().parents[1:3]):
        if (folder / "config.yaml").exists():
            return folder
    return file.parent


def _teacher(root: Path, config: RunConfig, data: ImageData) -> FrozenTeacher | None:
    """The run's teacher, as the students met it; None where there is none, or none with these classes."""
    trained, head = root / "teacher" / "teacher.safetensors", root / "teacher" / "head.safetensors"
    if trained.exists():
        teacher = FrozenTeacher(load_student(trained))
    elif not is_ready(config.teacher) or (config.teacher.head == "tune" and not head.exists()):
        return None
    else:
        teacher = load_teacher(config.teacher, data)
        if config.teacher.head == "tune":
            tune_head(teacher, data, config.data, head)
    return teacher if teacher.count_classes((data.channels, *data.size)) == len(data.classes) else None


def _check_fit(data: ImageData, card: Card, name: str) -> None:
    """Refuse images that the network was not made for."""
    if data.channels != card.channels:
        raise DataError(
            f"{name} has {data.channels} channels, {card.model} was trained on {card.channels}; convert them."
        )
    if data.size != card.size:
        key = "resize" if isinstance(data.test, MemorySplit) else "image_size"
        raise DataError(
            f"{name} has images of {' x '.join(map(str, data.size))} px, {card.model} was trained on "
            f"{' x '.join(map(str, card.size))}; scale them with data.{key}={card.size[0]}."
        )
    if data.classes != card.classes:
        raise DataError(
            f"{name} has other classes than {card.model}: {_listed(data.classes)} instead of {_listed(card.classes)}; "
            "take images of the same classes, with the same names."
        )


def _listed(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})"


def _image_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"image {path} does not exist; give image files, or folders of them.")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS)
    if not found:
        raise DataError(f"folder {path} holds no image; known endings: {', '.join(sorted(EXTENSIONS))}.")
    return found
