import pytest
import torch
from torch import nn

from mfkd.distill import Distiller
from mfkd.errors import ConfigError, ShapeError
from mfkd.methods import resolve
from mfkd.methods.projected import Projected
from mfkd.methods.simkd import SimKD, SimKDConfig, simkd_loss
from mfkd.models import build_model
from mfkd.types import Needs


def slow(student, teacher):
    """Both (B, D, h, w) of one size."""
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


def test_value_by_hand():
    # The larger side is averaged: 2 against 1 and 1; then (1 + 4) / 2 for two channels.
    small = torch.tensor([1.0, 1.0]).reshape(1, 2, 1, 1)
    large = torch.tensor([[0.0, 4.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0]]).reshape(1, 2, 2, 2)
    assert simkd_loss(small, large).item() == simkd_loss(large, small).item() == pytest.approx(2.5)


def test_slow_reference_and_gradient():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 2, 3, 3, dtype=torch.float64)
    assert simkd_loss(student, teacher).item() == pytest.approx(slow(student, teacher))
    assert torch.autograd.gradcheck(lambda s: simkd_loss(s, teacher), student.requires_grad_())
    teacher.requires_grad_()
    simkd_loss(student, teacher).backward()
    assert teacher.grad is None


def test_the_preset_is_the_published_form():
    spec = resolve("simkd")
    assert spec.ce == 0
    assert dict(spec.configs) == {"simkd": SimKDConfig(weight=1.0, factor=2)}
    assert resolve({"simkd": {}}).ce == 1


def test_the_class_by_its_definition(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    method = SimKD(SimKDConfig(), make_context())
    assert method.needs == Needs(student=("bottom",), teacher=("bottom", "penultimate"))
    terms = method(student, teacher, batch)
    assert list(terms) == ["simkd"]
    assert torch.allclose(terms["simkd"], simkd_loss(method.projector(student.taps["bottom"]), teacher.taps["bottom"]))
    convolutions = [tuple(p.shape) for p in method.parameters() if p.ndim == 4]
    assert convolutions == [(4, 4, 1, 1), (4, 4, 3, 3), (8, 4, 1, 1)]  # 8 channels, half of them inside
    assert not any(name.startswith("reused") for name in method.state_dict())


def test_deployed_is_what_the_published_evaluation_computes():
    torch.manual_seed(0)
    teacher, student = build_model("resnet8x4", num_classes=3).eval(), build_model("vgg8", num_classes=3)
    distiller = Distiller(teacher, student, "simkd", input_shape=(3, 32, 32))
    images = torch.randn(4, 3, 32, 32)
    out = distiller(images, torch.tensor([0, 1, 2, 0]))
    assert out.terms["simkd"] == out.loss  # the cross-entropy has weight 0
    network = distiller.deployed().eval()
    assert isinstance(network, Projected)
    with torch.no_grad():
        bottom = [None]
        handle = student.get_submodule(distiller.student_taps[0].path).register_forward_hook(
            lambda _module, _args, output: bottom.__setitem__(0, output)
        )
        student.eval()(images)
        handle.remove()
        projected = distiller.objective.methods["simkd"].projector(bottom[0])
        assert torch.allclose(network(images), teacher.fc(projected.mean((2, 3))), atol=1e-6)
    own = sum(p.numel() for p in student.parameters()) - sum(p.numel() for p in student.classifier.parameters())
    added = sum(p.numel() for p in distiller.objective.parameters()) + 256 * 3 + 3
    assert sum(p.numel() for p in network.parameters()) == own + added


def test_refusals(make_context, make_inputs):
    def refused(match, **changes):
        with pytest.raises(ConfigError, match=match):
            SimKD(SimKDConfig(), make_context(**changes))

    refused(r"simkd needs a teacher with the student's classes", teacher_logits=False)
    refused(
        r"^simkd reuses a linear classifier of the averaged map bottom \(8 channels\), and this teacher has none that "
        r"was found; name another teacher_tap, or use another method\.$",
        teacher_classifier=lambda: None,
    )
    refused(r"and this teacher has one of 16; name", teacher_classifier=lambda: nn.Linear(16, 5))
    refused(r"and this teacher has a Sequential; name", teacher_classifier=lambda: nn.Sequential(nn.Linear(8, 5)))
    with pytest.raises(ShapeError, match=r"simkd_loss needs two maps \(B, D, h, w\) of the same images, got student"):
        simkd_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    student, teacher, batch = make_inputs(stages=True)
    teacher.taps["penultimate"] = nn.LayerNorm(8)(teacher.taps["penultimate"]).detach()
    with pytest.raises(ConfigError) as caught:
        SimKD(SimKDConfig(), make_context())(student, teacher, batch)
    assert str(caught.value) == (
        "simkd reuses the teacher's classifier on its averaged map bottom, but this classifier gets something else; "
        "name another teacher_tap, or use another method."
    )
