import math

import numpy as np
import pytest

from mfkd.bench.stats import holm, ranks, sign_flips, t_interval, t_test
from mfkd.summary import interval


def test_interval_and_p_of_three_differences_by_hand():
    # Mean 2, deviation 1, error 1 / sqrt(3); the 97.5% point of t with 2 degrees of freedom is 4.302653.
    low, high = t_interval([1.0, 2.0, 3.0])
    assert (low, high) == (pytest.approx(2 - 4.302653 / math.sqrt(3)), pytest.approx(2 + 4.302653 / math.sqrt(3)))
    # With 2 degrees of freedom p = 1 - t / sqrt(2 + t^2), and t = 2 sqrt(3).
    assert t_test([1.0, 2.0, 3.0]) == pytest.approx(1 - math.sqrt(12) / math.sqrt(14))


def test_interval_is_that_of_the_summary_and_goes_over_the_last_axis():
    values = np.random.default_rng(0).normal(1, 2, (3, 5))
    low, high = t_interval(values)
    for row, a, b in zip(values.tolist(), low, high, strict=True):
        assert interval(row) == pytest.approx([a, b])
    assert t_test(values)[1] == pytest.approx(t_test(values[1]))


def test_interval_and_test_agree_on_what_is_significant():
    values = np.random.default_rng(1).normal(0.9, 1, (200, 5))
    low, high = t_interval(values)
    significant = (low > 0) | (high < 0)
    assert 40 < significant.sum() < 160
    assert np.array_equal(significant, t_test(values) < 0.05)


def test_nothing_is_concluded_from_equal_differences():
    assert np.isnan(t_interval([0.3, 0.3, 0.3])).all()
    assert np.isnan(t_test([[0.3, 0.3], [0.0, 0.0]])).all()


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([1, 2, 3], 2 / 8),  # all up and all down
        ([3, 1, -1], 6 / 8),  # |sum| of 3 or more: all but 3 - 1 - 1 and its negative
        ([1, -1], 1.0),
        ([0.1] * 6, 2 / 64),
        ([-5.0], 1.0),
    ],
)
def test_sign_flips_by_hand(differences, expected):
    assert sign_flips(differences) == expected
    assert sign_flips([-value for value in differences]) == expected


def test_many_differences_are_flipped_at_random_and_always_alike():
    values = np.random.default_rng(2).normal(0.3, 1, 17)
    exact = np.array([1 - 2 * ((np.arange(2**17) >> place) & 1) for place in range(17)]).T @ values
    expected = np.mean(np.abs(exact) >= abs(values.sum()))
    assert sign_flips(values) == pytest.approx(expected, abs=0.01)
    assert sign_flips(values) == sign_flips(values)
    assert 0 < sign_flips([1.0] * 30) < 1e-4


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])


def test_holm_rejects_what_the_procedure_in_steps_rejects():
    p = np.random.default_rng(3).uniform(0, 0.05, (300, 6)) ** 1.5
    for row, corrected in zip(p, holm(p), strict=True):
        rejected = set()
        for step, place in enumerate(np.argsort(row)):  # from the smallest on, until one is too large
            if row[place] > 0.05 / (6 - step):
                break
            rejected.add(int(place))
        assert {place for place in range(6) if corrected[place] <= 0.05} == rejected


def test_ranks_tie_where_the_interval_crosses_zero():
    best = {0: 72.0, 1: 72.2, 2: 71.9}
    near = {0: 72.1, 1: 71.8, 2: 71.7}  # sometimes better
    worse = {0: 70.0, 1: 70.1, 2: 69.8}  # always by about 2
    alone = {7: 65.0}  # no common seed
    found = ranks({"near": near, "worse": worse, "best": best, "alone": alone})
    assert found == {"near": 1, "worse": 3, "best": 1, "alone": None}


def test_interval_covers_a_known_difference_95_times_of_100():
    values = np.random.default_rng(4).normal(0.8, 0.5, (1000, 5))
    low, high = t_interval(values)
    assert np.mean((low <= 0.8) & (high >= 0.8)) == pytest.approx(0.95, abs=0.02)


def test_corrected_family_errs_at_most_5_times_of_100_where_nothing_differs():
    draw = np.random.default_rng(5)
    # Ten methods and the student alone, five seeds; a seed is good or bad for all of them.
    accuracy = draw.normal(70, 0.3, (20_000, 11, 5)) + draw.normal(0, 0.5, (20_000, 1, 5))
    p = t_test(accuracy[:, 1:] - accuracy[:, :1])
    assert np.mean((holm(p) <= 0.05).any(1)) <= 0.05
    assert np.mean((p <= 0.05).any(1)) > 0.15  # uncorrected, one finds something much too often


def test_corrected_family_finds_what_differs():
    draw = np.random.default_rng(6)
    gains = draw.normal(0, 0.3, (1000, 10, 5)) + np.array([3.0, *[0.0] * 9])[:, None]
    found = holm(t_test(gains)) <= 0.05
    assert found[:, 0].mean() > 0.95
    assert found[:, 1:].any(1).mean() <= 0.07
