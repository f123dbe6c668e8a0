"""Weights files in every published wrapping, and everything that is refused."""

import argparse
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mfkd.errors import CheckpointError, MfkdError
from mfkd.models import build_model
from mfkd.models.weights import head_classes, load_weights, read_weights, save_weights

State = dict[str, Tensor]


def net(seed: int, classes: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("resnet8", num_classes=classes)


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "repdistiller": lambda state: {
        "epoch": 240,
        "model": state,
        "accuracy": torch.tensor(72.3),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
    },
    "repdistiller last": lambda state: {"opt": argparse.Namespace(lr=0.1, names=["a"]), "model": state},
    "numpy scalars": lambda state: {
        "model": state,
        "best_acc": np.float64(72.3),
        "top5": np.float32(9),
        "n": np.int64(1),
    },
    "state_dict, DataParallel": lambda state: {"state_dict": prefixed(state, "module.")},
    "model_state_dict, compiled": lambda state: {"model_state_dict": prefixed(state, "_orig_mod.")},
    "compiled in DataParallel": lambda state: prefixed(state, "module._orig_mod."),
    "lightning": lambda state: {"state_dict": prefixed(state, "model."), "epoch": 3},
    "student": lambda state: {"student": state},
    "mdistiller": lambda state: {
        "model": prefixed(state, "module.student.")
        | prefixed(net(9).state_dict(), "module.teacher.")
        | {"module.regressor.weight": torch.zeros(1)},
        "best_acc": 70.0,
    },
}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_torch_files_load_in_every_wrapping(wrapping: str, old_format: bool, tmp_path: Path) -> None:
    source, target = net(0), net(1)
    content = WRAPPINGS[wrapping](source.state_dict())
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old_format)
    report = load_weights(target, tmp_path / "w.pth")
    assert same(target.state_dict(), source.state_dict())
    assert (report.loaded, report.fresh, report.metadata) == (56, (), {})


def test_safetensors_round_trip_with_metadata(tmp_path: Path) -> None:
    source, target = net(0), net(1)
    path = tmp_path / "new" / "w.safetensors"
    save_weights(path, source.state_dict(), {"model": "resnet8"})
    state, metadata = read_weights(path)
    assert same(state, source.state_dict())
    assert metadata == {"model": "resnet8"}
    assert load_weights(target, path).metadata == metadata
    assert same(target.state_dict(), source.state_dict())
    assert [entry.name for entry in path.parent.iterdir()] == ["w.safetensors"]


def test_saving_copes_with_shared_and_strided_tensors(tmp_path: Path) -> None:
    whole = torch.arange(6.0).view(2, 3)
    save_weights(tmp_path / "w.safetensors", {"a": whole, "b": whole, "c": whole.T})
    state, _ = read_weights(tmp_path / "w.safetensors")
    assert state["c"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert torch.equal(state["a"], state["b"])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(1)})

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MfkdError, match=r"^cannot write \S+: disk full; free space"):
        save_weights(path, {"a": torch.zeros(1)})
    assert read_weights(path)[0]["a"].item() == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_saved_file_is_readable_as_the_umask_says(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_weights(tmp_path / "w", {"a": torch.ones(1)})
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_named_part_of_a_mixed_file_is_taken(tmp_path: Path) -> None:
    student, teacher = net(0).state_dict(), net(9).state_dict()
    torch.save({"model": WRAPPINGS["mdistiller"](student)["model"]}, tmp_path / "w")
    assert same(read_weights(tmp_path / "w", part="teacher")[0], teacher)
    target = net(1)
    load_weights(target, tmp_path / "w", who="teacher")
    assert same(target.state_dict(), teacher)
    load_weights(target, tmp_path / "w", who="teacher", part="student")
    assert same(target.state_dict(), student)


def test_wrapped_networks_take_unwrapped_files(tmp_path: Path) -> None:
    source = net(0)
    save_weights(tmp_path / "w", source.state_dict())
    target = nn.Sequential()
    target.add_module("model", net(1))  # its keys all start with "model.", which is no wrapper here
    load_weights(target, tmp_path / "w")
    assert same(target.state_dict(), prefixed(source.state_dict(), "model."))
    save_weights(tmp_path / "w", target.state_dict())
    load_weights(target, tmp_path / "w", head="reset")


def test_old_files_may_lack_the_batch_counter(tmp_path: Path) -> None:
    source, target = net(0), net(1)
    old = {key: tensor for key, tensor in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    save_weights(tmp_path / "w", old)
    report = load_weights(target, tmp_path / "w")
    assert same(target.state_dict(), source.state_dict())
    assert (report.loaded, len(report.fresh)) == (47, 9)


def test_build_model_takes_weights(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", net(0).state_dict())
    assert same(build_model("resnet8", num_classes=5, weights=tmp_path / "w").state_dict(), net(0).state_dict())


@pytest.mark.parametrize("write", [save_weights, lambda path, state: torch.save(dict(state), path)])
@pytest.mark.parametrize("head", ["keep", "reset"])
def test_a_network_that_insists_on_its_version_loads_again(head: str, write: Any, tmp_path: Path) -> None:
    source = build_model("torchvision/mnasnet0_5", num_classes=3)
    write(tmp_path / "w", source.state_dict())
    target = build_model("torchvision/mnasnet0_5", num_classes=3)
    report = load_weights(target, tmp_path / "w", head=head)
    assert torch.equal(target.layers[0].weight, source.layers[0].weight)
    assert report.fresh == (() if head == "keep" else ("classifier.1.weight", "classifier.1.bias"))


class Fussy(nn.Linear):
    def _load_from_state_dict(self, *_: Any) -> None:
        raise KeyError("what\nis this")


def test_a_network_that_fails_to_load_is_told_in_one_line(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", Fussy(2, 2).state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_weights(Fussy(2, 2), tmp_path / "w", who="teacher")
    assert str(caught.value) == (
        f"teacher weights {tmp_path / 'w'} cannot be loaded into Fussy (KeyError: 'what\\nis this'); "
        "name the network that they were made with."
    )


def test_another_head_is_refused_and_can_be_reset(tmp_path: Path) -> None:
    source, target = net(0, classes=7), net(1, classes=5)
    before = target.fc.weight.clone()
    path = tmp_path / "w"
    save_weights(path, source.state_dict())
    assert head_classes(target, read_weights(path)[0]) == 7
    with pytest.raises(CheckpointError) as caught:
        load_weights(target, path, who="teacher")
    assert str(caught.value) == (
        f"teacher weights {path} have a head of 7 classes, expected 5 classes; "
        "use teacher.head=tune to fit a new one, and leave teacher.classes out."
    )
    with pytest.raises(CheckpointError) as caught:
        load_weights(target, path)
    assert str(caught.value) == (
        f"student weights {path} have a head of 7 classes, expected 5 classes; "
        "give the same number of classes, or student.head=reset (in Python load_weights(..., head='reset')) "
        "to load the rest."
    )
    assert not torch.equal(target.conv1.weight, source.conv1.weight)
    report = load_weights(target, path, head="reset")
    assert report.fresh == ("fc.weight", "fc.bias")
    assert torch.equal(target.fc.weight, before)
    assert torch.equal(target.conv1.weight, source.conv1.weight)


def test_a_file_without_a_head_is_refused_and_can_be_loaded(tmp_path: Path) -> None:
    body = {key: tensor for key, tensor in net(0).state_dict().items() if not key.startswith("fc.")}
    save_weights(tmp_path / "w", body)
    assert head_classes(net(1), body) is None
    with pytest.raises(CheckpointError, match=r"have no head, expected 5 classes; .* student\.head=reset .* the rest"):
        load_weights(net(1), tmp_path / "w")
    assert load_weights(net(1), tmp_path / "w", head="reset").loaded == 54


def test_a_foreign_network_is_told_with_its_first_keys(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", build_model("resnet14", num_classes=5).state_dict(), {"model": "resnet14"})
    with pytest.raises(CheckpointError) as caught:
        load_weights(net(1), tmp_path / "w")
    text = str(caught.value)
    assert text.startswith(
        f"student weights {tmp_path / 'w'} (made with resnet14) belong to another network than ResNet: "
    )
    assert "0 missing, 36 unexpected (layer1.1.bn1.bias, " in text
    assert text.count("layer") == 10
    assert text.endswith(", ...), 0 of another shape; name the network that they were made with.")
    narrow = net(0).state_dict() | {"conv1.weight": torch.zeros(16, 1, 3, 3)}
    save_weights(tmp_path / "w", narrow)
    with pytest.raises(CheckpointError, match=r"0 missing, 0 unexpected, 1 of another shape \(conv1\.weight\)"):
        load_weights(net(1), tmp_path / "w")


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w"
    torch.save({"model": net(0).state_dict(), "x": Evil(tmp_path / "owned")}, path)
    with pytest.raises(
        CheckpointError, match=r"would run code \(posix.mkdir\) and was not loaded; save its state_dict"
    ):
        read_weights(path)
    path.write_bytes(pickle.dumps(Evil(tmp_path / "owned")))
    with pytest.raises(CheckpointError):
        read_weights(path)
    assert not (tmp_path / "owned").exists()
    torch.save(net(0), path)
    with pytest.raises(CheckpointError, match=r"would run code \(mfkd\.models\.resnet\.ResNet\)"):
        read_weights(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_truncated_files_are_refused(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "w"
    if kind == "safetensors":
        save_weights(path, net(0).state_dict())
    else:
        torch.save(net(0).state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"^weights file \S+ is damaged or holds no weights \(\w+\); expected"):
        read_weights(path)
