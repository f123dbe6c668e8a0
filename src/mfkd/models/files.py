"""Weights on disk: read safely whatever published checkpoints look like, written as safetensors."""

import argparse
import hashlib
import json
import pathlib
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from mfkd.errors import CheckpointError
from mfkd.files import write_atomic
from mfkd.models.heads import strip_prefixes
from mfkd.places import is_dir, is_file

State = dict[str, Tensor]
Part = Literal["student", "teacher"]

COUNTER = "num_batches_tracked"
"""End of the names that files of PyTorch 0.4 lack."""

_WRAPPERS = ("model", "state_dict", "model_state_dict", "student")
_DEEPEST = 8
"""Wrappings looked into; a file may contain itself."""
_SEAL = "mfkd.sha256"
"""Among the texts of a file that we wrote: the digest of everything else in it."""
_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


def read_weights(path: str | Path, part: Part = "student", own: Collection[str] = ()) -> tuple[State, dict[str, str]]:
    """Read a state dict without running anything that the file contains.

    Accepted are safetensors and torch files, bare or under `model`, `state_dict`, `model_state_dict` or
    `student`, else under whatever name if there is only one (`net`, `state_dict_ema`). The prefixes `module.`,
    `_orig_mod.` and `model.` are taken off where all entries have them.

    Args:
        path: the file; `~` stands for the home folder.
        part: which network to take from a file that holds both, under `student.` and `teacher.`.
        own: names of the network that is to be filled, without wrappers' prefixes. Where they are told, a file that
            has them all is not taken apart (a network may have a part that it calls `student` itself), and the
            other network of a file is taken if only that has them.

    Returns:
        The tensors by name, on the CPU, and the metadata of a safetensors file, else {}.

    Raises:
        CheckpointError: missing, a folder, damaged, without weights, or a file that would run code.
    """
    path = Path(path).expanduser()
    _check_there(path)
    try:
        state, metadata = _read_safetensors(path) if _is_safetensors(path) else (_read_torch(path), {})
    except CheckpointError:
        raise
    except Exception as error:  # damaged files raise almost anything
        if code := re.search(r"GLOBAL ([\w.]+)|(?:class|function) ([\w.]+\.\w+)|(TorchScript)", str(error)):
            raise CheckpointError(
                f"weights file {path} would run code ({code[code.lastindex or 0]}) and was not loaded; "
                "save its state_dict() alone."
            ) from error
        if "operand 149" in str(error):  # what pickles of protocol 4 and later begin with
            raise CheckpointError(
                f"weights file {path} is pickled in a way that can run code and was not loaded; "
                "write it anew by torch.save(model.state_dict(), PATH)."
            ) from error
        raise _damaged(path, error) from error
    if not state:
        raise CheckpointError(f"weights file {path} holds no tensors; expected a state dict.")
    return _canonical(state, part, set(own)), metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its tensors; {} of any other file.

    Raises:
        CheckpointError: missing, a folder, empty, or a damaged safetensors file.
    """
    path = Path(path).expanduser()
    _check_there(path)
    if not _is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return _unsealed(file.metadata())
    except Exception as error:  # the library's own kind, which it does not publish
        raise _damaged(path, error) from error


def save_weights(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that is either complete or not there, and tells later whether it is damaged.

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
    content = _ordered(save(tensors, dict(metadata) if metadata else None))
    write_atomic(Path(path), lambda file: file.write(content))


def _ordered(content: bytes) -> bytes:
    """The same file, sealed, with its texts in order: safetensors shuffles them, and equal weights are equal files."""
    header, tensors = _split(content)
    header["__metadata__"] = dict(sorted(_unsealed(header.get("__metadata__")).items()))
    header["__metadata__"][_SEAL] = _digest(header, tensors)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers stay aligned
    return len(text).to_bytes(8, "little") + text + tensors


def _check_there(path: Path) -> None:
    if is_dir(path):
        inside = sorted(file.name for file in path.iterdir() if file.suffix in _ENDINGS)
        hint = f", such as {inside[0]}" if inside else ""
        raise CheckpointError(f"weights {path} is a folder; name a file in it{hint}.")
    if not is_file(path):
        raise CheckpointError(f"weights file {path} does not exist; check the path.")
    if path.stat().st_size == 0:
        raise CheckpointError(f"weights file {path} is empty; fetch it again.")


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"weights file {path} is damaged or holds no weights ({type(error).__name__}); "
        "expected safetensors or a torch state dict, fetch it again."
    )


def _is_safetensors(path: Path) -> bool:
    """Whether it begins with 8 bytes of length and then a JSON object."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise CheckpointError(f"weights file {path} cannot be read: {error.strerror}; check its permissions.") from None


def _canonical(state: State, part: Part, own: set[str]) -> State:
    # torch's AveragedModel counts beside the network.
    state = {name: tensor for name, tensor in state.items() if name != "n_averaged" or name in own}
    state = dict(zip(strip_prefixes(state), state.values(), strict=True))
    own = {name for name in own if not name.endswith(COUNTER)}
    parts = [_part(state, name) for name in sorted(get_args(Part), key=lambda name: name != part)]
    if own:
        for fitting in (state, *parts):
            if own <= fitting.keys():
                return fitting
    return parts[0] or state


def _part(state: State, part: str) -> State:
    """One network of a file that holds two; it may be wrapped for itself."""
    chosen = {name.removeprefix(f"{part}."): t for name, t in state.items() if name.startswith(f"{part}.")}
    return dict(zip(strip_prefixes(chosen), chosen.values(), strict=True))


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    with safe_open(path, framework="pt") as file:  # looks at the header before the rest is read
        names, texts = list(file.keys()), file.metadata() or {}
    content = path.read_bytes()
    if _SEAL in texts:
        header, numbers = _split(content)
        header["__metadata__"] = _unsealed(texts)
        if texts[_SEAL] != _digest(header, numbers):
            raise CheckpointError(f"weights file {path} is damaged (its checksum does not hold); fetch it again.")
    tensors = load(content)  # not one by one out of the file: safetensors 0.8 keeps two integers of each for good
    return {name: tensors[name] for name in names}, _unsealed(texts)


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header, and the bytes of the tensors."""
    begun = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:begun]), memoryview(content)[begun:]


def _unsealed(texts: Mapping[str, str] | None) -> dict[str, str]:
    return {name: text for name, text in (texts or {}).items() if name != _SEAL}


def _digest(header: Mapping[str, Any], tensors: memoryview) -> str:
    """Over names, types, shapes, texts and all bytes of the tensors."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    found.update(tensors)
    return found.hexdigest()


def _read_torch(path: Path) -> State:
    with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    found = content
    for _ in range(_DEEPEST):
        if state := _state(found):
            return state
        found = _unwrapped(found)
    keys = [str(key) for key in content] if isinstance(content, Mapping) else []
    told = f"{len(keys)} entries ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})"
    raise CheckpointError(
        f"weights file {path} holds no state dict, but {told if keys else f'a {type(content).__name__}'}; expected "
        f"tensors by name, bare or under {', '.join(_WRAPPERS[:-1])} or {_WRAPPERS[-1]}."
    )


def _unwrapped(content: Any) -> Any:
    """What stands under a known name, else the only state dict; a name may also be told, as in `model: resnet20`."""
    if not isinstance(content, Mapping):
        return None
    named = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
    others = [value for value in content.values() if _state(value)]
    return named[0] if named else others[0] if len(others) == 1 else None


def _state(content: Any) -> State:
    """The tensors of a state dict, which may have an epoch or the like beside them; {} where it is none."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    return tensors if len(tensors) == len(content) or any("." in key for key in tensors) else {}


def _harmless() -> list[Any]:
    """What published files hold beside their weights: arguments, paths, accuracies as numbers and arrays."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    numpy_1 = [(scalar, "numpy.core.multiarray.scalar"), (array, "numpy.core.multiarray._reconstruct")]
    paths = [
        (kind, f"{module}.{name}")
        for kind in (pathlib.PurePosixPath, pathlib.PureWindowsPath)
        for name in (kind.__name__, kind.__name__.removeprefix("Pure"))
        for module in ("pathlib", "pathlib._local")
    ]
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefdFDUS"}
    return [argparse.Namespace, scalar, array, np.dtype, np.ndarray, *dtypes, *numpy_1, *paths]
