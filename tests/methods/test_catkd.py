from dataclasses import replace

import pytest
import torch
from torch import nn

from mfkd.distill import Distiller
from mfkd.errors import ConfigError, ShapeError
from mfkd.methods.catkd import CATKD, CATKDConfig, catkd_loss, class_maps
from mfkd.models import build_model
from mfkd.types import Needs


def test_class_maps_by_hand():
    maps = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 1, 2)
    weight = torch.tensor([[1.0, 10.0], [0.0, -1.0]])
    assert class_maps(maps, weight).flatten().tolist() == [31, 42, -3, -4]


def test_their_mean_is_the_logits_without_bias():
    torch.manual_seed(0)
    maps, classifier = torch.randn(3, 4, 5, 6), nn.Linear(4, 7)
    scores = classifier(maps.mean((2, 3))) - classifier.bias
    assert torch.allclose(class_maps(maps, classifier.weight).mean((2, 3)), scores, atol=1e-6)


def test_value_by_hand():
    student, teacher = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2), torch.tensor([0.0, 2.0]).reshape(1, 1, 1, 2)
    assert catkd_loss(student, teacher, size=1).item() == 2.5**2
    # A height of 1 counts twice for a size of 2.
    assert catkd_loss(student, teacher).item() == (9 + 4) / 2
    lengths = 2**0.5  # both rows alike
    expected = ((0.6 / lengths) ** 2 + ((0.8 - 1) / lengths) ** 2) / 2
    assert catkd_loss(student, teacher, normalise=True).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("normalise", [False, True])
def test_slow_reference(normalise):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 6, 6)
    gaps = []
    for image in range(2):
        for k in range(3):
            rows = []
            for maps, cell in ((student, 2), (teacher, 3)):
                row = [
                    sum(maps[image, k, y + i, x + j].item() for i in range(cell) for j in range(cell)) / cell**2
                    for y in (0, cell)
                    for x in (0, cell)
                ]
                length = sum(value**2 for value in row) ** 0.5 if normalise else 1.0
                rows.append([value / length for value in row])
            gaps += [(a - b) ** 2 for a, b in zip(*rows, strict=True)]
    assert catkd_loss(student, teacher, 2, normalise).item() == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)


@pytest.mark.parametrize("normalise", [False, True])
def test_gradcheck_and_no_gradient_to_the_teacher(normalise):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    teacher.requires_grad_()
    check = (student.requires_grad_(),)
    assert torch.autograd.gradcheck(lambda maps: catkd_loss(maps, teacher, 2, normalise), check)
    catkd_loss(student, teacher, 2, normalise).backward()
    assert teacher.grad is None


def test_the_class_uses_both_networks_own_classifiers_and_keeps_neither(make_context, make_inputs):
    torch.manual_seed(0)
    own, theirs = nn.Linear(4, 5), nn.Linear(8, 5).requires_grad_(False)
    context = make_context(student_classifier=lambda: own, teacher_classifier=lambda: theirs)
    method = CATKD(CATKDConfig(size=1, normalise=True), context)
    assert method.needs == Needs(student=("bottom", "penultimate"), teacher=("bottom", "penultimate"))
    assert not method.state_dict()
    student, teacher, batch = make_inputs(stages=True)
    terms = method(student, teacher, batch)
    assert list(terms) == ["catkd"]
    maps = class_maps(student.taps["bottom"], own.weight), class_maps(teacher.taps["bottom"], theirs.weight)
    assert terms["catkd"] == catkd_loss(*maps, size=1, normalise=True)
    terms["catkd"].backward()
    assert own.weight.grad.abs().sum() > 0
    assert own.bias.grad is None
    assert theirs.weight.grad is None


def test_the_class_follows_a_classifier_that_is_trained(make_context, make_inputs):
    torch.manual_seed(0)
    own = nn.Linear(4, 5)
    method = CATKD(CATKDConfig(), make_context(student_classifier=lambda: own))
    before = method(*make_inputs(stages=True))["catkd"].item()
    with torch.no_grad():
        own.weight.mul_(3)
    assert method(*make_inputs(stages=True))["catkd"].item() != before


def test_refusals(make_context):
    with pytest.raises(ShapeError) as refusal:
        catkd_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 2, 2))
    assert str(refusal.value) == (
        "catkd_loss needs class maps (B, K, H, W) of the same images and classes, got student (1, 2, 2, 2) and "
        "teacher (1, 3, 2, 2); make them with class_maps."
    )
    with pytest.raises(ConfigError, match="catkd needs a teacher with the student's classes"):
        CATKD(CATKDConfig(), make_context(teacher_logits=False))
    with pytest.raises(ConfigError) as none:
        CATKD(CATKDConfig(), make_context(teacher_classifier=lambda: None))
    assert str(none.value) == (
        "catkd needs a linear classifier at the end of the teacher, got none; leave catkd out for this pair."
    )
    with pytest.raises(ConfigError, match="linear classifier at the end of the student, got Sequential"):
        CATKD(CATKDConfig(), make_context(student_classifier=nn.Sequential))
    with pytest.raises(ConfigError) as front:
        CATKD(CATKDConfig(student_tap="front"), make_context())
    assert str(front.value) == (
        "catkd needs a student whose classifier gets the average of 'front', got 2 channels as nchw and a classifier "
        "of 4; name its last map as student_tap, or leave catkd out for this pair."
    )
    taps = make_context().teacher
    tokens = {**taps, "bottom": replace(taps["bottom"], layout="tokens")}
    with pytest.raises(
        ConfigError, match="teacher whose classifier gets the average of 'bottom', got 8 channels as tok"
    ):
        CATKD(CATKDConfig(), make_context(teacher=tokens))
    with pytest.raises(ShapeError, match="teacher tap 'penultimate' must be a map"):
        CATKD(CATKDConfig(teacher_tap="penultimate"), make_context())


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_classifier_that_gets_something_else_is_refused(side, make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    taps = student.taps if side == "student" else teacher.taps
    width = taps["penultimate"].shape[1]
    taps["penultimate"] = nn.LayerNorm(width)(taps["penultimate"]).detach()
    with pytest.raises(ConfigError) as caught:
        CATKD(CATKDConfig(), make_context())(student, teacher, batch)
    assert str(caught.value) == (
        f"catkd needs a {side} whose classifier gets the average of 'bottom', but this one gets something else; "
        f"name its last map as {side}_tap, or leave catkd out for this pair."
    )


@pytest.mark.parametrize("name", ["torchvision/densenet121", "timm/regnety_002", "timm/mobilenetv2_050", "vgg8"])
def test_networks_whose_classifier_gets_the_average_are_taken(name):
    torch.manual_seed(0)
    # In training, with dropout where a network has any.
    options = {"drop_rate": 0.5} if name.startswith("timm/") else {}
    teacher, student = build_model("resnet8", num_classes=3), build_model(name, num_classes=3, **options)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    assert "catkd" in Distiller(teacher, student, {"catkd": {}}, input_shape=(3, 64, 64)).train()(images, labels).terms
    assert "catkd" in Distiller(student, teacher, {"catkd": {}}, input_shape=(3, 64, 64))(images, labels).terms


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_convnext_is_refused(side):
    torch.manual_seed(0)
    other, convnext = build_model("resnet8", num_classes=3), build_model("timm/convnext_atto", num_classes=3)
    networks = (other, convnext) if side == "student" else (convnext, other)
    with pytest.raises(ConfigError, match=f"^catkd needs a {side} whose classifier gets the average of 'bottom', but"):
        Distiller(*networks, {"catkd": {}}, input_shape=(3, 64, 64))(
            torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
        )
