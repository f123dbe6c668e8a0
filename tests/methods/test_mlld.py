import math

import pytest
import torch

from mfkd.errors import ConfigError, ShapeError, UnknownNameError
from mfkd.functional.standardise import standardise
from mfkd.methods import resolve
from mfkd.methods.mlld import MLLD, MLLDConfig, mlld_loss, mlld_relations
from mfkd.types import Knowledge, Needs


def soft(logits, temperature):
    exp = [[math.exp(v / temperature) for v in row] for row in logits.tolist()]
    return [[v / sum(row) for v in row] for row in exp]


def slow(student, teacher, temperatures):
    images = classes = instance = 0.0
    batch, width = student.shape
    for temperature in temperatures:
        q, p = soft(student, temperature), soft(teacher, temperature)
        for i in range(batch):
            instance += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p[i], q[i], strict=True)) / batch
            for j in range(batch):
                gap = sum(q[i][k] * q[j][k] - p[i][k] * p[j][k] for k in range(width))
                images += gap**2 / batch
        for k in range(width):
            for m in range(width):
                gap = sum(q[i][k] * q[i][m] - p[i][k] * p[i][m] for i in range(batch))
                classes += gap**2 / width
    return instance, images, classes


def test_value_by_hand():
    # T=1, two images, two classes. The student is even: P P^T and P^T P are all 1/2. The teacher has odds 3:1 and
    # 1:3, so P P^T is 5/8 and 3/8 off the diagonal, and P^T P the same: four gaps of 1/8, over 2.
    student = torch.zeros(2, 2)
    teacher = torch.log(torch.tensor([[3.0, 1.0], [1.0, 3.0]]))
    instance = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    assert mlld_loss(student, teacher, (1.0,)).item() == pytest.approx(instance, rel=1e-5)
    images, classes = mlld_relations(student, teacher, (1.0,))
    assert images.item() == pytest.approx(4 / 64 / 2, rel=1e-5)
    assert classes.item() == pytest.approx(4 / 64 / 2, rel=1e-5)


@pytest.mark.parametrize("temperatures", [(4.0,), (2.0, 3.0, 4.0, 5.0, 6.0)])
@pytest.mark.parametrize("shape", [(1, 2), (5, 3)])
def test_agrees_with_loops(temperatures, shape):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64) * 3
    values = mlld_loss(student, teacher, temperatures), *mlld_relations(student, teacher, temperatures)
    assert [value.item() for value in values] == pytest.approx(slow(student, teacher, temperatures), rel=1e-9)


def test_order_of_images_and_classes_does_not_count():
    torch.manual_seed(1)
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    rows, columns = torch.randperm(6), torch.randperm(5)
    moved = student[rows][:, columns], teacher[rows][:, columns]
    torch.testing.assert_close(mlld_relations(*moved), mlld_relations(student, teacher))


def test_gradient_reaches_the_student_only():
    torch.manual_seed(2)
    student, teacher = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda s: (mlld_loss(s, teacher), *mlld_relations(s, teacher)), (student,))
    sum(mlld_relations(student, teacher)).backward()
    assert teacher.grad is None


def test_the_class_names_three_terms_and_standardises_the_first_alone(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    own, other = student.logits, teacher.logits
    method = MLLD(MLLDConfig(temperatures=(2.0, 3.0), logit_std=True), make_context())
    assert method.needs == Needs(logits=True)
    assert not list(method.parameters())
    terms = method(student, Knowledge(other), batch)
    assert list(terms) == ["mlld", "mlld_batch", "mlld_class"]
    assert terms["mlld"] == mlld_loss(standardise(own), standardise(other), (2.0, 3.0))
    assert (terms["mlld_batch"], terms["mlld_class"]) == mlld_relations(own, other, (2.0, 3.0))


def test_pairs_are_of_all_processes(make_context, make_inputs, monkeypatch):
    student, teacher, batch = make_inputs()
    monkeypatch.setattr("mfkd.methods.mlld.gather", lambda rows: torch.cat([rows, rows.flip(0) * 2]))
    own, other = (torch.cat([side, side.flip(0) * 2]) for side in (student.logits, teacher.logits))
    terms = MLLD(MLLDConfig(), make_context())(student, Knowledge(teacher.logits), batch)
    assert (terms["mlld_batch"], terms["mlld_class"]) == mlld_relations(own, other)
    assert terms["mlld"] == mlld_loss(student.logits, teacher.logits)


def test_published_defaults():
    config = MLLDConfig()
    assert (config.weight, config.temperatures) == (0.9, (2.0, 3.0, 4.0, 5.0, 6.0))


def test_refusals():
    with pytest.raises(ShapeError, match=r"mlld_relations needs logits .* got student \(2, 3\) and teacher \(2, 4\)"):
        mlld_relations(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match=r"got student \(2, 3\) and teacher \(2, 4\)"):
        mlld_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="temperature must be above 0, got 0"):
        mlld_loss(torch.zeros(2, 3), torch.zeros(2, 3), (4.0, 0))
    with pytest.raises(ConfigError, match=r"method\.mlld\.temperatures"):
        resolve({"mlld": {"temperatures": []}})
    with pytest.raises(ConfigError, match=r"method\.mlld\.temperatures\.1: got 0, expected more than 0"):
        resolve({"mlld": {"temperatures": [4, 0]}})
    with pytest.raises(UnknownNameError, match=r"unknown key 'method\.mlld\.temperature'; did you mean"):
        resolve({"mlld": {"temperature": 4}})
