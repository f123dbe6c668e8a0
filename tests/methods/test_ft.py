import math

import pytest
import torch
import torch.nn.functional as F

from mfkd.errors import ShapeError, TrainingError
from mfkd.methods.ft import FACTOR, FT, FTConfig, ft_loss
from mfkd.types import Knowledge, Needs


def slow(student, teacher):
    """Both (B, F, h, w) of one size, in loops."""
    total, count = 0.0, student.numel()
    for own, other in zip(student.flatten(1).tolist(), teacher.flatten(1).tolist(), strict=True):
        lengths = [math.sqrt(sum(v * v for v in values)) for values in (own, other)]
        total += sum(abs(a / lengths[0] - b / lengths[1]) for a, b in zip(own, other, strict=True))
    return total / count


def test_value_by_hand():
    # (3, 4) becomes (0.6, 0.8), against (1, 0): (0.4 + 0.8) / 2.
    student = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
    teacher = torch.tensor([5.0, 0.0]).reshape(1, 1, 1, 2)
    assert ft_loss(student, teacher).item() == pytest.approx(0.6)


def test_sizes_are_brought_to_the_smaller_by_hand():
    # The means of the quarters are 1 and -1 against 1 and 1: scaled by 1 / sqrt 2, so (0 + 2 / sqrt 2) / 2.
    large = torch.tensor([[1.0, 1.0, -2.0, 0.0], [0.0, 2.0, -1.0, -1.0]]).reshape(1, 1, 2, 4)
    small = torch.ones(1, 1, 1, 2)
    for student, teacher in ((large, small), (small, large)):
        assert ft_loss(student, teacher).item() == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize("shape", [(1, 2, 3, 3), (4, 3, 2, 5), (5, 1, 1, 1)])
def test_slow_reference_and_range(shape):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    assert ft_loss(student, teacher).item() == pytest.approx(slow(student, teacher))
    assert ft_loss(teacher, -teacher) <= 2 / math.sqrt(shape[1] * shape[2] * shape[3]) + 1e-12


def test_the_scale_of_either_side_does_not_matter_and_the_gradient_is_right():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 2, 3, 3, dtype=torch.float64)
    assert torch.allclose(ft_loss(7 * student, 0.1 * teacher), ft_loss(student, teacher))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ft_loss(s, teacher), student)
    teacher.requires_grad_()
    ft_loss(student, teacher).backward()
    assert teacher.grad is None


def test_the_class_paraphrases_once_and_then_compares_factors(make_context, make_inputs):
    student, raw, batch = make_inputs()
    method = FT(FTConfig(rate=0.25), make_context(epochs=16))
    assert method.needs == Needs(student=("bottom",), teacher=("bottom",))
    with pytest.raises(TrainingError, match=r"paraphraser is not trained"):
        method.knowledge(raw.taps)
    stage = method.preparation()
    assert (stage.epochs, stage.lr, stage.trains_student, stage.logits) == (2, 0.01, False, False)
    assert {id(p) for p in stage.parameters} == {id(p) for p in method.paraphraser.parameters()}
    target = raw.taps["bottom"]
    assert stage.step(None, raw, batch) == F.mse_loss(method.paraphraser.reconstruct(target), target)
    stage.finish()
    assert method.preparation() is None
    known = method.knowledge(raw.taps)
    assert set(known) == {FACTOR}
    assert known[FACTOR].shape == (4, 2, 2, 2)
    terms = method(student, Knowledge(None, known), batch)
    assert list(terms) == ["ft"]
    assert terms["ft"] == ft_loss(method.translator(student.taps["bottom"]), known[FACTOR])


def test_taps_of_other_sizes_and_a_narrow_teacher(make_context, make_inputs):
    student, raw, batch = make_inputs()
    method = FT(FTConfig(student_tap="front", teacher_tap="middle", rate=0.01), make_context())
    stage = method.preparation()
    assert stage.epochs == 1
    stage.finish()
    assert method(student, Knowledge(None, method.knowledge(raw.taps)), batch)["ft"] > 0


def test_a_paraphraser_that_diverged_is_refused(make_context):
    method = FT(FTConfig(), make_context())
    stage = method.preparation()
    stage.parameters[0].data[0] = torch.nan
    with pytest.raises(TrainingError) as caught:
        stage.finish()
    assert str(caught.value) == (
        "ft: the paraphraser diverged at ft.initial_lr=0.01, for the teacher's activations are large; lower it."
    )
    assert method.preparation() is not None


def test_refusals():
    with pytest.raises(ShapeError) as caught:
        ft_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    assert str(caught.value) == (
        "ft_loss needs two factors (B, F, h, w) of the same images, got student (2, 3, 4, 4) and teacher (2, 5, 4, 4); "
        "give both the same number of channels."
    )
