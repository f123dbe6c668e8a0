"""Every method on pairs of unlike networks: one step works, or the refusal says why."""

import copy
from functools import cache

import pytest
import torch

from mfkd import Distiller, build_model
from mfkd.errors import MfkdError
from mfkd.methods import METHODS

SHAPE, CLASSES, ROWS = (3, 32, 32), 6, 8
VIT = {"img_size": 32, "patch_size": 8, "depth": 3}
VIT_TO_CNN = "ViT to CNN"
PAIRS = {
    "resnet56 to resnet20": (("resnet56", {}), ("resnet20", {})),
    "vgg13 to vgg8": (("vgg13", {}), ("vgg8", {})),
    "resnet32x4 to ShuffleV1": (("resnet32x4", {}), ("ShuffleV1", {})),
    VIT_TO_CNN: (("timm/vit_tiny_patch16_224", VIT), ("resnet20", {})),
}
REFUSALS = {
    ("fsp", "resnet32x4 to ShuffleV1"): "fsp needs matrices of one shape",
    ("fsp", VIT_TO_CNN): "fsp needs matrices of one shape",
    ("ofd", VIT_TO_CNN): "BatchNorm",
    ("catkd", VIT_TO_CNN): "catkd needs",
    ("simkd", VIT_TO_CNN): "this classifier gets something else",
}
"""(method, pair): a part of the text that says why the two cannot be combined."""


@cache
def built(name, options):
    torch.manual_seed(0)
    return build_model(name, num_classes=CLASSES, **dict(options))


def network(name, options):
    return copy.deepcopy(built(name, tuple(options.items())))


def batch():
    images = torch.randn(ROWS, *SHAPE, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(ROWS) % CLASSES, torch.arange(ROWS)


def distiller_of(method, pair):
    teacher, student = (network(*side) for side in PAIRS[pair])
    return Distiller(
        teacher, student, {method: {}}, input_shape=SHAPE, num_samples=ROWS, labels=batch()[1], epochs=8, seed=0
    )


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("method", METHODS)
def test_one_step_or_a_reason(method, pair):
    if (method, pair) in REFUSALS:
        with pytest.raises(MfkdError) as caught:
            step(method, pair)
        assert REFUSALS[method, pair] in str(caught.value)
        assert "\n" not in str(caught.value)
    else:
        step(method, pair)


def step(method, pair):
    distiller = distiller_of(method, pair)
    images, labels, index = batch()
    teacher = copy.deepcopy(distiller.teacher.state_dict())
    distiller.prepare([(images, labels)])
    distiller.set_progress(0.5)
    parameters = distiller.trainable_parameters()
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    out = distiller(images, labels, index)
    out.loss.backward()
    assert out.loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.student.parameters())
    optimizer.step()
    assert all(torch.equal(value, teacher[name]) for name, value in distiller.teacher.state_dict().items())


def test_the_table_of_refusals_names_what_exists():
    assert {name for name, _ in REFUSALS} <= set(METHODS)
    assert {pair for _, pair in REFUSALS} <= set(PAIRS)
