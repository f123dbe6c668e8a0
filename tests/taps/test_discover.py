"""Kinds of networks that name no maps of their own."""

import torch
from torch import Tensor, nn

from mfkd.models import build_model
from mfkd.taps import describe, find_taps, read


def stages(model: nn.Module, *shape: int) -> list[tuple[str, tuple[int, ...] | None]]:
    taps = find_taps(model, shape)  # type: ignore[arg-type]
    return [(spec.path, spec.shape) for name, spec in taps.items() if name.startswith("stage")]


class Block(nn.Module):
    """Tokens or channels-last maps to the same shape; a tuple, as many libraries do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x + self.mix(x), None


class TokenPyramid(nn.Module):
    """Tokens at two resolutions, four at a time put together in between; a class token joins at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 2, 2)
        self.first = nn.ModuleList(Block(6) for _ in range(2))
        self.down = nn.Conv2d(6, 8, 2, 2)
        self.second = nn.ModuleList(Block(8) for _ in range(3))
        self.fc = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image)
        size = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        for block in self.first:
            x, _ = block(x)
        x = self.down(x.transpose(1, 2).unflatten(2, size)).flatten(2).transpose(1, 2)
        for number, block in enumerate(self.second):
            if number == 1:
                x = torch.cat([x[:, :1], x], 1)
            x, _ = block(x)
        return self.fc(x[:, 0])


def test_a_pyramid_of_tokens() -> None:
    model = TokenPyramid()
    assert stages(model, 3, 8, 12) == [("first.1", (6, 4, 6)), ("second.2", (8, 2, 3))]
    assert find_taps(model, (3, 8, 12))["bottom"].prefix_tokens == 1


def test_blocks_of_one_resolution_are_read_at_thirds() -> None:
    class Isotropic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 4, 4)
            self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()) for _ in range(4)))
            self.fc = nn.Linear(6, 3)

        def forward(self, image: Tensor) -> Tensor:
            return self.fc(self.blocks(self.stem(image)).mean((2, 3)))

    paths = [path for path, _ in stages(Isotropic(), 3, 16, 16)]
    assert paths == ["blocks.1", "blocks.2", "blocks.3"]


def test_a_block_that_is_called_several_times_is_read_at_its_last_call() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Linear(4, 2)

        def forward(self, image: Tensor) -> Tensor:
            x = self.stem(image)
            for _ in range(3):
                x = self.conv(x)
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    model = Shared().eval()
    assert stages(model, 3, 16, 16) == [("stem", (4, 16, 16)), ("conv", (4, 2, 2))]
    image = torch.randn(2, 3, 16, 16)
    out = read(model, image, [find_taps(model, (3, 16, 16))["bottom"]])
    torch.testing.assert_close(model.fc(out.taps["bottom"].mean((2, 3))), out.logits)


class Windows(nn.Module):
    """A block of channels-last maps that works in windows and with a square table beside them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.table, self.grid = nn.Linear(width, width), nn.Linear(2, width), nn.Identity()
        self.register_buffer("places", torch.zeros(1, 15, 15, 2))

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        bias = self.table(self.places).mean((1, 2))  # type: ignore[operator]
        windows = x.reshape(batch, 4, height * width // 4, channels)
        return x + (self.inner(windows) + bias).reshape(x.shape)


def test_windows_and_tables_inside_blocks_are_no_stages() -> None:
    class Swin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.block, self.down = nn.Conv2d(3, 4, 2, 2), Windows(4), nn.Conv2d(4, 6, 2, 2)
            self.last, self.norm, self.fc = Windows(6), nn.LayerNorm(6), nn.Linear(6, 2)

        def forward(self, image: Tensor) -> Tensor:
            x = self.block(self.embed(image).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.fc(self.norm(self.last(self.down(x).permute(0, 2, 3, 1))).mean((1, 2)))

    assert stages(Swin(), 3, 32, 32) == [("block", (4, 16, 16)), ("norm", (6, 8, 8))]


def test_class_scores_and_pools_to_a_fixed_size_are_no_features() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.pool = nn.Conv2d(3, 8, 2, 2), nn.AdaptiveAvgPool2d(16)
            self.score, self.relu = nn.Conv2d(8, 5, 1), nn.ReLU()

        def forward(self, image: Tensor) -> Tensor:
            return self.relu(self.score(self.pool(self.body(image)))).mean((2, 3))

    assert stages(Scores(), 3, 8, 8) == [("body", (8, 4, 4))]


def test_hybrids_are_read_in_their_tokens() -> None:
    model = build_model("timm/vit_tiny_r_s16_p8_224", num_classes=4, img_size=64, depth=3)
    rows = describe(model, (3, 64, 64))
    assert [(row.path, row.shape) for row in rows[:3]] == [(f"blocks.{n}", (192, 2, 2)) for n in range(3)]
    assert rows[0].reason == "end of third 1 of 3 equal maps"


def test_module_paths_are_taken_as_given() -> None:
    from mfkd.taps import TapsOf

    taps = TapsOf(build_model("timm/vit_tiny_patch16_224", num_classes=4, img_size=64, depth=3), (3, 64, 64))
    assert (taps["blocks.0.mlp"].layout, taps["blocks.0.mlp"].shape) == ("tokens", (192, 4, 4))
