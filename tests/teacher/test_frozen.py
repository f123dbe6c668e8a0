import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mfkd.errors import CheckpointError, ConfigError
from mfkd.models import build_model
from mfkd.teacher import FrozenTeacher
from mfkd.types import TapSpec

MAP = TapSpec("map", "0", 4)


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))


class Echo(nn.Module):
    """Returns its input as logits, so that a test sees what the network was fed."""

    def forward(self, image):
        return image.flatten(1)


def test_stays_in_eval_and_gets_no_gradients_whatever_happens():
    inner, image = build_model("resnet8", num_classes=5), torch.randn(4, 3, 16, 16)
    teacher = FrozenTeacher(inner)
    before = {name: value.clone() for name, value in inner.state_dict().items()}
    nn.ModuleList([teacher]).train()
    assert not any(part.training for part in teacher.modules())
    inner.train()  # by its owner, behind the teacher's back
    first = teacher(image)
    assert torch.equal(teacher(image).logits, first.logits)
    assert all(torch.equal(value, before[name]) for name, value in inner.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_outputs_are_detached_ordinary_tensors():
    inner = network()
    inner(torch.zeros(2, 3, 8, 8))
    outputs = FrozenTeacher(inner)(torch.randn(2, 3, 8, 8, requires_grad=True), [MAP])
    for tensor in (outputs.logits, outputs.taps["map"]):
        assert not tensor.requires_grad
        assert not tensor.is_inference()
    weight = torch.ones(4, requires_grad=True)
    (outputs.taps["map"] * weight[:, None, None]).square().sum().backward()  # saved for backward
    assert weight.grad.abs().sum() > 0


def test_renormalises_its_own_input():
    raw = torch.rand(2, 2, 4, 4)

    def normal(mean, std):
        return (raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    data, own = ((0.5, 0.4), (0.2, 0.3)), ((0.1, 0.9), (0.6, 0.7))
    teacher = FrozenTeacher(Echo(), data_mean=data[0], data_std=data[1], mean=own[0], std=own[1])
    assert torch.allclose(teacher.logits(normal(*data)), normal(*own).flatten(1), atol=1e-6)
    half = FrozenTeacher(Echo(), data_mean=data[0], data_std=data[1], mean=own[0])
    assert torch.allclose(half.logits(normal(*data)), normal(own[0], data[1]).flatten(1), atol=1e-6)


def test_equal_statistics_and_size_leave_the_image_untouched():
    image = torch.randn(2, 1, 4, 4)
    teacher = FrozenTeacher(Echo(), data_mean=(0.5,), data_std=(0.2,), mean=(0.5,), std=(0.2,), image_size=4)
    assert torch.equal(teacher.logits(image), image.flatten(1))
    assert teacher.state_dict() == {}


def test_resizes_its_own_input():
    teacher = FrozenTeacher(Echo(), image_size=2)
    image = torch.randn(2, 3, 8, 4)
    expected = F.interpolate(image, size=(2, 2), mode="bilinear", antialias=True)
    assert torch.equal(teacher.logits(image), expected.flatten(1))
    assert teacher.input_shape((3, 8, 4)) == (3, 2, 2)
    assert FrozenTeacher(Echo()).input_shape((3, 8, 4)) == (3, 8, 4)


def test_classes_are_counted_on_the_networks_own_size():
    assert FrozenTeacher(build_model("resnet8", num_classes=5)).count_classes((3, 16, 16)) == 5
    assert FrozenTeacher(Echo(), image_size=2).count_classes((3, 16, 16)) == 12


@pytest.mark.parametrize(
    ("name", "value"), [("layer2.0.conv1.weight", float("nan")), ("bn1.running_var", float("inf"))]
)
def test_refuses_weights_that_are_not_finite(name, value):
    inner = build_model("resnet8", num_classes=5)
    inner.state_dict()[name].view(-1)[0] = value
    pattern = rf"the teacher's {name} holds NaN or infinite values; use an intact weights file"
    with pytest.raises(CheckpointError, match=pattern):
        FrozenTeacher(inner)


def test_refuses_statistics_that_do_not_fit():
    with pytest.raises(ConfigError, match="teacher mean and std need the data's own; give data_mean and data_std"):
        FrozenTeacher(Echo(), mean=(0.5,))
    with pytest.raises(ConfigError, match="statistics have 3 and 1 channels, the data 1; give one value a channel"):
        FrozenTeacher(Echo(), data_mean=(0.5,), data_std=(0.2,), mean=(0.5, 0.5, 0.5))
