import math
from dataclasses import replace

import pytest
import torch

from mfkd.errors import ConfigError, ShapeError
from mfkd.functional.kl import soft_target_loss
from mfkd.methods.dkd import DKD, DKDConfig, dkd_loss
from mfkd.types import Knowledge, Needs


def slow(student, teacher, label, alpha, beta, temperature):
    """Probabilities as the paper writes them, image by image."""

    def split(logits, target):
        exp = [math.exp(v / temperature) for v in logits]
        pair = [exp[target] / sum(exp), 1 - exp[target] / sum(exp)]
        rest = [v for k, v in enumerate(exp) if k != target]
        return pair, [v / sum(rest) for v in rest]

    total = 0.0
    for s, t, target in zip(student.tolist(), teacher.tolist(), label.tolist(), strict=True):
        if target < 0:
            continue
        (own_pair, own_rest), (pair, rest) = split(s, target), split(t, target)
        tckd = sum(a * math.log(a / b) for a, b in zip(pair, own_pair, strict=True))
        nckd = sum(a * math.log(a / b) for a, b in zip(rest, own_rest, strict=True))
        total += temperature**2 * (alpha * tckd + beta * nckd)
    return total / len(student)


def test_value_by_hand():
    # T=1, label 0. The student is even: 1/3 against 2/3, and 1/2 each in the rest. The teacher's odds are
    # 2:1:1, so 1/2 against 1/2 and the same rest (TCKD alone), then 1:2:1, so 1/4 against 3/4 and 2/3, 1/3.
    student, label = torch.zeros(1, 3), torch.tensor([0])
    sure = torch.tensor([[math.log(2.0), 0.0, 0.0]])
    tckd = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    assert dkd_loss(student, sure, label, temperature=1.0).item() == pytest.approx(tckd, rel=1e-5)
    wrong = torch.tensor([[0.0, math.log(2.0), 0.0]])
    tckd = 1 / 4 * math.log(3 / 4) + 3 / 4 * math.log(9 / 8)
    nckd = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    value = dkd_loss(student, wrong, label, alpha=2.0, beta=5.0, temperature=1.0)
    assert value.item() == pytest.approx(2 * tckd + 5 * nckd, rel=1e-5)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (0.5, 0.0, 1.0), (0.0, 2.0, 3.0)])
@pytest.mark.parametrize("shape", [(1, 2), (5, 7)])
def test_agrees_with_loops(alpha, beta, temperature, shape):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64) * 3
    label = torch.arange(shape[0]) % shape[1]
    label[-1:] = -1 if shape[0] > 1 else 0
    value = dkd_loss(student, teacher, label, alpha=alpha, beta=beta, temperature=temperature)
    assert value.item() == pytest.approx(slow(student, teacher, label, alpha, beta, temperature), rel=1e-9)


def test_kd_is_dkd_whose_beta_is_the_probability_of_the_rest():
    torch.manual_seed(1)
    for target in range(4):
        student, teacher = torch.randn(2, 1, 4, dtype=torch.float64) * 2
        rest = 1 - torch.softmax(teacher / 3, 1)[0, target].item()
        value = dkd_loss(student, teacher, torch.tensor([target]), beta=rest, temperature=3.0)
        torch.testing.assert_close(value, soft_target_loss(student, teacher, 3.0))


def test_gradient_reaches_the_student_only_and_unlabelled_rows_have_none():
    torch.manual_seed(2)
    student, teacher = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    label = torch.tensor([3, -1, 0])
    assert torch.autograd.gradcheck(lambda s: dkd_loss(s, teacher, label), (student,))
    dkd_loss(student, teacher, label).backward()
    assert teacher.grad is None
    assert student.grad[1].abs().sum() == 0
    assert (student.grad[[0, 2]].abs().sum(1) > 0).all()


def test_very_sure_networks_stay_finite():
    student = torch.tensor([[300.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 300.0, 0.0]])
    value = dkd_loss(student, teacher, torch.tensor([0]), temperature=1.0)
    value.backward()
    # The student leaves 2 exp(-300) to the rest, half of it to the teacher's choice.
    assert value.item() == pytest.approx(300 - math.log(2) + 8 * math.log(2), rel=1e-6)
    assert student.grad.isfinite().all()


def test_the_class_takes_labels_of_every_kind(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = DKD(DKDConfig(beta=2.0, temperature=3.0), make_context())
    assert method.needs == Needs(logits=True, labels=True)
    assert not list(method.parameters())
    terms = method(student, Knowledge(teacher.logits), batch)
    assert list(terms) == ["dkd"]
    assert terms["dkd"] == dkd_loss(student.logits, teacher.logits, batch.label, beta=2.0, temperature=3.0)
    target = 0.7 * torch.eye(5)[batch.label.flip(0)] + 0.3 * torch.eye(5)[batch.label]
    mixed = method(student, Knowledge(teacher.logits), replace(batch, target=target))["dkd"]
    assert mixed == dkd_loss(student.logits, teacher.logits, batch.label.flip(0), beta=2.0, temperature=3.0)
    none = method(student, Knowledge(teacher.logits), replace(batch, label=torch.full((4,), -1)))["dkd"]
    assert none == 0
    none.backward()
    assert student.logits.grad.abs().sum() == 0


def test_published_defaults():
    config = DKDConfig()
    assert (config.weight, config.alpha, config.beta, config.temperature) == (1.0, 1.0, 8.0, 4.0)
    assert config.warmup * 240 == pytest.approx(20)


def test_refusals():
    logits, label = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ShapeError, match=r"dkd_loss needs logits .* got student \(2, 3\) and teacher \(2, 4\)"):
        dkd_loss(logits, torch.zeros(2, 4), label)
    with pytest.raises(ShapeError, match=r"dkd_loss needs .* got logits \(2, 3\) and labels \(1,\); give one label"):
        dkd_loss(logits, logits, label[:1])
    with pytest.raises(ConfigError, match="temperature must be above 0, got 0; 4 is usual"):
        dkd_loss(logits, logits, label, temperature=0)
