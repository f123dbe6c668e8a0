"""Processes that do cells: how orders and answers travel, what a death costs, who gets which cores."""

import os
import sys
import time

import pytest

from mfkd.bench.local import Local, shares
from mfkd.bench.plan import cells, load_bench

# Answers with the key at once; a seed of 1 dies, 2 stays until its input is closed and then leaves a file.
SCRIPT = """
import json, os, pathlib, sys
for line in sys.stdin:
    cell = json.loads(line)
    if cell["seed"] == 1:
        os.kill(os.getpid(), 9)
    if cell["seed"] == 2:
        sys.stdin.read()
        pathlib.Path(cell["config"]["out"]).mkdir(parents=True)
        break
    if cell["seed"] == 3:
        sys.exit(4)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    print("/".join([cell["pair"], cell["method"], f"seed-{cell['seed']}"]), flush=True)
"""


@pytest.fixture
def local(monkeypatch):
    monkeypatch.setattr(Local, "command", (sys.executable, "-c", SCRIPT))
    made = []

    def make(jobs=1):
        made.append(Local(jobs))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def cell(tmp_path, seed):
    plan = {"out": str(tmp_path / f"out-{seed}"), "methods": ["kd"], "seeds": [seed]}
    return cells(load_bench(plan))[2]


def wait(runner, count=1):
    found, end = {}, time.monotonic() + 20
    while len(found) < count and time.monotonic() < end:
        found |= runner.ended(0.1)
    return found


def test_one_process_does_one_cell_after_the_other(local, tmp_path):
    runner = local()
    for seed in (0, 5):
        runner.start(cell(tmp_path, seed))
        assert wait(runner) == {f"resnet20-resnet8/kd/seed-{seed}": ""}
    assert runner.ended(0.01) == {}


def test_a_death_costs_one_cell_and_the_next_gets_a_new_process(local, tmp_path):
    runner = local(2)
    runner.start(cell(tmp_path, 1))
    runner.start(cell(tmp_path, 0))
    assert wait(runner, 2) == {
        "resnet20-resnet8/kd/seed-1": "its process was ended by SIGKILL, as it does where memory runs out",
        "resnet20-resnet8/kd/seed-0": "",
    }
    runner.start(cell(tmp_path, 3))
    assert wait(runner) == {"resnet20-resnet8/kd/seed-3": "its process ended with exit code 4"}
    runner.start(cell(tmp_path, 6))
    assert wait(runner) == {"resnet20-resnet8/kd/seed-6": ""}


def test_an_idle_process_that_died_is_replaced(local, tmp_path):
    runner = local()
    runner.start(cell(tmp_path, 0))
    wait(runner)
    worker = runner._workers[0]
    worker.kill()
    worker.wait()
    runner.start(cell(tmp_path, 5))
    assert wait(runner) == {"resnet20-resnet8/kd/seed-5": ""}


def test_stop_lets_a_process_end_in_its_own_time(local, tmp_path):
    runner = local()
    runner.start(cell(tmp_path, 2))
    worker = runner._workers[0]
    assert runner.ended(0.1) == {}
    runner.stop()
    assert worker.returncode == 0
    assert (tmp_path / "out-2").exists()  # it ended after its input, and not before


def test_cores_and_gpus_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert shares(0, 1) == {}
    assert [shares(slot, 3) for slot in range(3)] == [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("3", "5", "3")
    ]
    assert shares(1, 100)["OMP_NUM_THREADS"] == "1"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("mfkd.bench.local._cores", lambda: list(range(8)))
    assert shares(0, 2)["OMP_NUM_THREADS"] == "4"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_real_worker_writes_everything_when_its_master_is_gone(tmp_path):
    plan = {
        "out": str(tmp_path / "bench"),
        "base": {
            "data": {"name": "digits"},
            "teacher": {"model": "resnet8"},
            "train": {"epochs": 500, "batch_size": 32},
            "log": {"trackers": []},
        },
        "methods": ["kd"],
        "seeds": [0],
    }
    teacher = cells(load_bench(plan))[0]
    runner = Local()
    runner.start(teacher)
    end = time.monotonic() + 60
    while not (teacher.log.exists() and "test Top-1" in teacher.log.read_text()) and time.monotonic() < end:
        assert runner.ended(0.2) == {}
    worker = runner._workers[0]
    worker.stdin.close()  # as the system does for a master that was killed
    assert worker.wait(timeout=30) == 0
    assert not teacher.error.exists()
    assert "epoch 1/500" in teacher.log.read_text()
    assert (teacher.state, len((teacher.folder / "log.csv").read_text().splitlines()) < 400) == ("begun", True)
    runner.stop()
