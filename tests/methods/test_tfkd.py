import math
from dataclasses import replace

import pytest
import torch

from mfkd import Distiller, build_model
from mfkd.errors import ConfigError, ShapeError
from mfkd.functional.standardise import standardise
from mfkd.methods.tfkd import TFKD, TFKDConfig, tfkd_loss
from mfkd.types import Knowledge, Needs

SHAPE, CLASSES = (3, 16, 16), 5


def slow(student, label, correct, temperature):
    total = 0.0
    for row, target in zip(student.tolist(), label.tolist(), strict=True):
        if target < 0:
            continue
        virtual = [correct if k == target else (1 - correct) / (len(row) - 1) for k in range(len(row))]
        soft = [v ** (1 / temperature) for v in virtual]
        exp = [math.exp(v) for v in row]
        for a, b in zip(soft, exp, strict=True):
            total += a / sum(soft) * math.log(a / sum(soft) / (b / sum(exp)))
    return total / len(label)


def test_value_by_hand():
    # Two classes, 0.8 for the label: odds 4:1, at T=2 2:1; the student is even.
    value = tfkd_loss(torch.zeros(1, 2), torch.tensor([1]), correct=0.8, temperature=2.0)
    assert value.item() == pytest.approx(2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3), rel=1e-5)


def test_how_sure_the_published_virtual_teacher_is():
    # A hundred classes at T=20: odds (0.99 / (0.01 / 99)) ** (1/20) of 1.58 to 1, where the loss is 0.
    logits = torch.zeros(1, 100, dtype=torch.float64)
    logits[0, 7] = math.log(9801) / 20
    assert logits.exp()[0, 7].item() == pytest.approx(1.583, abs=1e-3)
    assert tfkd_loss(logits, torch.tensor([7])).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("correct", "temperature"), [(0.99, 20.0), (0.6, 1.0)])
@pytest.mark.parametrize("shape", [(1, 2), (5, 7)])
def test_agrees_with_loops(correct, temperature, shape):
    torch.manual_seed(0)
    student, label = torch.randn(shape, dtype=torch.float64) * 3, torch.arange(shape[0]) % shape[1]
    label[-1:] = -1 if shape[0] > 1 else 0
    value = tfkd_loss(student, label, correct, temperature)
    assert value.item() == pytest.approx(slow(student, label, correct, temperature), rel=1e-9)


def test_gradient_and_none_for_unlabelled_rows():
    torch.manual_seed(1)
    student, label = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.tensor([3, -1, 0])
    assert torch.autograd.gradcheck(lambda s: tfkd_loss(s, label), (student,))
    tfkd_loss(student, label).backward()
    assert (student.grad.abs().sum(1) > 0).tolist() == [True, False, True]


def test_the_class_takes_labels_of_every_kind_and_no_teacher(make_context, make_inputs):
    student, _, batch = make_inputs()
    method = TFKD(TFKDConfig(correct=0.9, temperature=10.0), make_context(teacher={}, teacher_logits=False))
    assert method.needs == Needs(labels=True)
    assert not method.needs_teacher
    assert method(student, Knowledge(), batch) == {"tfkd": tfkd_loss(student.logits, batch.label, 0.9, 10.0)}
    mixed = replace(batch, target=torch.eye(5)[batch.label.flip(0)])
    assert method(student, Knowledge(), mixed)["tfkd"] == tfkd_loss(student.logits, batch.label.flip(0), 0.9, 10.0)
    none = method(student, Knowledge(), replace(batch, label=torch.full((4,), -1)))["tfkd"]
    assert none == 0
    none.backward()
    assert student.logits.grad.abs().sum() == 0


def test_logit_std_standardises_the_student(make_context, make_inputs):
    student, _, batch = make_inputs()
    method = TFKD(TFKDConfig(logit_std=True), make_context())
    assert method(student, Knowledge(), batch)["tfkd"] == tfkd_loss(standardise(student.logits), batch.label)


@pytest.mark.parametrize("taught", [False, True])
def test_it_trains_with_and_without_a_teacher(taught):
    torch.manual_seed(0)
    teacher = build_model("resnet8", num_classes=3) if taught else None  # its head does not matter
    student = build_model("resnet8", num_classes=CLASSES)
    distiller = Distiller(teacher, student, {"tfkd": {"weight": 2.0}, "ce": {"weight": 0.5}}, input_shape=SHAPE)
    images, labels = torch.randn(10, *SHAPE), torch.arange(10) % CLASSES
    assert distiller.prepare([(images, labels)]) == 0
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        out = distiller(images, labels)
        torch.testing.assert_close(out.loss.detach(), 0.5 * out.terms["ce"] + 2 * out.terms["tfkd"])
        torch.testing.assert_close(out.terms["tfkd"], tfkd_loss(out.logits.detach(), labels))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert losses[-1] < losses[0]


def test_beside_a_method_with_a_teacher_none_is_refused():
    with pytest.raises(ConfigError, match=r"needs a teacher, got None; use method='none' for plain training"):
        Distiller(None, build_model("resnet8", num_classes=CLASSES), {"tfkd": {}, "kd": {}}, input_shape=SHAPE)


def test_published_defaults():
    config = TFKDConfig()
    assert (config.weight, config.correct, config.temperature) == (0.1, 0.99, 20.0)


def test_refusals():
    logits, label = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ShapeError, match=r"tfkd_loss needs .* got logits \(2, 3\) and labels \(1,\); give one label"):
        tfkd_loss(logits, label[:1])
    for options in ({"correct": 1.0}, {"correct": 0.0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError, match=r"correct between 0 and 1 and a temperature above 0, got .*published\.$"):
            tfkd_loss(logits, label, **options)
