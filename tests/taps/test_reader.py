"""Reading and probing taps: layouts, hooks that always go, and refusals."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mfkd.taps.reader
from mfkd.errors import ShapeError, UnknownNameError
from mfkd.models import build_model
from mfkd.taps import TapReader, find_taps, probe, read
from mfkd.taps.probe import count_classes
from mfkd.types import TapSpec


class Toy(nn.Module):
    """Keeps its input in several layouts; `branch` may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.nhwc, self.tokens, self.branch = nn.Identity(), nn.Identity(), nn.Identity()
        self.norm, self.fc = nn.BatchNorm2d(3), nn.Linear(3, 2)
        self.fails = self.branches = False

    def forward(self, image: Tensor) -> Tensor:
        if self.branches:
            self.branch(image)
        self.nhwc(image.permute(0, 2, 3, 1))
        self.tokens(torch.cat([torch.full((len(image), 1, 3), 9.0), image.flatten(2).transpose(1, 2)], dim=1))
        if self.fails:
            raise RuntimeError("broken")
        return self.fc(self.norm(image).mean((2, 3)))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


SPECS = (
    TapSpec("a", "norm", 3),
    TapSpec("a.in", "norm", 3, side="input"),
    TapSpec("alias", "norm", 3),
    TapSpec("b", "nhwc", 3, layout="nhwc"),
    TapSpec("c", "tokens", 3, layout="tokens", prefix_tokens=1, grid=(2, 4)),
    TapSpec("v", "fc", 3, side="input", layout="vector"),
)


def test_every_layout_comes_out_as_the_same_map() -> None:
    image = torch.randn(5, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    model = Toy().eval()
    out = read(model, image, SPECS)
    for name in ("a.in", "b", "c"):
        assert torch.equal(out.taps[name], image)
    assert out.taps["alias"] is out.taps["a"]
    assert torch.equal(model.fc(out.taps["v"]), out.logits)


def test_gradients_flow_through_taps() -> None:
    model, image = Toy(), torch.randn(2, 3, 2, 4, requires_grad=True)
    read(model, image, SPECS).taps["c"].sum().backward()
    assert torch.equal(image.grad, torch.ones_like(image))


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_removed(fails: bool) -> None:
    model = Toy()
    model.fails = fails
    with TapReader(model, SPECS):
        assert hooks(model) == len(SPECS)
    try:
        read(model, torch.zeros(2, 3, 2, 4), SPECS)
    except RuntimeError:
        assert fails
    assert hooks(model) == 0
    with pytest.raises(UnknownNameError):
        read(model, torch.zeros(2, 3, 2, 4), (*SPECS, TapSpec("x", "nowhere", 1)))
    assert hooks(model) == 0


def test_a_reader_can_be_used_again_and_keeps_nothing_old() -> None:
    model = Toy()
    model.branches = True
    reader = TapReader(model, [TapSpec("x", "branch", 3)])
    with reader:
        model(torch.ones(2, 3, 2, 4))
    assert reader.taps["x"].sum() == 48
    model.branches = False
    with reader:
        model(torch.ones(2, 3, 2, 4))
    with pytest.raises(ShapeError) as caught:
        _ = reader.taps
    assert str(caught.value) == (
        "tap 'x' was not reached: the forward pass never ran module 'branch'; name a module that it runs."
    )


def test_unknown_paths_are_answered_with_near_ones() -> None:
    with pytest.raises(
        UnknownNameError, match=r"^unknown module path 'nrom'; did you mean norm.* tap 'x' is read there"
    ):
        read(Toy(), torch.zeros(2, 3, 2, 4), [TapSpec("x", "nrom", 3)])


def test_wrong_layouts_are_refused() -> None:
    image = torch.zeros(2, 3, 2, 4)
    with pytest.raises(ShapeError) as caught:
        read(Toy(), image, [TapSpec("x", "fc", 3)])
    assert str(caught.value) == (
        "tap 'x' reads the output of 'fc' as layout 'nchw', got shape (2, 2); "
        "declare another layout or name another module."
    )
    with pytest.raises(
        ShapeError, match=r"'c' at 'tokens' has 8 tokens after 1 prefix tokens, expected a grid of 2 x 2; declare its"
    ):
        read(Toy(), image, [replace(SPECS[4], grid=None)])


@pytest.mark.parametrize(
    ("output", "text"),
    [((torch.zeros(1, 2), 3), "returned tuple"), (torch.zeros(1, 2, 1), r"returned a tensor of shape \(1, 2, 1\)")],
)
def test_networks_must_return_logits_alone(output: object, text: str) -> None:
    class Odd(nn.Module):
        def forward(self, image: Tensor) -> object:
            return output

    with pytest.raises(ShapeError, match=rf"^Odd {text}, expected logits \(B, K\) alone; wrap it in a module"):
        read(Odd(), torch.zeros(1, 3, 2, 4))


def test_probe_fills_shapes_and_strides_and_changes_nothing() -> None:
    model = build_model("resnet8", num_classes=3).double()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    specs = probe(model, (3, 33, 21), [TapSpec("x", "layer2", 32), *model.tap_points])
    assert (specs["x"].shape, specs["x"].stride) == ((32, 17, 11), 2)
    assert (specs["stage3"].shape, specs["stage3"].stride) == ((64, 9, 6), 4)
    assert specs["penultimate"].shape == (64,)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert hooks(model) == 0


def test_probe_restores_modes_after_a_failure() -> None:
    model = build_model("resnet8")
    with pytest.raises(ShapeError):
        probe(model, (1, 32, 32), model.tap_points)
    assert all(module.training for module in model.modules())


class Failing(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.body, self.error = nn.Identity(), error

    def forward(self, image: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("ask", [count_classes, find_taps, lambda model, shape: probe(model, shape, [])])
def test_a_network_that_cannot_take_the_image_is_told_in_one_line(ask: Callable[[nn.Module, Any], object]) -> None:
    for error in (RuntimeError("Output size is too small.\nmore"), AssertionError("Output size is too small")):
        model = Failing(error)
        with pytest.raises(ShapeError) as caught:
            ask(model, (3, 8, 8))
        assert str(caught.value) == (
            "Failing cannot take an image of shape (3, 8, 8) (Output size is too small); "
            "give images that it takes (a teacher's: teacher.image_size), or name another network."
        )
        assert model.body.training
        assert hooks(model) == 0
    with pytest.raises(ShapeError, match=r"^Failing cannot take an image of shape \(3, 8, 8\) \(RuntimeError\);"):
        ask(Failing(RuntimeError()), (3, 8, 8))
    with pytest.raises(torch.OutOfMemoryError):  # says nothing of the shape
        ask(Failing(torch.OutOfMemoryError("no memory")), (3, 8, 8))


def test_probe_refuses_what_measures_otherwise() -> None:
    model = build_model("resnet8")
    with pytest.raises(
        ShapeError, match=r"^tap 'x' at 'layer2' gave 32 channels, expected 16 as declared; correct its TapSpec\.$"
    ):
        probe(model, (3, 32, 32), [TapSpec("x", "layer2", 16, 2)])
    with pytest.raises(
        ShapeError, match=r"^tap 'x' at 'layer2' gave a map of 16 x 16 for an image of 32 x 32, expected stride 4 as"
    ):
        probe(model, (3, 32, 32), [TapSpec("x", "layer2", 32, 4)])


def test_the_example_of_the_reader_runs() -> None:
    import doctest

    assert doctest.testmod(mfkd.taps.reader) == doctest.TestResults(failed=0, attempted=5)


def test_one_of_several_tensors() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = Split(), nn.Linear(3, 2)

        def forward(self, image: Tensor) -> Tensor:
            given = self.body(image)
            return self.fc(given["rest"][1].mean((2, 3)))

    class Split(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"first": x, "none": None, "rest": [2 * x, 3 * x]}

    image = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    specs = [TapSpec(str(item), "body", 3, item=item) for item in range(3)]
    taps = read(Several(), image, specs).taps
    for item in range(3):
        assert torch.equal(taps[str(item)], (item + 1) * image)
    with pytest.raises(ShapeError, match=r"^tap 'x' reads the output of 'body' as layout 'nchw', got dict; declare"):
        read(Several(), image, [TapSpec("x", "body", 3, item=3)])
