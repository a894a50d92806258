"""The report of a file."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from apps.timeseries.data.check import check_file, print_report


def test_report_of_a_good_file(wide, save):
    report = check_file(save(wide()))
    assert report["ok"]
    assert report["problems"] == []
    assert (report["rows"], report["series"], report["freq"], report["season"]) == (120, 1, "h", 24)
    assert (report["start"], report["end"]) == ("2020-01-01", "2020-01-05 23:00")
    assert report["mapping"]["targets"] == ["v0", "v1"]
    assert report["mapping"]["time"] == "date"
    assert report["length"] == {"min": 120, "median": 120.0, "max": 120}
    json.dumps(report, allow_nan=False)


def test_report_of_the_sample(samples):
    report = check_file(samples / "ETTh1.csv")
    assert report["ok"]
    assert report["freq"] == "h"
    assert report["rows"] == 17_420
    assert [p for p in report["problems"] if p["level"] == "error"] == []


def test_options_change_the_report(wide, save):
    path = save(wide().drop(index=[50]))
    assert not check_file(path)["ok"]
    assert check_file(path, fill="ffill")["ok"]


def test_everything_is_reported_at_once(long, save):
    table = long(4)
    table.loc[10, "y"] = np.nan
    table.loc[60, "y"] = np.inf
    table.loc[110:112, "y"] = -9999
    table = pd.concat([table.drop(index=160), table.iloc[[170]]])
    problems = check_file(save(table))["problems"]
    errors = {p["kind"]: p["series"] for p in problems if p["level"] == "error"}
    assert errors == {
        "duplicates": "s3",
        "gaps": "s3",
        "sentinel": "s2",
        "inf": "s1",
        "missing": "s0",
    }


def test_a_kind_is_listed_twenty_times_and_counted(long, save):
    table = long(30)
    table.loc[table.index % 50 == 20, "y"] = np.nan
    problems = check_file(save(table))["problems"]
    assert len(problems) == 21
    assert problems[-1]["says"] == "the same in 10 more"
    assert problems[-1]["count"] == 10


def test_outliers_are_a_warning(wide, save):
    table = wide()
    table.loc[30, "v0"] = 1e6
    report = check_file(save(table))
    assert report["ok"]
    assert report["problems"][0]["kind"] == "outliers"
    assert report["problems"][0]["first"] == "2020-01-02 06:00"


def test_hints_of_leakage(wide, save):
    table = wide()
    table["copy"], table["answer"] = table["v0"], 3 * table["v1"] + 1
    kinds = {p["kind"]: p for p in check_file(save(table), known=["answer"])["problems"]}
    assert kinds["leak"]["column"] == "answer"
    assert "'v1'" in kinds["leak"]["says"]
    assert kinds["identical"]["column"] == "copy"


def test_report_for_a_person(long, save, capsys):
    table = long().assign(kind="x")
    table.loc[10, "y"] = np.nan
    print_report(check_file(save(table)))
    text = capsys.readouterr().out
    for words in ("data.csv: 150 rows, 3 series of 50 stamps", "season 7", "left out: kind", "error: series 's0'", "not ready"):  # fmt: skip
        assert words in text


def test_report_of_an_integer_clock(save, capsys):
    report = check_file(save(pd.DataFrame({"a": np.arange(9.0)})))
    assert (report["clock"], report["freq"], report["season"], report["end"]) == ("steps", None, 1, "8")  # fmt: skip
    print_report(report)
    assert "steps" in capsys.readouterr().out
