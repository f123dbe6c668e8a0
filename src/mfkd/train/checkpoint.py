"""Checkpoints: one atomic file with all that a training needs to go on exactly."""

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
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"checkpoint {path} cannot be read ({reason[:120]}); {advice}") from None
    if not isinstance(state, dict) or state.get("version") != VERSION:
        found = state.get("version") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"checkpoint {path} is of version {found!r}, expected {VERSION}; {advice}")
    return state
