"""A teacher from the recipe: its network, its weights, and the statistics it knows."""

import json
from pathlib import Path

from torch import nn

from mfkd.config import TeacherConfig
from mfkd.data import ImageData
from mfkd.errors import ConfigError
from mfkd.models import build_model
from mfkd.models.weights import classifier_path, head_classes, load_weights, read_weights
from mfkd.teacher.frozen import FrozenTeacher


def is_ready(config: TeacherConfig) -> bool:
    """Whether the teacher comes with weights, so that it need not be trained here."""
    return config.weights is not None or bool(config.options.get("pretrained"))


def load_teacher(config: TeacherConfig, data: ImageData) -> FrozenTeacher:
    """Build and freeze the teacher that a recipe names.

    The number of classes of its head is `teacher.classes`, else what the weights file says, else
    that of the data; another number than the data's is no error, its maps are used then.

    Args:
        config: `teacher` of the recipe, with weights or `options.pretrained`.
        data: what the student learns; its statistics hold where the recipe names none.

    Raises:
        CheckpointError: weights that are missing, damaged or of another network.
        ConfigError: as many classes as the data, but other ones.
    """
    mean, std = config.mean, config.std
    if config.weights is None:
        network = build_model(config.model, config.classes, data.channels, **config.options)
        mean, std = mean or _own_statistic(network, "mean"), std or _own_statistic(network, "std")
    else:
        path = Path(config.weights).expanduser()
        state, metadata = read_weights(path)
        card = json.loads(metadata["mfkd"]) if "mfkd" in metadata else {}
        mean, std = mean or _tuple(card.get("mean")), std or _tuple(card.get("std"))
        if config.head == "keep":
            _check_classes(path, card.get("classes"), data.classes)
        classes = config.classes or (len(card["classes"]) if "classes" in card else None)
        options = {name: value for name, value in config.options.items() if name != "pretrained"}
        network = build_model(config.model, classes or len(data.classes), data.channels, **options)
        found = head_classes(state, classifier_path(network))
        if classes is None and found is not None and found != len(data.classes):
            network = build_model(config.model, found, data.channels, **options)
        # A tuned head is fitted anew, so the file needs none.
        load_weights(
            network, path, head="reset" if config.head == "tune" and found is None else "strict", who="teacher"
        )
    return FrozenTeacher(
        network,
        data_mean=data.mean,
        data_std=data.std,
        mean=_for_channels(mean, data.channels),
        std=_for_channels(std, data.channels),
        image_size=config.image_size,
    )


def _check_classes(path: Path, own: list[str] | None, wanted: tuple[str, ...]) -> None:
    """As many classes under other names would teach nonsense in silence."""
    if own is None or len(own) != len(wanted) or tuple(own) == wanted:
        return
    position = next(i for i, (a, b) in enumerate(zip(own, wanted, strict=True)) if a != b)
    raise ConfigError(
        f"teacher {path} has other classes than the data (number {position} is {own[position]!r}, not "
        f"{wanted[position]!r}); use teacher.head=tune, or data with the teacher's classes."
    )


def _own_statistic(network: nn.Module, name: str) -> tuple[float, ...] | None:
    """What timm, or our adapter of torchvision, says that a pretrained network was trained with."""
    return _tuple((getattr(network, "pretrained_cfg", None) or {}).get(name))


def _for_channels(values: tuple[float, ...] | None, channels: int) -> tuple[float, ...] | None:
    """Colour statistics for grey images are averaged, as timm adapts a pretrained stem."""
    return (sum(values) / len(values),) if values and channels == 1 else values


def _tuple(value: list[float] | tuple[float, ...] | None) -> tuple[float, ...] | None:
    return tuple(value) if value else None
