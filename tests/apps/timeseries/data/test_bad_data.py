"""A named test for every kind of bad data: what is refused, how it is said, and what repairs it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from apps.timeseries.data.check import check_file
from apps.timeseries.data.reading import read_panel
from core.errors import DataError, UsageError


def refused(path, *words: str, error: type[Exception] = DataError, **options) -> str:
    """The message, one line, that names the file and each of ``words``."""
    with pytest.raises(error) as caught:
        read_panel(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message
    return message


def reported(path, kind: str, **options) -> dict:
    """The one problem of this kind in a report that is JSON and not ok."""
    report = check_file(path, **options)
    json.dumps(report, allow_nan=False)
    assert not report["ok"]
    found = [problem for problem in report["problems"] if problem["kind"] == kind]
    assert len(found) == 1
    return found[0]


def test_gap(wide, save):
    path = save(wide().drop(index=range(50, 80)))
    refused(path, "30 stamps are missing", "2020-01-03 02:00", "--fill")
    problem = reported(path, "gaps")
    assert problem["count"] == 30
    assert problem["first"] == "2020-01-03 02:00"
    for fill in ("ffill", "interpolate", "seasonal"):
        panel = read_panel(path, fill=fill)
        assert len(panel.series[0]) == 120
        assert np.isfinite(panel.series[0].values).all()
        assert "60 missing numbers filled" in "; ".join(panel.notes)


def test_gap_longer_than_max_gap(wide, save):
    path = save(wide().drop(index=range(50, 80)))
    refused(path, "30 missing numbers", "--max-gap 10", fill="ffill", max_gap=10)
    assert len(read_panel(path, fill="ffill", max_gap=30).series[0]) == 120


def test_gap_without_strict_stays(wide, save):
    series = read_panel(save(wide().drop(index=range(50, 80))), strict=False).series[0]
    assert len(series) == 90
    assert series.freq == "h"


def test_gap_of_an_integer_clock(save):
    path = save(pd.DataFrame({"time_idx": [0, 1, 2, 5, 6, 7], "a": np.arange(6.0)}))
    refused(path, "2 stamps are missing, the first 3")
    filled = read_panel(path, fill="interpolate").series[0]
    assert filled.times.equals(pd.RangeIndex(8))
    assert np.isfinite(filled.values).all()


def test_duplicate_stamp(wide, save):
    table = wide()
    path = save(pd.concat([table.iloc[:60], table.iloc[59:]]))
    refused(path, "1 stamp occurs more than once", "2020-01-03 11:00", "same numbers", "--agg")
    assert reported(path, "duplicates")["count"] == 1
    np.testing.assert_allclose(read_panel(path, agg="mean").series[0].values, table[["v0", "v1"]])


def test_duplicate_stamp_with_other_numbers(wide, save):
    table = wide()
    other = table.iloc[[59]].assign(v0=100.0)
    path = save(pd.concat([table.iloc[:60], other, table.iloc[60:]]))
    refused(path, "different numbers")
    assert read_panel(path, agg="last").series[0].values[59, 0] == 100


def test_duplicate_stamp_in_a_long_file(long, save):
    table = long()
    path = save(pd.concat([table, table.iloc[[60]]]))
    assert "--id" not in refused(path, "series 's1'", "2020-01-11")


def test_nan(wide, save):
    table = wide()
    table.loc[[5, 9], "v1"] = np.nan
    path = save(table)
    refused(path, "column 'v1'", "2 missing numbers", "2020-01-01 05:00", "--fill")
    assert reported(path, "missing")["count"] == 2
    assert np.isfinite(read_panel(path, fill="ffill").series[0].values).all()


def test_nan_before_a_column_begins_cannot_be_filled(wide, save):
    table = wide()
    table.loc[:5, "v1"] = np.nan
    refused(save(table), "leave it out, or cut the file's beginning", fill="ffill")


def test_words_for_missing(wide, save):
    table = wide().astype({"v1": object})
    table.loc[3:9, "v1"] = ["NA", "n/a", "?", "-", "null", "", "NaN"]
    refused(save(table), "7 missing numbers")


def test_inf(wide, save):
    table = wide()
    table.loc[5, "v0"] = np.inf
    path = save(table)
    refused(path, "column 'v0'", "1 infinite", "2020-01-01 05:00", "--sentinel inf")
    assert reported(path, "inf")["count"] == 1
    repaired = read_panel(path, sentinels=[np.inf, -np.inf], fill="interpolate")
    assert np.isfinite(repaired.series[0].values).all()


@pytest.mark.parametrize("value", [-9999, -999, -99, 9999, 99999, -9999.9])
def test_sentinel(wide, save, value):
    table = wide()
    table.loc[5:7, "v1"] = value
    path = save(table)
    refused(path, "column 'v1'", f"{value:g} stands 3 times", f"--sentinel={value:g}")
    assert reported(path, "sentinel")["first"] == "2020-01-01 05:00"
    repaired = read_panel(path, sentinels=[value], fill="ffill").series[0].values
    assert (repaired[5:8, 1] == table["v1"][4]).all()
    kept = read_panel(path, sentinels=[np.nan]).series[0].values
    assert (kept[5:8, 1] == value).all()


@pytest.mark.parametrize("value", [-9999, 99, 9999])
def test_a_number_among_others_is_no_sentinel(wide, save, value):
    table = wide()
    table["v1"] = np.linspace(value - 500, value + 500, 120).round()
    table.loc[60, "v1"] = value
    assert read_panel(save(table)).series[0].values[60, 1] == value


def test_constant_series_is_a_warning(wide, save):
    path = save(wide().assign(v1=3.0))
    assert "always the same number: v1" in read_panel(path).notes
    report = check_file(path)
    assert report["ok"]
    assert [(p["kind"], p["level"]) for p in report["problems"]] == [("constant", "warning")]


def test_irregular_sampling(save):
    seconds = np.sort(np.random.default_rng(0).choice(10**6, 300, replace=False))
    stamps = pd.Timestamp("2020-01-01") + pd.to_timedelta(seconds, unit="s")
    path = save(pd.DataFrame({"date": stamps.astype(str), "a": np.arange(300.0)}))
    refused(path, "follow no frequency", "--freq h --agg mean")
    assert reported(path, "irregular")["count"] > 200
    panel = read_panel(path, freq="6h", agg="mean", fill="interpolate")
    assert panel.freq == "6h"
    assert "brought onto 6h" in "; ".join(panel.notes)


def test_unknown_frequency(wide, save):
    with pytest.raises(UsageError, match="'fortnight' is unknown"):
        read_panel(save(wide()), freq="fortnight")


def test_hourly_rows_declared_daily(wide, save):
    path = save(wide())
    refused(path, "not of --freq D", "they look like h", "--agg", freq="D")
    panel = read_panel(path, freq="D", agg="sum")
    assert panel.freq == "D"
    assert len(panel.series[0]) == 5
    np.testing.assert_allclose(panel.series[0].values[0, 0], wide()["v0"][:24].sum())


def test_daily_rows_declared_hourly(wide, save):
    refused(save(wide(20, "D")), "437 stamps are missing", freq="h")


def test_mixed_frequencies(long, save):
    path = save(pd.concat([long(2), long(1, 60, "h").assign(unique_id="odd")]))
    refused(path, "series 'odd'", "frequency h, and most series D", "--freq D --agg mean")
    assert reported(path, "mixed-frequencies")["series"] == "odd"
    panel = read_panel(path, freq="D", agg="mean")
    assert panel.freq == "D"
    assert [len(series) for series in panel] == [50, 50, 3]


def test_a_short_series_has_the_frequency_of_the_others(long, save):
    path = save(pd.concat([long(2), long(1, 2).assign(unique_id="new")]))
    panel = read_panel(path)
    assert panel.freq == "D"
    assert len(panel.series[2]) == 2
    assert [p["kind"] for p in check_file(path)["problems"]] == ["short"]


@pytest.mark.parametrize("missing", [[20], [20, 50, 51]])
def test_holidays_among_business_days_are_gaps(wide, save, missing):
    path = save(wide(100, "B").drop(index=missing))
    refused(path, "1 stamp is missing" if len(missing) == 1 else "3 stamps are missing")
    assert read_panel(path, fill="ffill").freq == "B"


def test_naive_local_time_with_days_of_23_and_25_hours(berlin, save):
    path = save(berlin())
    refused(path, "put forward or back 2 times", "2020-03-29 03:00", "--tz Europe/Berlin")
    problem = reported(path, "daylight-saving")
    assert problem["count"] == 2
    series = read_panel(path, tz="Europe/Berlin").series[0]
    np.testing.assert_array_equal(series.values[:, 0], np.arange(len(series)))
    days = pd.Series(1, series.times).resample("D").sum()
    assert (days["2020-03-29"], days["2020-10-25"], days["2020-06-01"]) == (23, 25, 24)


@pytest.mark.parametrize(("freq", "zone"), [("15min", "America/New_York"), ("30min", "Europe/London"), ("h", "Australia/Sydney")])  # fmt: skip
def test_naive_local_time_elsewhere(berlin, save, freq, zone):
    path = save(berlin(freq, zone))
    refused(path, "local time without a zone", f"--tz {zone}")
    series = read_panel(path, tz=zone).series[0]
    assert series.freq == freq
    np.testing.assert_array_equal(series.values[:, 0], np.arange(len(series)))


@pytest.mark.parametrize(("start", "end"), [("2020-02-01", "2020-06-01"), ("2020-08-01", "2020-12-01")])  # fmt: skip
def test_naive_local_time_of_one_change(berlin, save, start, end):
    refused(save(berlin(start=start, end=end)), "put forward or back 1 time,", "Europe/Berlin")


def test_naive_local_time_in_a_long_file(berlin, save):
    table = pd.concat([berlin().assign(unique_id=name) for name in "ab"])
    path = save(table.rename(columns={"date": "ds", "a": "y"}))
    refused(path, "series 'a'", "--tz Europe/Berlin")
    assert read_panel(path, tz="Europe/Berlin").freq == "h"


def test_naive_local_time_backwards(berlin, save):
    series = read_panel(save(berlin("15min").iloc[::-1]), tz="Europe/Berlin").series[0]
    np.testing.assert_array_equal(series.values[:, 0], np.arange(len(series)))


def test_a_real_gap_is_not_daylight_saving(berlin, save):
    table = berlin()
    path = save(table.drop(index=range(1000, 1005)))
    assert "local time" not in refused(path)
    assert read_panel(path, tz="Europe/Berlin", fill="ffill").freq == "h"


def test_a_stamp_that_a_zone_does_not_have(berlin, save):
    refused(save(berlin()), "2020-03-08 02:00", "does not exist in America/New_York", tz="America/New_York")  # fmt: skip


def test_unknown_time_zone(wide, save):
    with pytest.raises(UsageError, match="'Mars/Base' is unknown"):
        read_panel(save(wide()), tz="Mars/Base")


def test_offsets_that_change_are_utc_until_a_zone_is_named(save):
    times = pd.date_range("2020-03-01", periods=60, freq="D", tz="Europe/Berlin")
    path = save(pd.DataFrame({"date": [t.isoformat() for t in times], "a": np.arange(60.0)}))
    refused(path, "follow no frequency", "--tz")
    panel = read_panel(path, tz="Europe/Berlin")
    assert panel.freq == "D"
    assert panel.series[0].times.equals(times.as_unit("us"))


def test_offset_of_one_kind_is_kept(wide, save):
    table = wide()
    table["date"] += "+02:00"
    times = read_panel(save(table)).series[0].times
    assert times[0].utcoffset() == pd.Timedelta("2h")
    assert times[0].hour == 0


def test_offsets_on_some_stamps_only(wide, save):
    table = wide()
    table.loc[7, "date"] += "+02:00"
    refused(save(table), "some have none")


@pytest.mark.parametrize("mark", ["/", ".", "-"])
def test_ambiguous_day_first(save, mark):
    rows = "".join(f"0{d}{mark}01{mark}2020,{d}\n" for d in range(1, 10))
    path = save("date,a\n" + rows)
    refused(path, "day-first or month-first", "--day-first", "--month-first")
    assert read_panel(path, day_first=True).freq == "D"
    assert read_panel(path, day_first=False).freq == "MS"


def test_day_first_that_a_number_above_12_shows(save):
    rows = "".join(f"{d:02d}/01/2020,{d}\n" for d in range(1, 14))
    panel = read_panel(save("date,a\n" + rows))
    assert panel.freq == "D"
    assert "dates are day-first" in panel.notes


def test_two_orders_of_day_and_month(save):
    refused(save("date,a\n13/01/2020,1\n01/14/2020,2\n"), "'01/14/2020' is month-first", "row 2")


@pytest.mark.parametrize(
    ("stamp", "words"),
    [("2020-02-30", "no date of the calendar"), ("soon", "is not written as the first"), ("", "no stamp"), ("2020-13-01", "no date"),
     ("9999-12-31", "not between 1678 and 2261")],
)  # fmt: skip
def test_a_stamp_that_is_none(save, stamp, words):
    refused(save(f"date,a\n2020-02-27,1\n2020-02-28,1\n{stamp},2\n"), "column 'date'", "row 3", words)  # fmt: skip


def test_a_time_column_without_stamps(save):
    refused(save("date,a\nfoo,1\nbar,2\n"), "'foo' is not a stamp")
    refused(save("date,a,b\n2020-01-01,1,x\n2020-01-02,1,y\n"), "'x' is not a stamp", time="b")


def test_steps_that_are_no_whole_numbers(save):
    path = save("step,a\n1,1\n2.5,2\n3,3\n")
    refused(path, "row 2", "neither a stamp nor a whole number", time="step")


def test_decimal_comma_or_mark_of_thousands(save):
    path = save("date,a\n" + "".join(f'2020-01-{d:02d},"{d},500"\n' for d in range(1, 9)))
    refused(path, "'1,500'", "--decimal")
    assert read_panel(path, decimal=",").series[0].values[0, 0] == 1.5
    assert read_panel(path, decimal=".").series[0].values[0, 0] == 1500


def test_text_among_numbers(wide, save):
    table = wide().astype({"v1": object})
    table.loc[17, "v1"] = "broken"
    path = save(table)
    refused(path, "column 'v1'", "'broken' in row 18")
    assert reported(path, "not-a-number")["count"] == 1


def test_object_column_alone_is_nothing_to_forecast(save):
    refused(save("date,a\n2020-01-01,x\n2020-01-02,y\n"), "no column of numbers", "text: a")


def test_text_covariate_with_too_many_values(wide, save):
    table = wide().assign(code=[f"c{i}" for i in range(120)])
    refused(save(table), "'code' is text with 120 values", known=["code"])


def test_static_column_that_changes(long, save):
    refused(save(long().assign(size=np.arange(150))), "series 's0'", "'size' changes from 0 to 1", static=["size"])  # fmt: skip


def test_known_covariate_missing_ahead(wide, save):
    table = wide().assign(temp=1.0)
    table.loc[110:, ["v0", "v1"]] = np.nan
    table.loc[115, "temp"] = np.nan
    refused(save(table), "column 'temp'", "known ahead, but missing at 2020-01-05 19:00", known=["temp"])  # fmt: skip


def test_empty_file(save):
    refused(save(""), "is empty")
    refused(save("\n \n"), "is empty")


def test_header_only(save):
    refused(save("date,a\n"), "a header row and no data")


def test_one_row(save):
    path = save("date,a\n2020-01-01,1\n")
    refused(path, "1 stamp", "too few", "--freq")
    refused(path, "has 1 row", freq="D")
    assert not check_file(path)["ok"]


def test_two_rows(save):
    path = save("date,a\n2020-01-01,1\n2020-01-02,2\n")
    refused(path, "2 stamps")


def test_empty_column(wide, save):
    refused(save(wide().assign(v1=np.nan)), "column 'v1'", "holds no number", "leave it out")


def test_empty_series(long, save):
    table = long()
    table.loc[:49, "y"] = np.nan
    refused(save(table), "series 's0'", "no number to forecast")


def test_no_header_row(save):
    refused(save("2020-01-01,1.0\n2020-01-02,2.0\n"), "first row holds data")
    refused(save("1.5,2.5\n3.5,4.5\n"), "first row holds data")


def test_lines_above_the_header(save):
    text = "Sales of 2020\n\ndate,a\n2020-01-01,1\n2020-01-02,2\n"
    refused(save(text), "no line may stand above it")


def test_a_table_that_lies_on_its_side(save):
    text = "series,2020-01-01,2020-01-02,2020-01-03\na,1,2,3\nb,2,3,4\n"
    refused(save(text), "its columns are stamps", "turn the table")


def test_a_stamp_so_far_away_that_the_grid_has_no_end(save):
    steps = save(pd.DataFrame({"time_idx": [0, 1, 2, 3, 10**12], "a": np.arange(5.0)}))
    refused(steps, "1,000,000,000,000 steps", "correct the first or last stamp")
    stamps = ["1700-01-01 00:00:00", "1800-01-01 00:00:02", "2250-01-01 00:00:00"]
    dates = save(pd.DataFrame({"date": stamps, "a": np.arange(3.0)}), "d.csv")
    refused(dates, "steps of --freq s", freq="s")
    refused(dates, "steps of --freq s", freq="s", agg="mean", fill="ffill")


def test_columns_of_the_same_name(save):
    refused(save("date,a,a\n2020-01-01,1,2\n"), "two columns are called 'a'")


def test_rows_of_another_length(save):
    refused(save("date,a\n2020-01-01,1\n2020-01-02,1,3\n"), "line 3 has 3 fields and the header 2")
    far = "".join(f"{1500 + i},1\n" for i in range(900)) + "3000,1,2\n"
    refused(save("year,a\n" + far), "line 902")


def test_a_row_without_a_series(long, save):
    table = long()
    table.loc[70, "unique_id"] = ""
    refused(save(table), "row 71 names no series")


def test_renamed_column(wide, save):
    path = save(wide().rename(columns={"v0": "load"}))
    refused(path, "no column 'laod'", "Did you mean 'load'?", error=UsageError, targets=["laod"])


def test_a_column_with_two_roles(wide, save):
    with pytest.raises(UsageError, match="'v1' is given two roles"):
        read_panel(save(wide()), targets=["v0", "v1"], known=["v1"])


def test_a_long_file_that_does_not_say_what_to_forecast(long, save):
    table = long().rename(columns={"y": "sales"}).assign(price=np.arange(150.0))
    refused(save(table), "any of sales, price", "--target")


def test_variates_of_unequal_length(long, save):
    refused(save(long().iloc[20:]), "'s1' has other stamps than 's0'", "2020-01-21", multivariate=True)  # fmt: skip


def test_files_that_are_no_tables(save, tmp_path):
    refused(tmp_path / "none.csv", "check the path")
    refused(tmp_path, "is a folder")
    refused(save("x", "a.xyz"), "'.xyz' files are not read")
    refused(save("xxxx", "a.parquet"), "not a readable Parquet file")
    refused(save("xxxx", "a.xlsx"), "not a readable Excel file")
    refused(save(b"\x00\x01\x02" * 50), "is not text")
    refused(save(b"PK\x03\x04abc"), "name it .xlsx")


def test_a_gz_that_was_cut_short(wide, tmp_path):
    wide().to_csv(tmp_path / "a.csv.gz", index=False)
    data = (tmp_path / "a.csv.gz").read_bytes()
    (tmp_path / "b.csv.gz").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "b.csv.gz", "is it complete?")


@pytest.mark.parametrize(
    "options",
    [{"fill": "forward"}, {"agg": "median"}, {"layout": "tall"}, {"decimal": ";"}, {"encoding": "klingon"},
     {"sheet": "one"}, {"multivariate": True}, {"max_gap": 0, "fill": "ffill"}, {"layout": "wide", "id": "nothing"}],
)  # fmt: skip
def test_options_that_do_not_fit(wide, save, options):
    with pytest.raises(UsageError):
        read_panel(save(wide()), **options)


def test_several_problems_are_counted(wide, save):
    table = wide()
    table.loc[5, "v0"] = np.inf
    table.loc[9, "v1"] = np.nan
    refused(save(table.drop(index=60)), "1 stamp is missing", "2 other kinds of problem: run check")  # fmt: skip
