import copy

import pytest
import torch
from torch import nn

from mfkd.nn.restore import restore_optimizer


def made(kind, used=(0, 1)):
    """Two linear layers and an optimiser that has done one update of those used."""
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    optimizer = kind(layers.parameters())
    return layers, optimizer, lambda: update(layers, optimizer, used)


def update(layers, optimizer, used):
    optimizer.zero_grad()
    sum(layers[i](torch.ones(1, 2)).square().sum() for i in used).backward()
    optimizer.step()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.1)


@pytest.mark.parametrize("kind", [sgd, adamw])
@pytest.mark.parametrize("used", [(0, 1), (1,)])
def test_goes_on_bit_for_bit(kind, used):
    layers, optimizer, step = made(kind, used)
    step()
    weights, state = copy.deepcopy(layers.state_dict()), copy.deepcopy(optimizer.state_dict())
    step()
    again, other, go_on = made(kind, used)
    again.load_state_dict(weights)
    restore_optimizer(other, state)
    go_on()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in layers.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "change", "text"),
    [
        (
            sgd,
            lambda state: state["state"][1].update(momentum_buffer=3),
            "momentum_buffer of an optimiser is int, not a",
        ),
        (sgd, lambda state: state["state"][1].update(momentum_buffer=None), "is NoneType, not a tensor"),
        (sgd, lambda state: state["state"][0].update(momentum_buffer=torch.ones(3)), r"of shape \(3,\) for weights"),
        (sgd, lambda state: state["state"][0].update(momentum_buffer=torch.ones(())), r"of shape \(\) for weights"),
        (adamw, lambda state: state["state"][2].pop("exp_avg_sq"), "state of some weights lacks exp_avg_sq"),
        (
            sgd,
            lambda state: state["param_groups"][0].update(momentum=None),
            "momentum of .* is NoneType, expected flo",
        ),
        (sgd, lambda state: state["param_groups"][0].pop("momentum"), "the optimizer's state lacks momentum"),
    ],
)
def test_what_the_next_update_could_not_use_is_refused(kind, change, text):
    _, optimizer, step = made(kind)
    step()
    state = copy.deepcopy(optimizer.state_dict())
    change(state)
    with pytest.raises(ValueError, match=text):
        restore_optimizer(made(kind)[1], state)


def test_values_are_laid_out_like_the_weights():
    _, optimizer, step = made(sgd)
    step()
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["momentum_buffer"] = torch.ones(1, 1).expand(2, 2)  # one number in memory
    other, restored, go_on = made(sgd)
    restore_optimizer(restored, state)
    buffer = restored.state[other[0].weight]["momentum_buffer"]
    assert buffer.stride() == other[0].weight.stride()
    go_on()
    torch.testing.assert_close(buffer, 0.9 + other[0].weight.grad)


def test_weights_without_momentum_beside_some_with_it_begin_at_none():
    _, optimizer, step = made(sgd)
    step()
    state = copy.deepcopy(optimizer.state_dict())
    del state["state"][0]
    other, restored, go_on = made(sgd)
    restore_optimizer(restored, state)
    before = other[0].weight.clone()
    go_on()
    torch.testing.assert_close(other[0].weight, before - 0.1 * other[0].weight.grad)
