"""The trained network as one safetensors file that tells how to build and feed it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from mfkd.data.load import EVAL_CROP
from mfkd.data.sets import SMALL
from mfkd.errors import CheckpointError
from mfkd.models import build_model
from mfkd.models.weights import load_weights, read_weights, save_weights

KEY = "mfkd"
NAMES = ("student.safetensors", "teacher.safetensors")


@dataclass(frozen=True)
class Card:
    """What a weights file says of its network.

    Args:
        model: name for `build_model`.
        classes: class names, in the order of the logits.
        channels: input channels.
        size: (h, w) in px that the network was trained on.
        mean: statistics of the input normalisation, one a channel; `std` likewise.
        options: keyword options of `build_model`.
        side: `ImageData.resize`: shorter side in px that an image is scaled to before the central crop
            of `size`; None scales it to `size` outright.
    """

    model: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)
    side: int | None = None


def save_student(path: Path, network: nn.Module, card: Card) -> None:
    """Write weights and card, atomically."""
    save_weights(path, network.state_dict(), {KEY: json.dumps(asdict(card)), "model": card.model})


def read_card(path: Path) -> Card | None:
    """The card of a weights file, or None where the file is not one of ours."""
    _, metadata = read_weights(path)
    if KEY not in metadata:
        return None
    try:
        raw = json.loads(metadata[KEY])
        for name in ("classes", "size", "mean", "std"):
            raw[name] = tuple(raw[name])
        if "side" not in raw:  # a file from before it was kept: what evaluation does unless told otherwise
            raw["side"] = round(min(raw["size"]) / EVAL_CROP) if max(raw["size"]) > SMALL else None
        return Card(**raw)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path}: its description of the network cannot be read ({error}); export it again."
        ) from None


def load_student(path: str | Path) -> nn.Module:
    """Rebuild a trained network, on the CPU and in eval mode; see `load_with_card` for the rest."""
    return load_with_card(path)[0]


def load_with_card(path: str | Path) -> tuple[nn.Module, Card]:
    """Rebuild a trained network in eval mode, with what its file says of it.

    Args:
        path: a run folder, or a weights file written by mfkd.

    Returns:
        The network on the CPU, and its card (class names, input size, normalisation).

    Raises:
        CheckpointError: nothing there, a damaged file, or one without a card.
    """
    found = weights_file(Path(path))
    card = read_card(found)
    if card is None:
        raise CheckpointError(
            f"{found} does not tell which network it is; give a run folder or a file written by mfkd."
        )
    options = {name: value for name, value in card.options.items() if name != "pretrained"}
    network = build_model(card.model, num_classes=len(card.classes), in_channels=card.channels, **options)
    load_weights(network, found)
    return network.eval(), card


def weights_file(path: Path) -> Path:
    """The weights file of a run folder, or the file itself."""
    if path.is_file():
        return path
    for name in NAMES:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(f"{path} holds no {' or '.join(NAMES)}; is the run finished?")
