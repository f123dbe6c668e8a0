import math

import pytest
import torch

from mfkd import Distiller, build_model
from mfkd.errors import ShapeError
from mfkd.functional.kl import soft_target_loss
from mfkd.methods.ctkd import CTKD, CTKDConfig, ctkd_loss, curriculum, reverse_gradient
from mfkd.types import Knowledge, Needs


def slow(student, teacher, temperatures):
    total = 0.0
    for s, t, temperature in zip(student.tolist(), teacher.tolist(), temperatures.tolist(), strict=True):
        q, p = ([math.exp(v / temperature) for v in row] for row in (s, t))
        terms = [a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True)]
        total += temperature**2 * sum(terms)
    return total / len(student)


def test_value_by_hand():
    # Teacher even, student 3:1 at its temperature, 2 or 4: KL = 1/2 ln(4/3), times T squared.
    odds = math.log(3.0)
    student = torch.tensor([[2 * odds, 0.0], [4 * odds, 0.0]])
    value = ctkd_loss(student, torch.zeros(2, 2), torch.tensor([2.0, 4.0]))
    assert value.item() == pytest.approx((4 + 16) / 2 * 0.5 * math.log(4 / 3), rel=1e-5)


def test_agrees_with_loops_and_with_kd_at_one_temperature():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64) * 3
    temperatures = torch.rand(5, dtype=torch.float64) * 5 + 0.5
    expected = pytest.approx(slow(student, teacher, temperatures), rel=1e-9)
    assert ctkd_loss(student, teacher, temperatures).item() == expected
    one = torch.tensor(3.0, dtype=torch.float64)
    torch.testing.assert_close(ctkd_loss(student, teacher, one), soft_target_loss(student, teacher, 3.0))


def test_gradients_reach_student_and_temperature_only():
    torch.manual_seed(1)
    student, teacher = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for shape in ((), (3,)):
        temperature = torch.full(shape, 2.5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda s, t: ctkd_loss(s, teacher, t), (student, temperature))
    ctkd_loss(student, teacher, temperature).backward()
    assert teacher.grad is None


def test_the_curriculum_rises_as_half_a_cosine_and_stays():
    assert [curriculum(p, 0.4) for p in (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)] == pytest.approx(
        [0, (1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2, 1, 1]
    )
    assert curriculum(0.0, 0.0) == 1


def test_the_gradient_is_reversed_and_the_value_is_not():
    value = torch.tensor([0.3, -2.0], requires_grad=True)
    reverse = reverse_gradient(value, 0.25)
    assert torch.equal(reverse, value)
    reverse.square().sum().backward()
    assert torch.allclose(value.grad, -0.25 * 2 * value.detach())


@pytest.mark.parametrize("instance", [False, True])
def test_the_temperature_climbs_the_loss_by_the_curriculum(instance, make_context, make_inputs):
    student, teacher, batch = make_inputs(batch=8, dtype=torch.float64)
    method = CTKD(CTKDConfig(ramp=0.5, instance=instance), make_context()).double()
    assert method.needs == Needs(logits=True)

    def gradients(progress):
        method.progress = progress
        method.zero_grad()
        method(student, Knowledge(teacher.logits), batch)["ctkd"].backward()
        return [parameter.grad.clone() for parameter in method.parameters()]

    none, half, whole = gradients(0.0), gradients(0.25), gradients(1.0)
    assert not any(gradient.any() for gradient in none)
    torch.testing.assert_close([2 * gradient for gradient in half], whole)

    before = method(student, Knowledge(teacher.logits), batch)["ctkd"]
    torch.optim.SGD(method.parameters(), lr=1e-2).step()  # downhill, but for the reversal
    assert method(student, Knowledge(teacher.logits), batch)["ctkd"] > before


def test_temperatures_start_as_published_and_keep_their_bounds(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = CTKD(CTKDConfig(), make_context())
    start = method.temperature(student.logits, teacher.logits)
    assert start.item() == pytest.approx(1 + 20 / (1 + math.exp(-1)))
    terms = method(student, Knowledge(teacher.logits), batch)
    torch.testing.assert_close(terms, {"ctkd": soft_target_loss(student.logits, teacher.logits, start.item())})
    for score, bound in ((-50.0, 2.0), (50.0, 5.0)):
        method = CTKD(CTKDConfig(lowest=2.0, span=3.0), make_context())
        torch.nn.init.constant_(method.score, score)
        assert method.temperature(student.logits, teacher.logits).item() == pytest.approx(bound)


def test_instance_gives_each_image_its_own_and_leaves_the_student_alone(make_context, make_inputs):
    student, teacher, _ = make_inputs()
    method = CTKD(CTKDConfig(instance=True), make_context())
    temperature = method.temperature(student.logits, teacher.logits)
    assert temperature.shape == (4,)
    assert len(set(temperature.tolist())) == 4
    alone = method.temperature(student.logits[2:3], teacher.logits[2:3])
    torch.testing.assert_close(alone, temperature[2:3])
    temperature.sum().backward()
    assert student.logits.grad is None


def test_distilling_moves_the_temperature():
    torch.manual_seed(0)
    teacher, student = build_model("resnet8", num_classes=5), build_model("resnet8", num_classes=5)
    distiller = Distiller(teacher, student, {"ctkd": {"weight": 1.0}}, input_shape=(3, 16, 16))
    distiller.set_progress(0.5)
    (score,) = [p for name, p in distiller.named_parameters() if name.endswith("ctkd.score")]
    assert any(p is score for p in distiller.trainable_parameters())
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    distiller(images, labels).loss.backward()
    optimizer.step()
    assert score.item() != 1


def test_published_defaults():
    config = CTKDConfig()
    assert (config.weight, config.lowest, config.span, config.instance) == (0.9, 1.0, 20.0, False)
    assert config.ramp * 240 == pytest.approx(10)


def test_refusals():
    with pytest.raises(ShapeError, match=r"ctkd_loss needs logits .* got student \(2, 3\) and teacher \(2, 4\)"):
        ctkd_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor(1.0))
    with pytest.raises(ShapeError) as caught:
        ctkd_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3))
    assert str(caught.value) == (
        "ctkd_loss needs one temperature or one an image, got (3,) for a batch of 2; "
        "give a scalar tensor or one of that length."
    )
