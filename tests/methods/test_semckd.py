import pytest
import torch

from mfkd.errors import ConfigError, ShapeError
from mfkd.methods.semckd import SemCKD, SemCKDConfig, semckd_loss
from mfkd.nn.align import shrink
from mfkd.types import Needs

SIZES = [(2, 4, 4), (3, 2, 2), (4, 1, 3)]


def drawn(batch=3, layers=2, dtype=torch.float64):
    torch.manual_seed(0)
    sides = [[[torch.randn(batch, *size, dtype=dtype) for size in SIZES] for _ in range(layers)] for _ in range(2)]
    return *sides, torch.randn(batch, layers, len(SIZES), dtype=dtype).softmax(2)


def slow(student, teacher, attention):
    batch, layers, others = attention.shape
    total = 0.0
    for image in range(batch):
        for i in range(layers):
            for j in range(others):
                gap = (student[i][j][image] - teacher[i][j][image]) ** 2
                total += attention[image, i, j].item() * sum(gap.flatten().tolist()) / gap.numel()
    return total / (batch * layers)


def test_value_by_hand():
    # Gaps 2 and 1, squared 4 and 1, weighed 1/4 and 3/4.
    student = [[torch.full((1, 1, 2, 2), 2.0), torch.full((1, 2, 1, 1), 1.0)]]
    teacher = [[torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 1, 1)]]
    assert semckd_loss(student, teacher, torch.tensor([[[0.25, 0.75]]])).item() == pytest.approx(1.75)


def test_slow_reference_and_gradient():
    student, teacher, attention = drawn()
    assert semckd_loss(student, teacher, attention).item() == pytest.approx(slow(student, teacher, attention))
    leaves = [student[0][0].requires_grad_(), attention.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *_: semckd_loss(student, teacher, attention), leaves)
    teacher[0][0].requires_grad_()
    semckd_loss(student, teacher, attention).backward()
    assert teacher[0][0].grad is None


@pytest.mark.parametrize("batch", [3, 4, 9])
def test_the_class_by_its_definition_with_batches_of_any_size(make_context, make_inputs, batch):
    student, teacher, images = make_inputs(batch, stages=True)
    method = SemCKD(SemCKDConfig(width=4, student_taps=("front", "bottom")), make_context())
    stages = ("stage1", "stage2", "stage3")
    assert method.needs == Needs(student=("front", "bottom"), teacher=stages)
    terms = method(student, teacher, images)
    assert list(terms) == ["semckd"]
    own, others = [student.taps[n] for n in ("front", "bottom")], [teacher.taps[n] for n in stages]
    attention = method.attention(own, others)
    expected = 0.0
    for i, small in enumerate(own):
        for j, large in enumerate(others):
            side = min(small.shape[2], large.shape[2])
            gap = method.projections[i][j](shrink(small, (side, side))) - shrink(large, (side, side))
            expected += (attention[:, i, j] * gap.square().mean((1, 2, 3))).mean() / 2
    assert torch.allclose(terms["semckd"], expected)


def test_refusals(make_context):
    student, teacher, attention = drawn()
    with pytest.raises(
        ShapeError, match=r"semckd_loss needs S rows of T pairs of maps .* attention \(3, 2, 2\); project"
    ):
        semckd_loss(student, teacher, attention[..., :2])
    teacher[1][2] = torch.zeros(3, 4, 3, 1)
    with pytest.raises(ShapeError, match=r"got student .*\(3, 4, 1, 3\).*, teacher .*\(3, 4, 3, 1\).* and attention"):
        semckd_loss(student, teacher, attention)
    spec = make_context().teacher["bottom"]
    with pytest.raises(ConfigError, match=r"semckd compares the stages of one teacher, got taps teacher1\.bottom"):
        SemCKD(SemCKDConfig(), make_context(teacher={"teacher1.bottom": spec}))
    SemCKD(SemCKDConfig(teacher_taps=("teacher1.bottom",)), make_context(teacher={"teacher1.bottom": spec}))
