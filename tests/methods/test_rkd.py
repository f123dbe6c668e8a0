from itertools import product

import pytest
import torch

from mfkd.errors import ShapeError
from mfkd.methods.rkd import RKD, RKDConfig, rkd_loss


def huber(gap):
    return 0.5 * gap**2 if abs(gap) < 1 else abs(gap) - 0.5


def distances(features):
    length = [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5 for y in features] for x in features]
    count = len(features)
    mean = sum(map(sum, length)) / (count * (count - 1))
    return [[value / mean for value in row] for row in length]


def cosine(vertex, one, other):
    first = [a - v for a, v in zip(one, vertex, strict=True)]
    second = [a - v for a, v in zip(other, vertex, strict=True)]
    lengths = (sum(a * a for a in first) * sum(a * a for a in second)) ** 0.5
    return sum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths else 0.0


def reference(student, teacher, distance, angle):
    """The paper's two potentials in loops over pairs and triples."""
    own, given = student.tolist(), teacher.tolist()
    count = range(len(own))
    gaps = [a - b for x, y in zip(distances(own), distances(given), strict=True) for a, b in zip(x, y, strict=True)]
    angles = [
        cosine(own[i], own[j], own[k]) - cosine(given[i], given[j], given[k]) for i, j, k in product(count, repeat=3)
    ]
    return distance * sum(map(huber, gaps)) / len(gaps) + angle * sum(map(huber, angles)) / len(angles)


def test_value_by_hand():
    # Student on a line at 0, 1, 2: distances 1, 1, 2 with mean 4/3. Teacher: all sides 1, all angles 60 degrees.
    student = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
    gaps = 2 * (2 * (3 / 4 - 1) ** 2 + (3 / 2 - 1) ** 2) / 2 / 9
    assert rkd_loss(student, teacher, 1.0, 0.0).item() == pytest.approx(gaps, rel=1e-9)
    # Cosines on the line: 1 at both ends and -1 in the middle, instead of 1/2; each counts twice of 27.
    angles = 2 * (2 * huber(1 / 2) + huber(3 / 2)) / 27
    assert rkd_loss(student, teacher, 0.0, 1.0).item() == pytest.approx(angles, rel=1e-9)
    assert rkd_loss(student, teacher).item() == pytest.approx(25 * gaps + 50 * angles, rel=1e-9)


@pytest.mark.parametrize("widths", [(2, 3), (8, 5)])
def test_equals_a_reference_in_loops(widths):
    student, teacher = (torch.randn(5, width, dtype=torch.float64) for width in widths)
    expected = reference(student, teacher, 2.0, 3.0)
    assert rkd_loss(student, teacher, 2.0, 3.0).item() == pytest.approx(expected, rel=1e-10)


def test_scale_place_and_rotation_do_not_matter():
    student, teacher = torch.randn(2, 6, 3, dtype=torch.float64)
    turned = student @ torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    moved = 4 * turned + torch.randn(3, dtype=torch.float64)
    assert torch.allclose(rkd_loss(moved, 0.1 * teacher - 7), rkd_loss(student, teacher), rtol=1e-10)


def test_gradients():
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(rkd_loss, (student.requires_grad_(), teacher))
    rkd_loss(student, teacher.requires_grad_()).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("student", [torch.zeros(4, 2), torch.tensor([[0.0, 0.0]] * 2 + [[1.0, 2.0], [3.0, 1.0]])])
def test_equal_images_have_finite_gradients(student):
    student = student.clone().requires_grad_()
    rkd_loss(student, torch.randn(4, 3)).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e3


def test_close_images_far_from_the_origin_keep_their_distances():
    # Inner products of about 1e4 in float32 would lose distances of 1e-2 altogether.
    shape = torch.randn(5, 4)
    assert rkd_loss(100 + 0.01 * shape, shape) < 1e-3


def test_the_class_uses_its_factors_on_the_vectors_before_the_classifier(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    method = RKD(RKDConfig(distance=2.0, angle=3.0), make_context())
    assert (method.needs.student, method.needs.teacher) == (("penultimate",), ("penultimate",))
    expected = rkd_loss(student.taps["penultimate"], teacher.taps["penultimate"], 2.0, 3.0)
    assert method(student, teacher, batch) == {"rkd": expected}
    default = RKDConfig()
    assert (default.weight, default.distance, default.angle) == (1, 25, 50)


def test_refusal():
    with pytest.raises(ShapeError, match=r"rkd_loss needs one shared batch of 3 or more, got student \(2, 2\)"):
        rkd_loss(torch.zeros(2, 2), torch.zeros(2, 2))
