from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mfkd.errors import ConfigError, ShapeError
from mfkd.methods.srrl import SRRL, SRRLConfig, srrl_loss
from mfkd.types import Needs


def test_value_by_hand():
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)
    scores, matching = srrl_loss(student, teacher, lambda features: features.sum(1, keepdim=True) + 7)
    assert (scores.item(), matching.item()) == (9, 2.5)


def test_slow_reference():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4)
    classifier = nn.Linear(4, 5)
    scores, features = [], []
    for own, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        features += [(a - b) ** 2 for a, b in zip(own, theirs, strict=True)]
        gap = [a - b for a, b in zip(own, theirs, strict=True)]  # the bias cancels
        scores += [sum(w * g for w, g in zip(row, gap, strict=True)) ** 2 for row in classifier.weight.tolist()]
    value = srrl_loss(student, teacher, classifier)
    assert value[0].item() == pytest.approx(sum(scores) / 15, rel=1e-4)
    assert value[1].item() == pytest.approx(sum(features) / 12, rel=1e-4)


def test_gradcheck_and_no_gradient_to_the_teacher():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64)
    classifier = nn.Sequential(nn.Linear(4, 2), nn.Tanh()).double().requires_grad_(False)
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda own: srrl_loss(own, teacher, classifier), (student.requires_grad_(),))
    sum(srrl_loss(student, teacher, classifier)).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("relu", [True, False])
def test_the_class_by_its_definition(make_context, make_inputs, relu):
    torch.manual_seed(0)
    classifier = nn.Linear(8, 9).requires_grad_(False)  # the teacher may have other classes
    context = make_context(teacher_logits=False, teacher_classifier=lambda: classifier)
    method = SRRL(SRRLConfig(relu=relu), context).eval()
    assert method.needs == Needs(student=("bottom",), teacher=("penultimate",))
    assert {name.split(".")[0] for name in method.state_dict()} == {"connector"}
    student, teacher, batch = make_inputs(stages=True)
    terms = method(student, teacher, batch)
    assert list(terms) == ["srrl", "srrl_feature"]
    maps = method.connector([student.taps["bottom"]])
    features = (maps.clamp(min=0) if relu else maps).mean((2, 3))
    assert bool((features < 0).any()) is not relu
    assert torch.allclose(terms["srrl_feature"], F.mse_loss(features, teacher.taps["penultimate"]))
    gap = classifier(features) - classifier(teacher.taps["penultimate"])
    assert torch.allclose(terms["srrl"], gap.square().mean())
    sum(terms.values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in method.parameters())
    assert classifier.weight.grad is None


def test_the_connectors_relu_is_left_out_for_a_transformer(make_context):
    taps = make_context().teacher
    tokens = {**taps, "bottom": replace(taps["bottom"], layout="tokens")}
    assert SRRL(SRRLConfig(), make_context()).relu
    assert not SRRL(SRRLConfig(), make_context(teacher=tokens)).relu
    assert SRRL(SRRLConfig(relu=True), make_context(teacher=tokens)).relu


def test_refusals(make_context):
    with pytest.raises(ShapeError) as refusal:
        srrl_loss(torch.zeros(2, 3), torch.zeros(2, 4), nn.Identity())
    assert str(refusal.value) == (
        "srrl_loss needs features (B, C) of one shape, got student (2, 3) and teacher (2, 4); "
        "bring the student's to the teacher's width first."
    )
    with pytest.raises(ConfigError) as none:
        SRRL(SRRLConfig(), make_context(teacher_classifier=lambda: None))
    assert str(none.value) == (
        "srrl needs a teacher whose classifier can read the student's features, and no such module was found; "
        "teach with one network that ends in a linear classifier, or leave srrl out."
    )
    with pytest.raises(ShapeError, match="student tap 'penultimate' must be a map"):
        SRRL(SRRLConfig(student_tap="penultimate"), make_context())
