import gc
import os
import signal

import pytest
import torch

from browser import browser  # noqa: F401 - a fixture for all tests
from mfkd.models import trust

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if "PYTEST_XDIST_WORKER" in os.environ:
    # Readline has told its size of a terminal to the process that started this one; tables ask for it.
    os.environ.pop("COLUMNS", None)
if WORKERS > 1:
    # More threads than cores would wait for one another.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // WORKERS))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same state of torch's generators."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c():
    """Ctrl-C as in a terminal; a shell that starts the tests in its background switches it off."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """Every training collects garbage first; among what thousands of tests have left that would take a second each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()  # what is frozen has no referrers for `gc`, which Hypothesis, loaded for the summary, warns of


@pytest.fixture(autouse=True)
def stranger(tmp_path_factory, monkeypatch):
    """Nobody has named any code on this machine yet, and nobody's list of it is touched."""
    monkeypatch.setattr(trust, "PLACE", str(tmp_path_factory.getbasetemp() / "trusted"))
    monkeypatch.delenv(trust.VARIABLE, raising=False)
    (tmp_path_factory.getbasetemp() / "trusted").unlink(missing_ok=True)
    trust._SEEN.clear()
    trust._NAMED.clear()
