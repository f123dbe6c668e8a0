import pytest
import torch

from mfkd.errors import ConfigError, ShapeError
from mfkd.methods import resolve
from mfkd.methods.at import AT, ATConfig, at_loss


def test_value_by_hand():
    # Energies (3, 4) are (0.6, 0.8) at length 1; the teacher looks at the second position alone.
    student = torch.tensor([3.0, 4.0]).sqrt().reshape(1, 1, 1, 2)
    teacher = torch.tensor([0.0, 7.0, 0.0, -1.0]).reshape(1, 2, 1, 2)
    assert at_loss(student, teacher).item() == pytest.approx((0.36 + 0.04) / 2)


def test_opposite_attention_is_the_largest_value():
    student, teacher = torch.tensor([2.0, 0.0]).reshape(1, 1, 1, 2), torch.tensor([0.0, 2.0]).reshape(1, 1, 1, 2)
    assert at_loss(student, teacher).item() == pytest.approx(2 / 2)


def attention(maps, p):
    """Of one image (C, h, w), in loops."""
    channels, height, width = maps.shape
    energy = [
        sum(abs(maps[c, y, x].item()) ** p for c in range(channels)) / channels
        for y in range(height)
        for x in range(width)
    ]
    length = sum(value**2 for value in energy) ** 0.5
    return [value / length for value in energy]


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(4, 2), (2, 4), (2, 2)])
def test_slow_reference(p, sizes):
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 2, sizes[0], sizes[0]), torch.randn(3, 5, sizes[1], sizes[1])
    pooled = [
        torch.stack([m[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1)]).mean(0) if m.shape[2] == 4 else m
        for m in (student, teacher)
    ]
    gaps = [
        (a - b) ** 2
        for own, theirs in zip(*pooled, strict=True)
        for a, b in zip(attention(own, p), attention(theirs, p), strict=True)
    ]
    assert at_loss(student, teacher, p).item() == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_invariance_to_the_scale_of_an_image_the_order_of_channels_and_the_sign(p):
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 2, 2), torch.randn(3, 2, 2, 2)
    changed = -student.flip(1) * torch.tensor([1.0, 20.0, 0.3])[:, None, None, None]
    assert torch.allclose(at_loss(changed, teacher, p), at_loss(student, teacher, p), atol=1e-6)


def test_gradcheck_and_a_dead_map():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 2, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda maps: at_loss(maps, teacher), (student.requires_grad_(),))
    dead = torch.zeros(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    at_loss(dead, teacher).backward()
    assert dead.grad.isfinite().all()


def test_the_class_adds_up_the_stages(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    teacher.taps = {name: tap.requires_grad_() for name, tap in teacher.taps.items()}
    method = AT(ATConfig(p=3.0), make_context())
    stages = ("stage1", "stage2", "stage3")
    assert (method.needs.student, method.needs.teacher) == (stages, stages)
    assert not list(method.parameters())
    terms = method(student, teacher, batch)
    assert list(terms) == ["at"]
    expected = sum(at_loss(student.taps[name], teacher.taps[name], 3.0) for name in stages)
    assert torch.allclose(terms["at"], expected)
    terms["at"].backward()
    assert student.taps["front"].grad.abs().sum() > 0
    assert teacher.taps["front"].grad is None


def test_refusals(make_context):
    with pytest.raises(ShapeError, match=r"at_loss needs two maps \(B, C, H, W\) of one batch, got \(2, 1, 2, 2\) and"):
        at_loss(torch.zeros(2, 1, 2, 2), torch.zeros(3, 1, 2, 2))
    with pytest.raises(ConfigError, match=r"method\.at\.p: got 0\.5"):
        resolve({"at": {"p": 0.5}})
    with pytest.raises(ShapeError, match="teacher tap 'penultimate' must be a map"):
        AT(ATConfig(teacher_taps=("penultimate",)), make_context())
