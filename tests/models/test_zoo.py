"""Sizes, key names and refusals of the CIFAR networks."""

import subprocess
import sys
from collections.abc import Iterable

import pytest
import torch
from torch import nn
from torch.nn import functional

from mfkd.errors import ConfigError, ShapeError, UnknownNameError
from mfkd.models import MODELS, build_model, model_names
from mfkd.models.layers import channel_shuffle

PUBLISHED = {  # parameters and state-dict entries of the published checkpoints, 100 classes
    "resnet8": (83_892, 56),
    "resnet14": (181_108, 92),
    "resnet20": (278_324, 128),
    "resnet32": (472_756, 200),
    "resnet44": (667_188, 272),
    "resnet56": (861_620, 344),
    "resnet110": (1_736_564, 668),
    "resnet8x4": (1_233_540, 62),
    "resnet32x4": (7_433_860, 206),
    "vgg8": (3_965_028, 37),
    "vgg11": (9_277_284, 58),
    "vgg13": (9_462_180, 72),
    "vgg16": (14_774_436, 93),
    "vgg19": (20_086_692, 114),
    "wrn_16_1": (180_916, 82),
    "wrn_16_2": (703_284, 83),
    "wrn_40_1": (569_780, 226),
    "wrn_40_2": (2_255_156, 227),
    "ResNet50": (23_705_252, 320),
    "MobileNetV2": (812_836, 320),
    "ShuffleV1": (949_258, 296),
    "ShuffleV2": (1_355_528, 338),
}
FAMILIES = ("resnet8", "resnet8x4", "vgg8", "wrn_16_1", "ResNet50", "MobileNetV2", "ShuffleV1", "ShuffleV2")
BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def bn(prefix: str) -> set[str]:
    return {f"{prefix}.{name}" for name in BN}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_is_the_published_one(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name)
    assert (sum(p.numel() for p in model.parameters()), len(model.state_dict())) == PUBLISHED[name]


def test_the_list_is_complete() -> None:
    assert set(PUBLISHED) <= set(model_names()) == set(MODELS)


def test_resnet_keys_are_the_published_ones() -> None:
    expected = {"conv1.weight", "fc.weight", "fc.bias"} | bn("bn1")
    for layer in (1, 2, 3):
        block = f"layer{layer}.0"
        expected |= {f"{block}.conv1.weight", f"{block}.conv2.weight"} | bn(f"{block}.bn1") | bn(f"{block}.bn2")
        if layer > 1:
            expected |= {f"{block}.downsample.0.weight"} | bn(f"{block}.downsample.1")
    assert set(build_model("resnet8").state_dict()) == expected
    wide = expected | {"layer1.0.downsample.0.weight"} | bn("layer1.0.downsample.1")
    assert set(build_model("resnet8x4").state_dict()) == wide


def test_vgg_keys_are_the_published_ones() -> None:
    expected = {"classifier.weight", "classifier.bias"}
    for block, convolutions in enumerate((1, 1, 2, 2, 2)):
        for number in range(convolutions):
            convolution = f"block{block}.{3 * number}"
            expected |= {f"{convolution}.weight", f"{convolution}.bias"} | bn(f"block{block}.{3 * number + 1}")
    assert set(build_model("vgg11").state_dict()) == expected


@pytest.mark.parametrize(("name", "shortcuts"), [("wrn_16_1", (2, 3)), ("wrn_16_2", (1, 2, 3))])
def test_wrn_keys_are_the_published_ones(name: str, shortcuts: tuple[int, ...]) -> None:
    expected = {"conv1.weight", "fc.weight", "fc.bias"} | bn("bn1")
    for block in (1, 2, 3):
        for number in (0, 1):
            layer = f"block{block}.layer.{number}"
            expected |= {f"{layer}.conv1.weight", f"{layer}.conv2.weight"} | bn(f"{layer}.bn1") | bn(f"{layer}.bn2")
    expected |= {f"block{block}.layer.0.convShortcut.weight" for block in shortcuts}
    assert set(build_model(name).state_dict()) == expected


def pairs(block: str, numbers: Iterable[int]) -> set[str]:
    """Keys of convolutions and BatchNorms that are numbered alike."""
    return {key for number in numbers for key in ({f"{block}.conv{number}.weight"} | bn(f"{block}.bn{number}"))}


def test_resnet50_keys_are_the_published_ones() -> None:
    expected = {"conv1.weight", "linear.weight", "linear.bias"} | bn("bn1")
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        expected |= {f"layer{layer}.0.shortcut.0.weight"} | bn(f"layer{layer}.0.shortcut.1")
        for number in range(blocks):
            expected |= pairs(f"layer{layer}.{number}", (1, 2, 3))
    with torch.device("meta"):
        assert set(build_model("ResNet50").state_dict()) == expected


def test_mobilenet_keys_are_the_published_ones() -> None:
    expected = {"classifier.0.weight", "classifier.0.bias"}
    expected |= {"conv1.0.weight", "conv2.0.weight"} | bn("conv1.1") | bn("conv2.1")
    for group, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for number in range(blocks):
            for layer in (0, 3, 6):
                block = f"blocks.{group}.{number}.conv"
                expected |= {f"{block}.{layer}.weight"} | bn(f"{block}.{layer + 1}")
    assert set(build_model("MobileNetV2").state_dict()) == expected


@pytest.mark.parametrize(
    ("name", "first", "outside"), [("ShuffleV1", (1, 2, 3), (1,)), ("ShuffleV2", range(1, 6), (1, 2))]
)
def test_shufflenet_keys_are_the_published_ones(name: str, first: Iterable[int], outside: Iterable[int]) -> None:
    expected = {"linear.weight", "linear.bias"} | {key.removeprefix(".") for key in pairs("", outside)}
    for layer, blocks in ((1, 4), (2, 8), (3, 4)):
        expected |= pairs(f"layer{layer}.0", first)
        for number in range(1, blocks):
            expected |= pairs(f"layer{layer}.{number}", (1, 2, 3))
    assert set(build_model(name).state_dict()) == expected


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 28), (3, 32), (1, 64)])
def test_forward_gives_logits_for_every_size(name: str, channels: int, size: int) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=7, in_channels=channels).double().eval()
    image = torch.randn(2, channels, size, size, dtype=torch.float64)
    logits = model(image)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert not torch.allclose(logits[0], logits[1], atol=0)  # the picture matters
    torch.testing.assert_close(model(image[1:]), logits[1:], rtol=1e-7, atol=0)  # fresh weights may fade to 1e-9


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=3)
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    dead = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert dead == []


def test_first_weights_have_the_announced_spread() -> None:
    torch.manual_seed(0)
    resnet, vgg, mobile, shuffle = (
        build_model(name).state_dict() for name in ("resnet20", "vgg8", "MobileNetV2", "ShuffleV2")
    )
    # Kaiming over fan-out: deviation sqrt(2 / (9 * outputs)).
    assert resnet["layer3.2.conv2.weight"].std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert vgg["block3.0.weight"].std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02)
    assert vgg["classifier.weight"].std().item() == pytest.approx(0.01, rel=0.02)
    assert not vgg["classifier.bias"].any()
    assert not vgg["block3.0.bias"].any()
    assert mobile["blocks.6.0.conv.3.weight"].std().item() == pytest.approx((2 / (9 * 480)) ** 0.5, rel=0.02)
    assert mobile["classifier.0.weight"].std().item() == pytest.approx(0.01, rel=0.02)
    # torch's own: uniform up to 1 / sqrt(inputs), of deviation 1 / sqrt(3 inputs).
    assert shuffle["conv2.weight"].std().item() == pytest.approx((1 / (3 * 464)) ** 0.5, rel=0.02)


def test_residual_block_by_hand() -> None:
    block = build_model("resnet8", num_classes=2).layer1[0].eval()
    for convolution in (block.conv1, block.conv2):
        torch.nn.init.dirac_(convolution.weight)  # passes its input on
    x = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    scale = (1 + block.bn1.eps) ** -0.5
    expected = (x.relu() * scale**2 + x).relu()
    torch.testing.assert_close(block(x), expected)


def torchvision_blocks() -> dict[str, tuple[nn.Module, nn.Module, int]]:
    """Blocks of ours, the same of torchvision, and the channels of their input."""
    from torchvision.models.mobilenetv2 import InvertedResidual as Inverted
    from torchvision.models.resnet import Bottleneck
    from torchvision.models.shufflenetv2 import InvertedResidual as Shuffle

    shortcut = nn.Sequential(nn.Conv2d(256, 512, 1, 2, bias=False), nn.BatchNorm2d(512))
    deep, mobile, shuffle = (build_model(name) for name in ("ResNet50", "MobileNetV2", "ShuffleV2"))
    return {
        "bottleneck": (deep.layer2[1], Bottleneck(512, 128), 512),
        "bottleneck, smaller": (deep.layer2[0], Bottleneck(256, 128, 2, shortcut), 256),
        "inverted": (mobile.blocks[2][1], Inverted(16, 16, 1, 6), 16),
        "inverted, smaller": (mobile.blocks[2][0], Inverted(12, 16, 2, 6), 12),
        "shuffled": (shuffle.layer1[1], Shuffle(116, 116, 1), 116),
        "shuffled, smaller": (shuffle.layer2[0], Shuffle(116, 232, 2), 116),
    }


@pytest.mark.parametrize("mode", [True, False])
def test_blocks_are_those_of_torchvision(mode: bool) -> None:
    for name, (ours, theirs, channels) in torchvision_blocks().items():
        ours.train(mode)
        theirs.train(mode)
        values = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
        theirs.load_state_dict(values)
        # Activated input, as blocks get it; below 6, where torchvision's MobileNetV2 cuts.
        x = torch.rand(2, channels, 6, 6).relu().requires_grad_()
        mine, other = ours(x), theirs(x)
        torch.testing.assert_close(mine, other, msg=lambda text, name=name: f"{name}: {text}")
        probe = torch.randn_like(mine)
        for got, expected in zip(*(torch.autograd.grad((y * probe).sum(), x) for y in (mine, other)), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_channels_are_dealt_out_in_turn() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 5)
    assert channel_shuffle(x, 3)[0, :, 0, 0].tolist() == [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]
    assert channel_shuffle(x, 2)[1, :, 2, 4].tolist() == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    assert channel_shuffle(x, 1).equal(x)


@pytest.mark.parametrize(("layer", "number", "groups"), [("layer1", 0, 1), ("layer2", 0, 3), ("layer2", 1, 3)])
def test_shuffle_unit_equals_its_groups_one_by_one(layer: str, number: int, groups: int) -> None:
    unit = getattr(build_model("ShuffleV1"), layer)[number].eval()
    x = torch.rand(2, unit.conv1.in_channels, 6, 6)

    def grouped(x: torch.Tensor, weight: torch.Tensor, count: int) -> list[torch.Tensor]:
        parts = zip(x.chunk(count, 1), weight.chunk(count), strict=True)
        return [functional.conv2d(part, kernel) for part, kernel in parts]

    scale = (1 + unit.bn1.eps) ** -0.5  # fresh statistics only scale
    parts = [(part * scale).relu() for part in grouped(x, unit.conv1.weight, groups)]
    mixed = torch.stack([part[:, channel] for channel in range(parts[0].shape[1]) for part in parts], dim=1)
    each = [
        functional.conv2d(mixed[:, c : c + 1], unit.conv2.weight[c : c + 1], stride=unit.stride, padding=1)
        for c in range(mixed.shape[1])
    ]
    out = torch.cat(grouped((torch.cat(each, 1) * scale).relu(), unit.conv3.weight, 3), 1) * scale
    whole = torch.cat((out, functional.avg_pool2d(x, 3, 2, 1)), 1) if unit.stride == 2 else out + x
    torch.testing.assert_close(unit(x), whole.relu())


@pytest.mark.parametrize("name", FAMILIES)
def test_small_images_are_refused(name: str) -> None:
    with pytest.raises(
        ShapeError, match=r"^the network needs images of 8 px or more on both sides, got 7 x 9; enlarge them"
    ):
        build_model(name)(torch.zeros(1, 3, 7, 9))


@pytest.mark.parametrize("name", FAMILIES)
def test_wrong_channels_are_refused(name: str) -> None:
    with pytest.raises(ShapeError, match=r"^the network expects images \(B, 3, H, W\), got 1 channels; build it with"):
        build_model(name)(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ShapeError, match=r"got shape \(3, 32, 32\)"):
        build_model(name)(torch.zeros(3, 32, 32))


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown model 'resnet21'; did you mean .*resnet20.*timm/NAME"):
        build_model("resnet21")


def test_unknown_options_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^resnet20 has no option 'depth'; accepted: num_classes, in_channels, weights\.$"
    ):
        build_model("resnet20", depth=3)


def test_no_network_without_classes_or_channels() -> None:
    with pytest.raises(
        ConfigError, match=r"2 or more classes and 1 or more input channels, got num_classes=1 and in_channels=0"
    ):
        build_model("vgg8", num_classes=1, in_channels=0)
    with pytest.raises(ConfigError, match=r"^vgg8 needs a number of classes; give num_classes\.$"):
        build_model("vgg8", num_classes=None)


def test_the_package_imports_without_timm_and_torchvision() -> None:
    code = "import sys, mfkd.models; print([m for m in ('timm', 'torchvision') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
