import pytest
import torch

from mfkd import Distiller, build_model
from mfkd.errors import ConfigError
from mfkd.methods.mfkd import every_teacher
from mfkd.teacher import FrozenTeacher
from mfkd.teacher.several import SeveralTeachers, mean_logits

SHAPE, CLASSES = (3, 16, 16), 5


def network(seed, name="resnet8", classes=CLASSES):
    torch.manual_seed(seed)
    return build_model(name, num_classes=classes)


def several(**options):
    return SeveralTeachers([FrozenTeacher(network(1)), FrozenTeacher(network(2, "resnet14"))], **options)


def images(count=4):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3))


def test_softened_probabilities_are_averaged_by_hand():
    log = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.5, 0.5]).log()
    mean = mean_logits([log[0][None], log[1][None]], [1.0, 3.0], temperature=1.0)
    # (0.9 + 3 * 0.5) / 4 = 0.6
    assert torch.allclose(mean.softmax(dim=1), torch.tensor([[0.6, 0.4]]))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_mean_against_a_loop_and_at_extreme_logits(temperature):
    logits = [300 * torch.randn(6, CLASSES, dtype=torch.float64) for _ in range(3)]
    weights = [1.0, 2.0, 0.5]
    expected = sum(w * (z / temperature).softmax(1) for w, z in zip(weights, logits, strict=True)) / 3.5
    mean = mean_logits(logits, weights, temperature)
    assert mean.isfinite().all()
    assert torch.allclose((mean / temperature).softmax(1), expected)


def test_equal_teachers_are_one_teacher_up_to_a_shift():
    one = FrozenTeacher(network(1))
    both = SeveralTeachers([one, FrozenTeacher(network(1))])
    logits, mean = one.logits(images()), both.logits(images())
    assert torch.allclose(mean.softmax(1), logits.softmax(1), atol=1e-6)


def test_taps_are_those_of_each_teacher():
    teacher = several()
    taps = teacher.taps(SHAPE)
    assert taps["teacher2.middle"].shape == (32, 8, 8)
    assert {name.partition(".")[0] for name in taps} == {"teacher1", "teacher2"}
    found = teacher(images(), [taps["teacher2.bottom"], taps["teacher1.front"]]).taps
    for name, member in zip(("teacher1.front", "teacher2.bottom"), teacher.members, strict=True):
        own = member.taps(SHAPE)[name.split(".")[1]]
        assert torch.equal(found[name], member(images(), [own]).taps[own.name])
    assert teacher.norm("teacher2.stage1", SHAPE) is teacher.members[1].norm("stage1", SHAPE)


def test_it_stays_frozen_and_moves():
    teacher = several()
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(module.training for module in teacher.train().modules())
    assert {p.dtype for p in teacher.double().parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("taps", "expected"),
    [
        (("front", "bottom"), ("teacher1.front", "teacher2.front", "teacher1.bottom", "teacher2.bottom")),
        (("teacher2.front", "bottom"), ("teacher2.front", "teacher1.bottom", "teacher2.bottom")),
    ],
)
def test_levels_of_all_teachers_front_first(taps, expected):
    assert every_teacher(taps, 2) == expected
    assert every_teacher(("front",), 1) == ("front",)


@pytest.mark.parametrize("kind", ["attention", "concat", "topdown", "static"])
def test_mfkd_fuses_the_levels_of_all_teachers(kind):
    distiller = Distiller(
        [network(1), network(2, "resnet14")],
        network(3),
        {"mfkd": {"kind": kind}, "kd": {"temperature": 2.0}},
        input_shape=SHAPE,
    )
    assert distiller.teacher.network.temperature == 2.0
    assert len(distiller.source.specs) == 6
    distiller.prepare([(images(), torch.arange(4))])
    out = distiller(images(), torch.arange(4))
    out.loss.backward()
    assert set(out.terms) == {"ce", "mfkd", "kd"}
    assert all(p.grad is not None for p in distiller.trainable_parameters())


def test_kd_learns_from_the_mean():
    first, second, student = network(1), network(2), network(3)
    both = Distiller([first, second], student, "kd", input_shape=SHAPE)(images()).terms["kd"]
    logits = [net.eval()(images()) for net in (first, second)]
    mean = sum((z / 4).softmax(1) for z in logits) / 2
    own = (student(images()) / 4).log_softmax(1)  # the student trains, so its statistics are the batch's
    assert both.item() == pytest.approx(16 * (mean * (mean.log() - own)).sum(1).mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: SeveralTeachers([FrozenTeacher(network(1))]),
            "several teachers are two or more, got 1; give one teacher by itself.",
        ),
        (lambda: several(weights=[1.0]), "2 teachers need as many weights above 0, got [1.0]."),
        (lambda: several(weights=[1.0, 0.0]), "2 teachers need as many weights above 0, got [1.0, 0.0]."),
        (
            lambda: Distiller([network(1), network(2, classes=7)], network(3), "kd", input_shape=SHAPE),
            "several teachers must share their classes, got heads of 5, 7; fit new heads with head: tune, "
            "or leave one out.",
        ),
        (
            lambda: several().taps(SHAPE)["bottom"],
            "there are 2 teachers, and 'bottom' may be a map of any; name one's, such as teacher1.bottom, "
            "or use one teacher with this method.",
        ),
    ],
)
def test_refusals(make, told):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == told


def test_the_same_object_as_student_and_teacher_is_refused():
    student = network(1)
    with pytest.raises(ConfigError, match="the same object"):
        Distiller([network(2), student], student, input_shape=SHAPE)
