import pytest
import torch

from mfkd.errors import ShapeError, UnknownNameError
from mfkd.methods.sp import SP, SPConfig, sp_loss


def reference(student, teacher):
    """The paper's sum over all pairs, in loops."""
    rows = []
    for features in (student.flatten(1).tolist(), teacher.flatten(1).tolist()):
        inner = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in features] for x in features]
        rows.append([[value / sum(v * v for v in row) ** 0.5 for value in row] for row in inner])
    size = len(student)
    return sum((rows[0][i][j] - rows[1][i][j]) ** 2 for i in range(size) for j in range(size)) / size**2


def test_value_by_hand():
    # Student rows (1, 0), (1, 1), teacher the identity: the squared gap of two unit rows is 2 - 2 cos.
    student = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    expected = ((2 - 2 / 2**0.5) + (2 - 4 / 5**0.5)) / 4
    assert sp_loss(student, torch.eye(2, dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((3, 2, 2), (2, 4, 4)), ((4,), (2, 3, 1))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_a_reference_in_loops(shapes, dtype):
    student, teacher = (torch.randn(5, *shape, dtype=dtype) for shape in shapes)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert sp_loss(student, teacher).item() == pytest.approx(reference(student, teacher), rel=tolerance)


def test_the_scale_of_either_side_does_not_matter():
    student, teacher = torch.randn(2, 6, 3, dtype=torch.float64)
    assert torch.allclose(sp_loss(7 * student, teacher / 9), sp_loss(student, teacher), rtol=1e-12)
    assert sp_loss(3 * teacher, teacher) < 1e-30


def test_gradients():
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(sp_loss, (student.requires_grad_(), teacher))
    sp_loss(student, teacher.requires_grad_()).backward()
    assert teacher.grad is None


def test_the_class_compares_the_last_maps(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = SP(SPConfig(), make_context())
    assert (method.needs.student, method.needs.teacher) == (("bottom",), ("bottom",))
    assert method.config.weight == 3000
    assert method(student, teacher, batch) == {"sp": sp_loss(student.taps["bottom"], teacher.taps["bottom"])}


def test_refusals(make_context):
    text = r"sp_loss needs one shared batch of 2 or more, got student \(3, 2\) and teacher \(4, 2\); feed both networks"
    with pytest.raises(ShapeError, match=text):
        sp_loss(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ShapeError, match=r"2 or more, got student \(1, 2\)"):
        sp_loss(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(UnknownNameError, match=r"unknown teacher tap 'botom'; did you mean bottom\?"):
        SP(SPConfig(teacher_tap="botom"), make_context())
