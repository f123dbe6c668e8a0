import pytest
import torch

from mfkd.distill import Distiller
from mfkd.errors import ConfigError, ShapeError, TrainingError
from mfkd.methods import resolve
from mfkd.methods.ab import AB, ABConfig, ab_loss
from mfkd.models import build_model


def slow(student, teacher, margin):
    total = 0.0
    for own, other in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        if other > 0 and own <= margin:
            total += (own - margin) ** 2
        if other <= 0 and own > -margin:
            total += (own + margin) ** 2
    return total / len(student)


def test_value_by_hand():
    # Active: (1 - 0.5)^2, (1 + 2)^2 and nothing beyond the margin; silent: (1 + 2)^2, and 0 counts as silent: 1.25^2.
    student = torch.tensor([[0.5, -2.0, 3.0], [2.0, 0.25, -1.5]])
    teacher = torch.tensor([[1.0, 1.0, 9.0], [-1.0, 0.0, -4.0]])
    assert ab_loss(student, teacher).item() == pytest.approx((0.25 + 9 + 9 + 1.5625) / 2)


@pytest.mark.parametrize("shape", [(1, 2, 3, 3), (4, 3, 2, 5)])
@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_slow_reference(shape, margin):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    assert ab_loss(student, teacher, margin).item() == pytest.approx(slow(student, teacher, margin))


def test_only_the_teachers_signs_count_and_the_gradient_is_right():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 2, 3, 3, dtype=torch.float64)
    assert ab_loss(student, teacher.sign()) == ab_loss(student, teacher)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ab_loss(s, teacher), student)
    parts = [ab_loss(student[i : i + 1], teacher[i : i + 1]) for i in range(3)]
    assert torch.allclose(sum(parts) / 3, ab_loss(student, teacher))


def test_the_class_acts_in_its_stage_alone(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    method = AB(ABConfig(weight=2.0, margin=0.5), make_context(epochs=24))
    assert method.needs.student == method.needs.teacher == ("stage1.pre", "stage2.pre", "stage3.pre")
    assert not any(p.requires_grad for p in method.parameters())
    stage = method.preparation()
    assert (stage.epochs, stage.lr, stage.trains_student) == (3, 0.05, True)
    loss = stage.step(student, teacher, batch)
    maps = method.connectors([student.taps[name] for name in method.needs.student])
    gaps = [ab_loss(m, teacher.taps[n], 0.5) for m, n in zip(maps, method.needs.teacher, strict=True)]
    assert torch.allclose(loss, 2 * 0.003 * (gaps[0] / 4 + gaps[1] / 2 + gaps[2]))
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in stage.parameters)
    stage.finish()
    assert method(student, teacher, batch) == {}
    assert method.preparation() is None
    assert not any(p.requires_grad for p in method.parameters())


def test_the_stage_trains_the_students_backbone_and_takes_its_share_of_the_epochs():
    torch.manual_seed(0)
    teacher, student = build_model("resnet8", num_classes=3), build_model("vgg8", num_classes=3)
    distiller = Distiller(teacher, student, {"ab": {"initial_share": 0.25}}, input_shape=(3, 16, 16), epochs=8)
    images, before = torch.randn(6, 3, 16, 16), {k: v.clone() for k, v in student.state_dict().items()}
    losses = []
    method = distiller.objective.methods["ab"]
    step = method._initialise
    method._initialise = lambda *args: (losses.append(step(*args)), losses[-1])[1]
    assert distiller.prepare([(images, torch.tensor([0, 1, 2, 0, 1, 2]))] * 4) == 2
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    moved = {name for name, value in student.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in before if name.endswith("block4.0.weight")} <= moved
    assert not {name for name in moved if name.startswith("classifier")}
    out = distiller(images, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert list(out.terms) == ["ce"]
    assert out.loss.detach() == out.terms["ce"]


def test_training_without_the_stage_is_refused_and_goes_on_from_a_state_after_it(make_context, make_inputs):
    first, second = (AB(ABConfig(), make_context(epochs=8)) for _ in range(2))
    with pytest.raises(TrainingError) as caught:
        first(*make_inputs(stages=True))
    assert str(caught.value) == ("ab works in its initial stage, which was not run; call distiller.prepare(loader).")
    first.preparation().finish()
    second.load_state_dict(first.state_dict())
    assert second(*make_inputs(stages=True)) == {}


def test_refusals():
    with pytest.raises(ShapeError) as caught:
        ab_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    assert str(caught.value) == (
        "ab_loss needs two maps of one shape, got student (2, 3, 4, 4) and teacher (2, 5, 4, 4); bring the student's "
        "to the teacher's by a connector."
    )
    with pytest.raises(
        ConfigError, match=r"warmup 0\.5 has no meaning for ab, whose terms are only those of its stage"
    ):
        resolve({"ab": {"warmup": 0.5}})
    with pytest.raises(ConfigError, match=r"fade 0\.5 has no meaning for ab, whose terms are only those of its stage"):
        resolve({"ab": {"fade": 0.5}})
