"""Two processes: relational methods equal one process exactly, and every method keeps both processes equal."""

import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mfkd.methods import METHODS

SCRIPT = Path(__file__).with_name("two_processes.py")
RELATIONAL = ["sp", "pkt", "rkd", "cc", "cc gaussian"]

# What may differ between the processes, and why; ends of names in the state of a method.
MAY_DIFFER = {
    "running_mean": "each process measures BatchNorm statistics; DDP sends the first one's before the next step",
    "running_var": "as running_mean",
}


def run(folder, which):
    """What each of two processes found, in the order of their ranks."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder), which],
        check=False, capture_output=True, text=True, timeout=1200, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def relational(tmp_path_factory):
    ranks = run(tmp_path_factory.mktemp("ddp"), "relational")
    alone = tmp_path_factory.mktemp("alone")
    runpy.run_path(str(SCRIPT))["main"](alone, "relational")
    return ranks, torch.load(alone / "rank-0.pt", weights_only=True)


@pytest.mark.parametrize("name", RELATIONAL)
def test_relations_over_two_processes_give_the_weights_of_one(relational, name):
    ranks, alone = relational
    assert [found[name]["processes"] for found in (*ranks, alone)] == [2, 2, 1]
    for rank in ranks:
        assert rank[name]["last"]["loss"] == pytest.approx(alone[name]["last"]["loss"], abs=1e-8)
        for key, value in alone[name]["state"].items():
            assert value.dtype == torch.float64
            assert torch.allclose(rank[name]["state"][key], value, rtol=0, atol=1e-8), key
            assert (value - alone[name]["initial"][key]).abs().max() > 1e-4, key


def test_both_processes_hold_one_contrastive_memory_with_the_images_of_both(relational):
    ranks, alone = relational
    states = [found["crd"]["state"] for found in (*ranks, alone)]
    memory = [name for name in states[0] if ".memory." in name]
    assert len(memory) == 3
    for name in memory:
        assert torch.equal(states[0][name], states[1][name]), name
        assert states[0][name].isfinite().all()
    for side in ("student", "teacher"):
        name = f"objective.methods.crd.memory.{side}"
        assert (ranks[0]["crd"]["initial"][name].norm(dim=1) - 1).abs().max() > 0.01
        for state in states:
            assert (state[name].norm(dim=1) - 1).abs().max() < 1e-12, name  # so that each image was taken in


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return run(tmp_path_factory.mktemp("all"), "all")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_stay_equal_with_every_method(everything, name):
    first, second = (found[name] for found in everything)
    assert "error" not in first, first["error"]
    assert first["processes"] == 2
    assert len(first["last"]) > 4
    assert all(math.isfinite(value) for value in first["last"].values()), first["last"]
    assert first["last"] == second["last"]
    assert first["state"].keys() == second["state"].keys()
    for key, value in first["state"].items():
        if key.startswith("student.") or key.rpartition(".")[2] not in MAY_DIFFER:
            assert torch.equal(value, second["state"][key]), key
    assert any(not torch.equal(value, first["initial"][key]) for key, value in first["state"].items())
