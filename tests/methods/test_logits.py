"""What the methods on logits share."""

from dataclasses import replace

import pytest
import torch

from mfkd.errors import ConfigError, ShapeError, TrainingError
from mfkd.functional.standardise import standardise
from mfkd.methods import METHODS, build, resolve
from mfkd.methods.logits import (
    LogitConfig,
    check_labels,
    check_logits,
    given_logits,
    require_logits,
)
from mfkd.types import Knowledge, Outputs

NAMES = sorted(name for name, method in METHODS.items() if issubclass(method.Config, LogitConfig))


def test_every_logit_method_has_the_option():
    assert {"kd", "dkd", "dist", "ctkd", "mlld", "tfkd"} <= set(NAMES)


def test_scaled_standardises_only_when_asked():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert LogitConfig().scaled(logits) is logits
    assert torch.equal(LogitConfig(logit_std=True).scaled(logits), standardise(logits))


@pytest.mark.parametrize("name", NAMES)
def test_with_logit_std_neither_sides_scale_or_shift_counts(name, make_context, make_inputs):
    student, teacher, batch = make_inputs(dtype=torch.float64)
    moved = Outputs(student.logits * 3 - 1), Knowledge(teacher.logits * 0.2 + 4)
    for on in (True, False):
        method = build(resolve({name: {"logit_std": on}}), make_context()).double().methods[name]
        value = method(student, Knowledge(teacher.logits), batch)[name]
        close = torch.isclose(value, method(*moved, batch)[name], rtol=1e-5)
        assert close == on


@pytest.mark.parametrize("name", NAMES)
def test_logit_std_is_refused_for_two_classes_which_it_leaves_no_gradient(name, make_context):
    with pytest.raises(ConfigError) as caught:
        build(resolve({name: {"logit_std": True}}), make_context(num_classes=2))
    assert str(caught.value) == (
        f"{name}.logit_std needs 3 or more classes, got 2: two standardised logits are always 0.71 and -0.71, "
        "from which nothing is learnt; leave logit_std off."
    )
    build(resolve({name: {"logit_std": True}}), make_context(num_classes=3))
    build(resolve({name: {}}), make_context(num_classes=2))


@pytest.mark.parametrize("name", NAMES)
def test_logit_std_is_the_method_on_standardised_logits(name, make_context, make_inputs):
    student, teacher, batch = make_inputs()
    plain, standard = (build(resolve({name: {"logit_std": on}}), make_context()).methods[name] for on in (False, True))
    own, other = Outputs(standardise(student.logits)), Knowledge(standardise(teacher.logits))
    torch.testing.assert_close(
        standard(student, Knowledge(teacher.logits), batch)[name], plain(own, other, batch)[name]
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dist"])  # it correlates over the batch
def test_the_mean_over_equal_parts_is_the_whole(name, make_context, make_inputs):
    student, teacher, batch = make_inputs(batch=6, dtype=torch.float64)
    method = build(resolve(name), make_context()).double().methods[name]
    whole = method(student, Knowledge(teacher.logits), batch)[name]
    parts = [
        method(
            Outputs(student.logits[rows]),
            Knowledge(teacher.logits[rows]),
            replace(batch, label=batch.label[rows], index=batch.index[rows], image=batch.image[rows]),
        )[name]
        for rows in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_student_and_never_the_teacher(name, make_context, make_inputs):
    student, teacher, batch = make_inputs()
    logits = teacher.logits.clone().requires_grad_()
    method = build(resolve(name), make_context()).methods[name]
    sum(method(student, Knowledge(logits), batch).values()).backward()
    assert logits.grad is None
    assert student.logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].needs_teacher])
def test_a_teacher_without_the_classes_is_refused_by_every_method(name, make_context, make_inputs):
    with pytest.raises(ConfigError, match=rf"^{name} needs a teacher with the student's classes"):
        build(resolve({name: {}}), make_context(teacher_logits=False))
    student, _, batch = make_inputs()
    with pytest.raises(TrainingError, match=rf"^{name} was given no teacher logits"):
        build(resolve({name: {}}), make_context()).methods[name](student, Knowledge(), batch)


def test_refusals(make_context):
    with pytest.raises(ConfigError) as caught:
        require_logits("x", make_context(teacher_logits=False))
    assert str(caught.value) == (
        "x needs a teacher with the student's classes, but this teacher's head has others; "
        "fit a new one with teacher.head=tune, or leave x out."
    )
    require_logits("x", make_context())
    with pytest.raises(TrainingError) as caught:
        given_logits("x", Knowledge())
    assert str(caught.value) == "x was given no teacher logits; ask the source for them (needs.logits is True)."
    for student, teacher in (((2, 3), (2, 4)), ((2, 1), (2, 1)), ((2, 3, 1), (2, 3, 1))):
        with pytest.raises(ShapeError) as caught:
            check_logits("x", torch.zeros(student), torch.zeros(teacher))
        assert str(caught.value) == (
            f"x needs logits (B, K) over the same 2 or more classes, got student {student} and teacher {teacher}; "
            "give the teacher a head with the student's classes."
        )
    for logits, label in (((2, 3), (3,)), ((2, 1), (2,)), ((2, 3), (2, 3))):
        with pytest.raises(ShapeError) as caught:
            check_labels("x", torch.zeros(logits), torch.zeros(label))
        assert str(caught.value) == (
            f"x needs logits (B, K) of 2 or more classes with labels (B,), got logits {logits} and labels {label}; "
            "give one label an image (-1: none)."
        )
