"""Checkpoints: one atomic file with all that a training needs to go on exactly."""

import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mfkd.errors import CheckpointError
from mfkd.files import write_atomic

VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values atomically."""
    write_atomic(path, lambda file: torch.save({"version": VERSION, **state}, file))


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint onto the CPU, or None when there is none.

    Raises:
        CheckpointError: damaged, foreign or of another version; nothing in it is ever executed.
    """
    if not path.exists():
        return None
    advice = f"delete {path.parent} to start this training anew."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other kinds, which are refused
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"checkpoint {path} would run code ({code[1]}) and was not loaded; {advice}"
            ) from error
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__}); {advice}") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        found = state.get("version") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"checkpoint {path} is of version {found!r}, expected {VERSION}; {advice}")
    return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """A block that takes up what `path` holds; whatever does not fit is told in one line.

    Raises:
        CheckpointError: an entry is missing, or belongs to another network or optimiser.
    """
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else textwrap.shorten(str(error), 160, placeholder=" ...")
        raise CheckpointError(
            f"checkpoint {path} does not belong to this training ({reason}); delete {path.parent} to start anew."
        ) from error


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
