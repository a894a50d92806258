"""Calendar features, against the published encoding written out anew."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from apps.timeseries.data import calendar

DAYS = ["day of week", "day of month", "day of year"]


@pytest.mark.parametrize(
    ("freq", "names"),
    [
        ("s", ["second of minute", "minute of hour", "hour of day", *DAYS]),
        ("15min", ["minute of hour", "hour of day", *DAYS]),
        ("h", ["hour of day", *DAYS]),
        ("6h", ["hour of day", *DAYS]),
        ("bh", ["hour of day", *DAYS]),
        ("D", DAYS),
        ("B", DAYS),
        ("W-WED", ["day of month", "week of year"]),
        ("SME", ["day of month", "month of year"]),
        ("MS", ["month of year"]),
        ("ME", ["month of year"]),
        ("BME", ["month of year"]),
        ("QE-DEC", ["month of year"]),
        ("BQS-JAN", ["month of year"]),
        ("YS", []),
        (None, []),
    ],
)
def test_names_of_every_frequency(freq, names):
    assert calendar.names(freq) == names
    times = pd.date_range("2020-01-01", periods=7, freq=freq or "D")
    found = calendar.features(times, freq)
    assert found.shape == (7, len(names))
    assert found.dtype == np.float32


def test_hourly_features_are_the_published_ones():
    # 2016-07-01 13:00 is a Friday, the 183rd day of a leap year.
    found = calendar.features(pd.DatetimeIndex(["2016-07-01 13:00"]), "h")
    expected = [13 / 23 - 0.5, 4 / 6 - 0.5, 0 / 30 - 0.5, 182 / 365 - 0.5]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_weekly_features_are_the_published_ones():
    found = calendar.features(pd.DatetimeIndex(["2020-12-30"]), "W")
    np.testing.assert_allclose(found[0], [29 / 30 - 0.5, 52 / 52 - 0.5], rtol=1e-6)


@pytest.mark.parametrize("freq", ["s", "7min", "h", "D", "B", "W", "MS", "QE"])
def test_features_stay_within_half(freq):
    found = calendar.features(pd.date_range("1999-12-31", periods=1500, freq=freq), freq)
    assert found.min() >= -0.5
    assert found.max() <= 0.5


def test_features_are_of_the_clock_on_the_wall():
    times = pd.date_range("2024-07-01", periods=24, freq="h", tz="Asia/Tokyo")
    assert np.array_equal(calendar.features(times, "h"), calendar.features(times.tz_localize(None), "h"))  # fmt: skip


def test_an_integer_clock_has_none():
    assert calendar.features(pd.RangeIndex(5), None).shape == (5, 0)
