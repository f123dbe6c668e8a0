import math
import statistics

import pytest
import torch

from mfkd.errors import ConfigError, ShapeError
from mfkd.methods.dist import DIST, DISTConfig, dist_loss
from mfkd.types import Knowledge, Needs


def slow(student, teacher, beta, gamma, temperature):
    def soft(rows):
        exp = [[math.exp(v / temperature) for v in row] for row in rows.tolist()]
        return [[v / sum(row) for v in row] for row in exp]

    def mean(rows, others):
        return sum(statistics.correlation(a, b) for a, b in zip(rows, others, strict=True)) / len(rows)

    s, t = soft(student), soft(teacher)
    columns = [list(zip(*rows, strict=True)) for rows in (s, t)]
    return temperature**2 * (beta * (1 - mean(s, t)) + gamma * (1 - mean(*columns)))


def test_value_by_hand():
    # Odds 1:2:3 against 3:2:1 in the first image, opposite (correlation -1); 1:2:3 in both in the second (+1).
    # Columns over the two images: the student's are constant (correlation 0 by convention), so 1 - 0 remains;
    # of the teacher's only the middle one is.
    rising = torch.log(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    student, teacher = torch.stack([rising, rising]), torch.stack([rising.flip(0), rising])
    assert dist_loss(student, teacher, beta=2.0, gamma=0.0, temperature=1.0).item() == pytest.approx(2 * (1 - 0))
    assert dist_loss(student, teacher, beta=0.0, gamma=3.0, temperature=1.0).item() == pytest.approx(3 * (1 - 0))
    assert dist_loss(teacher, teacher, temperature=1.0).item() == pytest.approx(2 * (1 - 2 / 3))


@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(2.0, 2.0, 4.0), (1.0, 0.0, 1.0), (0.0, 3.0, 2.0)])
@pytest.mark.parametrize("shape", [(2, 3), (6, 5)])
def test_agrees_with_loops(beta, gamma, temperature, shape):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64) * 3
    value = dist_loss(student, teacher, beta, gamma, temperature)
    assert value.item() == pytest.approx(slow(student, teacher, beta, gamma, temperature), rel=1e-9)


def test_order_of_images_and_classes_and_a_shift_of_logits_do_not_count():
    torch.manual_seed(1)
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    rows, columns = torch.randperm(6), torch.randperm(5)
    moved = (student[rows][:, columns] + 3, teacher[rows][:, columns] - 1)
    torch.testing.assert_close(dist_loss(*moved), dist_loss(student, teacher))


def test_rare_classes_count_as_much_as_any():
    # A class with a probability of 1e-6: correlations are of shapes, so its size must not matter.
    torch.manual_seed(2)
    logits = torch.randn(8, 4, dtype=torch.float64)
    logits[:, 3] -= 14
    assert dist_loss(logits, logits, temperature=1.0).item() == pytest.approx(0, abs=1e-9)


def test_gradient_reaches_the_student_only():
    torch.manual_seed(3)
    student, teacher = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda s: dist_loss(s, teacher), (student,))
    dist_loss(student, teacher).backward()
    assert teacher.grad is None


def test_a_batch_of_one_keeps_the_first_part_alone():
    torch.manual_seed(4)
    student, teacher = torch.randn(2, 1, 5, dtype=torch.float64)
    student.requires_grad_()
    value = dist_loss(student, teacher, 2.0, 3.0, 1.0)
    torch.testing.assert_close(value, 3 + dist_loss(student, teacher, 2.0, 0.0, 1.0))
    value.backward()
    assert student.grad.isfinite().all()


def test_the_class_uses_its_options(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = DIST(DISTConfig(beta=1.0, gamma=3.0, temperature=2.0), make_context())
    assert method.needs == Needs(logits=True)
    assert not list(method.parameters())
    terms = method(student, Knowledge(teacher.logits), batch)
    assert terms == {"dist": dist_loss(student.logits, teacher.logits, 1.0, 3.0, 2.0)}


def test_all_processes_are_one_batch(make_context, make_inputs, monkeypatch):
    student, teacher, batch = make_inputs()
    monkeypatch.setattr("mfkd.methods.dist.gather", lambda rows: torch.cat([rows, rows.flip(0) * 2]))
    own, other = (torch.cat([side, side.flip(0) * 2]) for side in (student.logits, teacher.logits))
    terms = DIST(DISTConfig(), make_context())(student, Knowledge(teacher.logits), batch)
    assert terms["dist"] == dist_loss(own, other)


def test_refusals():
    with pytest.raises(ShapeError, match=r"dist_loss needs logits .* got student \(2, 3\) and teacher \(2, 4\)"):
        dist_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="temperature must be above 0, got -1; 4 is usual"):
        dist_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=-1)
