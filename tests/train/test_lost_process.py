"""Two processes that are stopped, lose one of them, and go on, as two and as three."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

# Six launches of two and three processes, more than a minute.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("lost_process.py")
RECIPE = """
data: {name: digits, fraction: 0.1, val_fraction: 0.27, evaluate: val}
teacher: {model: resnet8, train: {epochs: 1}}
student: {model: resnet8}
method: {crd: {width: 8}, kd: {}}
train: {epochs: 2, batch_size: 12, accumulate: 2, ema: 0.9, compile: false}
checkpoint: {every_steps: 3}
log: {trackers: []}
"""


@pytest.fixture(scope="module")
def distill(tmp_path_factory):
    """(finished process, seconds from the signal to its end) of `mfkd distill` on n processes."""
    base = tmp_path_factory.mktemp("lost")
    (base / "recipe.yaml").write_text(RECIPE)

    def start(place, processes=2, who=0, when=0, signum=0):
        note = base / "note"
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        words = [
            *launcher,
            SCRIPT,
            who,
            when,
            int(signum),
            note,
            "distill",
            base / "recipe.yaml",
            f"out={base / place}",
        ]
        done = subprocess.run(
            [sys.executable, *map(str, words)], check=False, capture_output=True, text=True, timeout=300,
            env=environment, cwd=ROOT,
        )  # fmt: skip
        return done, time.time() - float(note.read_text()) if signum else 0.0

    start.base = base
    return start


@pytest.fixture(scope="module")
def story(distill):
    """An uninterrupted run; and one that is asked to stop, goes on, loses a process, and goes on twice."""
    base = distill.base
    whole, _ = distill("whole")
    assert whole.returncode == 0, whole.stderr
    stopped = distill("parts", who=1, when=2, signum=signal.SIGTERM)
    saved = torch.load(base / "parts/distilled/seed-0/checkpoints/last.pt", weights_only=True)
    killed = distill("parts", who=1, when=10, signum=signal.SIGKILL)
    shutil.copytree(base / "parts", base / "three")
    goes_on = [distill("parts")[0], distill("three", processes=3)[0]]
    return stopped, saved, killed, goes_on


def record(folder):
    found = json.loads((folder / "distilled/seed-0/record.json").read_text())
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in found["curves"]]
    return found, rows


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(story):
    (done, seconds), saved, _, _ = story
    assert done.stderr.count("stopped in epoch 1 of 2; the same command goes on from here.") in (1, 2)
    assert "exitcode  : 143 " in done.stderr
    assert seconds < 30
    assert (saved["state"]["epoch"], saved["state"]["step"]) == (0, 5)  # where all look next
    assert len(saved["others"]) == 1


def test_a_lost_process_ends_the_others_quickly_with_the_reason(story):
    _, _, (done, seconds), _ = story
    assert done.returncode != 0
    assert seconds < 30
    assert "Signal 9 (SIGKILL) received" in done.stderr  # the launcher's own words
    assert done.stderr.count("Traceback") == 1  # torchrun's own
    assert (
        "mfkd: error: another process of this training has ended, and the launcher tells which and why; "
        "start the same command again, it goes on from the last checkpoint."
    ) in done.stderr


def test_starting_again_gives_the_same_to_the_bit(story, distill):
    done = story[-1][0]
    assert done.returncode == 0, done.stderr
    name = "distilled/seed-0/student.safetensors"
    assert (distill.base / "parts" / name).read_bytes() == (distill.base / "whole" / name).read_bytes()
    (parts, rows), (whole, expected) = record(distill.base / "parts"), record(distill.base / "whole")
    assert rows == expected
    assert parts["notes"] == whole["notes"]
    assert {**parts["metrics"], "latency_ms": 0} == {**whole["metrics"], "latency_ms": 0}


def test_another_number_of_processes_is_allowed_and_told(story, distill):
    done = story[-1][1]
    assert done.returncode == 0, done.stderr
    (three, rows), (_, expected) = record(distill.base / "three"), record(distill.base / "whole")
    assert three["processes"] == 3
    text = "Trained by 2, then 3 processes: not to the bit what an uninterrupted run gives."
    assert three["notes"][-1] == text
    assert text in done.stdout
    assert three["metrics"]["n"] % 3 != 0  # and still every image counts once
    assert rows[0] == expected[0]  # of before
    assert rows[1]["loss"] == pytest.approx(expected[1]["loss"], rel=0.1)
