"""Networks that name their own maps, as those of timm do, and where those are read."""

import pytest
import torch
from torch import Tensor, nn

from mfkd.models import build_model
from mfkd.taps import find_taps, read
from mfkd.taps.discover import choose, thirds
from mfkd.taps.own import own_maps

SHAPE = (3, 16, 24)


class Named(nn.Module):
    """A network with timm's interface: two convolutions, tokens with a class token, and a head on some final map."""

    feature_info = ({"module": "wrong"}, {"module": "nowhere"}, {"module": "pair"})

    def __init__(self, end: str = "norm") -> None:
        super().__init__()
        self.one, self.two, self.pair = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 1), Pair()
        self.norm, self.mix, self.fc, self.end = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2), end
        self.wrong, self.same = nn.Conv2d(4, 4, 1), nn.Identity()

    def maps(self, image: Tensor) -> list[Tensor]:
        first = self.one(image)
        self.wrong(first)
        second = self.same(self.two(first))
        return [first, second, self.pair(second)[1]]

    def forward_intermediates(self, image: Tensor, intermediates_only: bool = False) -> list[Tensor]:
        assert intermediates_only
        *maps, tokens = self.maps(image)
        return [*maps, tokens[:, 1:].transpose(1, 2).unflatten(2, maps[-1].shape[2:])]

    def forward_features(self, image: Tensor) -> Tensor:
        tokens = self.maps(image)[-1]
        return {"norm": self.norm, "mix": self.mix, "class": lambda x: x[:, 0]}[self.end](tokens)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(
            self.forward_features(image).flatten(1, -2)[:, :4].mean(1)
            if self.end != "class"
            else self.forward_features(image)
        )


class Pair(nn.Module):
    """Gives the map as the second of two tensors, as tokens behind a class token."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = x.flatten(2).transpose(1, 2).cos()
        return x[:, :2], torch.cat([tokens.mean(1, keepdim=True), tokens], 1)


def places(model: nn.Module) -> list[tuple[str, str, int]]:
    return [(own.spec.path, own.spec.layout, own.spec.item) for own in own_maps(model.eval(), SHAPE)]


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("norm", ("pair", "tokens", 1)),  # a norm makes the final features of it
        ("mix", ("mix", "tokens", 0)),  # a linear layer makes others
        ("class", ("pair", "tokens", 1)),  # the final features are no map
    ],
)
def test_own_maps_by_hand(end: str, last: tuple[str, str, int]) -> None:
    torch.manual_seed(0)
    assert places(Named(end)) == [("one", "nchw", 0), ("two", "nchw", 0), last]


def test_the_named_module_is_believed_only_where_it_gives_the_map() -> None:
    torch.manual_seed(0)
    model = Named()
    model.feature_info = ({"module": "one"}, {"module": "one"}, {"module": "pair"})
    assert [path for path, _, _ in places(model)] == ["one", "two", "pair"]
    nn.init.dirac_(model.two.weight)  # now both give the same
    nn.init.zeros_(model.two.bias)
    assert [path for path, _, _ in places(model)] == ["one", "one", "pair"]


def test_a_tensor_among_several_is_read_as_a_map_that_is_not_square() -> None:
    torch.manual_seed(0)
    model = Named().eval()
    taps = find_taps(model, SHAPE)
    assert (taps["bottom"].grid, taps["bottom"].prefix_tokens, taps["bottom"].shape) == ((4, 6), 1, (4, 4, 6))
    image = torch.randn(2, *SHAPE)
    tap = read(model, image, [taps["bottom"]]).taps["bottom"]
    torch.testing.assert_close(tap, model.forward_intermediates(image, intermediates_only=True)[-1])


def test_other_networks_have_no_own_maps() -> None:
    assert own_maps(build_model("resnet8", num_classes=2), SHAPE) == []

    class Other(Named):
        def forward_intermediates(self, image: Tensor) -> list[Tensor]:  # type: ignore[override]
            raise RuntimeError("another interface")

    assert own_maps(Other(), SHAPE) == []


def test_hooks_are_gone_and_nothing_has_changed() -> None:
    model = Named()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own_maps(model, SHAPE)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_thirds_by_hand() -> None:
    assert [thirds(depth) for depth in (3, 4, 5, 12, 14)] == [
        [0, 1, 2],
        [1, 2, 3],
        [1, 3, 4],
        [3, 7, 11],
        [4, 9, 13],
    ]


@pytest.mark.parametrize(
    ("sides", "kept"),
    [
        ((16, 8, 4), (0, 1, 2)),
        ((16, 16, 8, 8, 4), (1, 3, 4)),  # the last at each resolution
        ((30, 28, 13, 6, 2), (1, 2, 3, 4)),  # a border less is no new resolution
        ((8, 8, 8, 8), (1, 2, 3)),  # thirds
        ((8, 4, 4, 4), (0, 2, 3)),  # two resolutions, and one more
        ((8, 8), (0, 1)),
        ((8,), (0,)),
        ((), ()),
    ],
)
def test_choice_among_own_maps(sides: tuple[int, ...], kept: tuple[int, ...]) -> None:
    assert tuple(place for place, _ in choose([(side, side) for side in sides])) == kept


def test_the_table_says_which_tensor_is_read() -> None:
    from mfkd.taps import describe

    torch.manual_seed(0)
    rows = {row.name: row for row in describe(Named(), SHAPE)}
    assert rows["bottom"][1:4] == ("pair", (4, 4, 6), "output 2")
    assert rows["stage1"][1:] == ("one", (4, 4, 6), "output", "end of third 1 of 3 equal maps")
