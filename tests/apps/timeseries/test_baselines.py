"""Baselines by hand, on short, constant and broken histories."""

from __future__ import annotations

import numpy as np
import pytest

from apps.timeseries.baselines import fill, predict, predict_windows
from apps.timeseries.catalog import BASELINES
from core.errors import DataError, UsageError

NAN = float("nan")
ALL = tuple(BASELINES)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def test_last_value():
    np.testing.assert_array_equal(predict("last-value", column(1, 5, 2), 3, 1), column(2, 2, 2))


@pytest.mark.parametrize("length", [7, 8, 13, 14, 30])
def test_seasonal_naive_at_every_phase(length):
    history = column(*np.random.default_rng(length).normal(size=length))
    found = predict("Seasonal_Naive", history, 17, 7)
    for h in range(1, 18):
        back = length + h - 1
        while back >= length:
            back -= 7
        assert found[h - 1, 0] == history[back, 0]


def test_seasonal_mean_of_four_seasons_or_fewer():
    history = column(*range(17))  # season 3: the last whole seasons end at 16
    phases = np.array([[5, 8, 11, 14], [6, 9, 12, 15], [7, 10, 13, 16]]).mean(axis=1)
    np.testing.assert_allclose(predict("seasonal-mean", history, 4, 3)[:, 0], phases[[0, 1, 2, 0]])
    two = predict("seasonal-mean", history[-7:], 3, 3)[:, 0]
    np.testing.assert_allclose(two, [(11 + 14) / 2, (12 + 15) / 2, (13 + 16) / 2])


def test_drift_is_the_line_through_both_ends():
    np.testing.assert_allclose(predict("drift", column(1, 9, 9, 7), 3, 2), column(9, 11, 13))
    np.testing.assert_array_equal(predict("drift", column(4), 2, 2), column(4, 4))


def test_history_shorter_than_the_season_has_no_season():
    short = column(1, 2, 3, 4, 9)
    np.testing.assert_array_equal(predict("seasonal-naive", short, 3, 6), column(9, 9, 9))
    np.testing.assert_array_equal(predict("seasonal-mean", short, 2, 6), column(4.5, 4.5))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("length", [1, 2, 3, 5, 23, 24, 25, 47, 48, 49, 60])
def test_any_length_gives_finite_values(name, length):
    history = np.random.default_rng(length).normal(size=(length, 2)) * [1, 1e6]
    with np.errstate(all="raise", under="ignore"):
        found = predict(name, history, 30, 24)
    assert found.shape == (30, 2)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e9, 1e-12])
def test_a_constant_stays_constant(name, value):
    with np.errstate(all="raise", under="ignore"):
        found = predict(name, np.full((30, 1), value), 10, 7)
    np.testing.assert_allclose(found, value, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_each_series_and_window_is_forecast_alone(name):
    windows = np.random.default_rng(0).normal(size=(5, 40, 3)).cumsum(axis=1)
    together = predict_windows(name, windows, 9, 7)
    assert together.shape == (5, 9, 3)
    for b in range(5):
        for n in range(3):
            alone = predict(name, windows[b, :, n : n + 1], 9, 7)
            np.testing.assert_allclose(together[b, :, n : n + 1], alone, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_missing_values_leave_no_hole(name):
    history = np.random.default_rng(1).normal(size=(40, 3))
    history[::5, 0] = NAN
    history[-3:, 1] = NAN
    history[:, 2] = NAN
    found = predict(name, history, 8, 7)
    assert np.isfinite(found[:, :2]).all()
    assert np.isnan(found[:, 2]).all()


def test_missing_values_by_hand():
    np.testing.assert_array_equal(predict("last-value", column(1, 2, NAN), 1, 1), column(2))
    # the line through (1, 1) and (3, 5) reaches 9 at the fifth stamp
    np.testing.assert_allclose(predict("drift", column(NAN, 1, NAN, 5, NAN), 1, 1), column(9))
    np.testing.assert_array_equal(
        fill(column(NAN, 2, NAN, 4, NAN, 6, 7), 3), column(2, 2, 2, 4, 2, 6, 7)
    )
    np.testing.assert_array_equal(
        predict("seasonal-naive", column(1, 2, 3, NAN, 5, 6), 4, 3), column(1, 5, 6, 1)
    )


@pytest.mark.parametrize(
    ("name", "horizon", "season", "words"),
    [
        ("seasonal-niave", 3, 1, "seasonal-naive"),
        ("drift", 0, 1, "horizon 0"),
        ("drift", 3, 0, "season 0"),
    ],
)
def test_wrong_requests(name, horizon, season, words):
    with pytest.raises(UsageError, match=words):
        predict(name, column(1, 2, 3), horizon, season)


@pytest.mark.parametrize("history", [np.empty((0, 2)), column(1, np.inf)])
def test_wrong_histories(history):
    with pytest.raises(DataError):
        predict("last-value", history, 3, 1)
