"""What is read from files that are as they should be."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.timeseries.data import reading, tables
from apps.timeseries.data.reading import read_panel
from core.errors import DataError, UsageError
from core.files import sha256


def notes(panel) -> str:
    return "; ".join(panel.notes)


def test_wide_csv(wide, save):
    table = wide()
    path = save(table)
    panel = read_panel(path)
    (series,) = panel
    assert (panel.layout, panel.time_name, panel.targets) == ("wide", "date", ("v0", "v1"))
    assert (panel.freq, panel.source, panel.sha256) == ("h", "data.csv", sha256(path))
    np.testing.assert_allclose(series.values, table[["v0", "v1"]], rtol=1e-14)
    assert series.times.equals(pd.DatetimeIndex(table["date"]))
    assert "wide: time 'date', targets v0, v1" in panel.notes


def test_long_csv(long, save):
    table = long()
    panel = read_panel(save(table))
    assert (panel.layout, panel.targets, panel.freq) == ("long", ("y",), "D")
    assert [series.id for series in panel] == ["s0", "s1", "s2"]
    for series, (_, rows) in zip(panel, table.groupby("unique_id")):
        np.testing.assert_allclose(series.values[:, 0], rows["y"])
    assert "series by 'unique_id'" in notes(panel)


@pytest.mark.parametrize("kind", ["csv.gz", "parquet", "xlsx", "tsv", "frame"])
def test_other_formats_hold_the_same(wide, tmp_path, kind):
    table = wide().assign(date=lambda t: pd.to_datetime(t["date"]))
    path = tmp_path / f"data.{kind}"
    if kind == "parquet":
        table.to_parquet(path)
    elif kind == "xlsx":
        table.to_excel(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    panel = read_panel(table if kind == "frame" else path)
    np.testing.assert_allclose(panel.series[0].values, table[["v0", "v1"]], rtol=1e-12)
    assert panel.series[0].times.equals(pd.DatetimeIndex(table["date"]).as_unit(panel.series[0].times.unit))  # fmt: skip
    assert panel.freq == "h"


def test_parquet_index_and_time_zone_are_kept(wide, tmp_path):
    table = wide().assign(date=lambda t: pd.to_datetime(t["date"]).dt.tz_localize("Europe/Berlin"))
    table.set_index("date").to_parquet(tmp_path / "i.parquet")
    panel = read_panel(tmp_path / "i.parquet")
    assert str(panel.series[0].times.tz) == "Europe/Berlin"
    assert panel.time_name == "date"


def test_sheets_of_an_excel_file(wide, tmp_path):
    with pd.ExcelWriter(tmp_path / "b.xlsx") as book:
        wide().to_excel(book, sheet_name="one", index=False)
        wide(columns=3).to_excel(book, sheet_name="two", index=False)
    first = read_panel(tmp_path / "b.xlsx")
    assert len(first.targets) == 2
    assert "sheet 'one', the first of 2" in notes(first)
    assert len(read_panel(tmp_path / "b.xlsx", sheet="two").targets) == 3
    with pytest.raises(UsageError, match="no sheet 'three'; it has one, two"):
        read_panel(tmp_path / "b.xlsx", sheet="three")


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_delimiters(wide, tmp_path, mark):
    wide().to_csv(tmp_path / "d.csv", index=False, sep=mark)
    panel = read_panel(tmp_path / "d.csv")
    assert panel.targets == ("v0", "v1")
    assert "delimiter" in notes(panel)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_unicode_of_every_kind(wide, tmp_path, encoding):
    wide().rename(columns={"v0": "Größe"}).to_csv(tmp_path / "u.csv", index=False, encoding=encoding)  # fmt: skip
    assert read_panel(tmp_path / "u.csv").targets == ("Größe", "v1")


def test_latin_1_bytes_are_read_with_a_note(wide, save):
    text = wide().rename(columns={"v0": "CO2 (µg/m³)"}).to_csv(index=False)
    panel = read_panel(save(text.encode("latin-1")))
    assert panel.targets[0] == "CO2 (µg/m³)"
    assert "Latin-1" in notes(panel)


def test_latin_1_beyond_the_first_block(save):
    pad = "-" * 300
    rows = "".join(f"2020-01-{i % 28 + 1:02d},x{i // 28}{pad},{i}\n" for i in range(4_200))
    assert len(rows) > 1 << 20
    panel = read_panel(save(("ds,unique_id,y\n" + rows).encode() + b"2020-02-01,\xe9,1\n"))
    assert panel.series[-1].id == "é"


@pytest.mark.parametrize(
    "text",
    [
        "Datum;Wert\n" + "".join(f"{d:02d}.01.2020;{d},5\n" for d in range(1, 30)),
        "Datum;Wert\n" + "".join(f"{d:02d}.01.2020;1.00{d % 10},50\n" for d in range(1, 30)),
        "date,a\n" + "".join(f'2020-01-{d:02d},"{d},25"\n' for d in range(1, 30)),
    ],
)
def test_decimal_comma(save, text):
    panel = read_panel(save(text))
    values = panel.series[0].values[:, 0]
    assert "decimal comma" in notes(panel)
    assert len(values) == 29
    expected = {"5": lambda d: d + 0.5, "0": lambda d: 1000 + d % 10 + 0.5}
    days = np.arange(1, 30)
    last = "0" if "1.00" in text else "5"
    if text.startswith("date"):
        np.testing.assert_allclose(values, days + 0.25)
    else:
        np.testing.assert_allclose(values, expected[last](days))


def test_marks_of_thousands(save):
    text = "date,a\n" + "".join(f'2020-01-{d:02d},"{d},500.25"\n' for d in range(1, 30))
    np.testing.assert_allclose(read_panel(save(text)).series[0].values[:, 0], np.arange(1, 30) * 1000 + 500.25)  # fmt: skip


@pytest.mark.parametrize(
    ("stamps", "first", "freq"),
    [
        ([f"1/{d}/2020 1:00 PM" for d in range(1, 31)], "2020-01-01 13:00", "D"),
        ([f"{d}.1.20" for d in range(1, 31)], "2020-01-01", "D"),
        ([f"2020/1/1 {h}:00" for h in range(24)], "2020-01-01", "h"),
        (["Jan 2020", "Feb 2020", "Mar 2020"], "2020-01-01", "MS"),
        (["01-Jan-2020", "02-Jan-2020", "03-Jan-2020"], "2020-01-01", "D"),
        (["2020Q1", "2020Q2", "2020Q3"], "2020-01-01", "QS-JAN"),
        (["2020-01", "2020-02", "2020-03"], "2020-01-01", "MS"),
        ([20200101, 20200102, 20200103], "2020-01-01", "D"),
        ([1990, 1991, 1992], "1990-01-01", "YS-JAN"),
        (["2020-01-01", "2020-01-01 12:00:00", "2020-01-02"], "2020-01-01", "12h"),
        (["20200101 00:00", "20200101 01:00", "20200101 02:00"], "2020-01-01", "h"),
        (["2020-01-01T00:00:00.250", "2020-01-01T00:00:00.500", "2020-01-01T00:00:00.750"], "2020-01-01 00:00:00.250", "250ms"),
    ],
)  # fmt: skip
def test_stamps_as_people_write_them(save, stamps, first, freq):
    panel = read_panel(save(pd.DataFrame({"date": stamps, "a": np.arange(len(stamps)) * 1.0})))
    assert panel.series[0].times[0] == pd.Timestamp(first)
    assert panel.freq == freq


def test_unix_time_is_utc(save):
    table = pd.DataFrame({"timestamp": 1_600_000_000_000 + 3_600_000 * np.arange(9), "a": 1.5})
    panel = read_panel(save(table))
    assert str(panel.series[0].times.tz) == "UTC"
    assert panel.freq == "h"
    assert "Unix time in ms" in notes(panel)


def test_unix_time_with_a_decimal_point(save):
    table = pd.DataFrame({"timestamp": 1.6e9 + 3600.0 * np.arange(9), "a": np.arange(9.0)})
    panel = read_panel(save(table))
    assert panel.freq == "h"
    assert panel.targets == ("a",)


def test_nested_columns_of_parquet_are_left_out(wide, tmp_path):
    table = wide().assign(both=[[1, 2]] * 120)
    table.to_parquet(tmp_path / "n.parquet")
    panel = read_panel(tmp_path / "n.parquet")
    assert panel.targets == ("v0", "v1")
    assert "several values: both" in notes(panel)


def test_date_and_time_of_day_in_two_columns(save):
    text = "Date;Time;CO\n" + "".join(
        f"{h // 24 + 1:02d}/03/2004;{h % 24:02d}:00:00;{h},5\n" for h in range(480)
    )
    panel = read_panel(save(text))
    assert panel.freq == "h"
    assert panel.targets == ("CO",)
    assert "together" in notes(panel)


@pytest.mark.parametrize("step", [1, 10])
def test_an_integer_time_column_is_a_clock_of_steps(save, step):
    table = pd.DataFrame({"time_idx": np.arange(5, 5 + 9 * step, step), "a": 1.0 * np.arange(9)})
    series = read_panel(save(table)).series[0]
    assert series.times.equals(pd.RangeIndex(5, 5 + 9 * step, step))
    assert series.freq is None


def test_no_time_column_counts_rows(save):
    panel = read_panel(save(pd.DataFrame({"a": np.arange(9.0), "b": np.arange(9.0) ** 2})))
    assert panel.series[0].times.equals(pd.RangeIndex(9))
    assert panel.time_name is None
    assert "rows are counted" in notes(panel)


def test_saved_row_numbers_are_left_out(wide, tmp_path):
    wide().to_csv(tmp_path / "i.csv")
    panel = read_panel(tmp_path / "i.csv")
    assert panel.targets == ("v0", "v1")
    assert "left out: Unnamed: 0" in notes(panel)


def test_unsorted_rows_are_sorted_with_a_note(wide, long, save):
    table = wide()
    panel = read_panel(save(table.sample(frac=1, random_state=0)))
    np.testing.assert_allclose(panel.series[0].values, table[["v0", "v1"]])
    assert "sorted" in notes(panel)
    mixed = read_panel(save(long().sample(frac=1, random_state=0)))
    whole = {series.id: series for series in read_panel(long())}
    for series in mixed:
        np.testing.assert_allclose(series.values, whole[series.id].values)


def test_ids_are_text(long, save):
    ids = np.repeat(["007", "7", "NA"], 50)
    panel = read_panel(save(long().assign(unique_id=ids)))
    assert [series.id for series in panel] == ["007", "7", "NA"]
    named = read_panel(save(long().assign(unique_id=ids).rename(columns={"unique_id": "shop"})), id="shop")  # fmt: skip
    assert [series.id for series in named] == ["007", "7", "NA"]


def test_series_of_unequal_length(long, save):
    panel = read_panel(save(long().iloc[20:-10]))
    assert [len(series) for series in panel] == [30, 50, 40]


def test_a_long_file_by_other_names(long, save):
    table = long().rename(columns={"unique_id": "shop", "ds": "day", "y": "sales"})
    panel = read_panel(save(table))
    assert (panel.layout, len(panel), panel.targets) == ("long", 3, ("sales",))


def test_many_values_columns_of_a_long_file_are_targets_when_named(long, save):
    panel = read_panel(save(long().assign(z=1.0 * np.arange(150))), targets=["y", "z"])
    assert panel.targets == ("y", "z")
    assert panel.series[1].values.shape == (50, 2)
    assert panel.names(panel.series[1]) == ["s1/y", "s1/z"]


def test_targets_can_be_chosen_and_others_left_out(wide, save):
    panel = read_panel(save(wide(columns=4)), targets=["v2", "v0"])
    assert panel.targets == ("v2", "v0")
    assert "left out: v1, v3" in notes(panel)


def test_covariates(long, save):
    table = long()
    table["temp"], table["seen"], table["size"] = np.arange(150) % 7, np.arange(150.0), 3
    panel = read_panel(save(table), known=["temp"], past=["seen"], static=["size"])
    series = panel.series[1]
    assert (panel.known_names, panel.past_names, panel.static_names) == (("temp",), ("seen",), ("size",))  # fmt: skip
    np.testing.assert_array_equal(series.known[:, 0], np.arange(50, 100) % 7)
    np.testing.assert_array_equal(series.past[:, 0], np.arange(50, 100))
    assert series.static == {"size": 3.0}


def test_rows_known_ahead_are_the_future(long, save):
    table = long().assign(temp=1.0 * np.arange(150))
    table.loc[table.index % 50 >= 43, "y"] = np.nan
    panel = read_panel(save(table), known=["temp"])
    for series in panel:
        assert len(series) == 43
        assert len(series.times) == 50 == len(series.known)
        assert np.isfinite(series.values).all()
        assert np.isfinite(series.known).all()
    assert "known for 7 stamps" in notes(panel)
    without = read_panel(save(table))
    assert [len(series.times) for series in without] == [43] * 3
    assert "21 rows" in notes(without)


def test_rows_before_a_series_begins_are_left_out(long, save):
    table = long()
    table.loc[:9, "y"] = np.nan
    assert [len(series) for series in read_panel(save(table))] == [40, 50, 50]


def test_text_covariates_become_columns_of_their_values(wide, save):
    path = save(wide().assign(weather=["rain", "sun", "rain"] * 40))
    assert read_panel(path).targets == ("v0", "v1")
    panel = read_panel(path, known=["weather"])
    assert panel.known_names == ("weather=rain", "weather=sun")
    np.testing.assert_array_equal(panel.series[0].known[:3], [[1, 0], [0, 1], [1, 0]])
    # What a model was fitted on can be asked for where a value does not occur.
    asked = read_panel(path, known=["weather=snow", "weather=rain"])
    np.testing.assert_array_equal(asked.series[0].known[:3], [[0, 1], [0, 0], [0, 1]])
    (note,) = [note for note in asked.notes if "not asked for" in note]
    assert "40 of 120 cells hold sun" in note
    one = read_panel(path, known=["weather=sun"])  # a choice
    assert not [note for note in one.notes if "not asked for" in note]


@pytest.mark.parametrize("values", [["Rain", "Sun"], [0, 1]])
def test_text_covariates_in_another_spelling_are_refused(wide, save, values):
    """They would all be zeros, and the forecast another one."""
    path = save(wide().assign(weather=values * 60))
    with pytest.raises(
        DataError, match=r"'weather' holds .*, and none of the values .*\(rain, sun\)"
    ):
        read_panel(path, known=["weather=rain", "weather=sun"])


def test_text_that_describes_a_series(long, save):
    table = long()
    table["kind"] = table["unique_id"].map({"s0": "A", "s1": "B", "s2": "A"})
    panel = read_panel(save(table), static=["kind"])
    assert panel.static_names == ("kind=A", "kind=B")
    assert [series.static["kind=A"] for series in panel] == [1.0, 0.0, 1.0]
    asked = read_panel(save(table), static=["kind=B", "kind=C"])
    assert [list(series.static.values()) for series in asked] == [[0, 0], [1, 0], [0, 0]]


def test_multivariate_makes_series_variates(long, save):
    panel = read_panel(save(long()), multivariate=True)
    assert (len(panel), panel.targets, panel.layout) == (1, ("s0", "s1", "s2"), "wide")
    np.testing.assert_array_equal(panel.series[0].values[:, 1], long()["y"][50:100])


@pytest.mark.parametrize("columns", [1, 1000])
def test_one_variate_and_a_thousand(wide, save, columns):
    assert read_panel(save(wide(columns=columns))).series[0].values.shape == (120, columns)


def test_every_frequency_is_read(wide, save):
    for freq in ("min", "15min", "6h", "D", "B", "W-MON", "MS", "ME", "QS-JAN", "YS-JAN"):
        assert read_panel(save(wide(40, freq))).freq == freq


def test_a_thousand_series_in_seconds_and_in_shared_memory(save, tmp_path):
    n, rows = 1000, 1000
    stamps = pd.date_range("2020-01-01", periods=rows, freq="h").astype(str)
    table = pd.DataFrame({"unique_id": np.repeat([f"s{i}" for i in range(n)], rows), "ds": np.tile(stamps, n), "y": np.random.default_rng(0).normal(size=n * rows)})  # fmt: skip
    path = tmp_path / "many.parquet"
    table.to_parquet(path)
    start = time.process_time()
    panel = read_panel(path)
    assert time.process_time() - start < 20  # two seconds on two cores
    assert len(panel) == n
    assert {len(series) for series in panel} == {rows}
    bases = {id(series.values.base if series.values.base is not None else series.values) for series in panel}  # fmt: skip
    assert len(bases) == 1


@pytest.mark.parametrize("name", ["samples/ETTh1.csv"])
def test_etth1(samples, name):
    panel = read_panel(samples.parent / name)
    assert panel.targets == ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    assert panel.series[0].values.shape == (17_420, 7)
    assert panel.freq == "h"
    assert panel.series[0].times[-1] == pd.Timestamp("2018-06-26 19:00")


def test_limits_are_stated_before_memory_is_used(wide, save, monkeypatch):
    path = save(wide())
    monkeypatch.setattr(tables, "MAX_CELLS", 100)
    with pytest.raises(DataError, match="split the file"):
        read_panel(path)
    monkeypatch.setattr(tables, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="GiB"):
        read_panel(path)


def test_too_many_series(long, save, monkeypatch):
    monkeypatch.setattr(reading, "MAX_SERIES", 2)
    with pytest.raises(DataError, match="names 3 series"):
        read_panel(save(long()))


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6).map(lambda x: float(np.float64(x))), min_size=6, max_size=40),
    freq=st.sampled_from(["15min", "h", "D", "B", "W-SUN", "MS", "ME", "QE-DEC"]),
    mark=st.sampled_from([(",", "."), (";", ","), ("\t", "."), (";", ".")]),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_any_file_is_read_as_it_was_written(tmp_path_factory, values, freq, mark, order):
    times = pd.date_range("2019-06-10 00:00", periods=len(values), freq=freq)
    table = pd.DataFrame({"date": times.astype(str), "a": np.array(values) + 0.5})
    rows = list(range(len(table)))
    order.shuffle(rows)
    path = tmp_path_factory.mktemp("any") / "a.csv"
    table.iloc[rows].to_csv(path, index=False, sep=mark[0], decimal=mark[1])
    series = read_panel(path, freq=freq, decimal=mark[1], sentinels=[np.nan]).series[0]
    np.testing.assert_array_equal(series.values[:, 0], table["a"])
    assert series.times.equals(times.as_unit(series.times.unit))
