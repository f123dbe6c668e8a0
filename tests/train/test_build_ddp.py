"""Two processes build the cache that one builds, to the byte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_build_the_bytes_of_one(tmp_path):
    words = (
        "data.fraction=0.3", "teacher.model=resnet8", "teacher.train.epochs=1", "train.epochs=1", "log.trackers=[]",
        "cache.views=2",
    )  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    one = [sys.executable, "-m", "mfkd", "cache", "build", *words]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *one[1:]]
    teacher = f"teacher.weights={tmp_path}/one/teacher/teacher.safetensors"
    for name, command in (("one", one), ("two", [*two, teacher]), ("again", [*one, teacher])):
        done = subprocess.run(
            [*command, f"out={tmp_path}/{name}", f"cache.folder={tmp_path}/{name}-cache"],
            check=False, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("2 views of ") == 1
    for file in ("0.bin", "1.bin", "checksums.bin"):
        assert (tmp_path / "two-cache" / file).read_bytes() == (tmp_path / "again-cache" / file).read_bytes(), file
