import math

import pytest
import torch
from scipy import stats
from torch import nn

from mfkd.errors import ConfigError, ShapeError
from mfkd.methods.ofd import OFD, OFDConfig, negative_mean, ofd_loss
from mfkd.types import TapSpec


def slow(student, teacher, margin):
    total = 0.0
    for i, j, k, m in ((i, j, k, m) for i, j, k, m in torch.cartesian_prod(*map(torch.arange, student.shape)).tolist()):
        own, other = student[i, j, k, m].item(), teacher[i, j, k, m].item()
        target = max(other, margin[j].item())
        if target > 0 or own > target:
            total += (own - target) ** 2
    return total / len(student)


def test_value_by_hand():
    # Margin -1. Teacher -3 stands for -1: a student at -2 is left alone, one at 1 pays 4; at -0.5 it pays to come down
    # from 0; a positive teacher is always matched: (-1 - 2)^2.
    student = torch.tensor([-2.0, 1.0, 0.0, -1.0]).reshape(1, 1, 2, 2)
    teacher = torch.tensor([-3.0, -3.0, -0.5, 2.0]).reshape(1, 1, 2, 2)
    assert ofd_loss(student, teacher, torch.tensor([-1.0])).item() == pytest.approx(0 + 4 + 0.25 + 9)


@pytest.mark.parametrize("shape", [(1, 2, 3, 3), (3, 4, 2, 1)])
def test_slow_reference_and_gradient(shape):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    margin = -torch.rand(shape[1], dtype=torch.float64)
    assert ofd_loss(student, teacher, margin).item() == pytest.approx(slow(student, teacher, margin))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ofd_loss(s, teacher, margin), student)
    ofd_loss(student, teacher.requires_grad_(), margin).backward()
    assert teacher.grad is None


def test_margin_is_the_mean_of_the_gaussians_negative_part():
    weight = torch.tensor([1.0, 0.5, -2.0, 1.0], dtype=torch.float64)  # a Gaussian looks alike under either sign
    bias = torch.tensor([0.0, 1.0, 0.3, -4.0], dtype=torch.float64)
    expected = [
        stats.truncnorm(-math.inf, -m / abs(s), loc=m, scale=abs(s)).mean()
        for s, m in zip(weight.tolist(), bias.tolist(), strict=True)
    ]
    assert negative_mean(weight, bias).tolist() == pytest.approx(expected)
    assert expected[0] == pytest.approx(-math.sqrt(2 / math.pi))  # by hand


def test_margin_of_channels_that_are_hardly_ever_negative_and_of_dead_ones():
    # Four deviations above 0: -3 deviations, as published. Weight 0: a constant, and the margin is that, or 0.
    margins = negative_mean(torch.tensor([0.5, 0.0, 0.0]), torch.tensor([2.0, -0.7, 0.7]))
    assert margins.tolist() == pytest.approx([-1.5, -0.7, 0.0])


def test_the_class_by_its_definition(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    context = make_context()
    method = OFD(OFDConfig(), context)
    assert method.needs.student == method.needs.teacher == ("stage1.pre", "stage2.pre", "stage3.pre")
    terms = method(student, teacher, batch)
    assert list(terms) == ["ofd"]
    expected = 0.0
    for number, name in enumerate(method.needs.teacher):
        norm = context.teacher_norm(name)
        maps = method.connectors[number]([student.taps[name]])
        expected += ofd_loss(maps, teacher.taps[name], negative_mean(norm.weight, norm.bias)) / 2 ** (2 - number)
    assert torch.allclose(terms["ofd"], expected)
    assert {f"margin{number}" for number in range(3)} <= set(method.state_dict())


def test_maps_of_other_sizes_meet_at_the_smaller(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    config = OFDConfig(student_taps=("stage1", "stage3"), teacher_taps=("stage2", "stage1"))
    method = OFD(config, make_context())
    maps = [c([student.taps[n]]) for c, n in zip(method.connectors, config.student_taps, strict=True)]
    assert [tuple(m.shape) for m in maps] == [(4, 6, 4, 4), (4, 4, 2, 2)]
    assert method(student, teacher, batch)["ofd"] > 0


def test_refusals(make_context):
    with pytest.raises(ConfigError) as caught:
        OFD(OFDConfig(), make_context(teacher_norm=lambda name: None if "2" in name else nn.BatchNorm2d(4)))
    assert str(caught.value) == (
        "ofd takes its margins from the BatchNorm before each teacher map, and stage2.pre has none; "
        "name other teacher_taps, or use reviewkd."
    )
    with pytest.raises(ConfigError, match=r"ofd compares the stages of one teacher, got taps teacher1\.bottom"):
        OFD(OFDConfig(), make_context(teacher={"teacher1.bottom": TapSpec("bottom", "x", 8, shape=(8, 2, 2))}))
    with pytest.raises(ShapeError) as caught:
        ofd_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 2), torch.zeros(3))
    assert str(caught.value) == (
        "ofd_loss needs two maps (B, C, h, w) of one shape and (C,) margins, got student (2, 3, 4, 4), teacher "
        "(2, 3, 4, 2) and margins (3,); connect the student's map first."
    )
