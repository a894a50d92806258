"""Data frames and series of pandas: what their index says is read as from a column."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from apps.timeseries import forecast
from apps.timeseries.data.check import check_file
from apps.timeseries.data.reading import read_panel
from core.errors import DataError, UsageError


def same(found, wanted) -> None:
    """Two panels of the same series: names, stamps and numbers."""
    assert [series.id for series in found] == [series.id for series in wanted]
    assert (found.targets, found.freq, found.layout) == (wanted.targets, wanted.freq, wanted.layout)
    for one, other in zip(found, wanted):
        assert list(one.times) == list(other.times)
        np.testing.assert_array_equal(one.values, other.values)


@pytest.fixture
def stamped(wide) -> pd.DataFrame:
    """`ds`, stamps, and a target `y`."""
    table = wide(columns=1, freq="D").set_axis(["ds", "y"], axis=1)
    return table.assign(ds=pd.to_datetime(table["ds"]))


@pytest.fixture
def panel(long) -> pd.DataFrame:
    """A long table with stamps."""
    return long().assign(ds=lambda t: pd.to_datetime(t["ds"]))


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@pytest.mark.parametrize(
    ("kind", "time"),
    [
        ("named", "when"), ("unnamed", "ds"), ("text", "ds"), ("zoned", "ds"), ("taken", "date"),
        ("kept", "ds"), ("periods", "ds"), ("unnamed periods", "ds"),
    ],
)  # fmt: skip
def test_stamps_of_an_index(stamped, kind, time, order):
    """Rows that were counted instead had another clock, and the order of the file."""
    wanted = read_panel(stamped)
    table = stamped.set_index("ds")
    if kind == "named":
        table = table.rename_axis("when")
    elif kind in ("unnamed", "taken"):
        table = table.rename_axis(None)
        if kind == "taken":  # by a target with fractions
            table, wanted = table.rename(columns={"y": "ds"}), read_panel(
                stamped.set_axis(["date", "ds"], axis=1)
            )  # fmt: skip
    elif kind == "text":
        table.index = pd.Index(table.index.astype(str), name=None)
    elif kind == "zoned":
        table = table.tz_localize("Europe/Berlin").rename_axis(None)
        wanted = read_panel(stamped, tz="Europe/Berlin")
    elif kind == "kept":
        table = stamped.set_index("ds", drop=False)
    elif kind.endswith("periods"):
        table.index = table.index.to_period("D")
        table = table.rename_axis("ds" if kind == "periods" else None)
    if order == "shuffled":
        table = table.sample(frac=1, random_state=0)
    before = table.copy()
    found = read_panel(table)
    assert found.time_name == time
    assert any("sorted" in note for note in found.notes) == (order == "shuffled")
    same(found, wanted)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(("freq", "start"), [("W", "2024-01-01"), ("M", "2024-01-01"), ("h", "2024-01-01"), ("Q", "2024-01-01")])  # fmt: skip
def test_periods_are_their_starts(freq, start):
    index = pd.period_range(start, periods=60, freq=freq)
    times = read_panel(pd.DataFrame({"y": np.arange(60.0)}, index)).series[0].times
    assert list(times) == list(index.to_timestamp(how="start"))
    assert times[0] == pd.Timestamp(start)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@pytest.mark.parametrize("names", [["unique_id", "ds"], ["shop", "day"], [None, None]])
def test_series_and_stamps_of_a_multiindex(panel, names, order):
    wanted = read_panel(panel)
    table = panel.set_index(["unique_id", "ds"]).rename_axis(names)
    if order == "shuffled":
        table = table.sample(frac=1, random_state=0)
    found = {series.id: series for series in read_panel(table)}
    assert sorted(found) == ["s0", "s1", "s2"]
    for series in wanted:
        assert list(found[series.id].times) == list(series.times)
        np.testing.assert_array_equal(found[series.id].values, series.values)
    swapped = read_panel(table.swaplevel())
    assert sorted(series.id for series in swapped) == sorted(found)


@pytest.mark.parametrize("keys", [["a", "b"], [7, 8]])
def test_keys_of_concatenated_tables_name_series(stamped, keys):
    """Row numbers below them say nothing."""
    table = pd.concat(dict.fromkeys(keys, stamped))
    found = read_panel(table)
    assert [series.id for series in found] == list(map(str, keys))
    assert found.targets == ("y",)
    assert all(len(series) == len(stamped) for series in found)


def test_series_of_one_index_and_stamps_of_a_column(panel):
    same(read_panel(panel.set_index("unique_id")), read_panel(panel))
    same(read_panel(panel.set_index("unique_id").rename_axis(None)), read_panel(panel))


def test_a_pivoted_table(panel):
    found = read_panel(panel.pivot(index="ds", columns="unique_id", values="y"))
    assert (found.time_name, found.targets) == ("ds", ("s0", "s1", "s2"))


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(5, 125), np.random.default_rng(0).permutation(120), np.repeat(np.arange(60), 2),
        [f"row {i}" for i in range(120)],
    ],
)  # fmt: skip
def test_row_numbers_of_an_index_are_left_out(stamped, index):
    found = read_panel(stamped.set_axis(pd.Index(index)))
    same(found, read_panel(stamped))
    assert found.sha256 == read_panel(stamped).sha256


@pytest.mark.parametrize("name", [None, "load"])
def test_a_series_of_pandas(stamped, name):
    series = stamped.set_index("ds")["y"].rename(name)
    found = read_panel(series)
    assert found.targets == (name or "y",)
    assert (found.time_name, found.freq) == ("ds", "D")
    np.testing.assert_array_equal(found.series[0].values[:, 0], series)


def test_an_index_called_like_another_column(stamped):
    table = stamped.set_index("ds").assign(ds=np.arange(120.0))
    with pytest.raises(DataError, match="its index and a column are both called 'ds'"):
        read_panel(table)
    twice = stamped.set_index(["ds", "ds"])
    with pytest.raises(DataError, match="two levels of its index are called 'ds'"):
        read_panel(twice)
    columns = stamped.set_axis(["1", 1], axis=1)
    with pytest.raises(DataError, match="two columns are called '1'"):
        read_panel(columns)


@pytest.mark.parametrize("data", [{"ds": [1], "y": [2]}, [1.0, 2.0], np.ones(3), None, 5, b"a.csv"])
def test_data_of_another_type(data):
    for read in (read_panel, check_file):
        with pytest.raises(UsageError, match=rf"^data of type {type(data).__name__} is not read"):
            read(data)


def test_two_frames_that_differ_in_their_stamps_alone_have_other_digests(stamped):
    table = stamped.set_index("ds")
    later = table.set_axis(table.index + pd.Timedelta("365D"))
    assert read_panel(table).sha256 != read_panel(later).sha256


def test_a_forecast_follows_the_stamps_of_an_index(stamped):
    plain = forecast(stamped, "seasonal-naive", horizon=3).frame
    shuffled = stamped.sample(frac=1, random_state=0).set_index("ds")
    for table in (stamped.set_index("ds"), shuffled):
        found = forecast(table, "seasonal-naive", horizon=3).frame
        pd.testing.assert_frame_equal(found, plain)
    assert list(plain["ds"]) == list(pd.date_range("2020-04-30", periods=3))


def test_a_forecast_of_each_series_of_a_multiindex(panel):
    plain = forecast(panel, "seasonal-naive", horizon=3).frame
    found = forecast(panel.set_index(["unique_id", "ds"]), "seasonal-naive", horizon=3).frame
    pd.testing.assert_frame_equal(found, plain)
    assert list(found["unique_id"].unique()) == ["s0", "s1", "s2"]
