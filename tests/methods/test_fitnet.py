import pytest
import torch

from mfkd.errors import ConfigError, ShapeError, UnknownNameError
from mfkd.methods.fitnet import FitNet, FitNetConfig, fitnet_loss
from mfkd.types import TapSpec


def network(*stages, stem):
    maps = {f"stage{n}": shape for n, shape in enumerate(stages, start=1)}
    shapes = {"stem": (2, 8, 8), **maps} if stem else maps
    return {name: TapSpec(name, name, shape[0], shape=shape) for name, shape in shapes.items()}


MAPS = [(2, 8, 8), (3, 4, 4), (4, 2, 2), (5, 1, 1)]


def test_value_by_hand():
    student, teacher = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 5.0]]]])
    assert fitnet_loss(student, teacher).item() == (4 + 9) / 2


def test_slow_reference():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64)
    gaps = [(a - b) ** 2 for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)]
    assert fitnet_loss(student, teacher).item() == pytest.approx(sum(gaps) / len(gaps))


def test_gradcheck_and_no_gradient_to_the_teacher():
    torch.manual_seed(0)
    student, teacher = (torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda maps: fitnet_loss(maps, teacher), (student,))
    fitnet_loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("taps", "hint"),
    [
        (network(*MAPS[:3], stem=True), "stage2"),  # resnet: layer2
        (network(*MAPS, stem=True), "stage2"),  # ResNet50: layer2
        (network(*MAPS, stem=False), "stage3"),  # VGG: block2, whose first stage stands for the stem
        (network(*MAPS[:3], stem=False), "stage2"),  # thirds of a transformer
        (network(*MAPS[:2], stem=False), "stage1"),
        (network(MAPS[0], stem=False), "stage1"),
    ],
)
def test_the_published_hint_is_index_2_counting_the_stem_as_0(make_context, taps, hint):
    assert FitNet(FitNetConfig(), make_context(teacher=taps)).needs.teacher == (hint,)
    assert FitNet(FitNetConfig(), make_context(student=taps)).needs.student == (hint,)


def test_the_class_regresses_to_the_teachers_shape(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    method = FitNet(FitNetConfig(), make_context()).eval()
    assert (method.needs.student, method.needs.teacher) == (("stage2",), ("stage2",))
    own = method.regressors[0]([student.taps["stage2"]])
    assert own.shape == (4, 6, 4, 4)
    terms = method(student, teacher, batch)
    assert list(terms) == ["fitnet"]
    assert torch.allclose(terms["fitnet"], fitnet_loss(own, teacher.taps["stage2"]))


def test_several_hints_of_other_sizes_are_added_up(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    config = FitNetConfig(student_taps=("bottom", "front"), teacher_taps=("front", "bottom"))
    method = FitNet(config, make_context()).eval()
    gaps = [
        fitnet_loss(method.regressors[0]([student.taps["bottom"]]), teacher.taps["front"]),
        fitnet_loss(method.regressors[1]([student.taps["front"]]), teacher.taps["bottom"]),
    ]
    assert torch.allclose(method(student, teacher, batch)["fitnet"], sum(gaps))


def test_refusals(make_context):
    with pytest.raises(ShapeError) as refusal:
        fitnet_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 2, 2))
    assert str(refusal.value) == (
        "fitnet_loss needs two maps of one shape, got student (1, 2, 2, 2) and teacher (1, 3, 2, 2); "
        "bring the student's to the teacher's with nn.adapt.Regressor."
    )
    with pytest.raises(ShapeError, match=r"student tap 'penultimate' must be a map \(C, H, W\), got \(4,\)"):
        FitNet(FitNetConfig(student_taps=("penultimate",)), make_context())
    with pytest.raises(UnknownNameError, match="unknown teacher tap 'stage9'"):
        FitNet(FitNetConfig(teacher_taps=("stage9",)), make_context())
    with pytest.raises(ConfigError, match=r"fitnet compares the stages of one teacher, got taps teacher1\.bottom"):
        FitNet(FitNetConfig(), make_context(teacher={"teacher1.bottom": TapSpec("b", "b", 2, shape=(2, 2, 2))}))
