"""The trained network as one safetensors file that tells how to build and feed it."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import nn

from mfkd.data.preprocess import CROP
from mfkd.data.sets import SMALL
from mfkd.errors import CheckpointError
from mfkd.methods.projected import Projected, Projection
from mfkd.models import build_model
from mfkd.models.trust import named_by
from mfkd.models.weights import load_weights, read_metadata, read_weights, save_weights
from mfkd.validation import reason

KEY = "mfkd"
NAMES = ("student.safetensors", "teacher.safetensors", "model.safetensors")
"""Of a training, of a teacher's, and of what `mfkd export` wrote."""


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
        interpolation: `ImageData.interpolation`, where there is a `side`.
        projection: what stands in the place of the network's own classifier, see `methods.projected`; None: nothing.
    """

    model: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)
    side: int | None = None
    interpolation: str = "bilinear"
    projection: Projection | None = None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What the network was fed, under the names of the recipe's `data`."""
        own: dict[str, Any] = {"mean": self.mean, "std": self.std}
        if self.side is not None:
            height = self.size[0]
            own |= {"image_size": height, "crop": height / self.side, "interpolation": self.interpolation}
        return own


_CARD = TypeAdapter(Card)


def save_student(path: Path, network: nn.Module, card: Card) -> None:
    """Write weights and card, atomically; a `Projected` network adds its own part to the card."""
    if isinstance(network, Projected):
        card = replace(card, projection=network.projection)
    save_weights(path, network.state_dict(), {KEY: json.dumps(asdict(card)), "model": card.model})


def read_card(path: Path) -> Card | None:
    """The card of a weights file, or None where the file is not one of ours."""
    metadata = read_metadata(path)
    if KEY not in metadata:
        return None
    try:
        raw = json.loads(metadata[KEY])
        for name in ("classes", "size", "mean", "std"):
            raw[name] = tuple(raw[name])
        if "side" not in raw:  # a file from before it was kept: what evaluation does unless told otherwise
            raw["side"] = round(min(raw["size"]) / CROP) if max(raw["size"]) > SMALL else None
        if raw.get("projection") is not None:
            raw["projection"] = Projection.of(raw["projection"])
        card = Card(**raw)
        _CARD.validate_python(asdict(card))
        _check_plausible(card, path.stat().st_size)
        return card
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its description of the network cannot be read ({reason(error)}); export it again."
        ) from None


def _check_plausible(card: Card, size: int) -> None:
    """Refuse what no file of so many bytes describes, before memory is taken for it."""
    if not (1 <= card.channels == len(card.mean) == len(card.std) and card.classes and min(card.size) > 0):
        raise ValueError("channels, mean, std, classes and size do not go together")
    plan = card.projection
    if plan is not None and not (
        plan.hidden > 0 < plan.width
        and plan.tap.channels > 0
        and 9 * plan.hidden**2 + plan.hidden * (plan.width + plan.tap.channels) + plan.width * plan.classes <= size
        and plan.classes > 0
    ):
        raise ValueError("the projection is larger than the file")


def load_student(path: str | Path, trust_code: bool = False) -> nn.Module:
    """Rebuild a trained network, on the CPU and in eval mode; see `load_with_card` for the rest."""
    return load_with_card(path, trust_code)[0]


def load_with_card(path: str | Path, trust_code: bool = False) -> tuple[nn.Module, Card]:
    """Rebuild a trained network in eval mode, with what its file says of it.

    Args:
        path: a run folder, an export folder, or a weights file written by mfkd. The code of a user's own network
            is looked for beside the file first, where an export puts it.
        trust_code: run such code although the user has not named it himself before, see `mfkd.models.trust`.

    Returns:
        The network on the CPU, and its card (class names, input size, normalisation).

    Raises:
        CheckpointError: nothing there, a damaged file, or one without a card.
        ConfigError: it names code that is not trusted.
    """
    found = weights_file(Path(path))
    card = read_card(found)
    if card is None:
        read_weights(found)  # damaged, perhaps
        raise CheckpointError(
            f"{found} does not tell which network it is; give a run folder or a file written by mfkd."
        )
    options = {name: value for name, value in card.options.items() if name != "pretrained"}
    name = located(found, card.model)
    with named_by(found, trust_code):
        network = build_model(name, num_classes=len(card.classes), in_channels=card.channels, **options)
    if card.projection is not None:
        network = Projected(network, card.projection)
    load_weights(network, found)
    return network.eval(), card


def weights_file(path: Path) -> Path:
    """The weights file of a run folder, or the file itself."""
    if path.is_file():
        return path
    for name in NAMES:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(f"{path} holds no {', '.join(NAMES[:-1])} or {NAMES[-1]}; is the run finished?")


def located(file: Path, model: str) -> str:
    """The name of a network, with its code taken from beside its weights where it lies there."""
    source, _, factory = model.rpartition(":")
    code = file.parent / source
    return f"{code}:{factory}" if source.endswith(".py") and code.is_file() else model
