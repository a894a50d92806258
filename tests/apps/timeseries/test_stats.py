"""Tests and intervals: closed forms, and their size and coverage in simulations at fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from apps.timeseries import stats
from core.errors import UsageError


def moving_average(rng: np.random.Generator, n: int, order: int) -> np.ndarray:
    noise = rng.normal(size=n + order)
    return np.convolve(noise, np.ones(order + 1), mode="valid")


def test_without_overlap_it_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.exponential(size=(2, 25))
    for alternative in ("two-sided", "less", "greater"):
        theirs = scipy_stats.ttest_rel(a, b, alternative=alternative)
        statistic, p = stats.diebold_mariano(a, b, 1, alternative)
        assert statistic == pytest.approx(theirs.statistic)
        assert p == pytest.approx(theirs.pvalue)


def test_overlap_by_hand():
    d = np.array([1.0, 2.0, 0.0, 3.0, 4.0])  # mean 2; gamma_0 = 2, gamma_1 = (0+0-2+2)/5 = 0
    statistic, _ = stats.diebold_mariano(d, np.zeros(5), 2)
    assert statistic == pytest.approx(2 / np.sqrt(2 / 5) * np.sqrt((5 + 1 - 4 + 2 / 5) / 5))


def test_sides_and_order():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 60)) + [[0.0], [0.7]]
    statistic, p = stats.diebold_mariano(a, b, 3)
    assert statistic < 0
    assert stats.diebold_mariano(b, a, 3) == pytest.approx((-statistic, p))
    assert stats.diebold_mariano(a, b, 3, "less")[1] == pytest.approx(p / 2)
    assert stats.diebold_mariano(a, b, 3, "greater")[1] == pytest.approx(1 - p / 2)


@pytest.mark.parametrize(
    ("n", "h", "low", "high"), [(30, 1, 0.03, 0.07), (200, 4, 0.03, 0.08), (400, 12, 0.03, 0.10)]
)
def test_size_under_the_null(n, h, low, high):
    rng = np.random.default_rng(2)
    zeros = np.zeros(n)
    p = [stats.diebold_mariano(moving_average(rng, n, h - 1), zeros, h)[1] for _ in range(1500)]
    assert low < np.mean(np.array(p) < 0.05) < high


def test_power():
    rng = np.random.default_rng(3)
    found = [
        stats.diebold_mariano(rng.normal(size=100), rng.normal(0.5, size=100), 2, "less")[1]
        for _ in range(300)
    ]
    assert np.mean(np.array(found) < 0.05) > 0.85


def test_a_negative_variance_falls_back_to_bartlett():
    d = np.tile([1.0, -1.0], 20) + 0.1
    assert stats.long_run_variance(d, 1) > 0
    statistic, p = stats.diebold_mariano(d, np.zeros(40), 2)
    assert np.isfinite(statistic)
    assert 0 <= p <= 1


def test_what_cannot_be_tested():
    same = np.arange(6.0)
    assert stats.diebold_mariano(same, same, 2) == (0, 1)
    assert stats.diebold_mariano(same, same, 2, "less") == (0, 0.5)
    assert np.isnan(stats.diebold_mariano(same + 0.1, same, 2)).all()  # always the same distance
    assert np.isnan(stats.diebold_mariano(same[:3], same[3:], 3)).all()  # not longer than h
    assert np.isnan(stats.diebold_mariano(same[:1], same[1:2], 1)).all()
    holes = np.where(same == 2, np.nan, same)
    kept = same != 2
    other = np.random.default_rng(0).normal(size=6)
    assert stats.diebold_mariano(holes, other, 1) == stats.diebold_mariano(
        same[kept], other[kept], 1
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros(3), np.zeros(4), 1), "in pairs"),
        ((np.zeros(3), np.zeros(3), 0), "horizon 0"),
        ((np.zeros(3), np.zeros(3), 1, "both"), "alternative 'both'"),
    ],
)
def test_wrong_requests(arguments, words):
    with pytest.raises(UsageError, match=words):
        stats.diebold_mariano(*arguments)


@pytest.mark.parametrize("kind", ["moving", "circular"])
def test_bootstrap_of_independent_values_is_near_the_normal_interval(kind):
    values = np.random.default_rng(4).normal(3, 2, size=400)
    lo, hi = stats.block_bootstrap(values, np.mean, 1, 2000, 0, 90, kind)
    half = 1.645 * values.std() / 20
    assert lo == pytest.approx(values.mean() - half, abs=0.03)
    assert hi == pytest.approx(values.mean() + half, abs=0.03)


@pytest.mark.parametrize("kind", ["moving", "circular"])
def test_blocks_cover_the_mean_of_dependent_values_and_single_rows_do_not(kind):
    rng = np.random.default_rng(5)
    samples = [moving_average(rng, 200, 4) for _ in range(150)]

    def covered(block):
        bounds = [stats.block_bootstrap(y, np.mean, block, 200, 1, 90, kind) for y in samples]
        return np.mean([lo <= 0 <= hi for lo, hi in bounds])

    assert covered(15) > 0.79
    assert covered(1) < 0.65


def test_bootstrap_is_repeatable_and_takes_arrays():
    values = np.random.default_rng(6).normal(size=(50, 3))
    first = stats.block_bootstrap(values, lambda rows: rows.mean(axis=0), 5, 100, 7)
    again = stats.block_bootstrap(values, lambda rows: rows.mean(axis=0), 5, 100, 7)
    np.testing.assert_array_equal(first, again)
    assert np.shape(first) == (2, 3)
    other = stats.block_bootstrap(values, lambda rows: rows.mean(axis=0), 5, 100, 8)
    assert not np.array_equal(first, other)


def test_too_few_blocks_give_no_interval():
    assert np.isnan(stats.block_bootstrap(np.arange(9.0), np.mean, 5)).all()
    assert np.isnan(stats.block_bootstrap(np.empty(0), np.mean, 1)).all()
    assert np.isfinite(stats.block_bootstrap(np.arange(10.0), np.mean, 5)).all()
    with pytest.raises(UsageError, match="block 0"):
        stats.block_bootstrap(np.arange(9.0), np.mean, 0)


def test_skill_of_a_halved_loss():
    reference = np.random.default_rng(8).exponential(size=100)
    assert stats.skill(reference / 2, reference, 5) == pytest.approx((0.5, 0.5, 0.5))
    found, lo, hi = stats.skill(np.roll(reference, 1), reference, 5)
    assert found == pytest.approx(0)
    assert lo < 0 < hi
    assert np.isnan(stats.skill(reference, np.zeros(100))).all()
