import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mfkd.train import heap

FAULTS = """
import resource
import torch
from mfkd.train import heap

def update():
    blocks = [torch.ones(4_000_000) for _ in range(5)]  # 16 MB each

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        update()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

update()
first = faults()
kept = heap.keep()
update()
print(first, int(kept), faults())
"""


@pytest.fixture
def clean(monkeypatch):
    for name in heap.OWN:
        monkeypatch.delenv(name, raising=False)


def fresh(code):
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.usefixtures("clean")
def test_what_is_kept_is_taken_again_without_page_faults():
    first, kept, later = fresh(FAULTS)
    if not kept:
        pytest.skip("the C library is not glibc")
    assert first > 5 * 1000
    assert later < first / 20


@pytest.mark.usefixtures("clean")
def test_what_is_kept_can_be_handed_back():
    kept, held, left = fresh(
        "import torch; from mfkd.train import heap, memory\n"
        "kept = heap.keep(); block = torch.ones(50_000_000); del block\n"
        "held = memory._status('VmRSS'); heap.release(); print(int(kept), held, memory._status('VmRSS'))"
    )
    if not kept:
        pytest.skip("the C library is not glibc")
    assert held - left > 150e6


@pytest.mark.parametrize("name", heap.OWN)
def test_the_users_own_setting_stands(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    library = SimpleNamespace(mallopt=lambda *_: pytest.fail("changed"))
    monkeypatch.setattr(heap, "_glibc", lambda: library)
    assert not heap.keep()


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch, platform):
    heap._glibc.cache_clear()
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("loaded"))
    try:
        assert not heap.keep()
        assert not heap.release()
    finally:
        heap._glibc.cache_clear()


def test_another_c_library_is_left_alone(monkeypatch):
    heap._glibc.cache_clear()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    try:
        assert not heap.keep()
        assert not heap.release()
    finally:
        heap._glibc.cache_clear()
