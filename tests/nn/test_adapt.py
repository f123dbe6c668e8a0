import pytest
import torch

from mfkd.errors import ShapeError
from mfkd.nn.adapt import Regressor

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
