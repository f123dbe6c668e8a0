import pytest
import torch

from mfkd.errors import ConfigError, ShapeError, UnknownNameError
from mfkd.nn.fuse import KINDS, Concat, Fusion, TopDown, weighted_sum

SHAPES = [(4, 16, 16), (6, 8, 8), (8, 4, 4)]


def maps_of(shapes, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *shape, generator=generator) for shape in shapes]


def test_weighted_sum_by_hand():
    levels = [torch.full((1, 2, 1, 2), 1.0), torch.full((1, 2, 1, 2), 10.0)]
    weights = torch.tensor([[[[0.25, 1.0]], [[0.75, 0.0]]]])
    assert weighted_sum(levels, weights).tolist() == [[[[7.75, 1.0]], [[7.75, 1.0]]]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_levels_and_any_size(kind, count):
    torch.manual_seed(0)
    shapes = SHAPES[-count:]
    for size in [(4, 4), (2, 3), (8, 8)]:
        fusion = Fusion(shapes, 10, size, kind)
        assert fusion.channels == (sum(s[0] for s in shapes) if kind == "static" else 10)
        assert fusion(maps_of(shapes)).shape == (3, fusion.channels, *size)


def test_attention_sums_to_one_and_decides_the_result():
    torch.manual_seed(1)
    fusion, maps = Fusion(SHAPES, 10, (4, 4)).eval(), maps_of(SHAPES)
    weights = fusion.attention(maps)
    assert weights.shape == (3, 3, 4, 4)
    assert torch.allclose(weights.sum(1), torch.ones(3, 4, 4))
    assert weights.std() > 0.01
    # A score that favours the last level beyond doubt leaves that level alone.
    with torch.no_grad():
        fusion.mix.score.weight.zero_()
        fusion.mix.score.bias.copy_(torch.tensor([0.0, 0.0, 100.0]))
    assert torch.allclose(fusion(maps), fusion.mix.smooth(fusion.levels[2](maps[2])), atol=1e-6)


def test_attention_by_loops():
    torch.manual_seed(2)
    fusion, maps = Fusion(SHAPES, 5, (4, 4)).eval(), maps_of(SHAPES)
    levels, score = fusion.align(maps), fusion.mix.score
    mixed = torch.zeros(3, 5, 4, 4)
    for b in range(3):
        for y in range(4):
            for x in range(4):
                column = torch.cat([level[b, :, y, x] for level in levels])
                raw = score.weight[:, :, 0, 0] @ column + score.bias
                weights = raw.exp() / raw.exp().sum()
                mixed[b, :, y, x] = sum(w * level[b, :, y, x] for w, level in zip(weights, levels, strict=True))
    assert torch.allclose(fusion(maps), fusion.mix.smooth(mixed), atol=1e-5)


def test_concat_by_its_definition():
    torch.manual_seed(3)
    concat, levels = Concat(2, 3).eval(), maps_of([(3, 4, 4)] * 2)
    first, second = concat.conv.weight[:, :, 0, 0].split(3, dim=1)
    expected = torch.einsum("oc,bchw->bohw", first, levels[0]) + torch.einsum("oc,bchw->bohw", second, levels[1])
    assert torch.allclose(concat(levels), expected / (1 + 1e-5) ** 0.5, atol=1e-5)


@pytest.mark.parametrize(("bias", "kept"), [(-100.0, 2), (100.0, 0)])
def test_topdown_gates_run_from_the_last_level_to_the_first(bias, kept):
    torch.manual_seed(4)
    topdown, levels = TopDown(3, 5).eval(), maps_of([(5, 4, 4)] * 3)
    for gate in topdown.gates:
        torch.nn.init.zeros_(gate.weight)
        torch.nn.init.constant_(gate.bias, bias)
    assert torch.allclose(topdown(levels), topdown.smooth(levels[kept]), atol=1e-5)


def test_topdown_half_open_gates_halve():
    topdown, levels = TopDown(3, 5).eval(), maps_of([(5, 4, 4)] * 3)
    for gate in topdown.gates:
        torch.nn.init.zeros_(gate.weight)
        torch.nn.init.zeros_(gate.bias)
    mixed = levels[0] / 2 + levels[1] / 4 + levels[2] / 4
    assert torch.allclose(topdown(levels), topdown.smooth(mixed), atol=1e-5)


def test_static_has_no_parameters_and_standardises_each_channel():
    fusion = Fusion(SHAPES[:1], 99, (16, 16), "static")
    fused = fusion([maps_of(SHAPES)[0] * 5 + 3])
    assert not list(fusion.parameters())
    assert torch.allclose(fused.mean((0, 2, 3)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(fused.std((0, 2, 3)), torch.ones(4), atol=1e-2)


def test_static_reduces_levels_that_are_too_wide():
    fusion = Fusion(SHAPES, 5, (4, 4), "static")
    assert (fusion.widths, fusion.channels) == ([4, 5, 5], 14)
    fusion(maps_of(SHAPES))
    fusion.settle()
    assert fusion.eval()(maps_of(SHAPES)).shape == (3, 14, 4, 4)
    assert Fusion(SHAPES, 5, (4, 4), "attention").widths == [5, 5, 5]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "static"])
def test_every_level_gets_a_gradient(kind):
    torch.manual_seed(5)
    maps = [tap.requires_grad_() for tap in maps_of(SHAPES)]
    Fusion(SHAPES, 10, (4, 4), kind).eval()(maps)[:, 0].sum().backward()
    for tap in maps:
        assert tap.grad.abs().sum() > 0


def test_refusals():
    with pytest.raises(UnknownNameError, match="unknown fusion kind 'atention'; did you mean attention"):
        Fusion(SHAPES, 10, (4, 4), "atention")
    with pytest.raises(ConfigError, match="needs the shape of at least one map, got none; name one tap or more"):
        Fusion([], 10, (4, 4))
    with pytest.raises(ShapeError, match="built for 3 levels, got 2 maps; give one map a level"):
        Fusion(SHAPES, 10, (4, 4))(maps_of(SHAPES[:2]))
    with pytest.raises(ConfigError, match="fusion kind 'concat' has no attention weights; use kind=attention"):
        Fusion(SHAPES, 10, (4, 4), "concat").attention(maps_of(SHAPES))
