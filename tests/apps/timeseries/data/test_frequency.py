"""Frequencies: what a clock has, and how it goes on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.timeseries.data import frequency
from core.errors import UsageError

ABSOLUTE = ["ms", "s", "10s", "min", "15min", "h", "6h"]
WALL = ["D", "2D", "B", "W-SUN", "W-WED", "2W-SUN", "MS", "ME", "BMS", "BME", "QS-JAN", "QS-FEB",
        "QS-MAR", "QE-DEC", "QE-JAN", "QE-FEB", "BQE-DEC", "BQS-JAN", "YS-JAN", "YS-APR", "YE-DEC",
        "YE-JUN", "BYE-DEC", "2YS-JAN", "2QS-JAN"]  # fmt: skip
ZONES = [None, "UTC", "Europe/Berlin", "America/New_York", "Australia/Sydney", "Asia/Kolkata"]


def clock(freq: str, zone: str | None, n: int = 60, start: str = "2019-12-30 06:30") -> pd.DatetimeIndex:  # fmt: skip
    return pd.date_range(start, periods=n, freq=freq, tz=zone)._with_freq(None)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("freq", ABSOLUTE + WALL)
def test_a_frequency_is_found_again(freq, zone):
    assert frequency.infer(clock(freq, zone)) == freq


@settings(max_examples=150, deadline=None)
@given(
    freq=st.sampled_from(ABSOLUTE + WALL),
    zone=st.sampled_from(ZONES),
    start=st.datetimes(pd.Timestamp("1995-01-01"), pd.Timestamp("2035-01-01")),
    k=st.integers(3, 40),
    n=st.integers(0, 20),
)
def test_the_future_is_what_comes_next(freq, zone, start, k, n):
    # 06:00 exists once a day everywhere; what does not is tested below.
    times = clock(freq, zone, 60, f"{start:%Y-%m-%d} 06:00")
    future = frequency.future_index(times[:k], freq, n)
    assert future.equals(times[k : k + n])
    assert future.tz == times.tz
    assert future.dtype == times.dtype


@settings(max_examples=50, deadline=None)
@given(start=st.datetimes(pd.Timestamp("2000-01-01"), pd.Timestamp("2035-01-01")), k=st.integers(1, 800))  # fmt: skip
def test_hours_go_on_through_every_change_of_the_clock(start, k):
    times = pd.date_range(f"{start:%Y-%m-%d %H}:00", periods=1000, freq="h", tz="UTC").tz_convert("Europe/Berlin")  # fmt: skip
    assert frequency.future_index(times[:k], "h", 200).equals(times[k : k + 200])


@pytest.mark.parametrize(("month", "hours"), [("2024-03-31", 23), ("2024-10-27", 25)])
def test_days_of_23_and_25_hours(month, hours):
    before = pd.date_range(end=month, periods=10, freq="D", tz="Europe/Berlin")
    assert frequency.infer(before) == "D"
    after = frequency.future_index(before, "D", 2)
    assert [t.hour for t in after] == [0, 0]
    assert (after[0] - before[-1]).total_seconds() == hours * 3600
    hourly = frequency.future_index(before[-1:], "h", hours)
    assert hourly[-1] == after[0]


def test_a_daily_stamp_that_the_clock_skips_moves_and_the_next_is_back():
    times = pd.date_range("2024-03-25 02:30", periods=6, freq="D", tz="Europe/Berlin")
    future = frequency.future_index(times, "D", 3)
    assert [f"{t:%d %H:%M}" for t in future] == ["31 03:00", "01 02:30", "02 02:30"]
    assert frequency.future_index(times.append(future[:1]), "D", 2).equals(future[1:])


def test_a_daily_stamp_that_occurs_twice_is_the_earlier():
    times = pd.date_range("2024-10-20 02:30", periods=7, freq="D", tz="Europe/Berlin")
    assert frequency.future_index(times, "D", 1)[0].utcoffset().total_seconds() == 7200


def test_month_ends_stay_month_ends():
    times = pd.DatetimeIndex(["2023-11-30", "2023-12-31", "2024-01-31"])
    future = frequency.future_index(times, "ME", 3)
    assert list(future.strftime("%m-%d")) == ["02-29", "03-31", "04-30"]


def test_business_days_leave_out_weekends():
    friday = pd.date_range("2024-01-01", periods=5, freq="B")
    assert [t.day for t in frequency.future_index(friday, "B", 2)] == [8, 9]


def test_a_last_stamp_off_the_grid_is_followed_by_the_grid():
    future = frequency.future_index(pd.DatetimeIndex(["2024-01-15"]), "MS", 2)
    assert list(future.strftime("%m-%d")) == ["02-01", "03-01"]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pd.RangeIndex(5), [5, 6, 7]),
        (pd.RangeIndex(0, 50, 10), [50, 60, 70]),
        (pd.Index([3, 4, 5]), [6, 7, 8]),
        (pd.RangeIndex(0), [0, 1, 2]),
    ],
)
def test_integer_clocks_go_on_with_their_step(times, expected):
    future = frequency.future_index(times, None, 3)
    assert isinstance(future, pd.RangeIndex)
    assert list(future) == expected


def test_dates_without_a_frequency_have_no_future():
    with pytest.raises(UsageError, match="--freq"):
        frequency.future_index(clock("h", None), None, 3)


@pytest.mark.parametrize(("freq", "steps"), [("YS", 9_000), ("D", 200_000), ("h", 10_000_000)])
def test_a_future_beyond_the_last_stamp_is_refused(freq, steps):
    times = pd.date_range("2020-01-01", periods=3, freq=freq)
    with pytest.raises(UsageError, match=f"{steps:,} steps of {freq} .* beyond the year 2262"):
        frequency.future_index(times, freq, steps)


@pytest.mark.parametrize("freq", ["h", "15min", "D", "B", "W-SUN", "MS", "QE-DEC"])
def test_nearest_sees_through_gaps_and_infer_does_not(freq):
    times = clock(freq, None).delete([7, 8, 20])
    assert frequency.infer(times) is None
    assert frequency.nearest(times) == freq
    missing = frequency.grid(times[0], times[-1], freq, times).difference(times)
    assert len(missing) == 3


@pytest.mark.parametrize("freq", ["s", "15min", "h", "D", "MS"])
def test_a_grid_has_its_first_and_its_last_stamp(freq):
    times = clock(freq, "Europe/Berlin", 2_000 if freq == "MS" else 9_000)
    assert frequency.grid(times[0], times[-1], freq, times).equals(times)


def test_a_stamp_off_the_grid_is_irregular_and_no_finer_frequency():
    times = clock("h", None).insert(5, pd.Timestamp("2019-12-30 10:37"))
    assert frequency.nearest(times) is None


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_stamps_have_no_frequency(n):
    assert frequency.infer(clock("D", None, n)) is None


def test_an_integer_clock_has_no_alias():
    assert frequency.infer(pd.RangeIndex(10)) is None


def test_24_hours_are_no_day_where_the_clock_changes():
    times = pd.date_range("2024-03-25", periods=14, freq="24h", tz="Europe/Berlin")
    assert frequency.infer(times) == "24h"
    assert frequency.infer(times.tz_convert("UTC")) is not None


def test_the_fifteenth_of_each_month_is_irregular():
    assert frequency.nearest(clock("MS", None) + pd.Timedelta("14D")) is None


@pytest.mark.parametrize(
    ("freq", "steps"),
    [("s", 3600), ("10s", 360), ("min", 1440), ("15min", 96), ("h", 24), ("6h", 4), ("5h", 1), ("D", 7),
     ("24h", 7), ("B", 5), ("W", 52), ("W-WED", 52), ("7D", 52), ("MS", 12), ("ME", 12), ("BME", 12), ("2MS", 6),
     ("QS", 4), ("QE", 4), ("YS", 1), ("YE", 1), ("SME", 24), ("ms", 1), (None, 1)],
)  # fmt: skip
def test_season(freq, steps):
    assert frequency.season(freq) == steps


@pytest.mark.parametrize(
    ("given", "full"),
    [("H", "h"), ("T", "min"), ("15T", "15min"), ("M", "ME"), ("Q", "QE-DEC"), ("Y", "YE-DEC"), ("W", "W-SUN"),
     ("60min", "h"), ("daily", "D"), ("QS", "QS-JAN"), ("1h", "h"), ("90min", "90min"), ("120s", "2min")],
)  # fmt: skip
def test_aliases_old_and_new_have_one_form(given, full):
    assert frequency.normalise(given) == full
    assert frequency.normalise(full) == full


@pytest.mark.parametrize("freq", ["fortnight", "", "0h", "-1D", "x15", "hh"])
def test_unknown_frequency(freq):
    with pytest.raises(UsageError, match="unknown") as error:
        frequency.normalise(freq)
    assert "15min" in str(error.value)


def test_absolute_steps_are_nanoseconds():
    assert frequency.absolute_step("15min") == 15 * 60 * 10**9
    assert frequency.absolute_step("D") is None
    assert np.isclose(frequency.absolute_step("h") / 3.6e12, 1.0)
