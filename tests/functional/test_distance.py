import math

import pytest
import torch

from mfkd.errors import ShapeError, UnknownNameError
from mfkd.functional.distance import DISTANCES, cosine_distance, map_distance, smooth_l1, standardised_mse

KINDS = list(DISTANCES)


def slow_cosine(student, teacher):
    batch, channels, height, width = student.shape
    total = 0.0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                s = [student[b, c, y, x].item() for c in range(channels)]
                t = [teacher[b, c, y, x].item() for c in range(channels)]
                dot = sum(p * q for p, q in zip(s, t, strict=True))
                total += 1 - dot / math.sqrt(sum(p * p for p in s) * sum(q * q for q in t))
    return total / (batch * height * width)


def slow_standardised(student, teacher, gap):
    total, count = 0.0, 0
    for c in range(student.shape[1]):
        rows = []
        for side in (student, teacher):
            values = side[:, c].flatten().tolist()
            mean = sum(values) / len(values)
            var = sum((v - mean) ** 2 for v in values) / len(values)
            rows.append([(v - mean) / math.sqrt(var + 1e-5) for v in values])
        for s, t in zip(*rows, strict=True):
            total, count = total + gap(abs(s - t)), count + 1
    return total / count


def test_cosine_by_hand():
    # Two positions: at right angles (distance 1) and at 45 degrees (1 - 1/sqrt 2).
    student = torch.tensor([[[[1.0, 1.0]], [[0.0, 1.0]]]])
    teacher = torch.tensor([[[[0.0, 0.0]], [[2.0, 5.0]]]])
    assert cosine_distance(student, teacher).item() == pytest.approx((1 + 1 - 1 / math.sqrt(2)) / 2, rel=1e-6)


def test_standardised_distances_by_hand():
    # Each side is -1, 1 after standardisation; with opposite signs every gap is 2.
    student, teacher = torch.tensor([1e3, 3e3]).reshape(2, 1, 1, 1), torch.tensor([7e3, -1e3]).reshape(2, 1, 1, 1)
    assert standardised_mse(student, teacher).item() == pytest.approx(4, rel=1e-5)
    assert smooth_l1(student, teacher).item() == pytest.approx(1.5, rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 2, 4), (1, 2, 3, 3), (5, 4, 1, 1)])
def test_agrees_with_loops(shape):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    assert cosine_distance(student, teacher).item() == pytest.approx(slow_cosine(student, teacher), rel=1e-9)
    mse = slow_standardised(student, teacher, lambda gap: gap**2)
    assert standardised_mse(student, teacher).item() == pytest.approx(mse, rel=1e-9)
    huber = slow_standardised(student, teacher, lambda gap: gap**2 / 2 if gap < 1 else gap - 0.5)
    assert smooth_l1(student, teacher).item() == pytest.approx(huber, rel=1e-9)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_the_cosine_is_that_of_its_definition(memory):
    torch.manual_seed(2)
    student, teacher = torch.randn(2, 3, 5, 2, 4, dtype=torch.float64).unbind()
    student = student.contiguous(memory_format=memory).requires_grad_()
    (3 * cosine_distance(student, teacher)).backward()
    twin = student.detach().clone().requires_grad_()
    (3 * (1 - torch.nn.functional.cosine_similarity(twin, teacher, dim=1)).mean()).backward()
    assert torch.allclose(student.grad, twin.grad, rtol=1e-9, atol=1e-12)
    assert student.grad.is_contiguous(memory_format=memory)


@pytest.mark.parametrize("kind", KINDS)
def test_levels_are_as_good_as_their_concatenation(kind):
    torch.manual_seed(3)
    student, teacher = torch.randn(2, 3, 6, 2, 4, dtype=torch.float64).unbind()
    levels = [part.clone().requires_grad_() for part in student.split([1, 3, 2], dim=1)]
    student.requires_grad_()
    apart, whole = map_distance(kind)(levels, teacher), map_distance(kind)(student, teacher)
    assert apart.item() == pytest.approx(whole.item(), rel=1e-12)
    apart.backward()
    whole.backward()
    assert torch.allclose(torch.cat([level.grad for level in levels], dim=1), student.grad, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_levels_that_do_not_make_up_the_map_are_refused(kind):
    teacher = torch.zeros(2, 5, 3, 3)
    distance = map_distance(kind)
    with pytest.raises(
        ShapeError, match=r"got student \(2, 1, 3, 3\) and \(2, 3, 3, 3\) and teacher \(2, 5, 3, 3\); b"
    ):
        distance([torch.zeros(2, 1, 3, 3), torch.zeros(2, 3, 3, 3)], teacher)
    with pytest.raises(ShapeError, match=r"student \(2, 2, 3, 3\) and \(2, 3, 3, 1\)"):
        distance([torch.zeros(2, 2, 3, 3), torch.zeros(2, 3, 3, 1)], teacher)
    with pytest.raises(ShapeError, match="got student  and teacher"):
        distance([], teacher)


@pytest.mark.parametrize("kind", KINDS)
def test_ignores_the_scale_of_either_side_and_is_zero_at_agreement(kind):
    torch.manual_seed(1)
    student, teacher = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64) * 100
    distance = map_distance(kind)
    assert distance(student * 7, teacher * 0.5).item() == pytest.approx(distance(student, teacher).item(), rel=1e-6)
    assert distance(teacher * 3, teacher).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_the_student_only(kind):
    torch.manual_seed(2)
    student, teacher = (torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda s: map_distance(kind)(s, teacher), (student,))
    map_distance(kind)(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_float32(kind):
    torch.manual_seed(3)
    student, teacher = torch.randn(2, 2, 3, 4, 4).bfloat16()
    distance = map_distance(kind)
    assert distance(student, teacher).dtype == torch.float32
    assert distance(student, teacher) == distance(student.float(), teacher.float())


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_other_shapes(kind):
    with pytest.raises(ShapeError, match=r"needs two maps .* got student \(2, 3, 4, 4\) and teacher \(2, 3, 2, 2\)"):
        map_distance(kind)(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))


def test_refuses_one_value_a_channel_and_unknown_names():
    with pytest.raises(ShapeError, match=r"2 or more values a channel, got batch 1 at 1x1; use a larger batch"):
        standardised_mse(torch.ones(1, 5, 1, 1), torch.ones(1, 5, 1, 1))
    with pytest.raises(UnknownNameError, match="unknown distance 'cosin'; did you mean cosine"):
        map_distance("cosin")
