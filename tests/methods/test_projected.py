import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from mfkd.methods.projected import Projected, Projection, build_projector
from mfkd.models import build_model
from mfkd.taps import find_taps

SHAPE = (3, 16, 16)


def projection(network, tap="bottom", head="fc"):
    return Projection(find_taps(network, SHAPE)[tap], head, (2, 2), hidden=3, width=6, classes=5, bias=True)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("resnet8", num_classes=7)


def test_shares_every_tensor_and_leaves_the_network_as_it_is(network):
    made = Projected(network, projection(network))
    own = {name: tensor for name, tensor in network.state_dict(keep_vars=True).items() if not name.startswith("fc.")}
    shared = {n.removeprefix("backbone."): t for n, t in made.state_dict(keep_vars=True).items() if "backbone" in n}
    assert own.keys() == shared.keys()
    assert all(shared[name] is tensor for name, tensor in own.items())
    image = torch.randn(4, *SHAPE)
    before = network.bn1.running_mean.clone()
    assert made.train()(image).shape == (4, 5)
    assert not torch.equal(network.bn1.running_mean, before)  # statistics too are one and the same
    assert network(image).shape == (4, 7)


def test_built_again_from_plain_values_it_gives_the_same(network):
    made = Projected(network, projection(network))
    made(torch.randn(8, *SHAPE))
    told = Projection.of(json.loads(json.dumps(asdict(made.projection))))
    assert told == made.projection
    again = Projected(build_model("resnet8", num_classes=7), told)
    again.load_state_dict(made.state_dict())
    image = torch.randn(2, *SHAPE)
    assert torch.equal(again.eval()(image), made.eval()(image))


def test_a_larger_map_is_pooled_and_a_head_may_stay(network):
    plan = projection(network, tap="stage2", head=None)
    made = Projected(network, plan).eval()
    seen = []
    made.projector.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    made(torch.randn(4, *SHAPE))
    assert seen == [(4, 32, 2, 2)]  # 8 x 8 in the network
    assert "backbone.fc.weight" in made.state_dict()


def test_tokens_of_a_transformer():
    torch.manual_seed(0)
    network = build_model("timm/test_vit", num_classes=7, img_size=32)
    spec = find_taps(network, (3, 32, 32))["bottom"]
    plan = Projection(spec, "head", (2, 2), hidden=3, width=6, classes=5, bias=False)
    made = Projected(network, plan).eval()
    assert made(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert isinstance(made.backbone.head, nn.Identity)
    assert made.classifier.bias is None


def test_it_can_be_exported(network):
    made = Projected(network, projection(network)).eval()
    image = torch.randn(2, *SHAPE)
    exported = torch.export.export(made, (image,)).module()
    assert torch.allclose(exported(image), made(image), atol=1e-6)


def test_the_projector_never_gives_less_than_zero():
    torch.manual_seed(0)
    assert build_projector(3, 2, 4)(torch.randn(4, 3, 5, 5)).min() == 0
