from math import exp

import pytest
import torch

from mfkd.errors import ShapeError
from mfkd.methods.cc import CC, CCConfig, cc_loss


def neighbours(student, teacher):
    gaps = [[abs(a - b) for a, b in zip(x, y, strict=True)] for x, y in zip(student, teacher, strict=True)]
    products = [sum(a * b for a, b in zip(gaps[i], gaps[i + 1], strict=True)) for i in range(len(gaps) - 1)]
    return sum(products) / len(products)


def gaussian(student, teacher, gamma):
    total = 0.0
    for i in range(len(student)):
        for j in range(len(student)):
            values = []
            for side in (student, teacher):
                dot, one, other = (
                    sum(a * b for a, b in zip(x, y, strict=True))
                    for x, y in ((side[i], side[j]), (side[i], side[i]), (side[j], side[j]))
                )
                power = 2 * gamma * dot / (one * other) ** 0.5
                values.append(exp(-2 * gamma) * (1 + power + power**2 / 2))
            total += (values[0] - values[1]) ** 2
    return total / len(student) ** 2


def test_values_by_hand():
    student = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert cc_loss(student, torch.zeros(3, 2)).item() == (1 * 3 + 0) / 2  # |1, 2| |3, 0| and |3, 0| |0, 1|
    # Two students alike, two teachers at right angles: each of two pairs differs by e^-1 (1 + 1/2) at gamma 1/2.
    alike, apart = torch.tensor([[1.0, 0.0], [5.0, 0.0]]), torch.eye(2)
    expected = 2 * (exp(-1) * 1.5) ** 2 / 4
    assert cc_loss(alike, apart, "gaussian", 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_equals_references_in_loops():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    lists = student.tolist(), teacher.tolist()
    assert cc_loss(student, teacher).item() == pytest.approx(neighbours(*lists), rel=1e-12)
    assert cc_loss(student, teacher, "gaussian", 0.3).item() == pytest.approx(gaussian(*lists, 0.3), rel=1e-12)


def test_the_expansion_is_near_the_kernel_that_it_stands_for():
    unit = torch.nn.functional.normalize(torch.randn(2, 4, 3, dtype=torch.float64), dim=2)
    exact = [(-0.01 * torch.cdist(side, side) ** 2).exp() for side in unit]
    expected = ((exact[0] - exact[1]) ** 2).mean().item()
    assert cc_loss(*unit, "gaussian", 0.01).item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kernel", ["neighbours", "gaussian"])
def test_gradients_flow_into_both_embeddings(kernel):
    student, teacher = (side.requires_grad_() for side in torch.randn(2, 4, 3, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda s, t: cc_loss(s, t, kernel), (student, teacher))


@pytest.mark.parametrize("kernel", ["neighbours", "gaussian"])
def test_the_class_embeds_both_sides(make_context, make_inputs, kernel):
    student, teacher, batch = make_inputs(stages=True)
    method = CC(CCConfig(kernel=kernel, gamma=0.2), make_context())
    assert (method.student_side.weight.shape, method.teacher_side.weight.shape) == ((128, 4), (128, 8))
    embedded = (
        method.student_side(student.taps["penultimate"]),
        method.teacher_side(teacher.taps["penultimate"]),
    )
    terms = method(student, teacher, batch)
    assert terms == {"cc": cc_loss(*embedded, kernel, 0.2)}
    terms["cc"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())
    assert CCConfig().weight == 0.02


def test_a_map_is_flattened(make_context, make_inputs):
    method = CC(CCConfig(student_tap="bottom", teacher_tap="middle", width=3), make_context())
    assert (method.student_side.in_features, method.teacher_side.in_features) == (16, 96)
    assert method(*make_inputs())["cc"].isfinite()


@pytest.mark.parametrize("shapes", [((3, 2), (3, 4)), ((1, 2), (1, 2)), ((2, 2, 1), (2, 2, 1))])
def test_refusal(shapes):
    with pytest.raises(ShapeError, match=r"cc_loss needs two embeddings \(B, D\) of 2 or more.*embed both in one"):
        cc_loss(*map(torch.zeros, shapes))
