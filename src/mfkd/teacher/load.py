"""A teacher from the recipe: its network, its weights, and the statistics it knows."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError
from torch import nn

from mfkd.config import TeacherConfig
from mfkd.data import ImageData
from mfkd.errors import CheckpointError, ConfigError
from mfkd.models import build_model
from mfkd.models.adapters import data_config, fixed_size
from mfkd.models.weights import fill, head_classes, read_for, read_metadata
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
    mean, std, size = config.mean, config.std, config.image_size
    if config.weights is None:
        network = build_model(config.model, config.classes, data.channels, **config.options)
        _check_pretrained(config, network)
        own = data_config(network)
        if own is not None:
            mean, std = mean or own.mean, std or own.std
        size = size or fixed_size(network)
    else:
        path = Path(config.weights).expanduser()
        card = _card(path)
        mean, std = mean or card.mean, std or card.std
        if config.head == "keep":
            _check_classes(path, card.classes, data.classes)
        classes = config.classes or (len(card.classes) if card.classes else None)
        options = {name: value for name, value in config.options.items() if name != "pretrained"}
        network = build_model(config.model, classes or len(data.classes), data.channels, **options)
        state, metadata = read_for(network, path, "teacher")
        found = head_classes(network, state)
        if classes is None and found is not None and found != len(data.classes):
            network = build_model(config.model, found, data.channels, **options)
        # A tuned head is fitted anew, so the file needs none.
        head: Literal["keep", "reset"] = "reset" if config.head == "tune" and found is None else "keep"
        fill(network, state, metadata, path, head=head, who="teacher")
        size = size or _only_size(network, card, data)
    return FrozenTeacher(
        network,
        data_mean=data.mean,
        data_std=data.std,
        mean=_for_channels(mean, data.channels),
        std=_for_channels(std, data.channels),
        image_size=size,
    )


class _Card(BaseModel):
    """What a weights file of ours says of its network, as far as a teacher needs it."""

    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None


def _card(path: Path) -> _Card:
    """Empty for a file that is not one of ours."""
    try:
        return _Card.model_validate_json(read_metadata(path).get("mfkd", "{}"))
    except ValidationError:
        raise CheckpointError(f"teacher weights {path}: their description cannot be read; export them again.") from None


def _only_size(network: nn.Module, card: _Card, data: ImageData) -> int | None:
    """Height and width that a network from a file takes alone, where the data have others."""
    own = fixed_size(network)
    if own is not None and card.size is not None:  # some that are said to take one size learn with any
        own = card.size[0] if card.size[0] == card.size[1] else None
    return None if own is None or (own, own) == data.size else own


def _check_pretrained(config: TeacherConfig, network: nn.Module) -> None:
    """Libraries put a new head, which has learnt nothing, on a pretrained network that is to have other classes."""
    own = (getattr(network, "pretrained_cfg", None) or {}).get("num_classes")
    if config.head == "keep" and own and config.classes not in (None, own):
        raise CheckpointError(
            f"teacher {config.model} is pretrained on {own} classes, got teacher.classes={config.classes}; leave it "
            "out to use the maps alone, or use teacher.head=tune to fit a new head."
        )


def _check_classes(path: Path, own: tuple[str, ...] | None, wanted: tuple[str, ...]) -> None:
    """As many classes under other names would teach nonsense in silence."""
    if own is None or len(own) != len(wanted) or own == wanted:
        return
    position = next(i for i, (a, b) in enumerate(zip(own, wanted, strict=True)) if a != b)
    raise ConfigError(
        f"teacher {path} has other classes than the data (number {position} is {own[position]!r}, not "
        f"{wanted[position]!r}); use teacher.head=tune, or data with the teacher's classes."
    )


def _for_channels(values: tuple[float, ...] | None, channels: int) -> tuple[float, ...] | None:
    """Colour statistics for grey images are averaged, as timm adapts a pretrained stem."""
    return (sum(values) / 3,) if values and len(values) == 3 and channels == 1 else values
