import pytest
import torch

from mfkd.errors import ShapeError
from mfkd.methods.nst import NST, NSTConfig, nst_loss


@pytest.mark.parametrize(
    ("student", "teacher", "value"),
    [
        ([1.0, 0.0], [0.0, 3.0], 2),  # at right angles: 1 + 1 - 0
        ([1.0, 1.0], [5.0, 0.0], 1),  # at 45 degrees: 1 + 1 - 2 / 2
        ([2.0, 0.0], [-7.0, 0.0], 0),  # one line
    ],
)
def test_value_by_hand(student, teacher, value):
    maps = [torch.tensor(channel).reshape(1, 1, 1, 2) for channel in (student, teacher)]
    assert nst_loss(*maps).item() == pytest.approx(value, abs=1e-6)


def kernel(first, second):
    """Mean over all pairs of channels of one image, each a list of activations, in loops."""
    total = 0.0
    for a in first:
        for b in second:
            lengths = (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
            total += (sum(x * y for x, y in zip(a, b, strict=True)) / lengths) ** 2
    return total / (len(first) * len(second))


@pytest.mark.parametrize("size", [2, 4])
def test_slow_reference(size):
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 2, size, size), torch.randn(3, 5, 2, 2)
    small = student if size == 2 else student.reshape(3, 2, 2, 2, 2, 2).mean((3, 5))
    values = []
    for own, theirs in zip(small.flatten(2).tolist(), teacher.flatten(2).tolist(), strict=True):
        values.append(kernel(theirs, theirs) + kernel(own, own) - 2 * kernel(own, theirs))
    assert nst_loss(student, teacher).item() == pytest.approx(sum(values) / 3, rel=1e-4)


def test_invariance_to_order_number_and_scale_of_channels():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 4, 4)
    value = nst_loss(student, teacher)
    assert torch.allclose(nst_loss(student.flip(1), teacher), value, atol=1e-6)
    assert torch.allclose(nst_loss(torch.cat([student, student], dim=1), teacher), value, atol=1e-6)
    scales = torch.rand(2, 3, 1, 1) + 0.1
    assert torch.allclose(nst_loss(student * scales, teacher), value, atol=1e-6)
    assert value > 0


def test_gradcheck_and_a_dead_channel():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 2, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda maps: nst_loss(maps, teacher), (student.requires_grad_(),))
    dead = torch.zeros(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    nst_loss(dead, teacher).backward()
    assert dead.grad.isfinite().all()


def test_the_class_adds_up_the_stages(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    teacher.taps = {name: tap.requires_grad_() for name, tap in teacher.taps.items()}
    method = NST(NSTConfig(), make_context())
    stages = ("stage1", "stage2", "stage3")
    assert (method.needs.student, method.needs.teacher) == (stages, stages)
    terms = method(student, teacher, batch)
    assert list(terms) == ["nst"]
    assert torch.allclose(terms["nst"], sum(nst_loss(student.taps[name], teacher.taps[name]) for name in stages))
    terms["nst"].backward()
    assert student.taps["bottom"].grad.abs().sum() > 0
    assert teacher.taps["bottom"].grad is None


def test_refusals(make_context):
    with pytest.raises(ShapeError, match=r"nst_loss needs two maps \(B, C, H, W\) of one batch, got \(2, 4\) and"):
        nst_loss(torch.zeros(2, 4), torch.zeros(2, 1, 2, 2))
    with pytest.raises(ShapeError, match="student tap 'penultimate' must be a map"):
        NST(NSTConfig(student_taps=("penultimate",)), make_context())
