"""Processes that read images end with the main one, even if that is killed."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

CODE = """
import multiprocessing, os, signal, sys, torch
from mfkd.config import AugmentConfig, DataConfig
from mfkd.data import load_data, train_loader

if __name__ == "__main__":
    config = DataConfig(name="folder:" + sys.argv[1], image_size=16, workers=2)
    data = load_data(config)
    loader = train_loader(data, config, AugmentConfig(), batch_size=4, seed=0, device="cpu")
    batches = loader.epoch(0)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no small server to fork from")
def test_readers_end_with_a_killed_process(tmp_path):
    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(40):  # more than what is read ahead, so that no reader is done yet
                pixels = np.full((100, 100, 3), number, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{number}.png")
    script = tmp_path / "script.py"
    script.write_text(CODE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True, env=environment
    ) as main:
        pids = list(map(int, main.stdout.readline().split()))
    assert main.returncode == -9
    assert len(pids) == min(2, len(os.sched_getaffinity(0)))  # at most one a processor
    deadline = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, pids))
