import math

import pytest
import torch

from mfkd.errors import ConfigError, ShapeError
from mfkd.functional.kl import soft_target_loss


def slow(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [math.exp(v / temperature) for v in t]
        q = [math.exp(v / temperature) for v in s]
        for a, b in zip(p, q, strict=True):
            total += a / sum(p) * (math.log(a / sum(p)) - math.log(b / sum(q)))
    return temperature**2 * total / len(student)


def test_value_by_hand():
    # Teacher 2:1 at T=2 (logits 2 ln 2 and 0), student even: KL = 2/3 ln(4/3) + 1/3 ln(2/3), times T^2.
    loss = soft_target_loss(torch.zeros(1, 2), torch.tensor([[2 * math.log(2), 0.0]]), temperature=2.0)
    assert loss.item() == pytest.approx(4 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(1, 2), (5, 7)])
def test_agrees_with_loops(temperature, shape):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64) * 3
    assert soft_target_loss(student, teacher, temperature).item() == pytest.approx(
        slow(student, teacher, temperature), rel=1e-9
    )


def test_is_zero_for_shifted_logits():
    teacher = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert soft_target_loss(teacher + 3, teacher).item() == pytest.approx(0, abs=1e-12)


def test_gradient_tends_to_matching_centred_logits_for_a_high_temperature():
    torch.manual_seed(1)
    student, teacher = torch.randn(2, 4, 6, dtype=torch.float64)
    student.requires_grad_()
    soft_target_loss(student, teacher, 1e4).backward()
    gap = student.detach() - teacher
    assert torch.allclose(student.grad, (gap - gap.mean(1, keepdim=True)) / (4 * 6), atol=1e-4)


def test_gradient_reaches_the_student_only():
    torch.manual_seed(2)
    student, teacher = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda s: soft_target_loss(s, teacher, 3.0), (student,))
    soft_target_loss(student, teacher).backward()
    assert teacher.grad is None


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(3)
    student, teacher = torch.randn(2, 4, 10).bfloat16()
    loss = soft_target_loss(student, teacher)
    assert loss.dtype == torch.float32
    assert loss == soft_target_loss(student.float(), teacher.float())


def test_refusals():
    with pytest.raises(
        ShapeError, match=r"same classes, got student \(2, 3\) and teacher \(2, 4\); give the teacher a"
    ):
        soft_target_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="temperature must be above 0, got 0; 4 is usual"):
        soft_target_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0)
