from math import log

import pytest
import torch

from mfkd.errors import ShapeError
from mfkd.methods.pkt import PKT, PKTConfig, pkt_loss


def neighbours(features):
    chances = []
    for x in features:
        row = []
        for y in features:
            dot = sum(a * b for a, b in zip(x, y, strict=True))
            row.append((1 + dot / (sum(a * a for a in x) * sum(b * b for b in y)) ** 0.5) / 2)
        chances.append([value / sum(row) for value in row])
    return chances


def reference(student, teacher):
    """The authors' formula in loops."""
    own, given = neighbours(student.tolist()), neighbours(teacher.tolist())
    size = len(own)
    pairs = [(given[i][j], own[i][j]) for i in range(size) for j in range(size)]
    return sum(q * log((q + 1e-7) / (p + 1e-7)) for q, p in pairs) / size**2


def test_value_by_hand():
    # Student: both alike, so chances 1/2, 1/2. Teacher: at right angles, so kernel 1, 1/2 and chances 2/3, 1/3.
    student = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    expected = (2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3)) / 2  # the KL of one row, over B
    assert pkt_loss(student, torch.eye(2, dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("widths", [(2, 3), (8, 8)])
def test_equals_a_reference_in_loops(widths):
    student, teacher = (torch.randn(6, width, dtype=torch.float64) for width in widths)
    assert pkt_loss(student, teacher).item() == pytest.approx(reference(student, teacher), rel=1e-9)


def test_the_length_of_a_vector_does_not_matter():
    student, teacher = torch.randn(2, 6, 3, dtype=torch.float64)
    lengths = torch.rand(6, 1, dtype=torch.float64) + 0.1
    assert torch.allclose(pkt_loss(lengths * student, 5 * teacher), pkt_loss(student, teacher), rtol=1e-10)
    assert pkt_loss(lengths * teacher, teacher).abs() < 1e-15


def test_opposite_and_empty_vectors_are_finite():
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = pkt_loss(student, torch.randn(3, 4))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_gradients():
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(pkt_loss, (student.requires_grad_(), teacher))
    pkt_loss(student, teacher.requires_grad_()).backward()
    assert teacher.grad is None


def test_the_class_compares_the_vectors_before_the_classifier(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    method = PKT(PKTConfig(), make_context())
    assert (method.needs.student, method.needs.teacher) == (("penultimate",), ("penultimate",))
    assert method.config.weight == 30000
    expected = pkt_loss(student.taps["penultimate"], teacher.taps["penultimate"])
    assert method(student, teacher, batch) == {"pkt": expected}


def test_refusal():
    with pytest.raises(ShapeError, match=r"pkt_loss needs one shared batch of 2 or more, got student \(1, 2\)"):
        pkt_loss(torch.zeros(1, 2), torch.zeros(1, 2))
