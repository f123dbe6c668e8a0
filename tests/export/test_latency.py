import time

import pytest

from mfkd.export.latency import Timing, interleaved


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a call moves it."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call(name, seconds, log):
        left = iter(seconds)

        def run():
            log.append(name)
            now[0] += next(left)

        return run

    return call


def test_median_and_quartiles_by_hand_and_calls_in_turns(clock):
    log = []
    warm = [9.0] * 3
    calls = {"a": clock("a", [*warm, 1, 2, 3, 4, 5], log), "b": clock("b", [*warm, 4, 4, 4, 4, 400], log)}
    found = interleaved(calls, 2, rounds=5, seconds=1)
    assert found["a"] == Timing(1500, 1000, 2000, 5, pytest.approx(2 / 3))
    assert found["b"] == Timing(2000, 2000, 2000, 5, 0.5)
    assert log == [*"aaabbb", *("ab" * 5)]


def test_budget_ends_the_rounds_after_five(clock):
    found = interleaved({"a": clock("a", [1.0] * 99, [])}, 1, rounds=90, seconds=7.5)
    assert found["a"].calls == 8
    assert interleaved({"a": clock("a", [1.0] * 99, [])}, 1, rounds=1)["a"] == Timing(1000, 1000, 1000, 1, 1)
