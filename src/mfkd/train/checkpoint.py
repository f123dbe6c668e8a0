"""Checkpoints: one atomic, sealed file with all that a training needs to go on exactly, and the ones before it."""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from mfkd.errors import CheckpointError, brief
from mfkd.files import write_atomic
from mfkd.validation import reason

VERSION = 1
SEAL = 32  # bytes of the SHA-256 that a checkpoint ends with, as the comment that a zip archive may have


def save_checkpoint(path: Path, state: dict[str, Any], keep: int = 1) -> None:
    """Write tensors and plain values atomically.

    Args:
        path: of the newest checkpoint; the earlier ones lie beside it under the names of `generations`.
        state: what to write.
        keep: how many checkpoints there are afterwards.
    """
    buffer = io.BytesIO()  # torch tells a full disk in words of its own
    torch.save({"version": VERSION, **state}, buffer)
    buffer.seek(-2, io.SEEK_END)
    buffer.write(SEAL.to_bytes(2, "little"))  # torch leaves the comment empty
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    write_atomic(path, lambda file: file.write(buffer.getbuffer()), before=lambda: _make_room(path, keep))


def generations(path: Path) -> list[Path]:
    """The checkpoints that exist, newest first."""
    older = [(int(found[1]), one) for one in path.parent.glob(f"{path.stem}-*") if (found := _older(path, one.name))]
    return [one for one in (path, *(one for _, one in sorted(older))) if one.exists()]


def load_newest(path: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Read the newest checkpoint that is whole, or None when there is none at all; damaged newer ones are put aside.

    Args:
        path: of the newest one.
        say: gets a line for each that is damaged, where an earlier one takes its place.

    Raises:
        CheckpointError: as `load_checkpoint`, where none is whole.
    """
    damaged: dict[Path, CheckpointError] = {}
    for one in generations(path):
        try:
            state = load_checkpoint(one)
        except CheckpointError as error:
            damaged[one] = error
            continue
        for other, fault in damaged.items():
            say(f"{str(fault).partition('; delete')[0]}; going on from the one before, {one.name}.")
            with suppress(FileNotFoundError):  # another process was faster
                other.replace(other.with_name(f"{other.name}.damaged"))
        return state
    if damaged:
        raise next(iter(damaged.values()))
    return None


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint onto the CPU, or None when there is none.

    Raises:
        CheckpointError: damaged, foreign or of another version; nothing in it is ever executed.
    """
    if not path.exists():
        return None
    advice = f"delete {path.parent} to start this training anew."
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error.strerror}); {advice}") from None
    if content[-SEAL - 2 : -SEAL] == SEAL.to_bytes(2, "little") and (
        hashlib.sha256(content[:-SEAL]).digest() != content[-SEAL:]
    ):
        raise CheckpointError(f"checkpoint {path} is damaged (its checksum does not hold); {advice}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other kinds, which are refused
            state: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"checkpoint {path} would run code ({code[1]}) and was not loaded; {advice}"
            ) from error
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__}); {advice}") from error
    version = state.get("version") if isinstance(state, dict) else type(state).__name__
    if not isinstance(state, dict) or not isinstance(version, int) or version != VERSION:
        found = brief(version) if isinstance(version, int | str | None) else type(version).__name__
        raise CheckpointError(f"checkpoint {path} is of version {found}, expected {VERSION}; {advice}")
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
        why = f"no {error}" if isinstance(error, KeyError) else reason(error)
        raise CheckpointError(
            f"checkpoint {path} does not belong to this training ({why}); delete {path.parent} to start anew."
        ) from error


def _make_room(path: Path, keep: int) -> None:
    """Let each checkpoint take the place of the one before it; a kill in between leaves a gap, and nothing is lost."""
    found = generations(path)
    for one in found[max(1, keep - 1) :]:
        one.unlink()
    for number, one in reversed(list(enumerate(found[: keep - 1], 1))):
        one.replace(path.with_name(f"{path.stem}-{number}{path.suffix}"))


def _older(path: Path, name: str) -> re.Match[str] | None:
    return re.fullmatch(rf"{re.escape(path.stem)}-(\d+){re.escape(path.suffix)}", name)
