"""Trained networks handed back: measure one again, or ask it about images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mfkd.config import RunConfig, TeacherConfig
from mfkd.data import ImageData, eval_loader, load_image
from mfkd.errors import CheckpointError, DataError, UnknownNameError
from mfkd.export.classify import answers
from mfkd.export.opened import open_trained, weights_of
from mfkd.methods import resolve
from mfkd.models.trust import named_by
from mfkd.pictures import image_files
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.load import is_ready, load_teacher
from mfkd.teacher.several import together
from mfkd.teacher.tune import tune_head
from mfkd.train.cost import cost
from mfkd.train.evaluate import evaluate
from mfkd.train.loop import EVAL_BATCH
from mfkd.train.student import load_student, load_with_card

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
    opened = open_trained(path, overrides)
    file, network, card, config, data = opened.file, opened.network, opened.card, opened.config, opened.data
    notes = []
    images = data.test if split == "test" else data.val
    if images is None:
        raise DataError(f"{data.name} has no val split in this run; hold one out of its training by data.val_fraction.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = None
    try:
        teacher = None if file.name == "teacher.safetensors" else teacher_of(opened.root, config, data)
    except CheckpointError as error:
        notes.append(f"agreement is left out, the teacher cannot be loaded: {error}")
    if teacher is not None and teacher.count_classes((data.channels, *data.size)) != len(data.classes):
        teacher = None
    network = network.to(device)
    batches = eval_loader(images, data, config.data, batch_size=EVAL_BATCH, device=device)
    reference = teacher.to(device).logits if teacher is not None else None
    return {
        "model": card.model,
        "data": config.data.name,
        # With data.evaluate=val the validation images stand in the place of the test images.
        "split": config.data.evaluate if split == "test" else split,
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
        As `export.classify.answers` gives it.

    Raises:
        CheckpointError: no trained network there, or a damaged one.
        DataError: an image that is not there, or none that can be read.
    """
    files = image_files(images)
    network, card = load_with_card(weights_of(model))
    count = min(top, len(card.classes))

    def ask(file: Path) -> list[tuple[str, float]]:
        pixels = load_image(file, card.channels, card.size, card.mean, card.std, card.side, card.interpolation)
        best = network(pixels[None]).softmax(1)[0].topk(count)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(card.classes[label], share) for label, share in pairs]

    return answers(files, ask)


def teacher_of(root: Path, config: RunConfig, data: ImageData) -> FrozenTeacher | None:
    """The teacher of the run in a folder, as the students met it; None where it is not there, and nothing is trained.

    Raises:
        MfkdError: weights that are missing or damaged.
    """
    named = config.named_teachers
    members = [_member(root / name, teacher, config, data) for name, teacher in named.items()]
    found = [member for member in members if member is not None]
    if len(found) < len(members):
        return None
    return together(found, [one.weight for one in named.values()], resolve(config.method).temperature)


def _member(folder: Path, config: TeacherConfig, run: RunConfig, data: ImageData) -> FrozenTeacher | None:
    trained, head = folder / "teacher.safetensors", folder / "head.safetensors"
    if trained.exists():
        return FrozenTeacher(load_student(trained))
    if not is_ready(config) or (config.head == "tune" and not head.exists()):
        return None
    with named_by(folder.parent):
        teacher = load_teacher(config, data)
    if config.head == "tune":
        tune_head(teacher, data, run.data, head)
    return teacher
