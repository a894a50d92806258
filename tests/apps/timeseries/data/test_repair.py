"""Repairs, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from apps.timeseries.data import repair
from apps.timeseries.data.repair import Rows
from core.errors import UsageError

N = np.nan


def rows(stamps: list[str], values: list[float], known: list[float] | None = None) -> Rows:
    column = np.array(values, float)[:, None]
    other = np.empty((len(values), 0)) if known is None else np.array(known, float)[:, None]
    return Rows("s", pd.DatetimeIndex(stamps), column, np.empty((len(values), 0)), other, {})


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [N, 1, N, N, 4, N, N, 7, N]),
        ("ffill", [N, 1, 1, 1, 4, 4, 4, 7, 7]),
        ("interpolate", [N, 1, 2, 3, 4, 5, 6, 7, N]),
        ("seasonal", [N, 1, N, N, 4, N, 4, 7, N]),
    ],
)
def test_fill(how, expected):
    column = np.array([N, 1, N, N, 4, N, N, 7, N])[:, None]
    if how == "seasonal":  # period 5: row 6 is row 1's phase
        expected = [N, 1, N, N, 4, N, 1, 7, N]
    found = repair.fill(column, how, season=5)
    np.testing.assert_array_equal(found[:, 0], expected)


def test_seasonal_goes_back_as_many_seasons_as_it_takes():
    column = np.array([1.0, 2, N, N, N, N, N])[:, None]
    np.testing.assert_array_equal(repair.fill(column, "seasonal", 2)[:, 0], [1, 2, 1, 2, 1, 2, 1])


@pytest.mark.parametrize("how", ["ffill", "interpolate", "seasonal"])
def test_max_gap_leaves_longer_gaps_alone(how):
    column = np.array([1.0, 2, N, 4, N, N, 7, 8])[:, None]
    found = repair.fill(column, how, season=1, max_gap=1)[:, 0]
    assert not np.isnan(found[2])
    assert np.isnan(found[4:6]).all()


@pytest.mark.parametrize("how", ["ffill", "seasonal"])
def test_what_fills_a_gap_is_before_it(how):
    rng = np.random.default_rng(0)
    column = rng.normal(size=(60, 3))
    column[rng.random((60, 3)) < 0.3] = N
    later = column.copy()
    later[40:] = rng.normal(size=(20, 3))
    first, second = (repair.fill(c, how, season=6)[:40] for c in (column, later))
    np.testing.assert_array_equal(first, second)


def test_fill_leaves_numbers_and_the_argument_alone():
    column = np.array([1.0, N, 3])[:, None]
    before = column.copy()
    found = repair.fill(column, "interpolate")
    np.testing.assert_array_equal(column, before)
    np.testing.assert_array_equal(found[:, 0], [1, 2, 3])


@pytest.mark.parametrize(
    ("agg", "value", "known"),
    [("mean", 2.0, 15.0), ("sum", 4.0, 15.0), ("first", 1.0, 10.0), ("last", 3.0, 20.0)],
)
def test_merge(agg, value, known):
    stamps = ["2020-01-01", "2020-01-01", "2020-01-01", "2020-01-02"]
    found = repair.merge(rows(stamps, [1, N, 3, 9], [10, N, 20, 30]), agg)
    assert len(found.times) == 2
    np.testing.assert_array_equal(found.values[:, 0], [value, 9])
    np.testing.assert_array_equal(found.known[:, 0], [known, 30])


@pytest.mark.parametrize("agg", repair.AGGREGATES)
def test_merging_nothing_stays_missing(agg):
    found = repair.merge(rows(["2020-01-01", "2020-01-01", "2020-01-02"], [N, N, 1]), agg)
    np.testing.assert_array_equal(found.values[:, 0], [N, 1])


@pytest.mark.parametrize(("agg", "expected"), [("mean", [2, N, 5]), ("sum", [4, N, 5])])
def test_resample_leaves_empty_bins_missing(agg, expected):
    stamps = ["2020-01-01 03:00", "2020-01-01 21:00", "2020-01-03 01:00"]
    found = repair.resample(rows(stamps, [1, 3, 5], [1, 1, 1]), "D", agg)
    assert list(found.times.strftime("%m-%d %H")) == ["01-01 00", "01-02 00", "01-03 00"]
    np.testing.assert_array_equal(found.values[:, 0], expected)
    np.testing.assert_array_equal(found.known[:, 0], [1, N, 1])


def test_resampling_days_of_23_and_25_hours():
    times = pd.date_range("2024-03-30", periods=71, freq="h", tz="Europe/Berlin")
    hours = Rows("s", times, np.ones((71, 1)), np.empty((71, 0)), np.empty((71, 0)), {})
    np.testing.assert_array_equal(repair.resample(hours, "D", "sum").values[:, 0], [24, 23, 24])


def test_complete_inserts_missing_rows():
    grid = pd.date_range("2020-01-01", periods=4, freq="D")
    found = repair.complete(rows(["2020-01-01", "2020-01-04"], [1, 4]), grid)
    np.testing.assert_array_equal(found.values[:, 0], [1, N, N, 4])


@pytest.mark.parametrize(
    ("fill", "agg", "gap"),
    [("forward", None, None), ("none", "median", None), ("ffill", None, 0), ("none", None, 3)],
)
def test_a_repair_that_there_is_not(fill, agg, gap):
    with pytest.raises(UsageError):
        repair.check_options(fill, agg, gap)
