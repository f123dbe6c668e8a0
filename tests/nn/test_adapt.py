import pytest
import torch

from mfkd.errors import ShapeError
from mfkd.nn.adapt import Levels, Regressor, answering

SHAPES = [(2, 8, 8), (3, 2, 2)]


def test_is_a_linear_map_of_each_position_before_its_norm():
    torch.manual_seed(0)
    regressor, maps = Regressor(SHAPES, 5, (4, 4)).eval(), [torch.randn(2, 2, 8, 8), torch.randn(2, 3, 4, 4)]
    both = torch.cat([maps[0].reshape(2, 2, 4, 2, 4, 2).mean((3, 5)), maps[1]], dim=1)
    expected = torch.einsum("oc,bchw->bohw", regressor.conv.weight[:, :, 0, 0], both) / (1 + 1e-5) ** 0.5
    assert torch.allclose(regressor(maps), expected, atol=1e-5)


def test_smaller_maps_are_enlarged():
    regressor = Regressor(SHAPES, 5, (4, 4))
    assert regressor([torch.randn(2, *shape) for shape in SHAPES]).shape == (2, 5, 4, 4)


def test_refusals():
    regressor = Regressor(SHAPES, 5, (4, 4))
    with pytest.raises(ShapeError, match="built for 2 levels, got 1 maps"):
        regressor([torch.zeros(2, 2, 8, 8)])
    with pytest.raises(ShapeError, match=r"Regressor was built for a map \(B, 3, H, W\), got \(2, 2, 8, 8\)"):
        regressor([torch.zeros(2, 2, 8, 8)] * 2)


def test_levels_have_weights_of_their_own():
    torch.manual_seed(0)
    levels, maps = Levels(SHAPES, (4, 5), (4, 4)).eval(), [torch.randn(2, *shape) for shape in SHAPES]
    found = levels(maps)
    assert found.shape == (2, 9, 4, 4)
    for i, (begun, ended) in enumerate([(0, 4), (4, 9)]):
        other = [tap if j == i else torch.randn_like(tap) for j, tap in enumerate(maps)]
        assert torch.equal(levels(other)[:, begun:ended], found[:, begun:ended])
        assert not torch.equal(levels(other), found)
    pooled = maps[0].reshape(2, 2, 4, 2, 4, 2).mean((3, 5))
    expected = torch.einsum("oc,bchw->bohw", levels.levels[0].conv.weight[:, :, 0, 0], pooled) / (1 + 1e-5) ** 0.5
    assert torch.allclose(found[:, :4], expected, atol=1e-5)
    with pytest.raises(ShapeError, match="Levels was built for 2 levels, got 1 maps"):
        levels(maps[:1])
    with pytest.raises(ShapeError, match=r"Align was built for a map \(B, 3, H, W\), got \(2, 2, 8, 8\)"):
        levels(maps[:1] * 2)


@pytest.mark.parametrize(
    ("teacher", "widths"),
    [
        ([7, 9], [7, 9]),
        ([7, 9, 1, 2], [16, 3]),  # of two teachers, a student's level answers its own of both
        ([7, 9, 1], None),  # numbers that do not pair up: all answer all
        ([7], None),
    ],
)
def test_each_level_answers_the_teachers_own(teacher, widths):
    part = answering(SHAPES, teacher, (4, 4))
    assert part([torch.randn(2, *shape) for shape in SHAPES]).shape == (2, sum(teacher), 4, 4)
    if widths is None:
        assert isinstance(part, Regressor)
    else:
        assert [level.conv.out_channels for level in part.levels] == widths
