"""What a student that starts from weights is used to be fed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mfkd.config import ModelConfig
from mfkd.models import build_model
from mfkd.train.student import read_card

LIBRARIES = ("timm/", "torchvision/", "hf-hub:", "hf_hub:", "local-dir:")
"""Names of networks whose makers tell how they were fed."""


def own_preprocessing(model: ModelConfig) -> dict[str, Any]:
    """Statistics, size, crop and interpolation under the names of the recipe's `data`.

    Those of the weights file if mfkd wrote it; else those that timm or torchvision tells of its
    pretrained weights (`options.pretrained`); empty where nothing is known.
    """
    if model.weights is not None:
        card = read_card(Path(model.weights).expanduser())
        return card.preprocessing if card is not None else {}
    if not model.options.get("pretrained") or not model.model.startswith(LIBRARIES):
        return {}
    from mfkd.models.adapters import data_config

    told = data_config(build_model(model.model, None, **model.options))
    return asdict(told) if told is not None else {}
