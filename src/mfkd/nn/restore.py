"""Taking up an optimiser that was written down."""

from typing import Any

import torch


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state, and check what torch would find out at the next update or never.

    Raises:
        ValueError: state of another optimiser, or of weights of other shapes.
        KeyError: no such state at all.
    """
    options = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, options, strict=True):
        _check_options(group, own)
    kept = {name for values in optimizer.state.values() for name in values}
    for parameter, values in optimizer.state.items():
        _take_up(parameter, values)
        if values and (missing := kept - values.keys()):
            raise ValueError(f"an optimiser's state of some weights lacks {', '.join(sorted(map(str, missing)))}")
    if isinstance(optimizer, torch.optim.SGD) and kept:
        # Weights that had no gradient yet have no momentum: 0, which torch cannot tell from None for some of many.
        for parameter in (one for group in optimizer.param_groups for one in group["params"]):
            if not optimizer.state.get(parameter):
                optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}


def _check_options(group: dict[str, Any], own: dict[str, Any]) -> None:
    if missing := own.keys() - group.keys():
        raise ValueError(f"the optimizer's state lacks {', '.join(sorted(missing))}")
    for name, value in own.items():
        if type(group[name]) is not type(value):
            kind = type(group[name]).__name__
            raise ValueError(f"{name} of an optimiser is {kind}, expected {type(value).__name__}")


def _take_up(parameter: torch.Tensor, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name} of an optimiser is {type(value).__name__}, not a tensor")
        if name == "step" and value.ndim == 0:
            continue
        if value.shape != parameter.shape:
            raise ValueError(f"{name} of shape {tuple(value.shape)} for weights of {tuple(parameter.shape)}")
        # Laid out like the weights: a fused update writes wherever they would lie, and looks at nothing.
        values[name] = torch.empty_like(parameter).copy_(value)
