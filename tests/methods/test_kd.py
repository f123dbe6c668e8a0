import math
import statistics

import pytest
import torch

from mfkd.errors import ConfigError, ShapeError, TrainingError
from mfkd.functional.kl import soft_target_loss
from mfkd.methods.kd import KD, KDConfig, kd_loss
from mfkd.types import Knowledge, Needs


def test_value_by_hand():
    # Teacher even, student 3:1 at T=2: KL = 1/2 ln(2/3) + 1/2 ln 2, times 4.
    student = torch.tensor([[2 * torch.log(torch.tensor(3.0)).item(), 0.0]])
    expected = 4 * 0.5 * torch.log(torch.tensor(4 / 3)).item()
    assert kd_loss(student, torch.zeros(1, 2), temperature=2.0).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_the_mean_over_parts_is_that_of_the_whole():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 8, 5, dtype=torch.float64)
    parts = [kd_loss(student[i : i + 4], teacher[i : i + 4]) for i in (0, 4)]
    assert torch.allclose(sum(parts) / 2, kd_loss(student, teacher), rtol=1e-12)


def test_the_class_uses_its_temperature_and_needs_logits_only(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = KD(KDConfig(temperature=2.0), make_context())
    assert method.needs == Needs(logits=True)
    assert not list(method.parameters())
    terms = method(student, Knowledge(teacher.logits), batch)
    assert list(terms) == ["kd"]
    assert terms["kd"] == soft_target_loss(student.logits, teacher.logits, 2.0)


def test_logit_std_agrees_with_loops(make_context, make_inputs):
    student, teacher, batch = make_inputs(dtype=torch.float64)
    total = 0.0
    for own, other in zip(student.logits.tolist(), teacher.logits.tolist(), strict=True):
        rows = [[(v - statistics.mean(row)) / statistics.stdev(row) for v in row] for row in (own, other)]
        exp = [[math.exp(v / 2) for v in row] for row in rows]
        q, p = ([v / sum(row) for v in row] for row in exp)
        total += 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    method = KD(KDConfig(logit_std=True, temperature=2.0), make_context())
    value = method(student, Knowledge(teacher.logits), batch)["kd"]
    assert value.item() == pytest.approx(total / len(batch), rel=1e-5)


def test_refusals(make_context, make_inputs):
    with pytest.raises(ConfigError, match=r"kd needs a teacher with the student's classes.*teacher\.head=tune"):
        KD(KDConfig(), make_context(teacher_logits=False))
    student, _, batch = make_inputs()
    with pytest.raises(TrainingError, match=r"kd was given no teacher logits; ask the source"):
        KD(KDConfig(), make_context())(student, Knowledge(None), batch)
    with pytest.raises(ShapeError, match=r"got student \(2, 3\) and teacher \(2, 4\)"):
        kd_loss(torch.zeros(2, 3), torch.zeros(2, 4))
