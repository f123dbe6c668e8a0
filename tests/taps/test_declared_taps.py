"""The declared taps of the CIFAR networks, against shapes worked out by hand."""

import pytest
import torch

from mfkd.models import MODELS, build_model
from mfkd.taps import find_taps, read
from mfkd.types import TapSpec

SHAPES = {
    "resnet20": {
        "stem": (16, 32, 32),
        "stage1": (16, 32, 32),
        "stage2": (32, 16, 16),
        "stage3": (64, 8, 8),
        "penultimate": (64,),
    },
    "resnet8x4": {
        "stem": (32, 32, 32),
        "stage1": (64, 32, 32),
        "stage2": (128, 16, 16),
        "stage3": (256, 8, 8),
        "penultimate": (256,),
    },
    "vgg13": {
        "stage1": (64, 32, 32),
        "stage2": (128, 16, 16),
        "stage3": (256, 8, 8),
        "stage4": (512, 4, 4),
        "penultimate": (512,),
    },
    "wrn_16_2": {
        "stem": (16, 32, 32),
        "stage1": (32, 32, 32),
        "stage2": (64, 16, 16),
        "stage3": (128, 8, 8),
        "penultimate": (128,),
    },
    "ResNet50": {
        "stem": (64, 32, 32),
        "stage1": (256, 32, 32),
        "stage2": (512, 16, 16),
        "stage3": (1024, 8, 8),
        "stage4": (2048, 4, 4),
        "penultimate": (2048,),
    },
    "MobileNetV2": {
        "stem": (16, 16, 16),
        "stage1": (12, 16, 16),
        "stage2": (16, 8, 8),
        "stage3": (48, 4, 4),
        "stage4": (1280, 2, 2),
        "penultimate": (1280,),
    },
    "ShuffleV1": {
        "stem": (24, 32, 32),
        "stage1": (240, 16, 16),
        "stage2": (480, 8, 8),
        "stage3": (960, 4, 4),
        "penultimate": (960,),
    },
    "ShuffleV2": {
        "stem": (24, 32, 32),
        "stage1": (116, 16, 16),
        "stage2": (232, 8, 8),
        "stage3": (1024, 4, 4),
        "penultimate": (1024,),
    },
}
LINEAR = {("MobileNetV2", alias) for alias in ("stage1", "stage2", "stage3", "front", "middle")}
"""Maps that no activation follows; they have no `.pre`."""


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_at_32_px(name: str) -> None:
    taps = find_taps(build_model(name, num_classes=4), (3, 32, 32))
    stages = {tap: shape for tap, shape in SHAPES[name].items() if tap.startswith("stage")}
    expected = SHAPES[name] | {f"{tap}.pre": shape for tap, shape in stages.items() if (name, tap) not in LINEAR}
    middle = {3: "stage2", 4: "stage3"}[len(stages)]  # stage floor(n / 2) + 1
    expected |= {"front": stages["stage1"], "middle": stages[middle], "bottom": stages[f"stage{len(stages)}"]}
    assert {tap: spec.shape for tap, spec in taps.items()} == expected
    assert all(tap == spec.name for tap, spec in taps.items())
    assert taps["middle"].path == taps[middle].path
    for tap, spec in taps.items():
        stride = None if spec.shape is None or len(spec.shape) == 1 else 32 // spec.shape[1]
        assert (spec.stride, spec.activated) == (stride, not tap.endswith(".pre") and (name, tap) not in LINEAR)


@pytest.mark.parametrize("name", SHAPES)
def test_taps_are_on_their_side_of_the_activation(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=4)  # training mode: BatchNorm centres, so signs are mixed
    taps = read(model, torch.randn(4, 3, 32, 32), model.tap_points).taps
    for tap in taps:
        if (name, tap) in LINEAR:
            assert taps[tap].min() < 0
        elif tap != "penultimate" and not tap.endswith(".pre"):
            assert taps[tap].min() == 0
        if tap.endswith(".pre"):
            assert taps[tap].min() < 0
            assert torch.equal(taps[tap].relu(), taps[tap.removesuffix(".pre")])


def test_wrn_stages_are_the_normalised_activated_sums() -> None:
    torch.manual_seed(0)
    model = build_model("wrn_16_1", num_classes=4).eval()
    sums = [TapSpec(f"sum{k}", f"block{k}", 16 * 2 ** (k - 1)) for k in (1, 2, 3)]
    taps = read(model, torch.randn(2, 3, 32, 32), [*model.tap_points, *sums]).taps
    for k, norm in enumerate((model.block2.layer[0].bn1, model.block3.layer[0].bn1, model.bn1), 1):
        torch.testing.assert_close(norm(taps[f"sum{k}"]), taps[f"stage{k}.pre"])
        torch.testing.assert_close(taps[f"stage{k}.pre"].relu(), taps[f"stage{k}"])


@pytest.mark.parametrize("name", SHAPES)
def test_penultimate_makes_the_logits(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=4)
    out = read(model, torch.randn(2, 3, 32, 32), model.tap_points)
    classifier = model.get_submodule(model.classifier_path)
    torch.testing.assert_close(classifier(out.taps["penultimate"]), out.logits)
    last = max(tap for tap in out.taps if tap.startswith("stage") and not tap.endswith(".pre"))
    torch.testing.assert_close(out.taps[last].mean((2, 3)), out.taps["penultimate"])


@pytest.mark.parametrize("name", MODELS)
def test_every_network_declares_taps_that_hold(name: str) -> None:
    model = build_model(name, num_classes=4, in_channels=1)
    assert len({spec.name for spec in model.tap_points}) == len(model.tap_points)
    for size in (8, 28):
        taps = find_taps(model, (1, size, size))
        assert taps["front"].shape[1:] == (size // taps["front"].stride,) * 2
        assert taps["penultimate"].channels == model.get_submodule(model.classifier_path).in_features


@pytest.mark.parametrize(("size", "cells", "stride"), [(8, 1, 8), (28, 3, 9), (32, 4, 8), (64, 4, 16)])
def test_vgg_pools_once_more_from_64_px(size: int, cells: int, stride: int) -> None:
    bottom = find_taps(build_model("vgg8"), (3, size, size))["bottom"]
    assert (bottom.shape, bottom.stride) == ((512, cells, cells), stride)
