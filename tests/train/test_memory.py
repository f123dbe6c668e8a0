import subprocess
import sys

import pytest
import torch

from mfkd.train import memory

CPU = torch.device("cpu")


def test_the_peak_is_that_since_begin():
    if not memory.begin(CPU):
        pytest.skip("this system does not let a process count its peak anew")
    low = memory.peak(CPU)
    held = torch.ones(75_000_000)  # 300 MB, touched
    high = memory.peak(CPU)
    assert high - low > 0.9 * held.nbytes
    del held
    assert memory.begin(CPU)
    assert memory.peak(CPU) < high - 250e6


def test_without_a_new_count_the_peak_is_that_of_the_process():
    code = (
        "import torch; from mfkd.train import memory; from pathlib import Path; cpu = torch.device('cpu')\n"
        "memory.MARKS = Path('none/none')\n"
        "assert not memory.begin(cpu); low = memory.peak(cpu); held = torch.ones(150_000_000)\n"
        "print(memory.peak(cpu) - low)"
    )
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0.7 * 600e6 < int(grown) < 1.1 * 600e6


def test_a_request_that_is_taken_and_does_nothing_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MARKS", tmp_path / "marks")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    for peak, counted in ((900_000, False), (501_000, True)):
        (tmp_path / "status").write_text(f"Name:\tpython\nVmHWM:\t  {peak} kB\nVmRSS:\t  500000 kB\n")
        assert memory.begin(CPU) is counted
        assert memory.peak(CPU) == 1024 * peak


@pytest.mark.parametrize("held", ["", "Name:\tpython\n"])
def test_a_system_that_does_not_tell_is_asked_in_another_way(monkeypatch, tmp_path, held):
    monkeypatch.setattr(memory, "MARKS", tmp_path)  # a folder cannot be written
    assert not memory.begin(CPU)
    status = tmp_path / "status"
    if held:
        status.write_text(held)
    monkeypatch.setattr(memory, "STATUS", status)
    assert memory.peak(CPU) > 50e6
