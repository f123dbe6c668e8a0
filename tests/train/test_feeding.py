"""A student that starts from weights is fed as these weights were."""

import pytest
import torch

from mfkd.config import load_config
from mfkd.models import build_model
from mfkd.models.weights import save_weights
from mfkd.train.feeding import own_preprocessing
from mfkd.train.student import Card, save_student


@pytest.fixture
def own():
    """`own_preprocessing` of a student named by overrides."""
    return lambda *words: own_preprocessing(load_config(None, words).student)


def test_random_weights_are_used_to_nothing(own):
    assert own("student.model=timm/vit_tiny_patch16_224") == {}
    assert own("student.model=resnet8") == {}


def test_pretrained_weights_bring_what_timm_tells(own, monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
    words = ["student.model=timm/vit_tiny_patch16_224", "student.options.pretrained=true", "student.options.depth=1"]
    told = own(*words)
    assert {name: told[name] for name in ("mean", "std", "image_size", "crop", "interpolation")} == {
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "image_size": 224,
        "crop": 0.9,
        "interpolation": "bicubic",
    }
    assert own(*words, "student.options.img_size=96")["image_size"] == 96


@pytest.mark.parametrize("side", [None, 110])
def test_a_file_of_ours_tells_how_its_network_was_fed(own, tmp_path, side):
    card = Card("resnet8", ("a", "b"), 3, (96, 96), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), {}, side, "bicubic")
    save_student(tmp_path / "s.safetensors", build_model("resnet8", num_classes=2), card)
    expected = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    if side is not None:  # large images
        expected |= {"image_size": 96, "crop": 96 / 110, "interpolation": "bicubic"}
    assert own(f"student.weights={tmp_path / 's.safetensors'}") == expected


def test_a_file_of_others_tells_nothing(own, tmp_path):
    torch.manual_seed(0)
    save_weights(tmp_path / "s.safetensors", build_model("resnet8", num_classes=2).state_dict())
    assert own(f"student.weights={tmp_path / 's.safetensors'}") == {}
