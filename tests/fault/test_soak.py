"""Repeated short runs leave nothing behind in their process; the long form is `benchmarks/soak.py` itself."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow  # more than a minute
def test_a_few_rounds_leave_no_handle_thread_child_or_file(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, SOAK, "--rounds", "3", "--out", tmp_path / "soak.json"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["warm"] == 1  # what imports and first uses open stays open
    for name, (first, second) in found["counts"].items():
        assert second <= first, name
    assert found["counts"]["files"] == found["counts"]["children"] == [0, 0]
    assert len(found["rounds"]) == 3
    assert found["memory"] is None
    assert found["growing"] == []


@pytest.fixture(scope="module")
def judged():
    return runpy.run_path(str(SOAK))["judged"]


def rounds(memory, **counts):
    steady = {"handles": 5, "threads": 3, "children": 0, "files": 0}
    return [
        {"memory": value, **steady, **{name: values[at] for name, values in counts.items()}}
        for at, value in enumerate(memory)
    ]


def test_growth_is_told_from_a_warm_up_and_from_noise(judged):
    noise = [0.3, -0.2, 0.1, -0.4, 0.2, 0.0, -0.1, 0.4, -0.3, 0.1] * 4
    warm = [100 + 5 * min(at, 8) for at in range(40)]
    flat = judged(rounds([a + b for a, b in zip(warm, noise, strict=True)]))
    assert (flat["growing"], flat["warm"]) == ([], 10)
    assert flat["memory"]["interval"][0] < 0 < flat["memory"]["interval"][1]
    leak = judged(rounds([a + b + 0.1 * at for at, (a, b) in enumerate(zip(warm, noise, strict=True))]))
    assert leak["growing"] == ["memory"]
    assert leak["memory"]["slope"] == pytest.approx(0.1, abs=0.01)
    tiny = judged(rounds([100 + 0.01 * at for at in range(40)]))
    assert tiny["growing"] == []
    assert tiny["memory"]["slope"] == pytest.approx(0.01)


def test_a_count_grows_when_its_second_half_exceeds_the_first(judged):
    steps = judged(rounds([100.0] * 8, handles=[3, 5, 5, 5, 5, 5, 5, 6], threads=[9, 4, 4, 3, 4, 4, 4, 4]))
    assert steps["growing"] == ["handles"]
    assert steps["counts"]["handles"] == [5, 6]
    assert steps["counts"]["threads"] == [4, 4]
