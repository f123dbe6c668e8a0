"""What timm and torchvision tell of their networks' images and layers."""

import pytest
import timm
from timm.data import resolve_data_config
from torch import nn

from mfkd.models import build_model
from mfkd.models.adapters import EvalConfig, data_config, fixed_size, layer_groups

HALF, IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("vit_tiny_patch16_224", {"depth": 1}, EvalConfig(*HALF, 224, 0.9, "bicubic")),
        ("vit_tiny_patch16_224", {"depth": 1, "img_size": 96}, EvalConfig(*HALF, 96, 0.9, "bicubic")),
        ("resnet10t", {}, EvalConfig(*IMAGENET, 176, 0.875, "bicubic")),
    ],
)
def test_timm_tells_statistics_size_crop_and_interpolation(name, options, expected):
    model = build_model(f"timm/{name}", 3, **options)
    assert data_config(model) == expected
    told = resolve_data_config(model=model)
    assert (told["mean"], told["crop_pct"]) == (expected.mean, expected.crop)


def test_torchvision_tells_the_same_of_its_weights(monkeypatch):
    from torchvision.models import ResNet18_Weights, get_model

    stored = get_model("resnet18").state_dict()
    monkeypatch.setattr(type(ResNet18_Weights.DEFAULT), "get_state_dict", lambda self, **_: stored)
    model = build_model("torchvision/resnet18", 3, pretrained=True)
    assert data_config(model) == EvalConfig(*IMAGENET, 224, 0.875, "bilinear")
    assert data_config(build_model("torchvision/resnet18", 3)) is None  # random weights know no images


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("timm/vit_tiny_patch16_224", {"depth": 1}, 224),
        ("timm/vit_tiny_patch16_224", {"depth": 1, "img_size": 96}, 96),
        ("timm/vit_tiny_patch16_224", {"depth": 1, "img_size": [96, 64]}, None),
        ("timm/vit_tiny_patch16_224", {"depth": 1, "dynamic_img_size": True}, None),
        ("timm/resnet10t", {}, None),
        ("torchvision/vit_b_32", {}, 224),
        ("torchvision/vit_b_32", {"image_size": 96}, 96),
        ("torchvision/maxvit_t", {"input_size": [448, 448]}, 448),
        ("torchvision/resnet18", {}, None),
    ],
)
def test_transformers_take_the_size_alone_that_they_were_built_for(name, options, expected):
    assert fixed_size(build_model(name, 3, **options)) == expected


@pytest.mark.parametrize("told", [None, {}, {"mean": (0.5,)}, "text"])
def test_a_network_that_tells_nothing(told):
    model = nn.Linear(1, 2)
    model.pretrained_cfg = told
    assert data_config(model) is None
    assert fixed_size(model) is None
    assert layer_groups(model) is None


def test_layers_of_a_transformer_are_its_blocks():
    groups = layer_groups(timm.create_model("vit_tiny_patch16_224", depth=3, embed_dim=12))
    assert groups["pos_embed"] == groups["cls_token"] == groups["patch_embed.proj.weight"] == 0
    assert [groups[f"blocks.{number}.mlp.fc1.weight"] for number in range(3)] == [1, 2, 3]
    assert groups["head.weight"] == max(groups.values())
