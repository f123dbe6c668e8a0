"""Taking up an optimiser that was written down."""

from typing import Any

import torch


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state, and check what torch would find out at the next update or never.

    Raises:
        ValueError: state of another optimiser, or of weights of other shapes.
        KeyError: no such state at all.
    """
    options = optimizer.param_groups[0].keys()
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        if missing := options - group.keys():
            raise ValueError(f"the optimizer's state lacks {', '.join(sorted(missing))}")
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} of shape {tuple(value.shape)} for weights of {tuple(parameter.shape)}")
