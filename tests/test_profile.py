"""The profile of a training: phases within the trainer's own step, and nothing left behind."""

import json
import time

import pytest

from mfkd import profile as module
from mfkd.config import load_config
from mfkd.errors import ConfigError
from mfkd.plan import open_plan
from mfkd.profile import profile
from mfkd.teacher.frozen import FrozenTeacher

WORDS = ["train.epochs=1", "teacher.train={epochs: 1}", "data.fraction=0.2"]


@pytest.fixture
def plan(tmp_path):
    return lambda *words: open_plan(load_config(None, [*WORDS, f"out={tmp_path / 'run'}", *words]))


def test_phases_fill_the_step_and_nothing_is_written(plan, tmp_path):
    found = profile(plan(), steps=3)
    assert list(found["phases"]) == ["input", "teacher", "student", "method", "backward", "optimiser"]
    assert all(part["ms"] > 0 for part in found["phases"].values())
    assert 0 < found["overhead"] < 0.9
    assert found["images_per_second"] == pytest.approx(64e3 / found["step_ms"])
    assert found["floor_images_per_second"] == pytest.approx(64e3 / found["floor_ms"])
    assert (found["knowledge"], found["compiled"], found["batch_size"]) == ("live", [], 64)
    assert found["peak_mb"] > 50
    assert list(tmp_path.iterdir()) == []


def test_a_slow_teacher_is_found_out(plan, monkeypatch):
    real = FrozenTeacher.forward

    def slow(self, image, specs=()):
        time.sleep(0.05 * (len(image) == 64))
        return real(self, image, specs)

    monkeypatch.setattr(FrozenTeacher, "forward", slow)
    found = profile(plan(), steps=3)
    assert 50 < found["phases"]["teacher"]["ms"] < 200
    assert all(part["ms"] < 50 for name, part in found["phases"].items() if name != "teacher")
    assert found["overhead"] < 0.5
    kept = profile(plan("cache.views=2"), steps=3)  # knowledge in memory asks nobody
    assert kept["knowledge"] == "memory"
    assert kept["phases"]["teacher"]["ms"] < 25


def test_an_exception_leaves_no_timer_behind(plan, monkeypatch):
    seen = {}

    def update(self, batches):
        seen["fit"] = self
        raise RuntimeError("broken")

    monkeypatch.setattr(module.Fit, "update", update)
    with pytest.raises(RuntimeError, match="broken"):
        profile(plan(), steps=2)
    fit = seen["fit"]
    assert "outputs" not in vars(fit.distiller)
    assert "backward" not in vars(fit.accelerator)


def test_accumulated_parts_are_added_up(plan):
    found = profile(plan("train.accumulate=2", "method=kd"), steps=2)
    assert found["phases"]["teacher"]["ms"] > 0
    assert found["batch_size"] == 64


def test_a_trace_has_the_operations(plan, tmp_path):
    path = tmp_path / "trace.json"
    profile(plan("method=kd"), steps=2, trace=path)
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert {"aten::convolution", "aten::convolution_backward"} <= names


def test_refusals(plan, tmp_path, monkeypatch):
    path = tmp_path / "none" / "trace.json"
    with pytest.raises(ConfigError) as caught:
        profile(plan(), trace=path)
    assert str(caught.value) == f"--trace {path}: there is no folder {path.parent}; create it first."
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError) as caught:
        profile(plan())
    assert str(caught.value) == "profile times one process; start it without torchrun."
