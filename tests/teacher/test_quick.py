"""The fast way of a frozen teacher: the same answers, less work, and nothing done to the network."""

import copy

import pytest
import torch
from torch import nn

from mfkd import Distiller, build_model
from mfkd.taps import find_taps
from mfkd.teacher import FrozenTeacher
from mfkd.teacher.quick import Quick
from mfkd.teacher.several import SeveralTeachers
from mfkd.types import TapSpec

SHAPE = (3, 16, 16)


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = build_model("resnet8", num_classes=5)
    network(torch.randn(16, *SHAPE))  # statistics of its own
    return network.eval()


def specs_of(network, *names):
    found = find_taps(network, SHAPE)
    return [found[name] for name in names]


def ran(network, call):
    """Names of modules that a call ran."""
    seen = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
        for name, module in network.named_modules()
    ]
    call()
    for handle in handles:
        handle.remove()
    return seen


def test_answers_as_the_network_does_and_leaves_it_alone(network):
    teacher, image = FrozenTeacher(network), torch.randn(4, *SHAPE)
    specs, state = specs_of(network, "stage1", "stage3.pre"), copy.deepcopy(network.state_dict())
    names = {name for name, _ in teacher.named_parameters()}
    expected = teacher(image, specs)
    teacher.quicken(SHAPE, specs)
    assert ran(network, lambda: teacher(image, specs)) == []  # the copy answered
    found = teacher(image, specs)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    for name in ("stage1", "stage3.pre"):
        torch.testing.assert_close(found.taps[name], expected.taps[name], rtol=1e-4, atol=1e-5)
        assert not found.taps[name].requires_grad
        assert not found.taps[name].is_inference()
    assert {name for name, _ in teacher.named_parameters()} == names
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_other_taps_and_slow_go_through_the_network_itself(network):
    teacher, image = FrozenTeacher(network), torch.randn(2, *SHAPE)
    teacher.quicken(SHAPE, specs_of(network, "stage1"))
    assert "fc" in ran(network, lambda: teacher(image, specs_of(network, "stage2")))
    assert "fc" in ran(network, lambda: teacher.logits(image))
    teacher.slow()
    assert "fc" in ran(network, lambda: teacher(image, specs_of(network, "stage1")))


def test_without_logits_nothing_after_the_last_tap_runs(network):
    teacher, image = FrozenTeacher(network), torch.randn(4, *SHAPE)
    specs = specs_of(network, "stage1", "stage2")
    expected = teacher(image, specs).taps
    teacher.quicken(SHAPE, specs, logits=False)
    copied = teacher.quick.network
    names = ran(copied, lambda: teacher.maps(image, specs))
    assert "layer2.0.relu2" in names
    assert not any(name.startswith(("layer3", "fc")) for name in names)
    for name, tap in teacher.maps(image, specs).items():
        torch.testing.assert_close(tap, expected[name], rtol=1e-4, atol=1e-5)
    assert "fc" in ran(network, lambda: teacher(image, specs))  # whoever wants logits gets them


class Twice(nn.Module):
    """One module twice, and a change in place after it."""

    def __init__(self, last):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 3, 1), last

    def forward(self, image):
        return self.last(self.conv(self.conv(image))).mean((2, 3))


@pytest.mark.parametrize(("path", "last"), [("conv", nn.Identity()), ("conv", nn.ReLU(inplace=True))])
def test_a_pass_that_would_read_something_else_if_it_ended_early_does_not(path, last):
    torch.manual_seed(0)
    network, spec = Twice(last).eval(), TapSpec("map", path, 3)
    quick = Quick(network, SHAPE, [spec], logits=False)
    assert quick.logits
    image = torch.randn(2, *SHAPE)
    assert torch.equal(quick(image)[1]["map"], last(network.conv(network.conv(image))))


@pytest.mark.parametrize("logits", [True, False])
def test_a_map_that_is_changed_in_place_later_is_the_same_either_way(logits):
    torch.manual_seed(0)
    teacher, image = FrozenTeacher(build_model("torchvision/resnet18", num_classes=3)), torch.randn(2, *SHAPE)
    specs = [teacher.taps(SHAPE)["layer3.1.bn2"]]
    expected = teacher(image, specs).taps["layer3.1.bn2"]
    assert expected.min() < 0
    teacher.quicken(SHAPE, specs, logits=logits)
    assert teacher.quick.folded
    assert teacher.quick.logits == logits  # nothing keeps the pass from ending with the tap
    torch.testing.assert_close(teacher.maps(image, specs)["layer3.1.bn2"], expected, rtol=1e-4, atol=1e-5)


def test_several_teachers_answer_the_fast_way_each(network):
    other = copy.deepcopy(network)
    several = SeveralTeachers([FrozenTeacher(network), FrozenTeacher(other)])
    taps, image = several.taps(SHAPE), torch.randn(3, *SHAPE)
    specs = [taps["teacher2.stage1"], taps["teacher1.stage2"]]
    expected = several(image, specs)
    several.quicken(SHAPE, specs)
    assert ran(network, lambda: several(image, specs)) == ran(other, lambda: several(image, specs)) == []
    found = several(image, specs)
    assert set(found.taps) == {"teacher2.stage1", "teacher1.stage2"}
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    several.quicken(SHAPE, specs[:1], logits=False)
    assert set(several.maps(image, specs[:1])) == {"teacher2.stage1"}
    several.slow()
    assert "fc" in ran(network, lambda: several(image, specs))


def test_the_copy_moves_with_the_teacher(network):
    distiller = Distiller(network, build_model("resnet8", num_classes=5), method="kd", input_shape=SHAPE)
    distiller.quicken()
    distiller.to(dtype=torch.float64)
    assert {p.dtype for p in distiller.teacher.quick.network.parameters()} == {torch.float64}
    before = distiller(torch.randn(4, *SHAPE, dtype=torch.float64), torch.arange(4))
    assert before.loss.dtype == torch.float64
    assert not any("quick" in name for name in distiller.state_dict())


def test_a_distiller_gives_the_same_loss(network):
    images, labels = torch.randn(6, *SHAPE), torch.arange(6) % 5
    for method in ("kd", {"at": {}}):
        distiller = Distiller(network, build_model("resnet8", num_classes=5), method=method, input_shape=SHAPE).eval()
        before = distiller(images, labels).loss
        distiller.quicken()
        torch.testing.assert_close(distiller(images, labels).loss, before, rtol=1e-4, atol=1e-5)
        assert distiller.teacher.quick.logits == (method == "kd")
