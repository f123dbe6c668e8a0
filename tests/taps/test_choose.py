"""Finding taps in networks that declare none."""

import pytest
import torch
from torch import Tensor, nn

from mfkd.errors import ConfigError, ShapeError, UnknownNameError
from mfkd.models import build_model
from mfkd.taps import describe, find_taps, read, resolve
from mfkd.taps.record import map_layout, token_grid


def table(model: nn.Module, size: int = 64) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (spec.path, spec.shape) for name, spec in find_taps(model, (3, size, size)).items()}


class UserNet(nn.Module):
    """Valid convolutions, one ReLU and one pool for all, as beginners write it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 10, 3, padding=1)
        self.relu, self.pool, self.gap = nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Linear(10, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.gap(self.relu(self.conv3(x)))
        return self.fc2(self.fc1(x.flatten(1)).relu())


def test_a_users_network() -> None:
    # 20 -> 18 -> pool 9 -> 7 -> pool 3; relu and pool are read at their last run alone.
    assert table(UserNet(), 20) == {
        "stage1": ("conv1", (6, 18, 18)),
        "stage2": ("conv2", (8, 7, 7)),
        "stage3": ("relu", (10, 3, 3)),
        "penultimate": ("fc2", (12,)),
        "front": ("conv1", (6, 18, 18)),
        "middle": ("conv2", (8, 7, 7)),
        "bottom": ("relu", (10, 3, 3)),
    }


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.expand, self.conv = nn.Conv2d(inputs, 2 * width, 1), nn.Conv2d(2 * width, width, 3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.expand(x).relu())


def test_what_a_strided_block_starts_with_belongs_to_the_next_stage() -> None:
    body = nn.Sequential(Bottleneck(8, 8, 1), Bottleneck(8, 16, 2), Bottleneck(16, 16, 1), Bottleneck(16, 4, 2))
    model = nn.Sequential(nn.Conv2d(3, 8, 1), body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    taps = table(model, 16)
    # Not 1.1.expand and 1.3.expand, the last outputs of 16 and 8 px.
    assert taps["stage1"] == ("1.0", (8, 16, 16))
    assert taps["stage2"] == ("1.2", (16, 8, 8))
    assert taps["stage3"] == ("1", (4, 4, 4))
    assert taps["penultimate"] == ("4", (4,))


def test_torchvision_resnet() -> None:
    assert table(build_model("torchvision/resnet18", num_classes=4)) == {
        "stage1": ("relu", (64, 32, 32)),
        "stage2": ("layer1", (64, 16, 16)),
        "stage3": ("layer2", (128, 8, 8)),
        "stage4": ("layer3", (256, 4, 4)),
        "stage5": ("layer4", (512, 2, 2)),
        "penultimate": ("fc", (512,)),
        "front": ("relu", (64, 32, 32)),
        "middle": ("layer2", (128, 8, 8)),
        "bottom": ("layer4", (512, 2, 2)),
    }


def test_timm_resnet_goes_by_its_own_maps() -> None:
    model = build_model("timm/resnet18", num_classes=4)
    taps = table(model)
    assert [taps[f"stage{n}"][0] for n in range(1, 6)] == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert taps["bottom"] == ("layer4", (512, 2, 2))
    assert describe(model, (3, 64, 64))[0] == (
        "stage1",
        "act1",
        (64, 32, 32),
        "output",
        "last own map at 32 x 32",
    )
    model.forward_intermediates = None  # then as any other network
    assert [table(model)[f"stage{n}"][0] for n in range(1, 6)] == ["act1", "layer1", "layer2", "layer3", "layer4"]


def test_timm_transformer_is_read_at_the_thirds_of_its_depth() -> None:
    torch.manual_seed(0)
    model = build_model("timm/vit_tiny_patch16_224", num_classes=4, img_size=64).eval()
    assert table(model) == {
        "stage1": ("blocks.3", (192, 4, 4)),
        "stage2": ("blocks.7", (192, 4, 4)),
        "stage3": ("blocks.11", (192, 4, 4)),
        "penultimate": ("head", (192,)),
        "front": ("blocks.3", (192, 4, 4)),
        "middle": ("blocks.7", (192, 4, 4)),
        "bottom": ("blocks.11", (192, 4, 4)),
    }
    spec = find_taps(model, (3, 64, 64))["front"]
    assert (spec.layout, spec.prefix_tokens, spec.grid, spec.stride) == ("tokens", 1, (4, 4), 16)
    blocks = []
    model.blocks[3].register_forward_hook(lambda _, __, output: blocks.append(output))
    tap = read(model, torch.randn(1, 3, 64, 64), [spec]).taps["front"]
    for row in range(4):
        for column in range(4):
            assert torch.equal(tap[0, :, row, column], blocks[0][0, 1 + 4 * row + column])


class Tokens(nn.Module):
    """A patch embedding and equal blocks without class token, not of timm."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(depth))
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean(1))


@pytest.mark.parametrize(("depth", "ends"), [(3, (0, 1, 2)), (4, (1, 2, 3)), (7, (2, 4, 6))])
def test_depth_thirds_by_hand(depth: int, ends: tuple[int, ...]) -> None:
    taps = find_taps(Tokens(depth), (3, 16, 24))
    assert tuple(taps[f"stage{n}"].path for n in (1, 2, 3)) == tuple(f"blocks.{end}" for end in ends)
    assert taps["front"].shape == (6, 4, 6)


def test_channels_last_maps_are_turned() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.fc = nn.Conv2d(3, 6, 2, 2), nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norm(self.embed(x).permute(0, 2, 3, 1)).mean((1, 2)))

    bottom = find_taps(Last(), (3, 16, 16))["bottom"]
    assert (bottom.path, bottom.layout, bottom.shape) == ("norm", "nhwc", (6, 8, 8))


def test_layouts_are_told_by_the_proportions_of_the_image() -> None:
    assert map_layout((1, 64, 7, 7), (224, 224)) == "nchw"
    assert map_layout((1, 7, 7, 64), (224, 224)) == "nhwc"
    assert map_layout((1, 64, 5, 7), (160, 224)) == "nchw"
    assert map_layout((1, 64, 7, 9), (32, 32)) is None
    assert map_layout((1, 3, 300, 300), (224, 224)) is None
    assert token_grid(196, (224, 224)) == (14, 14)
    assert token_grid(35, (160, 224)) == (5, 7)
    assert token_grid(13, (32, 32)) is None


def test_networks_without_maps_are_refused_with_advice() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ShapeError) as caught:
        find_taps(model, (3, 4, 4))
    assert str(caught.value) == (
        "Sequential has no feature map larger than 1 x 1 for images (3, 4, 4); "
        "name module paths as taps, or set its tap_points."
    )


def test_networks_that_return_more_than_logits_are_refused() -> None:
    with pytest.raises(
        ShapeError, match=r"^Conv2d returned Tensor \(1, 2, 4, 4\), expected logits \(B, K\) alone; wrap"
    ):
        find_taps(nn.Conv2d(3, 2, 1), (3, 4, 4))


def test_names_resolve_to_taps_or_modules() -> None:
    model = build_model("vgg8", num_classes=4)
    known = find_taps(model, (3, 32, 32))
    taps = resolve(model, (3, 32, 32), ("middle", "block3", "classifier"), known)
    assert list(taps) == ["middle", "block3", "classifier"]
    assert taps["middle"] is known["middle"]
    assert (taps["block3"].shape, taps["block3"].stride) == ((512, 4, 4), 8)
    assert (taps["classifier"].layout, taps["classifier"].shape) == ("vector", (4,))
    assert resolve(model, (3, 32, 32), (), known) == {}


def test_names_that_are_neither_are_refused() -> None:
    model = UserNet()
    known = find_taps(model, (3, 20, 20))
    with pytest.raises(
        UnknownNameError, match=r"^unknown tap 'midle'; did you mean middle\? taps: stage1, .*module path"
    ):
        resolve(model, (3, 20, 20), ["midle"], known)


def test_modules_that_give_no_map_are_refused() -> None:
    class Idle(UserNet):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.flat = nn.Identity(), nn.Flatten(0)

        def forward(self, x: Tensor) -> Tensor:
            self.flat(x)
            return super().forward(x)

    model = Idle()
    for path, got in (("idle", "did not run in the forward pass"), ("flat", r"gave shape \(1200,\)")):
        with pytest.raises(
            ShapeError, match=rf"^tap '{path}': the module {got}, expected a map \(B, C, H, W\), tokens"
        ):
            resolve(model, (3, 20, 20), [path], {})


def test_declared_taps_are_described() -> None:
    rows = {row.name: row for row in describe(build_model("resnet8"), (3, 32, 32))}
    assert rows["stage1.pre"] == ("stage1.pre", "layer1.0.relu2", (16, 32, 32), "input", "declared by the network")
    assert rows["middle"] == ("middle", "layer2.0.relu2", (32, 16, 16), "output", "stage2 of 3")


class Declared(nn.Sequential):
    """Its classifier is no linear layer, and a linear one that rescales the logits follows it."""

    def __init__(self, head: nn.Module) -> None:
        maps = [nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)]
        super().__init__(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head, nn.Linear(5, 5))


@pytest.mark.parametrize("head", [nn.Linear(8, 5), nn.Bilinear(8, 8, 5)])
def test_the_input_of_a_declared_classifier_is_penultimate(head: nn.Module) -> None:
    if isinstance(head, nn.Bilinear):
        head.forward = lambda features: nn.functional.bilinear(features, features, head.weight, head.bias)  # type: ignore[method-assign]
    model = Declared(head)
    assert table(model)["penultimate"] == ("6", (5,))
    model.classifier_path = "5"
    assert table(model)["penultimate"] == ("5", (8,))


@pytest.mark.parametrize("model", [UserNet(), build_model("resnet8")])
def test_a_compiled_network_is_refused_where_maps_are_wanted(model: nn.Module) -> None:
    text = rf"^{type(model).__name__} is compiled, and feature maps are read within it; give the network itself, and "
    with pytest.raises(ConfigError, match=text):
        find_taps(torch.compile(model, backend="eager"), (3, 32, 32))
    model.compile(backend="eager")
    with pytest.raises(ConfigError, match=text):
        find_taps(model, (3, 32, 32))
