import pytest
import torch
from torch import nn

from mfkd.train import cost as module
from mfkd.train.cost import cost


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.0)


def test_parameters_and_flops_by_hand():
    # convolution: 8x8 outputs of 5 channels, each over 3 * 3 * 3 inputs; linear: 320 -> 10. Two FLOPs a multiply-add.
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(320, 10))
    found = cost(network, (3, 8, 8))
    assert found["parameters"] == (5 * 27 + 5) + (320 * 10 + 10)
    assert found["flops"] == 2 * (8 * 8 * 5 * 27 + 320 * 10)
    assert 0 < found["latency_ms"] < 1000


def test_latency_is_the_median_call(monkeypatch):
    ticks = iter([0.0, *(t for k, took in enumerate((1, 9, 2, 3, 2)) for t in (10 * k, 10 * k + took)), 99])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks))
    assert cost(nn.Conv2d(1, 1, 1), (1, 2, 2))["latency_ms"] == 2000


def test_the_network_is_asked_in_eval_mode_without_a_trace():
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1).double()

        def forward(self, image):
            seen.append((self.training, len(image), image.dtype))
            return self.norm(image)

    network = Spy()
    network.norm.eval()
    cost(network, (1, 2, 2))
    assert set(seen) == {(False, 1, torch.float64)}
    assert (network.training, network.norm.training) == (True, False)
    assert network.norm.num_batches_tracked == 0
