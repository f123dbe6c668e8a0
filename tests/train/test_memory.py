import sys

import pytest
import torch

from mfkd.train import memory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process count its peak anew")
def test_the_peak_is_that_since_begin():
    memory.begin(CPU)
    low = memory.peak(CPU)
    held = torch.ones(75_000_000)  # 300 MB, touched
    high = memory.peak(CPU)
    assert high - low > 0.9 * held.nbytes
    del held
    memory.begin(CPU)
    assert memory.peak(CPU) < high - 250e6


def test_a_system_that_does_not_allow_it_is_taken_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MARKS", tmp_path)  # a folder cannot be written
    memory.begin(CPU)
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    assert memory.peak(CPU) > 50e6
