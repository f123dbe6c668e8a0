import pytest
import torch

from mfkd.errors import ShapeError
from mfkd.nn.conv import ConvNorm


def test_keeps_the_size_and_normalises_each_channel():
    torch.manual_seed(0)
    for kernel in (1, 3, 5):
        out = ConvNorm(3, 4, kernel)(torch.randn(5, 3, 6, 7))
        assert out.shape == (5, 4, 6, 7)
        assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(4), atol=1e-5)
        assert torch.allclose(out.var((0, 2, 3), correction=0), torch.ones(4), atol=1e-3)


def test_refusals():
    part = ConvNorm(3, 4)
    with pytest.raises(ShapeError, match=r"ConvNorm was built for a map \(B, 3, H, W\), got \(2, 5, 4, 4\)"):
        part(torch.zeros(2, 5, 4, 4))
    with pytest.raises(ShapeError, match=r"BatchNorm cannot train on one image whose map is 1x1"):
        part(torch.zeros(1, 3, 1, 1))
    assert part.eval()(torch.zeros(1, 3, 1, 1)).shape == (1, 4, 1, 1)
