"""Maps that a later operation of the network changes in place."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mfkd.models import build_model
from mfkd.taps import find_taps, read
from mfkd.taps.choose import TapsOf
from mfkd.taps.reader import Tapped, read_taps
from mfkd.types import TapSpec

SHAPE = (3, 32, 32)


class Residual(nn.Module):
    """A block that adds its input to what a BatchNorm gives and lets the ReLU work in place, or does neither."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.inplace, self.conv, self.norm = inplace, nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.relu, self.fc = nn.ReLU(inplace), nn.Linear(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        out = self.norm(self.conv(image))
        if self.inplace:
            out += image
        else:
            out = out + image
        return self.fc(self.relu(out).mean((2, 3)))


def pair() -> tuple[Residual, Residual]:
    torch.manual_seed(0)
    changes = Residual()
    keeps = Residual(inplace=False)
    keeps.load_state_dict(changes.state_dict())
    return changes, keeps


@pytest.mark.parametrize(
    ("name", "path"), [("torchvision/resnet18", "layer4.1.bn2"), ("timm/resnet18", "layer3.1.bn1")]
)
@pytest.mark.parametrize("training", [False, True])
def test_a_module_path_gives_what_the_module_gave(name: str, path: str, training: bool) -> None:
    torch.manual_seed(0)
    model, image = build_model(name, num_classes=3).train(training), torch.randn(4, *SHAPE)
    given = []
    handle = model.get_submodule(path).register_forward_hook(lambda _, __, output: given.append(output.clone()))
    spec = TapsOf(model, SHAPE)[path]
    given.clear()
    tap = read(model, image, [spec]).taps[path]
    handle.remove()
    assert torch.equal(tap, given[0])
    assert tap.min() < 0
    assert spec.overwritten


def test_gradients_are_those_of_a_network_that_changes_nothing_in_place() -> None:
    image = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = []
    for model in pair():
        spec = TapsOf(model, SHAPE)["norm"]
        assert spec.overwritten == model.inplace
        out = read(model, image, [spec])
        (out.taps["norm"].square().mean() + out.logits.square().mean()).backward()
        found.append([out.taps["norm"], *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*found)


def test_nothing_is_copied_where_nothing_is_changed() -> None:
    changes, keeps = pair()
    assert not any(spec.overwritten for spec in find_taps(build_model("resnet8"), SHAPE).values())
    for model, copied in ((keeps, False), (changes, True)):
        given: list[Tensor] = []
        model.norm.register_forward_hook(lambda _, __, output, given=given: given.append(output))
        tap = read(model, torch.zeros(1, *SHAPE), [TapsOf(model, SHAPE)["norm"]]).taps["norm"]
        assert (tap is not given[-1]) == copied


def test_a_declared_tap_is_read_before_the_change_and_a_found_one_after_it() -> None:
    model, _ = pair()
    image = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    true = model.eval().norm(model.conv(image))
    model.tap_points = (TapSpec("stage1.pre", "relu", 3, side="input"), TapSpec("stage1", "relu", 3))
    taps = find_taps(model, SHAPE)
    assert [taps[name].overwritten for name in ("stage1.pre", "stage1", "bottom")] == [True, False, False]
    assert torch.equal(read(model, image, taps.values()).taps["stage1.pre"], true + image)

    torch.manual_seed(0)
    network = build_model("torchvision/densenet121", num_classes=3).eval()
    last, image = TapsOf(network, (3, 64, 64)), torch.randn(2, 3, 64, 64)
    found, named = (read(network, image, [last[name]]).taps[name] for name in ("bottom", "features"))
    assert last["bottom"].path == "features"
    assert named.min() < 0
    assert torch.equal(found, named.relu())


def test_a_pass_that_ends_early_and_a_compiled_one_read_the_same() -> None:
    model, _ = pair()
    image = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    spec = replace(TapsOf(model.eval(), SHAPE)["norm"], name="x")
    true = model.norm(model.conv(image))
    assert torch.equal(read(model, image, [spec]).taps["x"], true)
    assert torch.equal(read_taps(model, image, [spec])["x"], true)
    tapped = Tapped(model, [spec])
    logits, taps = torch.compile(tapped, backend="aot_eager", fullgraph=True)(image)
    tapped.remove()
    torch.testing.assert_close(taps["x"], true)
    torch.testing.assert_close(logits, model(image))


def test_taps_are_found_in_inference_mode_too() -> None:
    model, _ = pair()
    with torch.inference_mode():
        assert TapsOf(model, SHAPE)["norm"].overwritten
