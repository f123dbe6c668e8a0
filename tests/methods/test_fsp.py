from dataclasses import replace

import pytest
import torch

from mfkd import Distiller, build_model
from mfkd.errors import ConfigError, ShapeError, TrainingError
from mfkd.methods import resolve
from mfkd.methods.fsp import FSP, FSPConfig, fsp_loss, fsp_matrix
from mfkd.types import Knowledge, TapSpec


@pytest.fixture
def equal(make_context):
    """Contexts in which the teacher is as wide as the student."""
    return lambda **changes: make_context(**{"teacher": make_context().student, **changes})


def test_value_by_hand():
    first, second = torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2), torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
    assert fsp_matrix(first, second).item() == (1 * 3 + 2 * 4) / 2
    assert fsp_loss([first, second], [first, second * 0]).item() == 5.5**2
    assert fsp_loss([first, second, first], [first, second * 0, first]).item() == 2 * 5.5**2


def matrix(first, second):
    """Of one image, in loops."""
    height, width = first.shape[1:]
    return [
        [
            sum(first[a, y, x].item() * second[b, y, x].item() for y in range(height) for x in range(width))
            / (height * width)
            for b in range(len(second))
        ]
        for a in range(len(first))
    ]


def test_slow_reference():
    torch.manual_seed(0)
    sides = [[torch.randn(2, 2, 4, 4), torch.randn(2, 3, 2, 2), torch.randn(2, 4, 2, 2)] for _ in range(2)]
    pooled = [[side[0].reshape(2, 2, 2, 2, 2, 2).mean((3, 5)), *side[1:]] for side in sides]
    total = 0.0
    for place in (0, 1):
        gaps = []
        for image in range(2):
            own, theirs = (matrix(side[place][image], side[place + 1][image]) for side in pooled)
            gaps += [(a - b) ** 2 for r, s in zip(own, theirs, strict=True) for a, b in zip(r, s, strict=True)]
        total += sum(gaps) / len(gaps)
    assert fsp_loss(*sides).item() == pytest.approx(total, rel=1e-4)


def test_gradcheck_and_no_gradient_to_the_teacher():
    torch.manual_seed(0)
    maps = [torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    teacher = [torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *own: fsp_loss(own, teacher), maps)
    fsp_loss(maps, teacher).backward()
    assert all(tap.grad is None for tap in teacher)


def test_the_stem_takes_part_where_both_have_one(equal, make_context):
    assert FSP(FSPConfig(), equal()).needs.student == ("stage1", "stage2", "stage3")
    stem = {"stem": TapSpec("stem", "stem", 2, shape=(2, 8, 8))}
    with_stem = {**make_context().student, **stem}
    assert FSP(FSPConfig(), equal(student=with_stem)).needs.student == ("stage1", "stage2", "stage3")
    both = equal(student=with_stem, teacher=with_stem)
    assert FSP(FSPConfig(), both).needs.teacher == ("stem", "stage1", "stage2", "stage3")
    named = FSPConfig(student_taps=("front", "bottom"), teacher_taps=("front", "bottom"))
    assert FSP(named, both).needs.student == ("front", "bottom")


@pytest.mark.parametrize(
    ("run", "initial_share", "epochs"), [(240, 1 / 8, 30), (8, 1 / 8, 1), (0, 1 / 8, 1), (10, 0.5, 5)]
)
def test_the_stage_is_a_share_of_the_run_and_trains_the_student(equal, run, initial_share, epochs):
    stage = FSP(FSPConfig(initial_share=initial_share, initial_lr=0.02), equal(epochs=run)).preparation()
    assert (stage.epochs, stage.lr, stage.trains_student, stage.parameters) == (epochs, 0.02, True, ())


def test_the_stages_loss_is_unweighted_and_in_full_precision(equal, make_inputs):
    student, _, batch = make_inputs(stages=True)
    teacher = Knowledge(None, make_inputs(seed=1, stages=True)[0].taps)
    step = FSP(FSPConfig(), equal()).preparation().step
    names = ("stage1", "stage2", "stage3")
    expected = fsp_loss([student.taps[name] for name in names], [teacher.taps[name] for name in names])
    assert torch.allclose(step(student, teacher, batch), expected)
    halved = replace(student, taps={name: tap.bfloat16() for name, tap in student.taps.items()})
    with torch.autocast("cpu", torch.bfloat16):
        loss = step(halved, teacher, batch)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, step(halved, teacher, batch))


def test_no_term_is_left_after_the_stage(equal, make_inputs):
    method = FSP(FSPConfig(), equal())
    student, teacher, batch = make_inputs(stages=True)
    with pytest.raises(TrainingError) as refusal:
        method(student, teacher, batch)
    assert str(refusal.value) == ("fsp works in its initial stage, which was not run; call distiller.prepare(loader).")
    method.preparation().finish()
    assert method.preparation() is None
    assert method(student, teacher, batch) == {}
    other = FSP(FSPConfig(), equal())
    other.load_state_dict(method.state_dict())
    assert other.preparation() is None


def test_the_students_layers_come_closer_and_then_it_trains_alone():
    torch.manual_seed(0)
    teacher, student = build_model("resnet14", num_classes=3), build_model("resnet8", num_classes=3)
    batch = torch.randn(8, 3, 8, 8), torch.arange(8) % 3
    distiller = Distiller(
        teacher, student, {"fsp": {"initial_share": 0.5, "initial_lr": 0.05}}, input_shape=(3, 8, 8), epochs=16
    )
    stage_losses = []
    method = dict(distiller.objective.named())["fsp"]
    step = method._step
    method._step = lambda *given: stage_losses.append(step(*given)) or stage_losses[-1]
    head = student.fc.weight.clone()
    assert distiller.prepare([batch] * 2) == 8
    assert stage_losses[-1] < 0.8 * stage_losses[0]
    assert torch.equal(student.fc.weight, head)
    out = distiller(*batch)
    assert list(out.terms) == ["ce"]
    assert out.loss == out.terms["ce"]


def test_refusals(make_context, equal, make_inputs):
    maps = torch.zeros(1, 2, 2, 2)
    with pytest.raises(ShapeError) as refusal:
        fsp_loss([maps, maps], [maps, maps[:, :1]])
    assert str(refusal.value) == (
        "fsp_loss needs 2 or more maps of the same channels on both sides, got student [2, 2] and teacher [2, 1]; "
        "choose maps of equal width."
    )
    with pytest.raises(ShapeError, match=r"got student \[2\] and teacher \[2\]"):
        fsp_loss([maps], [maps])
    with pytest.raises(ShapeError, match=r"fsp_matrix needs two maps \(B, C, H, W\) of one batch"):
        fsp_matrix(maps, maps[0])
    with pytest.raises(ConfigError) as refused:
        FSP(FSPConfig(), make_context())
    assert str(refused.value) == (
        "fsp needs matrices of one shape, so maps of the same channels, got student [2, 3, 4] and teacher [4, 6, 8]; "
        "choose networks of equal width, name other taps, or leave fsp out."
    )
    single = {"stage1": make_context().student["stage1"]}
    with pytest.raises(
        ConfigError, match="fsp relates neighbouring maps, got only stage1; name 2 or more student_taps"
    ):
        FSP(FSPConfig(), equal(student=single))
    with pytest.raises(TrainingError, match="fsp trains the student in its initial stage, got no outputs of it"):
        FSP(FSPConfig(), equal()).preparation().step(None, *make_inputs()[1:])


@pytest.mark.parametrize("options", [{"weight": 2.0}, {"warmup": 0.1}, {"fade": 0.5}])
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(ConfigError, match="have no meaning, as fsp adds no term after its initial stage"):
        resolve({"fsp": options})
