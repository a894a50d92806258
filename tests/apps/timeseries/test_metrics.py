"""Metrics against closed forms, and what they say where nothing is defined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from apps.timeseries import metrics
from core.errors import UsageError

NAN = float("nan")


def test_errors_of_a_case_by_hand():
    truth, forecast = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 4.0], [0.0, 4.0]])
    assert metrics.mse(truth, forecast) == pytest.approx(13 / 4)
    assert metrics.mae(truth, forecast) == pytest.approx(5 / 4)
    assert metrics.rmse(truth, forecast) == pytest.approx(np.sqrt(13) / 2)
    np.testing.assert_allclose(metrics.mae(truth, forecast, axis=0), [1.5, 1.0])
    np.testing.assert_allclose(metrics.rmse(truth, forecast, axis=1), np.sqrt([2.0, 4.5]))
    assert metrics.smape(truth, forecast) == pytest.approx((0 + 400 / 6 + 200 + 0) / 4)


def test_smape_of_two_zeros_is_zero_and_of_one_is_200():
    zeros = np.zeros(3)
    with np.errstate(all="raise"):
        assert metrics.smape(zeros, -zeros) == 0
        assert metrics.smape(zeros, np.array([1.0, -1e-9, 5.0])) == pytest.approx(200)


@pytest.mark.parametrize("name", ["mse", "mae", "rmse", "smape"])
def test_missing_values_are_left_out(name):
    rng = np.random.default_rng(0)
    truth, forecast = rng.normal(size=(2, 20, 3))
    holes = truth.copy()
    holes[4:9, 1], holes[:, 2] = NAN, NAN
    metric = getattr(metrics, name)
    kept = np.r_[0:4, 9:20]
    with np.errstate(all="raise"):
        found = metric(holes, forecast, axis=0)
    assert found[0] == metric(truth[:, 0], forecast[:, 0])
    assert found[1] == pytest.approx(metric(truth[kept, 1], forecast[kept, 1]))
    assert np.isnan(found[2])
    np.testing.assert_array_equal(found, metric(forecast, holes, axis=0))
    assert np.isnan(metric(holes[:, 2], forecast[:, 2]))


def test_mase_is_one_for_the_error_of_seasonal_naive():
    rng = np.random.default_rng(1)
    history = rng.normal(size=(60, 2)) * [1.0, 50.0]
    truth, forecast = history[7:], history[:-7]
    np.testing.assert_allclose(metrics.mase(truth, forecast, history, 7, axis=0), 1)
    # scale-free: another unit changes nothing
    assert metrics.mase(truth * 3, forecast * 3, history * 3, 7) == pytest.approx(1)


def test_mase_has_no_meaning_without_a_scale():
    t = np.arange(48)
    history = np.stack([np.full(48, 0.1), np.sin(2 * np.pi * t / 12), t.astype(float)], axis=1)
    truth, forecast = np.ones((5, 3)), np.zeros((5, 3))
    per_series = metrics.mase(truth, forecast, history, 12, axis=0)
    assert np.isnan(per_series[:2]).all()  # constant; purely periodic
    assert per_series[2] == pytest.approx(1 / 12)
    assert metrics.mase(truth, forecast, history, 12) == pytest.approx(1 / 12)
    assert np.isnan(metrics.mase_scale(history[:12], 12)).all()  # not longer than the season
    assert metrics.mase_scale(history[:, 2:], 0) == pytest.approx(1)  # no season


def test_mase_of_a_history_with_holes():
    history = np.array([[1.0], [NAN], [4.0], [5.0], [3.0]])
    assert metrics.mase_scale(history, 1)[0] == pytest.approx((1 + 2) / 2)


def test_pinball_is_least_at_the_quantile_and_half_the_absolute_error_at_the_median():
    rng = np.random.default_rng(2)
    truth = rng.exponential(size=4001)
    grid = np.linspace(0, 4, 401)
    for tau in (0.1, 0.5, 0.9):
        losses = [metrics.pinball(truth, np.full((4001, 1), q), [tau])[0] for q in grid]
        assert grid[np.argmin(losses)] == pytest.approx(np.quantile(truth, tau), abs=0.01)
    guess = np.full((4001, 1), 1.3)
    assert metrics.pinball(truth, guess, [0.5])[0] == pytest.approx(metrics.mae(truth, 1.3) / 2)


def test_crps_of_a_normal_forecast_approaches_its_closed_form():
    # CRPS(N(0, 1), y) = y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi)
    truth = np.array([-1.5, 0.0, 0.3, 2.0])
    normal = scipy_stats.norm
    exact = truth * (2 * normal.cdf(truth) - 1) + 2 * normal.pdf(truth) - 1 / np.sqrt(np.pi)
    taus = (np.arange(999) + 0.5) / 999
    quantiles = np.broadcast_to(normal.ppf(taus), (4, 999))
    found = [metrics.crps_from_quantiles(truth[i], quantiles[i], taus) for i in range(4)]
    np.testing.assert_allclose(found, exact, rtol=2e-3)
    uneven = np.r_[np.linspace(0.001, 0.1, 300), np.linspace(0.11, 0.999, 300)]
    quantiles = np.broadcast_to(normal.ppf(uneven), (4, 600))
    assert metrics.crps_from_quantiles(truth, quantiles, uneven) == pytest.approx(
        exact.mean(), rel=5e-3
    )


def test_crps_of_the_median_alone_is_the_absolute_error():
    truth = np.array([[1.0, NAN], [3.0, -2.0]])
    guess = np.zeros((2, 2, 1))
    assert metrics.crps_from_quantiles(truth, guess, [0.5]) == pytest.approx(2)
    per_column = metrics.crps_from_quantiles(truth, guess, [0.5], axis=0)
    np.testing.assert_allclose(per_column, [2, 2])
    assert metrics.pinball(truth, guess, [0.5], axis=-1).shape == (2, 1)


@pytest.mark.parametrize("taus", [[0.5, 0.1], [0.1], [0.0, 0.5], [0.5, 1.0]])
def test_quantile_levels_are_checked(taus):
    with pytest.raises(UsageError, match="ascending, between 0 and 1"):
        metrics.pinball(np.zeros(3), np.zeros((3, 2)), taus)


def test_coverage_counts_borders_and_skips_the_missing():
    truth = np.array([0.0, 1.0, 2.0, NAN, 5.0])
    lo, hi = np.zeros(5), np.array([1.0, 1.0, 1.0, 1.0, NAN])
    assert metrics.coverage(truth, lo, hi) == pytest.approx(2 / 3)
    assert metrics.width(lo, hi) == pytest.approx(1)
    assert np.isnan(metrics.coverage(truth[3:], lo[3:], hi[3:]))
    assert metrics.coverage(truth[:3], -np.inf, np.inf) == 1
    assert metrics.width(np.array([0.0, 0.0]), np.array([1.0, np.inf])) == np.inf


def test_interval_score_is_least_for_the_true_interval():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=20_001)
    z = scipy_stats.norm.ppf(0.9)
    halves = np.linspace(0.5, 2, 151)
    scores = [metrics.interval_score(truth, -h, h, 80) for h in halves]
    assert halves[np.argmin(scores)] == pytest.approx(z, abs=0.03)
    assert metrics.interval_score(np.array([3.0]), np.array([0.0]), np.array([1.0]), 90) == (
        pytest.approx(1 + 20 * 2)
    )
