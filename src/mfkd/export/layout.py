"""Weights, description and labels of an export, in the layout of timm's folders."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mfkd.export.code import with_code
from mfkd.export.feed import Feed
from mfkd.files import read_json, write_json, write_text
from mfkd.methods.projected import Projected
from mfkd.models.adapters import write_timm_config
from mfkd.train.student import Card, save_student

WEIGHTS, CONFIG, LABELS, HALF = "model.safetensors", "config.json", "labels.txt", "model.fp16.safetensors"
_TIMM = ("timm/", "hf-hub:", "hf_hub:", "local-dir:")


def is_timm(network: nn.Module, card: Card) -> bool:
    """Whether timm itself can build the network again."""
    return card.model.startswith(_TIMM) and not isinstance(network, Projected)


def write_network(folder: Path, network: nn.Module, card: Card, half: bool = False) -> Card:
    """Write everything from which `mfkd.load_student`, and timm for its own networks, builds the network again.

    A user's own network gets the code that it is built by beside it, with those of its neighbours that it imports.

    Args:
        folder: empty.
        network: trained.
        card: what its weights file said.
        half: also write the weights in float16.

    Returns:
        The card as it was written: the network is named so that its original place is not needed.
    """
    write_text(folder / LABELS, "".join(f"{name}\n" for name in card.classes))
    if is_timm(network, card):
        write_timm_config(network, folder / CONFIG, card.classes, timm_preprocessing(card))
        if ":" in card.model:
            told = read_json(folder / CONFIG)
            built = {
                name: value for name, value in told["model_args"].items() if name not in ("in_chans", "num_classes")
            }
            card = replace(card, model=f"timm/{told['architecture']}", options=built)
    else:
        card = with_code(folder, card)
        write_json(folder / CONFIG, _own_config(card))
    save_student(folder / WEIGHTS, network, card)
    if half:
        save_student(folder / HALF, _halved(network), card)
    return card


def feed_of(card: Card, embedded: bool) -> Feed:
    """How an exported graph of this network is fed."""
    values = {name: value for name, value in asdict(card).items() if name not in ("options", "projection")}
    return Feed(**values, embedded=embedded)


def timm_preprocessing(card: Card) -> dict[str, Any]:
    """What evaluation does, under timm's names; `squash` scales without regard to the sides' ratio."""
    height = card.size[0]
    share = 1.0 if card.side is None else height / card.side
    while card.side is not None and math.floor(height / share) < card.side:  # timm rounds down
        share = math.nextafter(share, 0)
    return {
        "input_size": (card.channels, *card.size),
        "mean": card.mean,
        "std": card.std,
        "crop_pct": share,
        "crop_mode": "squash" if card.side is None else "center",
        "interpolation": card.interpolation,
    }


def _own_config(card: Card) -> dict[str, Any]:
    return {
        "architecture": card.model,
        "library": "mfkd",
        "num_classes": len(card.classes),
        "label_names": card.classes,
        "model_args": {name: value for name, value in card.options.items() if _is_json(value)},
        "pretrained_cfg": timm_preprocessing(card) | {"num_classes": len(card.classes)},
    }


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _halved(network: nn.Module) -> nn.Module:
    """A copy with float16 weights; `load_student` builds a float32 network from them."""
    import copy

    return copy.deepcopy(network).to(torch.float16)
