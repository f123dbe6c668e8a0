import copy

import pytest
import torch

from mfkd.errors import TrainingError
from mfkd.nn.calibrate import CalibratedFusion

SHAPES = [(4, 8, 8), (6, 4, 4)]


def build(kind="attention", seed=0):
    torch.manual_seed(seed)
    return CalibratedFusion(SHAPES, 8, (4, 4), kind, num_classes=5)


def maps(batch=4):
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(batch, *shape, generator=generator) for shape in SHAPES]


def modes(module):
    return {part.training for part in module.modules()}


@pytest.mark.parametrize("kind", ["attention", "static"])
def test_trains_only_between_start_and_finish(kind):
    side = build(kind)
    assert modes(side.train()) == {False}
    assert not any(p.requires_grad for p in side.parameters())
    side.start()
    assert modes(side.eval()) == {True}
    assert all(p.requires_grad for p in side.parameters())
    side.finish()
    assert modes(side.train()) == {False}
    assert not any(p.requires_grad for p in side.parameters())
    before = copy.deepcopy(side.state_dict())
    side(maps())
    assert all(torch.equal(value, before[name]) for name, value in side.state_dict().items())


def test_a_loaded_state_knows_that_it_is_ready():
    source, target = build(seed=0), build(seed=1)
    source.start()
    source.fusion(maps())
    source.finish()
    target.start()  # even one that was about to learn
    parent = torch.nn.ModuleDict({"side": target})
    parent.load_state_dict({f"side.{name}": value for name, value in source.state_dict().items()})
    assert target.ready
    assert modes(target) == {False}
    assert not any(p.requires_grad for p in target.parameters())
    assert torch.equal(target(maps()), source(maps()))


def test_a_state_from_before_the_calibration_takes_readiness_away():
    side, fresh = build(), build()
    side.start()
    side.finish()
    assert side.ready
    side.load_state_dict(fresh.state_dict())
    assert not side.ready


def test_a_buffer_broadcast_in_place_is_seen():
    side = build()
    assert not side.ready
    side.done.fill_(1)
    assert side.ready


def test_the_fused_map_has_no_gradient():
    side = build()
    side.start()
    side.finish()
    fused = side([tap.requires_grad_() for tap in maps()])
    assert not fused.requires_grad
    assert not fused.is_inference()


def test_head_by_its_definition():
    side, fused = build(), torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = fused.clamp(min=0).mean((2, 3)) @ side.head.weight.T + side.head.bias
    assert torch.allclose(side.classify(fused), expected, atol=1e-6)


def test_refusals():
    with pytest.raises(TrainingError, match=r"not calibrated; call distiller\.prepare\(loader\) once before training"):
        build()(maps())
    with pytest.raises(TrainingError, match="a static fusion has no head; use another kind"):
        build("static").classify(torch.zeros(1, 10, 4, 4))
