from dataclasses import replace

import pytest
import torch

from mfkd.errors import ConfigError, ShapeError, UnknownNameError
from mfkd.methods import build, resolve
from mfkd.methods.reviewkd import ReviewKD, ReviewKDConfig, reviewkd_loss


def averages(maps, cells):
    """Means (B, C, cells, cells); window i of n goes from floor(i n / cells) to ceil((i + 1) n / cells)."""
    size = maps.shape[2]
    edges = [(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]
    rows = [torch.stack([maps[:, :, a:b, c:d].mean((2, 3)) for c, d in edges], dim=2) for a, b in edges]
    return torch.stack(rows, dim=2)


def slow(student, teacher):
    total, weights = ((student - teacher) ** 2).mean(), 1.0
    factor = 1.0
    for cells in (4, 2, 1):
        if cells < student.shape[2]:
            factor /= 2
            total = total + factor * ((averages(student, cells) - averages(teacher, cells)) ** 2).mean()
            weights += factor
    return total / weights


def test_value_by_hand():
    # One gap of 2 among four cells: mean square 1; of the average, 1/4 with half the weight: 1.125 / 1.5.
    student = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).reshape(1, 1, 2, 2)
    assert reviewkd_loss(student, torch.zeros(1, 1, 2, 2)).item() == pytest.approx(0.75)
    # A single cell has no smaller scale.
    assert reviewkd_loss(torch.full((1, 1, 1, 1), 3.0), torch.zeros(1, 1, 1, 1)).item() == pytest.approx(9)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_slow_reference(size):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 2, size, size, dtype=torch.float64)
    assert torch.allclose(reviewkd_loss(student, teacher), slow(student, teacher))


def test_a_map_that_is_not_square_by_hand():
    # 1 x 3 cells, gaps 3, 0, 0: mean 3; at most 2 cells: gaps 1.5, 0, mean 1.125; 1 cell: 1.
    student = torch.tensor([3.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
    expected = (3 + 1.125 / 2 + 1 / 4) / 1.75
    assert reviewkd_loss(student, torch.zeros(1, 1, 1, 3)).item() == pytest.approx(expected)


def test_gradient():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 2, 5, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: reviewkd_loss(s, teacher), student.requires_grad_())
    teacher.requires_grad_()
    reviewkd_loss(student, teacher).backward()
    assert teacher.grad is None


def test_the_class_reads_as_published_and_sums_its_levels(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    method = ReviewKD(ReviewKDConfig(), make_context())
    assert method.needs.student == ("stage1", "stage2", "stage3", "penultimate")
    assert method.needs.teacher == ("stage1.pre", "stage2.pre", "stage3.pre", "penultimate")
    assert method.review.levels[0].inner.conv.out_channels == 4  # of the student's last level
    terms = method(student, teacher, batch)
    assert list(terms) == ["reviewkd"]
    own = [student.taps[name] for name in method.needs.student]
    targets = [teacher.taps[name] for name in method.needs.teacher]
    results = method.review([*own[:3], own[3][:, :, None, None]])
    expected = sum(map(reviewkd_loss, results, [*targets[:3], targets[3][:, :, None, None]]))
    assert torch.allclose(terms["reviewkd"], expected)


def test_taps_that_are_named_are_all(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    method = ReviewKD(ReviewKDConfig(teacher_taps=("front", "bottom"), max_width=3), make_context())
    assert method.needs.student == ("stage2", "stage3")
    assert method.review.levels[1].inner.conv.out_channels == 3
    assert method(student, teacher, batch)["reviewkd"] > 0
    method = ReviewKD(
        ReviewKDConfig(student_taps=("middle", "penultimate"), teacher_taps=("front", "penultimate")), make_context()
    )
    assert method(student, teacher, batch)["reviewkd"] > 0


def test_a_side_without_a_pooled_vector_goes_without_that_level(make_context):
    context = make_context()
    bare = {name: spec for name, spec in context.student.items() if name != "penultimate"}
    method = ReviewKD(ReviewKDConfig(), replace(context, student=bare))
    assert method.needs.student == ("stage1", "stage2", "stage3")


def test_the_weight_rises_over_the_published_share(make_context):
    objective = build(resolve({"reviewkd": {"weight": 6}}), make_context())
    weights = []
    for progress in (0, 1 / 24, 1 / 12, 1):
        objective.set_progress(progress)
        weights.append(objective.weight("reviewkd"))
    assert weights == pytest.approx([0, 3, 6, 6])


def test_refusals(make_context):
    with pytest.raises(ShapeError) as caught:
        reviewkd_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 2))
    assert str(caught.value) == (
        "reviewkd_loss needs two maps (B, C, h, w) of one shape, got student (2, 3, 4, 4) and teacher (2, 3, 4, 2); "
        "bring the student's map to the teacher's first."
    )
    with pytest.raises(ConfigError, match=r"reviewkd compares maps in pairs, got 1 student_taps and 2 teacher_taps"):
        ReviewKD(ReviewKDConfig(student_taps=("front",), teacher_taps=("front", "middle")), make_context())
    with pytest.raises(UnknownNameError, match=r"unknown teacher tap 'bottm'; did you mean bottom"):
        ReviewKD(ReviewKDConfig(student_taps=("front",), teacher_taps=("bottm",)), make_context())
