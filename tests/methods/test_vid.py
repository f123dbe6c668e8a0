import math

import pytest
import torch
import torch.nn.functional as F

from mfkd.errors import ConfigError, ShapeError
from mfkd.methods import resolve
from mfkd.methods.vid import FLOOR, VID, Variational, VIDConfig, vid_loss


def test_value_by_hand():
    mean, teacher = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1), torch.tensor([3.0, 0.0]).reshape(1, 2, 1, 1)
    value = vid_loss(mean, torch.tensor([2.0, 0.5]), teacher).item()
    assert value == pytest.approx((0.5 * (4 / 2 + math.log(2)) + 0.5 * math.log(0.5)) / 2)


def test_slow_reference():
    torch.manual_seed(0)
    mean, teacher = torch.randn(2, 2, 3, 2, 2, dtype=torch.float64)
    variance = torch.rand(3, dtype=torch.float64) + 0.1
    total = 0.0
    for image in range(2):
        for channel in range(3):
            v = variance[channel].item()
            for y in range(2):
                for x in range(2):
                    gap = mean[image, channel, y, x].item() - teacher[image, channel, y, x].item()
                    total += (gap**2 / v + math.log(v)) / 2
    assert vid_loss(mean, variance, teacher).item() == pytest.approx(total / 24)
    full = variance[:, None, None].expand_as(mean)
    assert torch.allclose(vid_loss(mean, variance, teacher), F.gaussian_nll_loss(mean, teacher, full))


def test_gradcheck_in_mean_and_variance():
    torch.manual_seed(0)
    mean, teacher = torch.randn(2, 2, 2, 2, 2, dtype=torch.float64)
    variance = (torch.rand(2, dtype=torch.float64) + 0.1).requires_grad_()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: vid_loss(m, v, teacher), (mean.requires_grad_(), variance))
    vid_loss(mean, variance, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("variance", [1e-3, 5.0, 200.0])
def test_every_variance_starts_at_the_option(variance):
    predictor = Variational(2, 3, variance)
    mean, spread = predictor(torch.randn(1, 2, 2, 2))
    assert mean.shape == (1, 3, 2, 2)
    assert spread.tolist() == pytest.approx([variance] * 3, rel=1e-4)


def test_the_variance_is_learnt_and_stays_above_its_floor():
    """For a mean of 0 the likelihood is largest where each variance is its channel's mean square."""
    torch.manual_seed(0)
    target = torch.randn(64, 3, 2, 2) * torch.tensor([0.5, 1.0, 3.0])[:, None, None]
    predictor = Variational(2, 3, 5.0)
    torch.nn.init.zeros_(predictor.mean[4].weight)
    optimizer = torch.optim.Adam([predictor.scale], lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        vid_loss(*predictor(torch.ones(64, 2, 2, 2)), target).backward()
        optimizer.step()
    variance = predictor(torch.ones(64, 2, 2, 2))[1]
    assert torch.allclose(variance, target.square().mean((0, 2, 3)), rtol=1e-2)
    with torch.no_grad():
        predictor.scale.fill_(-1000.0)
    assert predictor(torch.ones(1, 2, 2, 2))[1].tolist() == pytest.approx([FLOOR] * 3)


def test_the_class_trains_its_variances_and_pools_the_larger_map(make_context, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    config = VIDConfig(student_taps=("front", "bottom"), teacher_taps=("bottom", "front"), variance=2.0)
    method = VID(config, make_context())
    terms = method(student, teacher, batch)
    assert list(terms) == ["vid"]
    front, bottom = student.taps["front"], student.taps["bottom"]
    small = front.reshape(4, 2, 2, 4, 2, 4).mean((3, 5))
    large = teacher.taps["front"].reshape(4, 4, 2, 4, 2, 4).mean((3, 5))
    expected = [
        vid_loss(*method.predictors[0](small), teacher.taps["bottom"]),
        vid_loss(*method.predictors[1](bottom), large),
    ]
    assert torch.allclose(terms["vid"], sum(expected), atol=1e-6)
    terms["vid"].backward()
    scales = {name: p for name, p in method.named_parameters() if name.endswith("scale")}
    assert [p.numel() for p in scales.values()] == [8, 4]
    assert all(p.grad.abs().min() > 0 for p in scales.values())


def test_all_stages_by_default(make_context):
    assert VID(VIDConfig(), make_context()).pairs == [(name, name) for name in ("stage1", "stage2", "stage3")]


def test_refusals(make_context):
    maps = torch.zeros(1, 2, 2, 2)
    with pytest.raises(ShapeError) as refusal:
        vid_loss(maps, torch.ones(3), maps)
    assert str(refusal.value) == (
        "vid_loss needs two maps (B, C, h, w) of one shape and C variances, got mean (1, 2, 2, 2), variance (3,) and "
        "teacher (1, 2, 2, 2); resize the maps first."
    )
    with pytest.raises(ShapeError, match=r"got mean \(1, 2, 2, 2\), variance \(2,\) and teacher \(1, 2, 1, 2\)"):
        vid_loss(maps, torch.ones(2), maps[:, :, :1])
    with pytest.raises(ShapeError, match=r"Variational was built for a map \(B, 3, H, W\), got \(1, 2, 2, 2\)"):
        Variational(3, 2, 5.0)(maps)
    with pytest.raises(ConfigError, match=r"method\.vid\.variance: got 0"):
        resolve({"vid": {"variance": 0}})
    with pytest.raises(ShapeError, match="teacher tap 'penultimate' must be a map"):
        VID(VIDConfig(teacher_taps=("penultimate",)), make_context())
