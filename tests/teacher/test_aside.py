import copy
import subprocess
import sys
import tempfile

import pytest
import torch
from torch import nn

from mfkd import Distiller
from mfkd.models import build_model
from mfkd.teacher.aside import lay_aside
from mfkd.teacher.source import Remembered


def odd():
    """Layouts, types and sizes that are not the usual ones."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(5, 3).bfloat16())
    network[0].to(memory_format=torch.channels_last)
    network.register_parameter("turned", nn.Parameter(torch.randn(7, 5).t()))
    network.register_parameter("empty", nn.Parameter(torch.zeros(0, 3)))
    network.register_buffer("flags", torch.tensor([True, False, True]))
    network.register_buffer("one", torch.tensor(3.5, dtype=torch.float64))
    network.register_buffer("wide", torch.arange(3.0).expand(4, 3))
    return network


def test_values_layout_and_identity_stay():
    network = odd()
    before, parameters = copy.deepcopy(network.state_dict()), dict(network.named_parameters())
    strides = {name: value.stride() for name, value in network.state_dict().items()}
    places = {name: value.data_ptr() for name, value in network.state_dict().items()}
    total = lay_aside(network)
    after = network.state_dict()
    held = sum(v.numel() * v.element_size() for v in before.values()) - 4 * 9  # `wide` takes one row
    assert held <= total < held + 64 * len(before)
    assert list(after) == list(before)
    for name, value in after.items():
        assert torch.equal(value, before[name])
        assert (value.dtype, value.shape, value.stride()) == (before[name].dtype, before[name].shape, strides[name])
        assert value.numel() == 0 or value.data_ptr() != places[name]
        assert value.numel() == 0 or value.data_ptr() % 64 == 0
    assert all(dict(network.named_parameters())[name] is p for name, p in parameters.items())


def test_again_and_after_a_change_it_is_as_good():
    network = build_model("resnet8", num_classes=5).eval()
    image = torch.randn(2, 3, 16, 16)
    before = network(image)
    assert lay_aside(network) == lay_aside(network) > 4 * sum(p.numel() for p in network.parameters())
    assert torch.equal(network(image), before)
    with torch.no_grad():
        network.fc.bias += 1  # does not reach the file, which others may have mapped
    assert torch.allclose(network(image), before + 1)


def test_without_room_the_weights_stay_in_memory(monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    network = odd()
    places = [p.data_ptr() for p in network.parameters()]
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert lay_aside(network) == 0
    assert [p.data_ptr() for p in network.parameters()] == places


def test_a_network_without_weights_has_nothing_to_lay_aside():
    assert lay_aside(nn.ReLU()) == 0


def test_a_teacher_is_laid_aside_where_its_answers_are_given_and_goes_on_answering():
    torch.manual_seed(0)
    teacher, image = build_model("resnet14", num_classes=5), torch.randn(4, 3, 16, 16)
    distiller = Distiller(teacher, build_model("resnet8", num_classes=5), method="kd", input_shape=(3, 16, 16))
    place = teacher.fc.weight.data_ptr()
    distiller.quicken()
    assert teacher.fc.weight.data_ptr() == place  # it is asked in every step
    distiller.source = Remembered(distiller.source)
    before = distiller.teacher.logits(image)
    distiller.quicken()
    assert teacher.fc.weight.data_ptr() != place
    assert distiller.teacher.quick is None
    assert torch.allclose(distiller.teacher.logits(image), before, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_is_given_back():
    code = (
        "import torch; from torch import nn; from mfkd.teacher.aside import lay_aside; from mfkd.train import memory\n"
        "network = nn.Linear(5000, 5000); before = memory._status('VmRSS'); lay_aside(network)\n"
        "print(before - memory._status('VmRSS'))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 80e6 < int(found.stdout) < 110e6
