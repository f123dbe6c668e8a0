from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from mfkd.errors import ShapeError, TrainingError, UnknownNameError
from mfkd.functional.distance import map_distance
from mfkd.functional.kl import soft_target_loss
from mfkd.methods.mfkd import FUSED, MFKD, MFKDConfig, mfkd_loss
from mfkd.types import Knowledge, Outputs

KINDS = ["attention", "concat", "topdown", "static"]
LEARNT = {"kind": "attention"}


def calibrated(context, **options):
    method = MFKD(MFKDConfig(**options), context)
    method.preparation().finish()
    return method


def test_mfkd_loss_by_hand():
    # At right angles at one position, alike at the other.
    student = torch.tensor([[[[1.0, 1.0]], [[0.0, 1.0]]]])
    teacher = torch.tensor([[[[0.0, 2.0]], [[3.0, 2.0]]]])
    assert mfkd_loss(student, teacher).item() == pytest.approx(0.5, rel=1e-6)
    with pytest.raises(ShapeError, match="one shape"):
        mfkd_loss(student, teacher[:, :1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_maps_meet_at_the_teachers_bottom_size(make_context, make_inputs, kind):
    student, teacher, batch = make_inputs()
    method = calibrated(make_context(), kind=kind)
    knowledge = method.knowledge(teacher.taps)
    width = 18 if kind == "static" else 64
    assert {name: tap.shape for name, tap in knowledge.items()} == {FUSED: (4, width, 2, 2)}
    terms = method(student, Knowledge(None, knowledge), batch)
    assert list(terms) == ["mfkd"]
    assert 0 < terms["mfkd"].item() < 2


def test_width_follows_the_teachers_last_tap_and_size_the_option(make_context):
    context = make_context()
    wide = replace(context.teacher["bottom"], channels=65, shape=(65, 2, 2))
    assert MFKD(MFKDConfig(**LEARNT), context).student_side.channels == 64
    wider = make_context(teacher={**context.teacher, "bottom": wide})
    assert MFKD(MFKDConfig(**LEARNT), wider).student_side.channels == 128
    chosen = MFKD(MFKDConfig(**LEARNT, channels=7, size=(3, 5)), context)
    assert (chosen.student_side.channels, chosen.student_side.size) == (7, (3, 5))
    assert MFKD(MFKDConfig(teacher_taps=("front",)), context).student_side.size == (8, 8)


def test_levels_may_differ_between_the_sides(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = calibrated(make_context(), student_taps=("bottom",), teacher_taps=("front", "bottom"))
    assert method.needs.student == ("bottom",)
    assert method.needs.teacher == ("front", "bottom")
    del student.taps["front"], student.taps["middle"], teacher.taps["middle"]
    assert method(student, Knowledge(None, method.knowledge(teacher.taps)), batch)["mfkd"].isfinite()


@pytest.mark.parametrize("distance", ["cosine", "mse", "smooth_l1"])
def test_the_distance_is_the_one_named(make_context, make_inputs, distance):
    student, teacher, batch = make_inputs()
    method = calibrated(make_context(), distance=distance).eval()
    knowledge = method.knowledge(teacher.taps)
    fused = method.student_side(list(student.taps.values()))
    term = method(student, Knowledge(None, knowledge), batch)["mfkd"]
    assert term == map_distance(distance)(fused, knowledge[FUSED])


def test_the_share_of_each_level_is_watched_where_the_fusion_weighs_them(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = calibrated(make_context(), **LEARNT).eval()
    assert method.watched() == {}  # nothing has gone through yet
    method(student, Knowledge(None, method.knowledge(teacher.taps)), batch)
    shares = method.student_side.attention(list(student.taps.values())).mean((0, 2, 3))
    assert list(method.watched()) == ["mfkd/student front", "mfkd/student middle", "mfkd/student bottom"]
    assert torch.stack(list(method.watched().values())).allclose(shares)
    assert not any(share.requires_grad for share in method.watched().values())
    joint = MFKD(MFKDConfig(**LEARNT, calibration="joint"), make_context())
    joint(student, Knowledge(teacher.logits, joint.knowledge(teacher.taps)), batch)
    shares = [share for name, share in joint.watched().items() if name.startswith("mfkd/teacher ")]
    assert sum(shares).item() == pytest.approx(1)
    static = calibrated(make_context())
    static(student, Knowledge(None, static.knowledge(teacher.taps)), batch)
    assert static.watched() == {}


def test_head_term_is_the_frozen_heads_cross_entropy_times_its_weight(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = calibrated(make_context(), **LEARNT, head_weight=0.25).eval()
    assert method.needs.labels
    batch = replace(batch, label=torch.tensor([0, -1, 2, -1]))
    terms = method(student, Knowledge(None, method.knowledge(teacher.taps)), batch)
    scores = method.teacher_side.classify(method.student_side(list(student.taps.values())))
    expected = 0.25 * F.cross_entropy(scores[[0, 2]], torch.tensor([0, 2])) / 2
    assert torch.allclose(terms["mfkd_head"], expected)
    terms["mfkd_head"].backward()
    assert student.taps["front"].grad.abs().sum() > 0
    assert method.teacher_side.head.weight.grad is None


def test_calibration_loss_by_its_definition(make_context, make_inputs):
    _, teacher, batch = make_inputs()
    options = MFKDConfig(**LEARNT, calibration_temperature=2.0, calibration_epochs=3, calibration_lr=0.02)
    method = MFKD(options, make_context())
    stage = method.preparation()
    assert (stage.epochs, stage.lr, stage.logits, stage.trains_student) == (3, 0.02, True, False)
    assert {id(p) for p in stage.parameters} == {id(p) for p in method.teacher_side.parameters()}
    batch = replace(batch, label=torch.tensor([0, -1, 2, -1]))
    scores = method.teacher_side.classify(method.teacher_side.fusion(list(teacher.taps.values())))
    soft = soft_target_loss(scores, teacher.logits, 2.0)
    hard = F.cross_entropy(scores[[0, 2]], torch.tensor([0, 2])) / 2
    assert torch.allclose(stage.step(None, teacher, batch), hard + soft)
    unlabelled = replace(batch, label=torch.full((4,), -1))
    assert torch.allclose(stage.step(None, teacher, unlabelled), soft)
    mixed = replace(batch, target=torch.full((4, 5), 0.2))
    hard = F.cross_entropy(scores, mixed.target)
    assert torch.allclose(stage.step(None, teacher, mixed), hard + soft)


def test_calibration_without_the_teachers_logits_uses_labels_alone(make_context, make_inputs):
    _, teacher, batch = make_inputs()
    method = MFKD(MFKDConfig(**LEARNT), make_context(teacher_logits=False))
    stage = method.preparation()
    assert not stage.logits
    scores = method.teacher_side.classify(method.teacher_side.fusion(list(teacher.taps.values())))
    foreign = Knowledge(torch.zeros(4, 1000), teacher.taps)
    assert torch.allclose(stage.step(None, foreign, batch), F.cross_entropy(scores, batch.label))


@pytest.mark.parametrize("kind", KINDS[:3])
def test_calibration_learns_and_then_only_the_student_side_is_left(make_context, make_inputs, kind):
    _, teacher, batch = make_inputs(batch=8)
    method = MFKD(MFKDConfig(kind=kind), make_context())
    frozen_before = {name for name, p in method.named_parameters() if not p.requires_grad}
    assert frozen_before == {name for name, _ in method.named_parameters() if name.startswith("teacher_side.")}
    stage = method.preparation()
    optimizer = torch.optim.SGD(stage.parameters, lr=stage.lr, momentum=0.9)
    losses = []
    for _ in range(20):
        loss = stage.step(None, teacher, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    stage.finish()
    assert losses[-1] < 0.5 * losses[0]
    assert method.preparation() is None
    assert {name for name, p in method.named_parameters() if not p.requires_grad} == frozen_before
    assert all(p.grad is None for p in method.parameters())


def test_static_gathers_statistics_and_trains_nothing(make_context, make_inputs):
    method = MFKD(MFKDConfig(kind="static"), make_context())
    stage = method.preparation()
    assert stage.parameters == ()
    assert not stage.logits
    seen = [make_inputs(seed=seed)[1:] for seed in range(3)]
    assert [stage.step(None, teacher, batch) for teacher, batch in seen] == [None] * 3
    stage.finish()
    means = torch.stack([teacher.taps["bottom"].mean((0, 2, 3)) for teacher, _ in seen])
    assert torch.allclose(method.teacher_side.fusion.levels[2].norm.running_mean, means.mean(0), atol=1e-6)


def test_static_reduces_the_levels_that_are_wider_than_channels(make_context, make_inputs):
    method = MFKD(MFKDConfig(kind="static", channels=5), make_context())
    student, teacher, batch = make_inputs()
    stage = method.preparation()
    before = method.teacher_side.fusion.levels[2].basis.clone()
    stage.step(None, teacher, batch)
    stage.finish()
    assert not torch.equal(method.teacher_side.fusion.levels[2].basis, before)
    fused = method.knowledge(teacher.taps)[FUSED]
    assert fused.shape[1] == method.teacher_side.fusion.channels < 18
    loss = method(student, Knowledge(None, {FUSED: fused}), batch)["mfkd"]
    assert 0 < loss.item() < 2
    twin = MFKD(MFKDConfig(kind="static", channels=5), make_context())
    twin.load_state_dict(method.state_dict())
    assert torch.equal(twin.knowledge(teacher.taps)[FUSED], fused)


def test_the_teacher_side_stands_still_while_the_student_learns(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = calibrated(make_context()).train()
    before = {name: value.clone() for name, value in method.teacher_side.state_dict().items()}
    fused = method.knowledge(teacher.taps)[FUSED]
    assert not fused.requires_grad
    method(student, Knowledge(None, {FUSED: fused}), batch)["mfkd"].backward()
    assert torch.equal(method.knowledge(teacher.taps)[FUSED], fused)
    assert all(torch.equal(value, before[name]) for name, value in method.teacher_side.state_dict().items())
    assert all(p.grad is None for p in method.teacher_side.parameters())


def test_weights_depend_on_the_contexts_seed_alone(make_context):
    def weights(seed, noise):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        state = MFKD(MFKDConfig(**LEARNT), make_context(seed=seed)).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        return torch.cat([value.float().flatten() for value in state.values()])

    assert torch.equal(weights(1, 0), weights(1, 5))
    assert not torch.equal(weights(1, 0), weights(2, 0))


def test_half_precision_maps_are_fused_in_their_precision_and_given_in_float32(make_context, make_inputs):
    _, teacher, _ = make_inputs()
    method = calibrated(make_context(), **LEARNT)
    halved = {name: tap.bfloat16() for name, tap in teacher.taps.items()}
    with torch.autocast("cpu", torch.bfloat16):
        fused = method.knowledge(halved)[FUSED]
    assert fused.dtype == torch.float32
    exact = method.knowledge({name: tap.float() for name, tap in halved.items()})[FUSED]
    assert not torch.equal(fused, exact)
    torch.testing.assert_close(fused, exact, rtol=0.05, atol=0.01 * float(exact.abs().max()))
    inputs = make_inputs()[0]
    halves = Outputs(inputs.logits, {name: tap.bfloat16() for name, tap in inputs.taps.items()})
    widened = Outputs(inputs.logits, {name: tap.float() for name, tap in halves.taps.items()})
    known = Knowledge(None, {FUSED: exact})
    batch = make_inputs()[2]
    half, whole = (method(one, known, batch)["mfkd"] for one in (halves, widened))
    assert half.dtype == torch.float32
    assert half != whole
    torch.testing.assert_close(half, whole, rtol=0.05, atol=0.01)


def test_joint_fusion_learns_by_the_worth_of_its_map_and_never_by_the_distance(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    options = MFKDConfig(**LEARNT, calibration="joint", weight=2.0, calibration_temperature=2.0)
    method = MFKD(options, make_context()).train()
    assert method.preparation() is None
    assert (method.needs.logits, method.needs.labels) == (True, True)
    assert method.knowledge(teacher.taps) is teacher.taps
    terms = method(student, teacher, batch)
    assert list(terms) == ["mfkd", "mfkd_teacher"]
    fused = method.teacher_side.fusion(list(teacher.taps.values()))
    scores = method.teacher_side.classify(fused)
    worth = F.cross_entropy(scores, batch.label) + soft_target_loss(scores, teacher.logits, 2.0)
    assert torch.allclose(terms["mfkd_teacher"], worth / 2.0)  # times the weight of 2 in the objective
    expected = mfkd_loss(method.student_side(list(student.taps.values())), fused)
    assert torch.allclose(terms["mfkd"], expected)

    sides = {name: list(getattr(method, name).parameters()) for name in ("student_side", "teacher_side")}
    terms["mfkd"].backward()
    assert all(p.grad is not None for p in sides["student_side"])
    assert all(p.grad is None for p in sides["teacher_side"])
    reached = student.taps["front"].grad.clone()
    terms["mfkd_teacher"].backward()
    assert all(p.grad.abs().sum() > 0 for p in sides["teacher_side"])
    assert torch.equal(student.taps["front"].grad, reached)


def test_joint_fusion_without_the_teachers_logits_learns_by_labels(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = MFKD(MFKDConfig(**LEARNT, calibration="joint", weight=1.0), make_context(teacher_logits=False))
    assert not method.needs.logits
    scores = method.teacher_side.classify(method.teacher_side.fusion(list(teacher.taps.values())))
    term = method(student, Knowledge(None, teacher.taps), batch)["mfkd_teacher"]
    assert torch.allclose(term, F.cross_entropy(scores, batch.label))


def test_joint_and_calibrated_fusion_start_from_the_same_weights(make_context):
    states = [MFKD(MFKDConfig(**LEARNT, calibration=one), make_context()).state_dict() for one in ("before", "joint")]
    assert states[0].keys() - states[1].keys() == {"teacher_side.done"}
    assert all(torch.equal(value, states[0][name]) for name, value in states[1].items())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "static"}, "calibration joint has nothing to train in kind static; use kind=attention"),
        ({"weight": 0}, "calibration joint learns by terms of the method, so weight must be above 0"),
        ({"calibration_epochs": 2}, "calibration_epochs 2 has no meaning for calibration joint, which has no stage"),
        ({"calibration_lr": 0.5}, "calibration_lr 0.5 has no meaning for calibration joint, which has no stage"),
    ],
)
def test_what_joint_fusion_cannot_use_is_refused(options, text):
    with pytest.raises(ValidationError, match=text):
        MFKDConfig(calibration="joint", **{**LEARNT, **options})


def test_refusals(make_context, make_inputs):
    method = MFKD(MFKDConfig(), make_context())
    with pytest.raises(TrainingError, match=r"distiller\.prepare\(loader\)"):
        method.knowledge(make_inputs()[1].taps)
    with pytest.raises(UnknownNameError, match=r"unknown student tap 'botom'; did you mean bottom\? `mfkd taps MODEL`"):
        MFKD(MFKDConfig(student_taps=("botom",)), make_context())
    with pytest.raises(ShapeError, match=r"teacher tap 'penultimate' must be a map \(C, H, W\), got \(8,\)"):
        MFKD(MFKDConfig(teacher_taps=("penultimate",)), make_context())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"student_taps": ("front", "front")}, r"student_taps must differ, got \['front', 'front'\]"),
        ({"teacher_taps": ()}, "at least 1 item"),
        ({"head_weight": 1}, "head_weight 1 needs a calibrated head, and kind static has none; use kind=attention"),
        ({"calibration_lr": 0.2}, "calibration_lr 0.2 has no meaning for kind static, in which nothing is tra"),
        ({"calibration_temperature": 2}, "calibration_temperature 2 has no meaning for kind static, in which nothing"),
        ({"calibration_epochs": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_contradict_are_refused(options, text):
    with pytest.raises(ValidationError, match=text):
        MFKDConfig(**options)
