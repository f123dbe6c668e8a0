"""Weights on disk: read safely whatever published checkpoints look like, written as safetensors."""

import argparse
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mfkd.errors import CheckpointError
from mfkd.files import write_atomic

State = dict[str, Tensor]
Part = Literal["student", "teacher"]

_WRAPPERS = ("model", "state_dict", "model_state_dict", "student")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def read_weights(path: str | Path, part: Part = "student") -> tuple[State, dict[str, str]]:
    """Read a state dict without running anything that the file contains.

    Accepted are safetensors and torch files, bare or under `model`, `state_dict`, `model_state_dict` or
    `student`. The prefixes `module.`, `_orig_mod.` and `model.` are taken off where all entries have them.

    Args:
        path: the file.
        part: which network to take from a file that holds both, under `student.` and `teacher.`.

    Returns:
        The tensors by name, on the CPU, and the metadata of a safetensors file, else {}.

    Raises:
        CheckpointError: missing, damaged, without weights, or a file that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"weights file {path} does not exist; check the path.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        # A safetensors file is 8 bytes of length and then a JSON object.
        state, metadata = _read_safetensors(path) if head[8:] == b"{" else (_read_torch(path), {})
    except Exception as error:  # damaged files raise almost anything
        if code := re.search(r"(?:GLOBAL ([\w.]+)|(?:class|function) ([\w.]+\.\w+))", str(error)):
            raise CheckpointError(
                f"weights file {path} would run code ({code[1] or code[2]}) and was not loaded; "
                "save its state_dict() alone."
            ) from error
        raise CheckpointError(
            f"weights file {path} is damaged or holds no weights ({type(error).__name__}); "
            "expected safetensors or a torch state dict, fetch it again."
        ) from error
    return _canonical(state, part), metadata


def save_weights(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that is either complete or not there.

    Args:
        path: the file; its folder is made.
        state: tensors by name, on any device.
        metadata: texts to store beside them.
    """
    # Copies, since safetensors refuses tensors that share memory.
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    content = save(tensors, dict(metadata or {}))
    write_atomic(Path(path), lambda file: file.write(content))


def strip_prefixes(names: Iterable[str]) -> list[str]:
    """The names without the wrappers' prefixes that all of them have."""
    names = list(names)
    while prefix := next((p for p in _PREFIXES if names and all(name.startswith(p) for name in names)), ""):
        names = [name.removeprefix(prefix) for name in names]
    return names


def _canonical(state: State, part: Part) -> State:
    state = dict(zip(strip_prefixes(state), state.values(), strict=True))
    chosen = {name.removeprefix(f"{part}."): t for name, t in state.items() if name.startswith(f"{part}.")}
    return _canonical(chosen, part) if chosen else state


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _read_torch(path: Path) -> State:
    # Published files hold their arguments and accuracies beside the weights.
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [argparse.Namespace, scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype]
    allowed += [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(content, dict) and not _is_state(content):
        content = next((content[key] for key in _WRAPPERS if key in content), None)
    if not isinstance(content, dict):
        raise TypeError(f"no state dict, nor one under {', '.join(_WRAPPERS)}")
    return dict(content)


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
