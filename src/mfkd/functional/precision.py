"""Losses are computed in float32 whatever the networks run in, and in float64 where they do."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def full(tensor: Tensor) -> Tensor:
    """The tensor in float32, or untouched if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def full_taps(taps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every map in float32, or float64 where it was."""
    return {name: full(tap) for name, tap in taps.items()}


def no_autocast(like: Tensor) -> torch.autocast:
    """A context in which autocast is off on the device of `like`."""
    return torch.autocast(like.device.type, enabled=False)


def autocast_of(maps: Sequence[Tensor]) -> torch.autocast:
    """A context with the autocast in which maps were made: on if one of them is in a half precision."""
    half = next((tensor.dtype for tensor in maps if tensor.dtype in (torch.bfloat16, torch.float16)), None)
    return torch.autocast(maps[0].device.type, dtype=half, enabled=half is not None)
