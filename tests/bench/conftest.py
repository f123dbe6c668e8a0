import pytest

from inprocess import Here
from mfkd.bench.plan import load_bench
from mfkd.bench.run import open_board, run_bench
from mfkd.train import cost

BASE = {
    "data": {"name": "digits", "fraction": 0.2},
    "teacher": {"model": "resnet14", "train": {"epochs": 1}},
    "student": {"model": "resnet8"},
    "train": {"epochs": 2, "batch_size": 32, "schedule": "constant"},
    "log": {"trackers": []},
}
METHODS = {"mfkd": "mfkd", "kd": "kd", "broken": {"mfkd": {"student_taps": ["nowhere"]}}}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.0)


@pytest.fixture
def bench(tmp_path):
    """Do a small plan in this process; gives board and the keys of the cells that were started."""

    def do(*overrides, only=(), retry=False, runner=None, **changes):
        plan = {"out": str(tmp_path / "bench"), "base": BASE, "methods": METHODS, "seeds": [0, 1], **changes}
        board = open_board(load_bench(plan, overrides), only, retry)
        runner = runner or Here()
        run_bench(board, runner, lambda board, row: None)
        return board, runner.started

    return do
