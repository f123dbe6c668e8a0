import numpy as np
import pytest
import torch

from mfkd.errors import ShapeError, UnknownNameError
from mfkd.methods.norm import Norm, NormConfig, norm_loss


def test_value_by_hand():
    # 45 degrees at the first position, one direction at the second.
    student = torch.tensor([1.0, 0.0, 1.0, 2.0]).reshape(1, 2, 1, 2)
    teacher = torch.tensor([0.0, 0.0, 5.0, 7.0]).reshape(1, 2, 1, 2)
    assert norm_loss(student, teacher).item() == pytest.approx((1 - 0.5**0.5) / 2)


def test_slow_reference_of_cosine():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 2, 2)
    gaps = []
    for image in range(2):
        for y in range(2):
            for x in range(2):
                a, b = student[image, :, y, x].tolist(), teacher[image, :, y, x].tolist()
                lengths = (sum(v * v for v in a) * sum(v * v for v in b)) ** 0.5
                gaps.append(1 - sum(v * w for v, w in zip(a, b, strict=True)) / lengths)
    assert norm_loss(student, teacher).item() == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)


def test_mse_is_two_less_two_correlations():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, 2, 2)
    correlations = [np.corrcoef(student[:, c].flatten(), teacher[:, c].flatten())[0, 1] for c in range(3)]
    assert norm_loss(student, teacher, "mse").item() == pytest.approx(2 - 2 * np.mean(correlations), rel=1e-3)


@pytest.mark.parametrize("distance", ["cosine", "mse", "smooth_l1"])
def test_magnitude_is_left_out(distance):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    assert torch.allclose(
        norm_loss(student * 9, teacher * 0.5, distance), norm_loss(student, teacher, distance), rtol=1e-3
    )
    assert torch.autograd.gradcheck(lambda maps: norm_loss(maps, teacher, distance), (student.requires_grad_(),))


def test_the_class_regresses_one_map(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = Norm(NormConfig(student_tap="front", distance="mse"), make_context()).eval()
    assert (method.needs.student, method.needs.teacher) == (("front",), ("bottom",))
    own = method.regressor([student.taps["front"]])
    assert own.shape == teacher.taps["bottom"].shape
    terms = method(student, teacher, batch)
    assert list(terms) == ["norm"]
    assert terms["norm"] == norm_loss(own, teacher.taps["bottom"], "mse")


def test_refusals(make_context):
    with pytest.raises(ShapeError, match=r"needs two maps \(B, C, h, w\) of one shape"):
        norm_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 2, 2))
    with pytest.raises(UnknownNameError, match="unknown distance 'cosin'; did you mean cosine"):
        norm_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2), "cosin")
    with pytest.raises(ShapeError, match="student tap 'penultimate' must be a map"):
        Norm(NormConfig(student_tap="penultimate"), make_context())
    with pytest.raises(UnknownNameError, match="unknown teacher tap 'botom'; did you mean bottom"):
        Norm(NormConfig(teacher_tap="botom"), make_context())
