import ctypes
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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc")
def test_what_was_freed_goes_back_before_the_count():
    # Every other block of 100 kB is freed, so that the pool keeps the room between those that are left.
    counted, before, after = fresh(
        "held = [torch.ones(25_000) for _ in range(4000)]; del held[::2]\n"
        "before = memory._status('VmRSS'); counted = memory.begin(cpu)\n"
        "print(int(counted), before, memory._status('VmRSS'))"
    )
    if not counted:
        pytest.skip("this system does not let a process count its peak anew")
    assert before - after > 0.8 * 200e6


def test_a_c_library_that_cannot_give_back_is_let_be(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory.begin(CPU)
