import pytest
import torch

from mfkd.errors import ConfigError, ShapeError
from mfkd.methods import resolve
from mfkd.methods.mgd import MGD, Generation, MGDConfig, mgd_loss, mgd_mask


def test_value_by_hand():
    generated, teacher = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    assert mgd_loss(generated, teacher).item() == (1 + 4 + 9 + 16) / 2


def test_the_loss_in_loops_and_gradcheck():
    torch.manual_seed(0)
    generated, teacher = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64)
    total = sum((a - b) ** 2 for a, b in zip(generated.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    assert mgd_loss(generated, teacher).item() == pytest.approx(total / 3)
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda maps: mgd_loss(maps, teacher), (generated.requires_grad_(),))
    mgd_loss(generated, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize(("kind", "shape"), [("channel", (64, 50, 1, 1)), ("position", (64, 1, 7, 8))])
def test_the_mask_has_its_share_of_zeros(kind, shape):
    torch.manual_seed(0)
    mask = mgd_mask(torch.zeros(64, 50, 7, 8, dtype=torch.float64), 0.15, kind)
    assert mask.shape == shape
    assert mask.dtype == torch.float64
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(0.85, abs=0.02)
    assert mgd_mask(torch.zeros(2, 3, 2, 2), 0.0, kind).min() == 1


def convolved(maps, layer):
    """A 3x3 convolution of (C, h, w) with padding, in loops."""
    channels, height, width = maps.shape
    result = torch.zeros(len(layer.bias), height, width)
    for out in range(len(layer.bias)):
        for y in range(height):
            for x in range(width):
                result[out, y, x] = layer.bias[out]
                for c in range(channels):
                    for dy in (-1, 0, 1):
                        for dx in (-1, 0, 1):
                            if 0 <= y + dy < height and 0 <= x + dx < width:
                                result[out, y, x] += layer.weight[out, c, dy + 1, dx + 1] * maps[c, y + dy, x + dx]
    return result


@torch.no_grad()
def test_generation_in_loops():
    torch.manual_seed(0)
    generation, maps = Generation(2, 3, (2, 2)), torch.randn(2, 2, 4, 4)
    torch.manual_seed(5)
    generated = generation(maps, 0.5, "channel")
    torch.manual_seed(5)
    mask = torch.rand(2, 3, 1, 1) >= 0.5
    assert 0 < mask.sum() < 6
    for image in range(2):
        small = maps[image].reshape(2, 2, 2, 2, 2).mean((2, 4))
        aligned = torch.einsum("oc,chw->ohw", generation.align.weight[:, :, 0, 0], small)
        masked = (aligned + generation.align.bias[:, None, None]) * mask[image]
        hidden = convolved(masked, generation.generate[0]).clamp(min=0)
        assert torch.allclose(generated[image], convolved(hidden, generation.generate[2]), atol=1e-5)


def test_maps_of_equal_width_are_not_aligned_and_smaller_ones_are_enlarged():
    generation = Generation(3, 3, (4, 4))
    assert [name for name, _ in generation.named_parameters() if "align" in name] == []
    assert generation(torch.randn(2, 3, 2, 2), 0.1, "position").shape == (2, 3, 4, 4)


def test_the_class_draws_anew_each_step_and_by_the_global_seed(make_context, make_inputs):
    student, teacher, batch = make_inputs(batch=8)
    method = MGD(MGDConfig(masked=0.5), make_context())
    assert (method.needs.student, method.needs.teacher) == (("bottom",), ("bottom",))

    def term():
        return method(student, teacher, batch)["mgd"].item()

    torch.manual_seed(1)
    first, second = term(), term()
    torch.manual_seed(1)
    assert term() == first != second


def test_without_a_mask_the_class_is_the_plain_loss(make_context, make_inputs):
    student, teacher, batch = make_inputs()
    method = MGD(MGDConfig(masked=0.0, student_tap="front"), make_context())
    terms = method(student, teacher, batch)
    assert list(terms) == ["mgd"]
    small = student.taps["front"].reshape(4, 2, 2, 4, 2, 4).mean((3, 5))
    generated = method.generation.generate(method.generation.align(small))
    assert torch.allclose(terms["mgd"], mgd_loss(generated, teacher.taps["bottom"]))


def test_refusals(make_context):
    with pytest.raises(ShapeError) as refusal:
        mgd_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 2, 2))
    assert str(refusal.value) == (
        "mgd_loss needs two maps of one shape, got generated (1, 2, 2, 2) and teacher (1, 3, 2, 2); "
        "generate the map at the teacher's shape."
    )
    with pytest.raises(ShapeError, match=r"Generation was built for a map \(B, 2, H, W\), got \(1, 3, 2, 2\)"):
        Generation(2, 3, (2, 2))(torch.zeros(1, 3, 2, 2), 0.1, "channel")
    with pytest.raises(ConfigError, match=r"method\.mgd\.masked: got 1"):
        resolve({"mgd": {"masked": 1}})
    with pytest.raises(ShapeError, match="teacher tap 'penultimate' must be a map"):
        MGD(MGDConfig(teacher_tap="penultimate"), make_context())
