"""Statistics of differences that are paired by seed.

All functions work on the last axis, so that many comparisons go through at once.

Shapes:    ... any shape; n differences, one a seed; m comparisons of one family.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
EXACT = 16  # differences up to which every sign flip is tried; 2^16 are
PERMUTED_FROM = 6  # below, the smallest p that flips can give is above 0.03: 2 / 2^5 = 0.0625

Array = NDArray[np.float64]
K = TypeVar("K")


def t_interval(differences: ArrayLike, level: float = LEVEL) -> tuple[Array, Array]:
    """Student's t interval of the mean.

    Args:
        differences: (..., n) with n of 2 or more.
        level: share of such intervals that cover the true mean, for normal differences.

    Returns:
        (...) low and high; not a number where all differences are the same, which tell no error.
    """
    from scipy import stats

    values = np.asarray(differences, dtype=float)
    mean, error = values.mean(-1), _error(values)
    reach = stats.t.ppf((1 + level) / 2, values.shape[-1] - 1) * error
    return mean - reach, mean + reach


def t_test(differences: ArrayLike) -> Array:
    """Two-sided p of "the mean is 0" by Student's t; not a number where all differences are the same.

    Args:
        differences: (..., n) with n of 2 or more.
    """
    from scipy import stats

    values = np.asarray(differences, dtype=float)
    p: Array = 2 * stats.t.sf(np.abs(values.mean(-1)) / _error(values), values.shape[-1] - 1)
    return p


def sign_flips(differences: Sequence[float]) -> float:
    """Two-sided p of "each difference might as well have had the other sign", by permutation.

    All 2^n flips are tried up to n = 16; beyond, as many drawn with a fixed seed, the given one included.

    Args:
        differences: n of 1 or more.

    Returns:
        The share of flips whose mean is as far from 0 as the given one, or further.
    """
    values = np.asarray(differences, dtype=float)
    count = len(values)
    if count <= EXACT:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        drawn = np.random.default_rng(0).integers(0, 2, (2**EXACT - 1, count))
        signs = np.concatenate([np.ones((1, count), dtype=int), 1 - 2 * drawn])
    sums = np.abs(signs @ values)
    return float(np.mean(sums >= abs(values.sum()) - 1e-9 * np.abs(values).sum()))


def holm(p: ArrayLike) -> Array:
    """Holm's step-down correction: reject where the result is at most 0.05, and the family errs at most so often.

    Args:
        p: (..., m) of one family.

    Returns:
        (..., m) corrected, at most 1, in the order given.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, -1)
    factors = np.arange(values.shape[-1], 0, -1)
    rising = np.maximum.accumulate(np.take_along_axis(values, order, -1) * factors, -1)
    corrected = np.empty_like(values)
    np.put_along_axis(corrected, order, np.minimum(rising, 1), -1)
    return corrected


def ranks(values: Mapping[K, Mapping[int, float]]) -> dict[K, int | None]:
    """Places from 1; a method is behind those alone that are better than it by an interval above 0.

    Args:
        values: of each method, by seed.

    Returns:
        By method: 1 and the number of methods that are surely better; None where no interval with any
        other method can be given.
    """
    found: dict[K, int | None] = {}
    for name, own in values.items():
        lows = [_low(other, own) for rival, other in values.items() if rival != name]
        known = [low for low in lows if not math.isnan(low)]
        found[name] = 1 + sum(low > 0 for low in known) if known else None
    return found


def _low(better: Mapping[int, float], worse: Mapping[int, float]) -> float:
    """Lower end of the interval of the paired difference."""
    seeds = [seed for seed in better if seed in worse]
    if len(seeds) < 2:
        return math.nan
    return float(t_interval([better[seed] - worse[seed] for seed in seeds])[0])


def _error(values: Array) -> Array:
    """Standard error of the mean; not a number for equal values, so that nothing is concluded from them."""
    error: Array = values.std(-1, ddof=1) / math.sqrt(values.shape[-1])
    return np.where(error > 1e-12 * np.abs(values).max(-1), error, np.nan)
