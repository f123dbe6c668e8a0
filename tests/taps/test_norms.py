"""The BatchNorm that made a tap's map."""

import doctest

import pytest
import torch
from torch import Tensor, nn

import mfkd.taps.norms
from mfkd.errors import ShapeError
from mfkd.models import MODELS, build_model
from mfkd.taps import find_taps
from mfkd.taps.norms import batchnorm_before
from mfkd.types import TapSpec


def table(model: nn.Module, size: int = 32) -> dict[str, str | None]:
    """Path of the BatchNorm of every map but the aliases."""
    paths = {module: path for path, module in model.named_modules()}
    found = {
        name: batchnorm_before(model, (3, size, size), spec)
        for name, spec in find_taps(model, (3, size, size)).items()
        if name.startswith(("stem", "stage"))
    }
    return {name: None if norm is None else paths[norm] for name, norm in found.items()}


# Blocks a stage as (6 n + 2) or (9 n + 2) layers; the convolutions of VGG's blocks 0, 1, 2 and 4 by its paper.
RESNETS = {f"resnet{6 * n + 2}": n for n in (1, 2, 3, 5, 7, 9, 18)} | {"resnet8x4": 1, "resnet32x4": 5}
VGGS = {"vgg8": "1111", "vgg11": "1122", "vgg13": "2222", "vgg16": "2233", "vgg19": "2244"}
WRN = {
    "stem": "block1.layer.0.bn1",
    "stage1": "block2.layer.0.bn1",
    "stage2": "block3.layer.0.bn1",
    "stage3": "bn1",
}
EXPECTED: dict[str, dict[str, str | None]] = (
    {name: {"stem": "bn1", **{f"stage{k}": f"layer{k}.{n - 1}.bn2" for k in (1, 2, 3)}} for name, n in RESNETS.items()}
    | {
        name: {
            f"stage{k}": f"block{block}.{3 * int(convolutions) - 2}"
            for k, (block, convolutions) in enumerate(zip((0, 1, 2, 4), counts, strict=True), start=1)
        }
        for name, counts in VGGS.items()
    }
    | dict.fromkeys(("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"), WRN)
    | {
        "ResNet50": {"stem": "bn1", **{f"stage{k}": f"layer{k}.{n}.bn3" for k, n in enumerate((2, 3, 5, 2), 1)}},
        "MobileNetV2": {
            "stem": "conv1.1",
            **{f"stage{k}": f"blocks.{group}.conv.7" for k, group in ((1, "1.1"), (2, "2.2"), (3, "4.2"))},
            "stage4": "conv2.1",
        },
        "ShuffleV1": {"stem": "bn1", "stage1": "layer1.3.bn3", "stage2": "layer2.7.bn3", "stage3": "layer3.3.bn3"},
        "ShuffleV2": {"stem": "bn1", "stage1": None, "stage2": None, "stage3": "bn2"},
    }
)


@pytest.mark.parametrize("name", MODELS)
def test_every_network_of_our_own(name: str) -> None:
    torch.manual_seed(0)
    found = table(build_model(name, num_classes=4).requires_grad_(False))  # as a teacher is
    assert {tap: path for tap, path in found.items() if not tap.endswith(".pre")} == EXPECTED[name]
    for tap in found:
        if tap.endswith(".pre"):
            assert found[tap] == EXPECTED[name][tap.removesuffix(".pre")]


def test_a_shortcut_that_ends_in_a_batchnorm_is_passed_over() -> None:
    model = build_model("resnet8", num_classes=4)  # one block a stage, so the last block has the projection
    spec = find_taps(model, (3, 32, 32))["stage3.pre"]
    assert isinstance(model.layer3[0].downsample[1], nn.BatchNorm2d)
    assert model.layer3[0].downsample[1].num_features == spec.channels
    assert batchnorm_before(model, (3, 32, 32), spec) is model.layer3[0].bn2


def test_networks_of_timm() -> None:
    assert table(build_model("timm/regnetx_002", num_classes=4), 64) == {
        "stage1": "stem.bn",
        "stage2": "s1.b1.conv3.bn",
        "stage3": "s2.b1.conv3.bn",
        "stage4": "s3.b4.conv3.bn",
        "stage5": "s4.b7.conv3.bn",
    }
    # Here one class normalises and activates; the blocks of a GhostNet end in two halves.
    found = table(build_model("timm/mobilenetv3_small_100", num_classes=4), 64)
    assert found["stage1"] == "bn1"
    assert found["stage3"] == "blocks.1.1.bn3"
    found = table(build_model("timm/ghostnet_050", num_classes=4), 64)
    assert found == dict.fromkeys(("stage1", "stage2", "stage3", "stage4"), None) | {"stage5": "blocks.9.0.bn1"}
    vit = build_model("timm/vit_tiny_patch16_224", num_classes=4, img_size=32, depth=3)
    assert table(vit) == {"stage1": None, "stage2": None, "stage3": None}


class Net(nn.Module):
    """A BatchNorm, and what may stand between it and the tap `act`."""

    def __init__(self, between: nn.Module, affine: bool = True) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, affine=affine)
        self.between, self.act, self.idle = between, nn.ReLU(inplace=True), nn.ReLU()
        self.fc = nn.Linear(4, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.act(self.between(self.norm(self.conv(image)))).mean((2, 3)))


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize(
    ("between", "passes"),
    [
        (nn.Identity(), True),
        (nn.MaxPool2d(2), True),
        (nn.Sequential(nn.ReLU(inplace=True), nn.Upsample(scale_factor=2)), True),
        (nn.Conv2d(4, 4, 1), False),
        (nn.GroupNorm(2, 4), False),
        (nn.BatchNorm2d(4, affine=False), False),
        (nn.Linear(8, 8), False),
    ],
    ids=str,
)
def test_what_may_stand_between(between: nn.Module, passes: bool, side: str) -> None:
    model = Net(between)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norm = batchnorm_before(model, (3, 8, 8), TapSpec("x", "act", 4, side=side))  # type: ignore[arg-type]
    assert norm is (model.norm if passes else None)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_batchnorm_without_weight_is_none() -> None:
    assert batchnorm_before(Net(nn.Identity(), affine=False), (3, 8, 8), TapSpec("x", "act", 4)) is None


def test_a_tap_that_is_not_reached_is_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        batchnorm_before(Net(nn.Identity()), (3, 8, 8), TapSpec("x", "idle", 4))
    assert str(caught.value) == (
        "tap 'x' was not reached: the forward pass never ran module 'idle'; name a module that it runs."
    )


def test_the_example_runs() -> None:
    assert doctest.testmod(mfkd.taps.norms) == doctest.TestResults(failed=0, attempted=4)
