import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mfkd.models.weights import read_weights

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("two_processes.py")
RECIPE = ROOT / "recipes" / "digits.yaml"


def torchrun(*words):
    """Two processes on the CPU, over a port that is free."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    done = torchrun(SCRIPT, folder)
    assert done.returncode == 0, done.stderr
    alone = tmp_path_factory.mktemp("alone")
    runpy.run_path(str(SCRIPT))["main"](alone)
    read = [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]
    left = [json.loads(path.read_text()) for path in sorted(folder.glob("left-*.json"))]
    assert left == [[], []]  # a thread of gloo that outlives Python aborts its process, now and then
    return done.stderr, read, json.loads((alone / "rank-0.json").read_text())


def flat(value):
    return [number for item in value for number in flat(item)] if isinstance(value, list) else [value]


def test_five_updates_of_two_processes_equal_those_of_one(results):
    _, ranks, alone = results
    assert [rank["exact"]["processes"] for rank in (*ranks, alone)] == [2, 2, 1]
    for rank in ranks:
        for name, value in alone["exact"]["weights"].items():
            assert flat(rank["exact"]["weights"][name]) == pytest.approx(flat(value), rel=0, abs=1e-8), name
        row, expected = rank["exact"]["row"], alone["exact"]["row"]
        assert row == pytest.approx(expected, rel=1e-5)
        assert row["loss"] == pytest.approx(expected["loss"], abs=1e-8)


def test_evaluation_is_exact_where_the_split_does_not_divide(results):
    _, ranks, alone = results
    assert alone["exact"]["metrics"]["n"] == 13
    for rank in ranks:
        assert rank["exact"]["metrics"] == pytest.approx(alone["exact"]["metrics"], rel=1e-5)


def test_preparation_runs_on_the_first_process_and_reaches_all(results):
    _, ranks, alone = results
    found = [rank["batchnorm"] for rank in ranks]
    assert [rank["prepared"] for rank in found] == [1, 0]
    assert found[0]["fusion"] == found[1]["fusion"] != 0
    assert found[0]["fusion"] == pytest.approx(alone["batchnorm"]["fusion"], rel=1e-3)


def test_all_processes_measure_and_keep_the_first_ones_statistics(results):
    _, ranks, _ = results
    first, second = (rank["batchnorm"] for rank in ranks)
    assert first["weights"] == second["weights"]
    assert first["metrics"] == second["metrics"]
    assert first["row"] == second["row"]


def test_nothing_complains_and_each_epoch_is_told_once(results):
    stderr, _, _ = results
    lines = stderr.splitlines()
    assert [line.split(",")[1].split(":")[1].strip() for line in lines] == ["epoch 1/1", "epoch 1/2", "epoch 2/2"]


def test_distill_learns_on_two_processes_and_leaves_one_record(tmp_path):
    done = torchrun(
        "-m", "mfkd", "distill", RECIPE, f"out={tmp_path}/run", "teacher.model=resnet8", "teacher.train.epochs=3",
        "train.epochs=3", "train.batch_size=32", "seeds=[5]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run" / "distilled" / "seed-5"
    record = json.loads((folder / "record.json").read_text())
    assert record["processes"] == 2
    assert [row["epoch"] for row in record["curves"]] == [1, 2, 3]
    assert len((folder / "log.csv").read_text().splitlines()) == 4
    assert record["metrics"]["n"] == 450
    assert record["metrics"]["top1"] > 60  # chance is 10
    assert len(list(folder.glob("logs/**/events.out.tfevents.*"))) == 1
    assert read_weights(folder / "student.safetensors")[1]
    assert done.stdout.count("Top-1") == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == len(set(lines))
    assert sum("epoch" in line for line in lines) == 6
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused_in_one_line(tmp_path):
    done = torchrun("-m", "mfkd", "distill", RECIPE, f"out={tmp_path}/run", "train.batch_size=63")
    assert done.returncode != 0
    text = (
        "mfkd: error: train.batch_size=63 does not divide into 2 processes x train.accumulate=1 equal parts; "
        "make it a multiple of 2."
    )
    assert done.stderr.count(text) == 1
    assert "exitcode  : 2 " in done.stderr
    assert done.stderr.count("Traceback") == 1  # torchrun's own
    assert not (tmp_path / "run").exists()
