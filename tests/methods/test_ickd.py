import pytest
import torch

from mfkd.errors import ShapeError
from mfkd.methods.ickd import ICKD, ICKDConfig, ickd_loss


def rows(maps):
    """Unit rows of one image's channel similarities, in loops."""
    channels = [channel.flatten().tolist() for channel in maps]
    found = []
    for one in channels:
        row = [sum(a * b for a, b in zip(one, other, strict=True)) for other in channels]
        found.append([value / sum(v * v for v in row) ** 0.5 for value in row])
    return found


def reference(student, teacher):
    gaps = [
        sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
        for one, other in zip(student, teacher, strict=True)
        for x, y in zip(rows(one), rows(other), strict=True)
    ]
    return sum(gaps) / len(gaps)


def test_value_by_hand():
    # Student: two equal channels, rows (1, 1) / sqrt 2. Teacher: channels apart, rows of the identity.
    student, teacher = torch.ones(1, 2, 1, 2), torch.eye(2).view(1, 2, 1, 2)
    assert ickd_loss(student, teacher).item() == pytest.approx(2 - 2**0.5, rel=1e-6)


@pytest.mark.parametrize("size", [(2, 2), (4, 3)])
def test_equals_a_reference_in_loops(size):
    student, teacher = torch.randn(3, 4, *size, dtype=torch.float64), torch.randn(3, 4, 2, 2, dtype=torch.float64)
    assert ickd_loss(student, teacher).item() == pytest.approx(reference(student, teacher), rel=1e-12)


def test_places_and_scale_do_not_matter_and_the_batch_is_a_mean():
    student, teacher = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    loss = ickd_loss(student, teacher)
    assert torch.allclose(ickd_loss(3 * student.flip(3), 0.2 * teacher.transpose(2, 3)), loss, rtol=1e-12)
    parts = [ickd_loss(student[i : i + 2], teacher[i : i + 2]) for i in (0, 2)]
    assert torch.allclose(sum(parts) / 2, loss, rtol=1e-12)


def test_gradients():
    student, teacher = torch.randn(2, 2, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(ickd_loss, (student.requires_grad_(), teacher))
    ickd_loss(student, teacher.requires_grad_()).backward()
    assert teacher.grad is None


def test_the_class_brings_the_student_to_the_teachers_width(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = ICKD(ICKDConfig(student_tap="middle"), make_context())
    assert (method.needs.student, method.needs.teacher) == (("middle",), ("bottom",))
    terms = method(student, teacher, batch)
    own = method.regressor([student.taps["middle"]])
    assert own.shape == (4, 8, 4, 4)
    assert torch.allclose(terms["ickd"], ickd_loss(own, teacher.taps["bottom"]))
    terms["ickd"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())
    assert ICKDConfig().weight == 2.5


def test_refusals(make_context):
    with pytest.raises(
        ShapeError, match=r"ickd_loss needs maps .* got student \(1, 2, 3, 3\) and teacher \(1, 4, 3, 3"
    ):
        ickd_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3))
    with pytest.raises(ShapeError, match=r"teacher tap 'penultimate' must be a map"):
        ICKD(ICKDConfig(teacher_tap="penultimate"), make_context())
