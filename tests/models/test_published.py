"""Contract: files in every published layout load into every CIFAR network, which then answers as its writer did."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mfkd.models import build_model, model_names
from mfkd.models.weights import load_weights

State = dict[str, Tensor]

OPTIMIZER = {
    "state": {0: {"momentum_buffer": torch.zeros(2)}},
    "param_groups": [{"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False, "params": [0]}],
}
OTHER = {"conv1.weight": torch.zeros(16, 3, 3, 3), "fc.weight": torch.zeros(9, 64), "fc.bias": torch.zeros(9)}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def without_counters(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


@contextmanager
def on_cuda() -> Iterator[None]:
    """A block in which torch.save marks every tensor as one of a GPU, as it does where there is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        yield


# As the published training scripts write them.
LAYOUTS: dict[str, Callable[[State], Any]] = {
    "repdistiller ckpt_epoch_240": lambda state: {
        "epoch": 240,
        "model": state,
        "accuracy": torch.tensor(72.34),
        "optimizer": OPTIMIZER,
    },
    "repdistiller best": lambda state: {
        "epoch": 213,
        "model": state,
        "best_acc": torch.tensor([72.5]),
        "optimizer": OPTIMIZER,
    },
    "repdistiller teacher last": lambda state: {
        "opt": argparse.Namespace(model="resnet56", learning_rate=0.05, lr_decay_epochs=[150, 180, 210]),
        "model": state,
        "optimizer": OPTIMIZER,
    },
    "repdistiller student last": lambda state: {"opt": argparse.Namespace(distill="kd", gamma=0.1), "model": state},
    "mdistiller latest": lambda state: {
        "epoch": 240,
        "model": prefixed(state, "module.student.") | prefixed(OTHER, "module.teacher."),
        "optimizer": OPTIMIZER,
        "best_acc": np.float64(71.9),
    },
    "mdistiller student_best": lambda state: {"model": state},
    "data parallel": lambda state: {"state_dict": prefixed(state, "module."), "best_prec1": np.float32(71.9)},
    "compiled": lambda state: {"model_state_dict": prefixed(state, "_orig_mod."), "epoch": np.int64(3)},
    "compiled in data parallel": lambda state: prefixed(state, "module._orig_mod."),
    "bare": lambda state: state,
}


def written(layout: str, state: State, folder: Path) -> Path:
    path = folder / "published.pth"
    with on_cuda():
        torch.save(LAYOUTS[layout](state), path)
    return path


BIG = ("resnet32x4", "vgg11", "vgg13", "vgg16", "vgg19", "ResNet50")  # 30 to 95 MB a file
CASES = [
    *((name, LAYOUTS if name not in BIG else ("repdistiller best", "mdistiller latest")) for name in model_names()),
    *(pytest.param(name, LAYOUTS, marks=pytest.mark.slow) for name in BIG),
]


@pytest.mark.parametrize(("name", "layouts"), CASES, ids=lambda value: value if isinstance(value, str) else len(value))
def test_every_layout_loads_and_answers_as_its_writer(name: str, layouts: Iterable[str], tmp_path: Path) -> None:
    torch.manual_seed(1)
    source, target = (build_model(name, num_classes=3) for _ in range(2))
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        source(image)  # moves the statistics of BatchNorm
        expected = source.eval()(image)
        target.eval()
        state = source.state_dict()

        def check(path: Path, label: str, **options: Any) -> None:
            for tensor in target.state_dict().values():
                tensor.zero_()
            report = load_weights(target, path, **options)
            assert torch.equal(target(image), expected), label
            assert all(key.endswith("num_batches_tracked") for key in report.fresh), label
            path.unlink()

        assert not torch.equal(target(image), expected)
        for layout in layouts:
            check(written(layout, state, tmp_path), layout)
        path = tmp_path / "teacher.pth"
        torch.save({"model": prefixed(state, "module.teacher.") | prefixed(OTHER, "module.student.")}, path)
        check(path, "mdistiller teacher", who="teacher")
        torch.save({"model": without_counters(state)}, path, _use_new_zipfile_serialization=False)
        check(path, "torch 0.4")
        save_file(state, path)
        check(path, "safetensors")


def test_the_files_say_that_they_come_from_a_gpu(tmp_path: Path) -> None:
    path = written("bare", nn.Linear(2, 3).state_dict(), tmp_path)
    with pytest.raises(RuntimeError, match=r"on a CUDA device but torch\.cuda\.is_available"):
        torch.load(path, weights_only=True)
