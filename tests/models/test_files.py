"""What a weights file may look like, and what is refused, at the reader."""

import argparse
import json
import pathlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mfkd.errors import CheckpointError
from mfkd.models import files
from mfkd.models.weights import load_weights, read_metadata, read_weights, save_weights

STATE = {"fc.weight": torch.arange(6.0).view(3, 2), "fc.bias": torch.arange(3.0)}


def read(content: Any, folder: Path, **options: Any) -> dict[str, Tensor]:
    torch.save(content, folder / "w")
    return read_weights(folder / "w", **options)[0]


def same(found: dict[str, Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


CONTENTS = {
    "name of the architecture beside": {"model": "resnet20", "arch": "x", "state_dict": STATE},
    "nested": {"state_dict": {"model": prefixed("module._orig_mod.model.")}},
    "any one name": {"net": prefixed("module."), "acc": 93.1, "epoch": 3},
    "average alone": {"state_dict_ema": STATE, "epoch": 3},
    "average beside": {"state_dict_ema": {"fc.weight": torch.zeros(1)}, "state_dict": STATE},
    "averaged by torch": {**prefixed("module."), "n_averaged": torch.tensor(3)},
    "epoch among the tensors": {**STATE, "epoch": 3, "acc": 0.5},
    "parameters": {name: nn.Parameter(tensor) for name, tensor in STATE.items()},
    "arrays, paths and arguments": {
        "model": STATE,
        "history": np.arange(3.0),
        "opt": argparse.Namespace(
            save=pathlib.PurePosixPath("a/b"), path=Path("c"), device=torch.device("cpu"), dtype=torch.float16
        ),
    },
    "numpy scalars": {"model": STATE, **{code: np.dtype(code).type(1) for code in "?bhilqBHILQefdFD"}},
    "numpy text": {"model": STATE, "best": np.str_("epoch 3")},
}


def test_a_name_that_no_file_can_have_is_refused_like_any_other() -> None:
    with pytest.raises(CheckpointError, match=r"^weights file x+ does not exist; check the path\.$"):
        read_weights("x" * 300)


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_content_is_found(content: Any, tmp_path: Path) -> None:
    assert same(read(content, tmp_path))


def test_files_of_numpy_1_name_its_old_modules(tmp_path: Path) -> None:
    path = tmp_path / "w"
    torch.save({"model": STATE, "a": np.float64(1), "b": np.arange(2)}, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old.count(b"numpy.core.multiarray") == 2
    path.write_bytes(old)
    assert same(read_weights(path)[0])


def test_an_averaged_model_fills_a_plain_one(tmp_path: Path) -> None:
    source, target = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3))
    torch.save(AveragedModel(source).state_dict(), tmp_path / "w")
    load_weights(target, tmp_path / "w")
    assert torch.equal(target[0].weight, source[0].weight)


def test_a_network_may_have_a_part_called_student(tmp_path: Path) -> None:
    parts = {"student": nn.Linear(2, 3), "head": nn.Linear(3, 4)}
    source, target = nn.ModuleDict(parts), nn.ModuleDict({"student": nn.Linear(2, 3), "head": nn.Linear(3, 4)})
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in source.state_dict().items()}}, tmp_path / "w"
    )
    load_weights(target, tmp_path / "w")
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in target.state_dict().items())


def test_the_network_that_fits_is_taken_from_a_file_of_two(tmp_path: Path) -> None:
    both = {**prefixed("module.student."), "module.teacher.last.weight": torch.zeros(1)}
    assert read(both, tmp_path, part="teacher").keys() == {"last.weight"}
    assert same(read(both, tmp_path, part="teacher", own=STATE))
    assert read(both, tmp_path, part="student", own=["last.weight"]).keys() == {"last.weight"}


def test_metadata_are_read_without_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(tmp_path / "w", STATE, {"model": "x"})
    monkeypatch.setattr(files, "_read_safetensors", lambda path: pytest.fail("read the tensors"))
    assert read_metadata(tmp_path / "w") == {"model": "x"}
    torch.save(STATE, tmp_path / "w")
    assert read_metadata(tmp_path / "w") == {}


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_weights(tmp_path / "w", STATE)
    assert same(read_weights("~/w")[0])


def endless() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"epoch": 3}, "1 entries (epoch)"),
        ({"a": STATE, "b": STATE, "c": 1, "d": 2, "e": 3, "f": 4}, "6 entries (a, b, c, d, e, ...)"),
        ({"checkpoint": {"model": STATE}}, "1 entries (checkpoint)"),
        ({"model": {"a": 3}}, "1 entries (model)"),
        (endless(), "1 entries (model)"),
        ([1, 2], "a list"),
        (torch.zeros(3), "a Tensor"),
        ({}, "a dict"),
    ],
)
def test_files_without_a_state_dict_are_refused(content: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(content, tmp_path)
    assert str(caught.value) == (
        f"weights file {tmp_path / 'w'} holds no state dict, but {told}; expected tensors by name, bare or under "
        "model, state_dict, model_state_dict or student."
    )


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


HUGE = json.dumps({"a": {"dtype": "F32", "shape": [1_000_000_000], "data_offsets": [0, 4]}}).encode()
DAMAGED = {
    "text": b"epoch 1: 0.93\n" * 20,
    "page": b"<!DOCTYPE html><html>404 Not Found</html>",
    "image": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "one byte": b"{",
    "oversized header": header(b'{"a": 1}', 2**60),
    "garbage header": header(b"{garbage"),
    "garbage": header(b"garbagegarbage"),
    "oversized tensor": header(HUGE) + bytes(4),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    assert str(caught.value) == (
        f"weights file {path} is damaged or holds no weights ({type(caught.value.__cause__).__name__}); "
        "expected safetensors or a torch state dict, fetch it again."
    )
    if content[8:9] == b"{":
        with pytest.raises(CheckpointError, match=r"is damaged or holds no weights \(SafetensorError\)"):
            read_metadata(path)


def test_empty_files_folders_and_missing_ones_are_told(tmp_path: Path) -> None:
    path = tmp_path / "w"
    for reader in (read_weights, read_metadata):
        with pytest.raises(CheckpointError) as caught:
            reader(path)
        assert str(caught.value) == f"weights file {path} does not exist; check the path."
        with pytest.raises(CheckpointError) as caught:
            reader(tmp_path)
        assert str(caught.value) == f"weights {tmp_path} is a folder; name a file in it."
    path.touch()
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    assert str(caught.value) == f"weights file {path} is empty; fetch it again."
    path.write_bytes(header(b"{}"))
    with pytest.raises(CheckpointError, match=r"w holds no tensors; expected a state dict\.$"):
        read_weights(path)
    (tmp_path / "best.pth").touch()
    with pytest.raises(CheckpointError, match=r" is a folder; name a file in it, such as best\.pth\.$"):
        read_weights(tmp_path)


@pytest.mark.parametrize("in_zip", [False, True])
def test_newer_pickles_are_refused_whatever_they_hold(in_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "w"
    if in_zip:
        torch.save(STATE, path, pickle_protocol=4)
    else:
        path.write_bytes(pickle.dumps(STATE, protocol=5))
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    assert str(caught.value) == (
        f"weights file {path} is pickled in a way that can run code and was not loaded; "
        "write it anew by torch.save(model.state_dict(), PATH)."
    )


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_script_is_code(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 3)), tmp_path / "w")
    with pytest.raises(
        CheckpointError, match=r"would run code \(TorchScript\) and was not loaded; save its state_dict"
    ):
        read_weights(tmp_path / "w")
