"""Folding: the same answers with fewer layers, and never where something else reads the convolution."""

import copy

import pytest
import torch
from torch import nn

from mfkd.models import build_model
from mfkd.taps import find_taps, read
from mfkd.teacher.fold import fold, pairs
from mfkd.types import TapSpec

SHAPE = (3, 32, 32)


def lived(network):
    """With statistics and weights as after a training."""
    drawn = torch.Generator().manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            with torch.no_grad():
                norm.running_mean.normal_(0, 0.3, generator=drawn)
                norm.running_var.uniform_(0.5, 2, generator=drawn)
                norm.weight.uniform_(-1.5, 1.5, generator=drawn)
                norm.bias.normal_(0, 0.3, generator=drawn)
    return network.eval()


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def check(name, left):
    network = lived(build_model(name, num_classes=7))
    state = copy.deepcopy(network.state_dict())
    specs = list(find_taps(network, SHAPE).values())
    folded = fold(network, SHAPE, specs)
    assert norms(folded) == left < norms(network)
    image = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = read(network, image, specs), read(folded, image, specs)
    for tap, expected in {**before.taps, "logits": before.logits}.items():
        found = after.logits if tap == "logits" else after.taps[tap]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in folded.parameters())


# WRN's BatchNorms stand before the convolutions; only the first one of each block follows one.
@pytest.mark.parametrize(
    ("name", "left"), [("resnet14", 0), ("vgg8", 0), ("wrn_16_1", 7), ("timm/mobilenetv3_small_050", 0)]
)
def test_a_folded_network_answers_as_before(name, left):
    check(name, left)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "left"),
    [("resnet56", 0), ("vgg13", 0), ("MobileNetV2", 0), ("ShuffleV1", 0), ("ShuffleV2", 0), ("ResNet50", 0),
     ("timm/efficientnet_lite0", 1), ("timm/ghostnet_050", 1), ("timm/resnet18", 0), ("torchvision/densenet121", 62),
     ("torchvision/mobilenet_v2", 1)],
)  # fmt: skip
def test_a_folded_network_of_the_zoo_or_a_library_answers_as_before(name, left):
    check(name, left)


def test_weights_by_hand():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0), nn.Flatten()).eval()
    with torch.no_grad():
        network[0].weight.fill_(3.0)
        network[0].bias.fill_(1.0)
        network[1].running_mean.fill_(2.0)
        network[1].running_var.fill_(4.0)
        network[1].weight.fill_(10.0)
        network[1].bias.fill_(0.5)
    folded = fold(network, (1, 1, 2))
    # 10 * (3 x + 1 - 2) / 2 + 0.5 = 15 x - 4.5
    assert (folded[0].weight.item(), folded[0].bias.item()) == (15.0, -4.5)
    assert isinstance(folded[1], nn.Identity)


class Branched(nn.Module):
    """The output of `a` is read by its BatchNorm and by a sum; `b` runs twice; `c` is an ordinary pair."""

    def __init__(self):
        super().__init__()
        for name in "abc":
            setattr(self, name, nn.Conv2d(3, 3, 3, padding=1))
            setattr(self, f"norm_{name}", nn.BatchNorm2d(3))

    def forward(self, image):
        a = self.a(image)
        x = self.norm_a(a).relu() + a
        for _ in range(2):
            x = self.norm_b(self.b(x))
        return self.norm_c(self.c(x)).mean((2, 3))


def test_only_what_one_batchnorm_alone_reads_is_folded():
    network = lived(Branched())
    assert pairs(network, SHAPE) == [("c", "norm_c")]
    assert norms(fold(network, SHAPE)) == 2


@pytest.mark.parametrize("spec", [TapSpec("map", "c", 3), TapSpec("map", "norm_c", 3, side="input")])
def test_a_convolution_that_is_a_tap_stays(spec):
    assert pairs(lived(Branched()), SHAPE, [spec]) == []


def test_a_module_with_a_hook_of_its_own_stays():
    network = lived(Branched())
    network.c.register_forward_hook(lambda _, __, output: 2 * output)
    assert pairs(network, SHAPE) == []
    assert fold(network, SHAPE) is None


def test_a_copy_that_answers_otherwise_is_thrown_away():
    class Sly(Branched):
        """Uses the BatchNorm's statistics beside calling it."""

        def forward(self, image):
            return super().forward(image) + getattr(self.norm_c, "running_mean", torch.zeros(3))

    network = lived(Sly())
    assert pairs(network, SHAPE) == [("c", "norm_c")]
    assert fold(network, SHAPE) is None


def test_the_copy_is_compared_without_the_roundings_of_tf32(monkeypatch):
    seen, allowed = [], torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(
        "mfkd.teacher.fold.read", lambda *args: seen.append(torch.backends.cudnn.allow_tf32) or read(*args)
    )
    assert fold(lived(Branched()), SHAPE) is not None
    assert seen == [False, False]
    assert torch.backends.cudnn.allow_tf32 is allowed is True
