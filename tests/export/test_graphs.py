import pytest
import torch
from torch import nn

from mfkd.errors import MfkdError
from mfkd.export.feed import Feed, batch
from mfkd.export.graphs import capture, fold, save_program


def feed(channels=1, side=4, classes=3, embedded=False):
    names = tuple(map(str, range(classes)))
    return Feed("net", names, channels, (side, side), (0.4,) * channels, (0.25,) * channels, embedded=embedded)


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1.0)
        with torch.no_grad():
            self.conv.weight.fill_(2)
            self.norm.running_mean.fill_(1)
            self.norm.running_var.fill_(3)
            self.norm.weight.fill_(4)
            self.norm.bias.fill_(5)

    def forward(self, x):
        return self.norm(self.conv(x)).flatten(1)


def test_fold_by_hand():
    # 4 (2x - 1) / sqrt(3 + 1) + 5 = 4x + 3
    program = capture(One(), feed(side=2))
    names = [str(node.target) for node in program.graph.nodes]
    assert not any("batch_norm" in name for name in names)
    (weight, bias) = (program.state_dict[name] for name in ("folded_0_weight", "folded_0_bias"))
    assert (weight.item(), bias.item()) == (4, 3)
    assert program.module()(torch.full((5, 1, 2, 2), 2.0)).tolist() == [[11.0] * 4] * 5


class Branching(nn.Module):
    """A map that is used twice, a grouped and a dilated convolution with a bias, a norm after none."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.after = nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=2), nn.BatchNorm2d(4)
        self.alone, self.plain = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)
        self.third = nn.Conv2d(4, 3, 1, bias=False)
        self.last = nn.BatchNorm2d(3, affine=False)

    def forward(self, x):
        first = self.first(x)
        x = self.norm(first) + first
        x = self.alone(self.after(self.second(x)).relu())
        return self.last(self.third(x + self.plain(x))).mean((2, 3))


def test_fold_keeps_the_function_and_leaves_what_it_must():
    network = Branching()
    for _ in range(3):
        network(torch.randn(8, 2, 6, 6))
    network.eval()
    program = capture(network, feed(2, 6))
    left = [node for node in program.graph.nodes if node.target is torch.ops.aten.batch_norm.default]
    assert len(left) == 3  # of five: one whose map is used twice, two that follow no convolution
    image = torch.randn(7, 2, 6, 6)
    assert torch.allclose(program.module()(image), network(image), atol=1e-5)


class Computed(nn.Module):
    """Weights and a deviation that are computed anew in each pass, before BatchNorm."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))
        self.weight = nn.Parameter(torch.randn(3, 4, 1, 1))
        self.norm, self.other, self.last = nn.BatchNorm2d(4), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.middle = nn.BatchNorm2d(3)

    def forward(self, x):
        standardised = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        x = self.middle(nn.functional.conv2d(self.norm(self.first(x)).relu(), standardised))
        return self.last(self.other(x)).mean((2, 3))


def test_convolution_with_a_computed_weight_is_left_as_it_is():
    network = Computed()
    for _ in range(3):
        network(torch.randn(8, 1, 6, 6))
    network.eval()
    program = capture(network, feed(1, 6))
    assert sum(node.target is torch.ops.aten.batch_norm.default for node in program.graph.nodes) == 2  # of three
    image = torch.randn(7, 1, 6, 6)
    assert torch.allclose(program.module()(image), network(image), atol=1e-5)


def test_network_itself_is_not_changed():
    network = One().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    capture(network, feed(side=2))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert network.norm(torch.ones(1, 1, 1, 1)).item() == 5


def test_nothing_to_fold():
    graph = torch.export.export(nn.Linear(2, 2), (torch.zeros(2, 2),)).module(check_guards=False)
    assert fold(graph) == 0


def test_embedded_preprocessing_and_any_batch(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 3)).eval()
    raw = torch.randint(0, 256, (5, 4, 4, 3), dtype=torch.uint8)
    expected = network(torch.from_numpy(batch(raw.numpy(), feed(3))))
    save_program(tmp_path / "model.pt2", capture(network, feed(3, embedded=True)))
    again = torch.export.load(tmp_path / "model.pt2").module()
    assert torch.allclose(again(raw), expected, atol=1e-5)
    assert torch.allclose(again(raw[:1]), expected[:1], atol=1e-5)


def test_network_that_branches_on_its_values_is_refused():
    class Odd(nn.Module):
        def forward(self, x):
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(MfkdError) as caught:
        capture(Odd(), feed())
    text = " ".join(str(caught.value).split())
    assert text.startswith("net cannot be exported by torch.export (")
    assert text.endswith("write its forward pass without branches on the values or the number of its images.")
