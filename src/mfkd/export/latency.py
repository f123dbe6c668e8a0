"""Milliseconds, measured so that two networks can be compared."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WARMUP, ROUNDS, FEWEST = 3, 30, 5


@dataclass(frozen=True)
class Timing:
    """Time of one image.

    Args:
        ms: median over the calls, divided by the batch.
        low: lower quartile, likewise; `high` the upper one.
        high: see `low`.
        calls: how many were timed.
        images_per_second: at the median.
    """

    ms: float
    low: float
    high: float
    calls: int
    images_per_second: float


def interleaved(
    calls: Mapping[str, Callable[[], object]], batch: int, rounds: int = ROUNDS, seconds: float = 20.0
) -> dict[str, Timing]:
    """Time several calls in turns, so that whatever else the machine does falls on all alike.

    Args:
        calls: each answers one batch, and returns when that is done.
        batch: images in it.
        rounds: calls of each, after three to warm up.
        seconds: no further round is begun after this time, once there are five.
    """
    for call in calls.values():
        for _ in range(WARMUP):
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for number in range(rounds):
        if number >= FEWEST and time.perf_counter() > end:
            break
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - begun)
    return {name: _timing(values, batch) for name, values in taken.items()}


def _timing(seconds: list[float], batch: int) -> Timing:
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    each = 1000 / batch
    return Timing(middle * each, low * each, high * each, len(seconds), batch / middle)
