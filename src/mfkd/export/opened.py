"""A trained network with the images and the record that belong to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from mfkd.config import RunConfig, load_config
from mfkd.data import ImageData, MemorySplit, filled, load_data, preprocessed
from mfkd.errors import CheckpointError, ConfigError, DataError
from mfkd.files import sha256
from mfkd.records import RunRecord
from mfkd.train.student import NAMES, Card, load_with_card, weights_file


@dataclass(frozen=True, eq=False)
class Opened:
    """A trained network on the CPU in eval mode, and what is known of it.

    Args:
        file: its weights file.
        network: built again from it.
        card: what the file says.
        config: the recipe that it was trained by, with other data where the user named some.
        data: the images of that recipe, as the network gets them.
    """

    file: Path
    network: nn.Module
    card: Card
    config: RunConfig
    data: ImageData

    @property
    def root(self) -> Path:
        """The run folder that the file lies in, at its top or in distilled/seed-N, or alone/seed-N."""
        for folder in (self.file.parent, *self.file.absolute().parents[1:3]):
            if (folder / "config.yaml").exists():
                return folder
        return self.file.parent

    @property
    def record_file(self) -> Path | None:
        """The record of the very training that the weights come from; None where there is none."""
        own = self.file.parent / "record.json"
        if own.exists() or self.file.name != NAMES[0]:
            return own if own.exists() else None
        # A copy in the run folder, of the first seed of the run that ended last; another one may be at work there.
        digest = sha256(self.file)
        for weights in sorted(self.root.glob(f"*/seed-*/{NAMES[0]}")):
            if sha256(weights) == digest and weights.with_name(own.name).exists():
                return weights.with_name(own.name)
        first = self.root / "distilled" / f"seed-{self.config.seeds[0]}" / own.name
        return first if first.exists() and not first.with_name(NAMES[0]).exists() else None


def open_trained(path: str | Path, overrides: Sequence[str] = ()) -> Opened:
    """Load a trained network and the images that its recipe, or the user, names.

    Args:
        path: a run folder, the folder of one of its trainings, or a weights file in either.
        overrides: other data, such as `data.name=folder:PATH`; the classes must be the network's.

    Raises:
        CheckpointError: no trained network there, or a damaged one.
        ConfigError: no recipe beside it, or an override that is not about data.
        DataError: images that do not fit the network.
    """
    file = weights_of(path)
    network, card = load_with_card(file)
    config = _config(file, overrides)
    data = load_data(config.data)
    data = preprocessed(data, filled(config.data, data, card.preprocessing))
    _check_fit(data, card, config.data.name)
    return Opened(file, network, card, config, data)


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
