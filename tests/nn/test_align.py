import pytest
import torch
import torch.nn.functional as F

from mfkd.errors import ShapeError
from mfkd.nn.align import Align, Standardise, enlarge, shrink, to_smaller


def test_shrink_averages_and_leaves_smaller_sides():
    maps = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert shrink(maps, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert shrink(maps, (8, 2)).shape == (1, 1, 4, 2)
    assert shrink(maps, (4, 9)) is maps


@pytest.mark.parametrize("size", [(3, 4), (6, 2), (4, 5), (3, 5)])  # whole multiples of 12 x 8, and others
def test_shrink_is_adaptive_averaging_at_any_ratio(size):
    maps = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    wanted, got = F.adaptive_avg_pool2d(maps, size), shrink(maps, size)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-14)
    towards = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).double()
    gradients = [torch.autograd.grad((pooled * towards).sum(), maps)[0] for pooled in (wanted, got)]
    assert torch.allclose(*gradients, rtol=0, atol=1e-14)


def test_enlarge_interpolates():
    maps = torch.tensor([[[[0.0, 4.0]]]])
    assert enlarge(maps, (1, 4)).flatten().tolist() == [0, 1, 3, 4]
    assert enlarge(maps, (1, 2)) is maps


def test_to_smaller_takes_the_smaller_height_and_the_smaller_width():
    first, second = torch.arange(8.0).reshape(1, 1, 4, 2), torch.arange(8.0).reshape(1, 1, 2, 4)
    pooled = to_smaller("it", first, second)
    assert pooled[0].flatten().tolist() == [1, 2, 5, 6]
    assert pooled[1].flatten().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert to_smaller("it", first, first[:, :, :2])[1].shape == (1, 1, 2, 2)


@pytest.mark.parametrize("other", [(3, 1, 2, 2), (2, 4)])
def test_to_smaller_refuses_what_is_not_one_batch_of_maps(other):
    with pytest.raises(ShapeError, match=r"it needs two maps \(B, C, H, W\) of one batch, got \(2, 1, 2, 2\) and"):
        to_smaller("it", torch.zeros(2, 1, 2, 2), torch.zeros(other))


def test_align_pools_before_and_interpolates_after_the_convolution():
    torch.manual_seed(0)
    align = Align(3, 5, (4, 4)).eval()
    seen = []
    align.conv.register_forward_hook(lambda _, args, __: seen.append(tuple(args[0].shape[-2:])))
    assert align(torch.randn(2, 3, 16, 16)).shape == (2, 5, 4, 4)
    assert align(torch.randn(2, 3, 2, 2)).shape == (2, 5, 4, 4)
    assert align(torch.randn(2, 3, 2, 8)).shape == (2, 5, 4, 4)
    assert seen == [(4, 4), (2, 2), (2, 4)]
    assert align.conv.bias is None


def test_align_by_its_definition():
    torch.manual_seed(1)
    align, maps = Align(3, 2, (2, 2)), torch.randn(4, 3, 4, 4)
    pooled = maps.reshape(4, 3, 2, 2, 2, 2).mean((3, 5))
    mixed = torch.einsum("oc,bchw->bohw", align.conv.weight[:, :, 0, 0], pooled)
    mean, var = mixed.mean((0, 2, 3), keepdim=True), mixed.var((0, 2, 3), keepdim=True, unbiased=False)
    assert torch.allclose(align(maps), (mixed - mean) / (var + 1e-5).sqrt(), atol=1e-5)


def test_standardise_averages_the_statistics_of_all_batches_alike():
    level = Standardise(1, (1, 1))
    for values in ([0.0, 2.0], [10.0, 14.0], [2.0, 2.0]):
        level(torch.tensor(values).reshape(2, 1, 1, 1))
    level.eval()
    mean, var = (1 + 12 + 2) / 3, (2 + 8 + 0) / 3
    result = level(torch.full((1, 1, 2, 2), 9.0))
    assert result.item() == pytest.approx((9 - mean) / (var + 1e-5) ** 0.5, rel=1e-5)
    assert not list(level.parameters())


def test_standardise_keeps_a_smaller_map_by_interpolation():
    maps = torch.tensor([[[[0.0, 4.0]]]])
    level = Standardise(1, (1, 4)).eval()
    expected = F.interpolate(maps / (1 + 1e-5) ** 0.5, size=(1, 4), mode="bilinear")
    assert torch.allclose(level(maps), expected)


def test_standardise_reduces_a_wide_level_to_its_principal_components():
    torch.manual_seed(3)
    maps = torch.randn(4, 8, 2, 6, 6)
    mixed = torch.einsum("oc,nbchw->nbohw", torch.randn(5, 2), maps) + torch.arange(5.0).reshape(5, 1, 1)
    level = Standardise(5, (3, 3), most=2)
    for batch in mixed:  # rank 2, so that two components lose nothing
        level(batch)
    level.settle()
    level.eval()
    rows = F.adaptive_avg_pool2d(mixed.flatten(0, 1), 3).movedim(1, -1).flatten(0, -2)
    scaled = (rows - level.norm.running_mean) / (level.norm.running_var + 1e-5).sqrt()
    found = level(mixed[1])
    assert found.shape == (8, 2, 3, 3)
    assert torch.allclose(level.basis @ level.basis.T, torch.eye(2), atol=1e-5)
    all_found = level(mixed.flatten(0, 1)).movedim(1, -1).flatten(0, -2)
    assert torch.allclose(all_found @ level.basis, scaled, atol=1e-2)
    spread = torch.cov(all_found.T)
    assert spread[0, 0] > spread[1, 1]
    assert abs(spread[0, 1]) < 1e-3 * spread[0, 0]
    other = Standardise(5, (3, 3), most=2)
    other.load_state_dict(level.state_dict())
    assert torch.equal(other.eval()(mixed[1]), found)


def test_standardise_keeps_all_channels_of_a_narrow_level():
    level = Standardise(3, (1, 1), most=3)
    level.settle()
    assert list(level.state_dict()) == ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    assert level(torch.randn(4, 3, 2, 2)).shape == (4, 3, 1, 1)


@pytest.mark.parametrize("level", [Align(3, 2, (1, 1)), Standardise(3, (1, 1))])
def test_refusals(level):
    name = type(level).__name__
    with pytest.raises(ShapeError, match=rf"{name} was built for a map \(B, 3, H, W\), got \(2, 4, 1, 1\); build it"):
        level(torch.zeros(2, 4, 1, 1))
    with pytest.raises(ShapeError, match=r"cannot train on one image whose map is 1x1.*use batches of 2 or more"):
        level(torch.zeros(1, 3, 1, 1))
    assert level.eval()(torch.zeros(1, 3, 1, 1)).shape[0] == 1
