import pytest
import torch
import torch.nn.functional as F

from mfkd.errors import ShapeError
from mfkd.nn.review import Fuse, Review

STUDENT = [(2, 8, 8), (3, 4, 6), (4, 1, 1)]
TEACHER = [(5, 8, 8), (6, 2, 3), (7, 1, 1)]


def maps(batch=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, *shape, generator=generator) for shape in STUDENT]


def build():
    torch.manual_seed(0)
    return Review(STUDENT, TEACHER, 4)


def test_each_level_gets_its_partners_shape():
    assert [tuple(level.shape[1:]) for level in build()(maps())] == TEACHER


def test_a_level_learns_from_deeper_ones_only():
    part, inputs = build(), maps()
    for level in inputs:
        level.requires_grad_()
    for number in range(3):
        seen = torch.autograd.grad(part(inputs)[number].square().sum(), inputs, allow_unused=True)
        assert [g is not None for g in seen] == [deeper >= number for deeper in range(3)]


@pytest.mark.parametrize(("own", "deeper"), [(50.0, -50.0), (-50.0, 50.0), (-50.0, -50.0)])
def test_attention_weighs_the_level_and_what_the_deeper_one_left(own, deeper):
    torch.manual_seed(0)
    fuse = Fuse(3, 2, 5, (4, 4), deepest=False)
    fuse.attention.weight.data.zero_()
    fuse.attention.bias.data = torch.tensor([own, deeper])
    level, residual = torch.randn(2, 3, 4, 4), torch.randn(2, 2, 2, 2)
    result, left = fuse(level, residual)
    # Open gates are 1 and closed ones 0; the residual is repeated to the level's size.
    mixed = (own > 0) * fuse.inner(level) + (deeper > 0) * residual.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(left, mixed, atol=1e-6)
    assert torch.allclose(result, fuse.outer(mixed), atol=1e-5)


def test_the_gates_are_those_of_a_convolution_over_both():
    torch.manual_seed(0)
    fuse = Fuse(3, 2, 5, (4, 4), deepest=False)
    level, residual = torch.randn(2, 3, 4, 4), torch.randn(2, 2, 4, 4)
    inner = fuse.inner(level)
    both = torch.cat([inner, residual], dim=1)
    gates = 1 / (1 + torch.exp(-F.conv2d(both, fuse.attention.weight, fuse.attention.bias)))
    assert torch.allclose(fuse(level, residual)[1], gates[:, :1] * inner + gates[:, 1:] * residual, atol=1e-6)


def test_refusals():
    with pytest.raises(ShapeError, match=r"Review was built for 3 levels, got 2 maps; give one map a level\."):
        build()(maps()[:2])
