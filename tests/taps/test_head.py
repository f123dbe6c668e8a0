import torch
from torch import nn

from mfkd.models import build_model
from mfkd.taps import find_taps
from mfkd.taps.head import classifier
from mfkd.teacher import FrozenTeacher


def test_classifier_lets_gradients_through_to_its_input():
    teacher = FrozenTeacher(build_model("resnet8", num_classes=5))
    taps = find_taps(teacher.network, (3, 16, 16))
    head = classifier(teacher.network, taps)
    features = torch.randn(2, 64, requires_grad=True)
    head(features).sum().backward()
    assert features.grad.abs().sum() > 0
    assert head.weight.grad is None
    outputs = teacher(torch.randn(2, 3, 16, 16), [taps["penultimate"]])
    assert torch.allclose(head(outputs.taps["penultimate"]), outputs.logits)


def test_it_is_found_in_a_network_that_declares_nothing():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    assert classifier(network, find_taps(network, (3, 16, 16))) is network[3]


def test_a_network_without_a_linear_classifier_has_none():
    network = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert classifier(network, find_taps(network, (3, 16, 16))) is None
