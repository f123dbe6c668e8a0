import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mfkd.train import memory

CPU = torch.device("cpu")


def fresh(code):
    """What lines print in a process of their own: in one that has run long, 300 MB may come out of what was freed."""
    head = "import torch; from pathlib import Path; from mfkd.train import memory; cpu = torch.device('cpu')"
    found = subprocess.run(
        [sys.executable, "-c", f"{head}\n{code}"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    return [int(word) for word in found.stdout.split()]


def test_the_peak_is_that_since_begin():
    begun, low, high, other, again = fresh(
        "begun = memory.begin(cpu); low = memory.peak(cpu)\n"
        "held = torch.ones(75_000_000); high = memory.peak(cpu); del held\n"  # 300 MB, touched
        "other = memory.begin(cpu); print(int(begun), low, high, int(other), memory.peak(cpu))"
    )
    if not begun:
        pytest.skip("this system does not let a process count its peak anew")
    assert 0.9 * 300e6 < high - low < 1.1 * 300e6
    assert other
    assert again < high - 250e6


def test_without_a_new_count_the_peak_is_that_of_the_process():
    begun, grown, kept = fresh(
        "memory.MARKS = Path('none/none'); begun = memory.begin(cpu); low = memory.peak(cpu)\n"
        "held = torch.ones(150_000_000); high = memory.peak(cpu); del held\n"
        "memory.begin(cpu); print(int(begun), high - low, int(memory.peak(cpu) > high - 5e6))"
    )
    assert not begun
    assert 0.7 * 600e6 < grown < 1.1 * 600e6
    assert kept


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
