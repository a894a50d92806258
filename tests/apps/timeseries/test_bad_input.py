"""What goes wrong with series and command lines, and the test that says what happens then.

Everything here goes through the command line: one line ``error:`` on standard error that names the
input, what is wrong and what to do, the exit code (2 usage, 3 data, 4 resources), with --json one
object, and nothing written or changed; or the stated handling.

    gap                          test_gap
    duplicate stamp              test_duplicate_stamp
    NaN                          test_nan
    inf                          test_inf
    sentinel                     test_sentinel
    numbers as text              test_numbers_as_text
    constant series              test_constant_series
    windows of no variance       test_long_flat_stretch
    huge numbers                 test_huge_numbers
    whole numbers                test_large_whole_numbers
    length L+H-1                 test_length_below_one_window
    length L+H, L+2H             test_exact_lengths
    short history                test_history_of_exactly_the_lookback_and_one_row_less
                                 test_history_shorter_than_a_season
    horizon 0                    test_horizon_below_one
    another horizon              test_horizon_longer_and_shorter_than_trained
    unknown frequency            test_unknown_frequency
    hourly rows declared daily   test_wrong_frequency_declared
    mixed frequencies            test_mixed_frequencies
    irregular sampling           test_irregular_sampling
    23- and 25-hour days         test_days_of_23_and_25_hours
    mixed formats of stamps      test_mixed_stamps
    unsorted rows                test_unsorted_rows
    Latin-1 bytes                test_latin_1_bytes
    decimal comma                test_decimal_comma
    ambiguous day-first          test_ambiguous_day_first
    renamed column               test_renamed_column_at_prediction
    reordered columns            test_reordered_and_further_columns_at_prediction
    another frequency            test_another_frequency_at_prediction
    new series                   test_new_series_at_prediction
    numbered series              test_series_called_by_numbers
    unequal lengths              test_series_of_unequal_lengths
    one variate                  test_one_variate
    1,000 variates               test_a_thousand_variates
    another schema version       test_model_of_another_schema_version
    a pickle                     test_pickle_instead_of_safetensors
    damaged model                test_damaged_model
    model of another application test_model_of_another_application
    existing output              test_existing_output
    an output that is no folder  test_output_that_is_a_file
    unknown model                test_unknown_model
    untrained model              test_untrained_model
    unknown verb or option       test_misspelt_verb_or_option
    level 0 or 100               test_level_0_and_100
    missing file                 test_missing_file
    empty file                   test_empty_file
    a folder for a file          test_folder_instead_of_a_file
    binary file                  test_file_that_is_no_table
    permission                   test_no_permission
                                 test_permission_that_the_system_denies
    disk full                    test_full_disk
                                 test_disk_that_fills_up_within_a_file
    a device that is not there   test_a_device_that_is_not_there
    a cluster that is not there  test_a_cluster_that_is_not_there
    memory                       test_a_network_larger_than_the_memory
    odd length, even kernel      models/test_autoformer.py::test_decomposition_at_any_kernel
    odd length                   models/test_autoformer.py::test_equals_the_plain_form_gradients_included
    batch mates                  models/test_autoformer.py::test_a_forecast_is_its_windows_alone
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SIZES = ("--lookback", 24, "--horizon", 6)
TINY = ("--set", "dim=16", "--set", "depth=1", "--set", "ffn=16", "--set", "heads=2")
NAIVE = ("--model", "seasonal-naive", "--horizon", 6)


def readers(file: Path, out: Path, model: Path) -> dict[str, tuple[object, ...]]:
    """A command line of every verb that reads a file of series and refuses a bad one."""
    return {
        "fit": ("fit", file, *SIZES, "--max-steps", 1, *TINY, "--out", out),
        "forecast": ("forecast", file, *NAIVE, "--out", out),
        "forecast, trained": ("forecast", file, "--model", model, "--out", out),
        "backtest": ("backtest", file, *NAIVE, "--windows", 2, "--out", out),
        "compare": ("compare", file, *NAIVE, "--model", "drift", "--windows", 2, "--out", out),
        "detect": ("detect", file, "--out", out),
        "report": ("report", model, "--data", file, "--out", out),
        "tune": ("tune", file, *SIZES, "--max-steps", 1, "--trials", 1, "--out", out),
        "evaluate": ("evaluate", file, *SIZES, "--model", "drift"),
    }


def contents(folder: Path) -> dict[str, str]:
    """What lies below a folder: sha256 by path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() and os.access(path, os.R_OK)
        else ""
        for path in folder.rglob("*")
    }


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def refuses(command, tmp_path) -> Callable[..., str]:
    """Run a verb that has to fail: its one line of error, with the words in it, and no trace left."""

    def call(code: int, arguments: tuple[object, ...], *words: object) -> str:
        before = contents(tmp_path)
        got, report, errors = command(*arguments)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert (got, len(lines)) == (code, 1), errors
        assert "unexpected" not in lines[0]
        assert report == {
            "error": {
                "type": report["error"]["type"],
                "message": lines[0].removeprefix("error: "),
                "exit_code": code,
            }
        }
        for word in words:
            assert str(word) in lines[0]
        assert contents(tmp_path) == before
        return lines[0]

    return call


@pytest.fixture
def bad_everywhere(refuses, command, out, small_model) -> Callable[..., None]:
    """A file that every verb refuses in one line with these words, and ``check`` explains."""

    def call(file: Path, kind: str, *words: str) -> None:
        for arguments in readers(file, out, small_model).values():
            refuses(3, arguments, file.name, *words)
        code, report, errors = command("check", file)
        assert (code, errors, report["ok"]) == (3, "", False)
        (problem,) = (p for p in report["problems"] if p["kind"] == kind)
        assert problem["level"] == "error"
        assert problem["fix"]
        assert problem["first"]

    return call


@pytest.fixture
def forecast(command, out, tmp_path) -> Callable[..., pd.DataFrame]:
    """forecast.csv of a line that has to work; the report's notes are its ``attrs``."""

    def call(file: Path, *arguments: object) -> pd.DataFrame:
        shutil.rmtree(out, ignore_errors=True)
        code, report, errors = command("forecast", file, *arguments, "--out", out)
        assert code == 0, errors
        frame = pd.read_csv(out / "forecast.csv", dtype={"unique_id": str})
        assert np.isfinite(frame["yhat"]).all()
        frame.attrs["notes"] = " ".join(report["notes"])
        return frame

    return call


def test_every_pitfall_has_its_test() -> None:
    """The list above names tests that exist."""
    here = Path(__file__)
    named = re.findall(r"(?:([\w./]+\.py)::)?(test_\w+)$", __doc__ or "", re.MULTILINE)
    assert len(named) > 40
    for file, test in named:
        path = here.parent / file if file else here
        assert f"def {test}(" in path.read_text(encoding="utf-8"), f"{file} {test}"


# ---- the rows --------------------------------------------------------------------------------


def test_gap(bad_everywhere, forecast, table, csv) -> None:
    """Thirty hours are missing, which peers pass over."""
    file = csv(table().drop(index=range(50, 80)))
    bad_everywhere(file, "gaps", "30 stamps are missing", "2024-01-03 02:00", "--fill")
    filled = forecast(file, *NAIVE, "--fill", "interpolate")
    assert "60 missing numbers filled (interpolate)" in filled.attrs["notes"]


def test_duplicate_stamp(bad_everywhere, forecast, table, csv) -> None:
    rows = table()
    file = csv(pd.concat([rows.iloc[:60], rows.iloc[59:]]))
    bad_everywhere(file, "duplicates", "1 stamp occurs more than once", "2024-01-03 11:00", "--agg")
    assert len(forecast(file, *NAIVE, "--agg", "mean")) == 12


def test_nan(bad_everywhere, forecast, table, csv) -> None:
    rows = table()
    rows.loc[70:72, "v1"] = np.nan
    file = csv(rows)
    bad_everywhere(file, "missing", "column 'v1'", "3 missing", "2024-01-03 22:00", "--fill")
    found = forecast(file, *NAIVE, "--fill", "ffill")
    assert "3 missing numbers filled (ffill)" in found.attrs["notes"]


def test_inf(bad_everywhere, forecast, table, csv) -> None:
    rows = table()
    rows.loc[70, "v0"] = np.inf
    file = csv(rows)
    bad_everywhere(file, "inf", "column 'v0'", "1 infinite", "2024-01-03 22:00", "--sentinel inf")
    forecast(file, *NAIVE, "--sentinel", "inf", "--fill", "ffill")


def test_sentinel(bad_everywhere, forecast, table, csv) -> None:
    rows = table()
    rows.loc[190:, "v1"] = -9999
    file = csv(rows)
    bad_everywhere(file, "sentinel", "column 'v1'", "-9999 stands 10 times", "--sentinel=-9999")
    assert forecast(file, *NAIVE, "--sentinel=-9999", "--fill", "seasonal")["yhat"].min() > 0


def test_numbers_as_text(bad_everywhere, table, csv) -> None:
    rows = table().astype({"v1": object})
    rows.loc[17, "v1"] = "broken"
    bad_everywhere(csv(rows), "not-a-number", "column 'v1'", "'broken' in row 18", "--fill")


def test_constant_series(command, forecast, table, csv, out) -> None:
    """Its deviation is zero, which nothing may be divided by; its forecast is the constant."""
    file = csv(table().assign(v1=3.0))
    code, report, _ = command("check", file)
    assert code == 0
    assert [(p["kind"], p["column"]) for p in report["problems"]] == [("constant", "v1")]
    model = out.with_name("model")
    code, report, _ = command("fit", file, *SIZES, "--max-steps", 1, *TINY, "--out", model)
    assert code == 0
    assert np.isfinite(report["metrics"]["test"]["mse"])
    found = forecast(file, "--model", model)
    np.testing.assert_allclose(found.query("unique_id == 'v1'")["yhat"], 3.0, atol=0.1)


def test_long_flat_stretch(forecast, table, csv, small_model) -> None:
    """The last windows have no variance at all."""
    rows = table()
    rows.loc[100:, ["v0", "v1"]] = 7.25
    found = forecast(csv(rows), "--model", small_model)
    np.testing.assert_allclose(found["yhat"], 7.25, atol=0.2)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_huge_numbers(command, forecast, table, csv, tmp_path, scale) -> None:
    """Scaled in double precision before a network sees them."""
    rows, model = table(), tmp_path / "model"
    rows[["v0", "v1"]] *= scale
    file = csv(rows)
    code, _, errors = command("fit", file, *SIZES, "--max-steps", 1, *TINY, "--out", model)
    assert code == 0, errors
    for name in (model, "seasonal-mean", "ets"):
        found = forecast(file, "--model", name, "--horizon", 6)
        assert 0.5 < found["yhat"].mean() / scale / 10 < 2


def test_large_whole_numbers(forecast, table, csv) -> None:
    rows = table()
    rows["v0"] = np.int64(2**62) + np.arange(len(rows))
    found = forecast(csv(rows), "--model", "last-value", "--horizon", 1)
    assert found["yhat"][0] == pytest.approx(2.0**62, rel=1e-9)


# ---- lengths ---------------------------------------------------------------------------------


def test_length_below_one_window(refuses, table, csv, out) -> None:
    file = csv(table(29))
    line = ("fit", file, *SIZES, *TINY, "--out", out)
    refuses(3, line, "load.csv", "29 rows", "at least 36", "--lookback or --horizon")
    line = ("evaluate", csv(table(12)), *SIZES, "--model", "drift")
    refuses(3, line, "load.csv", "test rows are fewer than the horizon", "--horizon")
    line = ("evaluate", csv(table(50)), *SIZES, "--model", "dlinear")
    refuses(3, line, "load.csv", "no validation window", "has 5 rows of its own", "more rows")


@pytest.mark.parametrize(("rows", "works"), [(30, False), (35, False), (36, True), (42, True)])
def test_exact_lengths(command, refuses, table, csv, out, rows, works) -> None:
    """L+H is a window to learn from and none to choose by: L+2H is the least, L+3H measures too."""
    line = ("fit", csv(table(rows)), *SIZES, "--max-steps", 1, *TINY, "--out", out)
    if not works:
        refuses(3, line, f"{rows} rows", "at least 36")
        return
    code, report, errors = command(*line)
    assert code == 0, errors
    assert report["training"]["windows"] == {"train": 1, "validation": 1}
    assert ("test" in report["metrics"]) == (rows == 42)


def test_history_of_exactly_the_lookback_and_one_row_less(
    forecast, refuses, table, csv, small_model, out
) -> None:
    found = forecast(csv(table(24)), "--model", small_model)
    assert found["lo-80"].isna().all()
    assert "2 of 2 series have no intervals" in found.attrs["notes"]
    shutil.rmtree(out)
    line = ("forecast", csv(table(23)), "--model", small_model, "--out", out)
    refuses(3, line, "load.csv", "needs 24 rows", "has 23", "--lookback")


def test_history_shorter_than_a_season(forecast, table, csv) -> None:
    """Seasonal naive has nothing to repeat but the last value, and says that it does."""
    rows = table(20)
    found = forecast(csv(rows), *NAIVE)
    assert "less than a season of 24 rows, and the last value is forecast" in found.attrs["notes"]
    np.testing.assert_allclose(found.query("unique_id == 'v0'")["yhat"], rows["v0"].iloc[-1])
    assert "season" not in forecast(csv(table(48)), *NAIVE).attrs["notes"]


@pytest.mark.parametrize("horizon", [0, -1])
def test_horizon_below_one(refuses, table, csv, small_model, out, horizon) -> None:
    lines = readers(csv(table()), out, small_model)
    for verb in ("fit", "forecast", "forecast, trained", "backtest", "compare", "tune", "evaluate"):
        refuses(2, (*lines[verb], "--horizon", horizon), f"horizon {horizon}", "1 or more")


def test_horizon_longer_and_shorter_than_trained(forecast, table, csv, small_model) -> None:
    file = csv(table())
    short = forecast(file, "--model", small_model, "--horizon", 4)
    own = forecast(file, "--model", small_model)
    longer = forecast(file, "--model", small_model, "--horizon", 15)
    assert [len(f) for f in (short, own, longer)] == [8, 12, 30]
    assert "fed back" in longer.attrs["notes"]
    for other in (short, longer):
        both = own.merge(other, on=["unique_id", "ds"])
        assert len(both) == min(len(own), len(other))
        np.testing.assert_allclose(both["yhat_x"], both["yhat_y"], rtol=1e-6)


# ---- clocks ----------------------------------------------------------------------------------


def test_unknown_frequency(refuses, table, csv, small_model, out) -> None:
    lines = readers(csv(table()), out, small_model)
    del lines["evaluate"]  # takes none
    for line in (*lines.values(), ("check", csv(table()))):
        refuses(2, (*line, "--freq", "fortnight"), "'fortnight' is unknown", "15min")


def test_wrong_frequency_declared(refuses, forecast, table, csv, out) -> None:
    """Peers return forecasts 24 hours apart."""
    file = csv(table())
    line = ("forecast", file, *NAIVE, "--freq", "D", "--out", out)
    refuses(3, line, "load.csv", "not of --freq D", "look like h", "--agg")
    found = forecast(file, *NAIVE, "--freq", "D", "--agg", "sum")
    assert found["ds"][:2].tolist() == ["2024-01-10", "2024-01-11"]


def test_mixed_frequencies(bad_everywhere, forecast, long_table, csv) -> None:
    odd = long_table(1, 60, "D").assign(unique_id="odd")
    file = csv(pd.concat([long_table(), odd]), "load.csv")
    bad_everywhere(file, "mixed-frequencies", "series 'odd'", "frequency D", "most series h")
    found = forecast(file, *NAIVE, "--freq", "D", "--agg", "mean")
    assert set(found["unique_id"]) == {"s0", "s1", "s2", "odd"}


def test_irregular_sampling(bad_everywhere, forecast, csv) -> None:
    seconds = np.sort(np.random.default_rng(0).choice(10**6, 300, replace=False))
    stamps = pd.Timestamp("2020-01-01") + pd.to_timedelta(seconds, unit="s")
    rows = {"date": stamps.astype(str), "v0": np.arange(300.0), "v1": 1.0 + np.arange(300.0)}
    file = csv(pd.DataFrame(rows))
    bad_everywhere(file, "irregular", "follow no frequency", "--freq h --agg mean")
    forecast(file, *NAIVE, "--freq", "6h", "--agg", "mean", "--fill", "interpolate")


def test_days_of_23_and_25_hours(bad_everywhere, forecast, csv) -> None:
    """Local time without a zone: an hour is missing in spring, one is twice there in autumn."""
    times = pd.date_range("2024-03-01", "2024-10-28", freq="h", tz="Europe/Berlin")
    values = np.arange(len(times)) % 24 * 1.0
    file = csv(pd.DataFrame({"date": times.tz_localize(None).astype(str), "v0": values}))
    words = "the clock was put forward or back 2 times", "--tz Europe/Berlin"
    bad_everywhere(file, "daylight-saving", *words)
    found = forecast(file, *NAIVE, "--tz", "Europe/Berlin")
    assert found["ds"][0] == "2024-10-28 01:00:00+01:00"
    # Whichever days had 23 or 25 hours, a day ago is 24 rows ago.
    np.testing.assert_array_equal(found["yhat"], values[-24:][:6])


def test_mixed_stamps(refuses, csv, small_model, out) -> None:
    file = csv("date,v0,v1\n" + "2024-01-01,1,2\n2024-01-02,2,3\n03.01.2024,3,4\n")
    for line in readers(file, out, small_model).values():
        refuses(3, line, "load.csv", "column 'date'", "03.01.2024")


def test_unsorted_rows(forecast, table, csv, small_model) -> None:
    rows = table()
    first = forecast(csv(rows), "--model", small_model)
    mixed = rows.sample(frac=1, random_state=0)
    second = forecast(csv(mixed), "--model", small_model)
    assert "sorted" in second.attrs["notes"]
    pd.testing.assert_frame_equal(first, second)


# ---- how a file is written -------------------------------------------------------------------


def test_latin_1_bytes(command, forecast, refuses, table, csv, out) -> None:
    rows = table().rename(columns={"v0": "Zürich", "v1": "Genève"})
    file = csv(rows.to_csv(index=False).encode("latin-1"))
    found = forecast(file, *NAIVE)
    assert set(found["unique_id"]) == {"Zürich", "Genève"}
    assert "read as Latin-1" in found.attrs["notes"]
    shutil.rmtree(out)
    line = ("forecast", file, *NAIVE, "--encoding", "utf-8", "--out", out)
    refuses(3, line, "load.csv is not utf-8 text", "leave out --encoding")
    refuses(2, (*line, "--encoding", "klingon"), "'klingon' is unknown", "latin-1")


def test_decimal_comma(forecast, refuses, table, csv, out) -> None:
    plain = forecast(csv(table().round(3)), *NAIVE)
    file = csv(table().round(3).to_csv(index=False, sep=";", decimal=","))
    found = forecast(file, *NAIVE)
    assert "decimal comma" in found.attrs["notes"]
    pd.testing.assert_frame_equal(found, plain)
    shutil.rmtree(out)
    days = [f'2024-01-{day:02d},"{day},500"\n' for day in range(1, 29)]
    line = ("forecast", csv("date,v0\n" + "".join(days)), *NAIVE, "--out", out)
    refuses(3, line, "load.csv", "'1,500'", "--decimal")


def test_ambiguous_day_first(refuses, forecast, csv, small_model, out) -> None:
    rows = [f"0{day}/0{month}/2024,1,2\n" for month in (1, 2) for day in range(1, 10)]
    file = csv("date,v0,v1\n" + "".join(rows[:9]))
    lines = readers(file, out, small_model)
    for line in (*lines.values(), ("check", file)):
        refuses(3, line, "load.csv", "day-first or month-first", "--day-first")
    assert forecast(file, *NAIVE, "--day-first")["ds"][0] == "2024-01-10"
    assert forecast(file, *NAIVE, "--month-first")["ds"][0] == "2024-10-01"


# ---- a trained model and another file --------------------------------------------------------


def test_renamed_column_at_prediction(refuses, table, csv, small_model, out) -> None:
    file = csv(table().rename(columns={"v1": "load"}))
    line = ("forecast", file, "--model", small_model, "--out", out)
    refuses(3, line, "load.csv", "lacks the target v1", "has load instead", "rename")


@pytest.mark.parametrize("verb", ["forecast", "backtest", "detect"])
def test_renamed_covariate_with_a_model(verb, command, refuses, table, csv, out, tmp_path) -> None:
    model, sizes = tmp_path / "model", ("--lookback", 24, "--horizon", 6, "--max-steps", 1)
    fit = ("fit", csv(table()), *sizes, *TINY, "--past", "v1", "--out", model)
    assert command(*fit)[0] == 0
    file = csv(table().rename(columns={"v1": "load"}))
    more = ("--horizon", 6) if verb == "backtest" else ()
    line = (verb, file, "--model", model, *more, "--out", out)
    refuses(3, line, "load.csv", "v1", "model was trained on", "rename")


def test_reordered_and_further_columns_at_prediction(forecast, table, csv, small_model) -> None:
    """Columns are matched by name: the same forecasts to the last digit."""
    rows = table()
    first = forecast(csv(rows), "--model", small_model)
    swapped = forecast(csv(rows[["v1", "date", "v0"]]), "--model", small_model)
    pd.testing.assert_frame_equal(first, swapped)
    more = forecast(csv(rows.assign(extra=1.0, v00=2.0)), "--model", small_model)
    assert "not used by the model: extra, v00" in more.attrs["notes"]
    pd.testing.assert_frame_equal(first, more)


def test_another_frequency_at_prediction(refuses, table, csv, small_model, out) -> None:
    line = ("forecast", csv(table(freq="D")), "--model", small_model, "--out", out)
    refuses(3, line, "load.csv", "frequency D", "trained on frequency h", "resample")


def test_new_series_at_prediction(command, forecast, long_table, csv, tmp_path) -> None:
    """Scaled by its own history, and said so; the known ones are forecast as before."""
    model, sizes = tmp_path / "model", ("--lookback", 24, "--horizon", 6, "--max-steps", 1)
    assert command("fit", csv(long_table(2)), *sizes, *TINY, "--out", model)[0] == 0
    known = forecast(csv(long_table(2)), "--model", model)
    new = long_table(2).replace("s0", "new").assign(y=lambda rows: 1000 + rows["y"])
    both = forecast(csv(pd.concat([long_table(2), new.query("unique_id == 'new'")])), "--model", model)  # fmt: skip
    assert "1 of 3 series are new" in both.attrs["notes"]
    pd.testing.assert_frame_equal(known, both.query("unique_id != 'new'").reset_index(drop=True))
    assert both.query("unique_id == 'new'")["yhat"].between(990, 1030).all()


def test_series_called_by_numbers(forecast, long_table, csv) -> None:
    """Ids are words: 7, 007 and 7.0 are three series."""
    rows = long_table(3).replace({"s0": "7", "s1": "007", "s2": "7.0"})
    assert list(dict.fromkeys(forecast(csv(rows), *NAIVE)["unique_id"])) == ["7", "007", "7.0"]


def test_series_of_unequal_lengths(command, forecast, long_table, csv, tmp_path, out) -> None:
    """One too short to learn from is left out of training, said so, and refused by the model."""
    rows = pd.concat([long_table(3).iloc[:-40], long_table(1, 10).assign(unique_id="short")])
    file, model = csv(rows), tmp_path / "model"
    line = ("fit", file, *SIZES, "--max-steps", 1, *TINY, "--out", model)
    code, report, errors = command(*line)
    assert code == 0, errors
    assert "1 of 4 series are too short" in " ".join(report["notes"])
    code, report, _ = command("forecast", file, "--model", model, "--out", out)
    assert code == 3
    assert "series short has 10" in report["error"]["message"]
    chosen = [word for i in range(3) for word in ("--series", f"s{i}")]
    found = forecast(file, "--model", model, *chosen)
    cutoffs = found.groupby("unique_id")["cutoff"].first()
    assert cutoffs["s2"] < cutoffs["s0"] == cutoffs["s1"]


@pytest.mark.parametrize("name", ["itransformer", "autoformer", "olinear"])
def test_one_variate(command, forecast, table, csv, tmp_path, name) -> None:
    """Models that mix variates have nothing to mix."""
    tiny = {"itransformer": TINY, "olinear": ("--set", "dim=16", "--set", "depth=1")}
    tiny["autoformer"] = ("--set", "dim=16", "--set", "ffn=16")
    file, model = csv(table(variates=1)), tmp_path / "model"
    line = ("fit", file, "--model", name, *SIZES, "--max-steps", 1, *tiny[name], "--out", model)
    code, _, errors = command(*line)
    assert code == 0, errors
    assert len(forecast(file, "--model", model)) == 6


@pytest.mark.slow
def test_a_thousand_variates(command, table, csv, tmp_path, out) -> None:
    file, model = csv(table(80, 1000)), tmp_path / "model"
    code, report, errors = command("fit", file, *SIZES, "--max-steps", 1, *TINY, "--out", model)
    assert code == 0, errors
    code, report, errors = command("forecast", file, "--model", model, "--out", out)
    assert code == 0, errors
    assert (report["series"], report["rows"]) == (1000, 6000)
    found = pd.read_csv(out / "forecast.csv")
    assert found["unique_id"].nunique() == 1000
    assert np.isfinite(found["yhat"]).all()


# ---- model folders ---------------------------------------------------------------------------


@pytest.fixture
def copied(small_model, tmp_path) -> Path:
    """A model folder to damage."""
    return Path(
        shutil.copytree(small_model, tmp_path / "copied", ignore=shutil.ignore_patterns("run"))
    )


def change(model: Path, **values: object) -> None:
    card = model / "model.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | values))


@pytest.mark.parametrize("version", [0, 2, "1.0", None])
def test_model_of_another_schema_version(refuses, table, csv, copied, out, version) -> None:
    change(copied, format=version)
    for line in (
        ("forecast", csv(table()), "--model", copied, "--out", out),
        ("backtest", csv(table()), "--model", copied, "--horizon", 6, "--out", out),
        ("export", copied, "--out", out),
        ("report", copied, "--out", out),
    ):
        refuses(3, line, copied, f"schema version {version!r}", "reads 1", "fit the model again")


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_pickle_instead_of_safetensors(refuses, table, csv, copied, tmp_path, out, name) -> None:
    (copied / "model.safetensors").unlink()
    (copied / name).write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    line = ("forecast", csv(table()), "--model", copied, "--out", out)
    refuses(3, line, copied, "safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["cut", "gone", "no JSON", "dim", "lookback", "targets"])
def test_damaged_model(refuses, table, csv, copied, out, damage) -> None:
    card = json.loads((copied / "model.json").read_text())
    weights = copied / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "gone":
        weights.unlink()
    elif damage == "no JSON":
        (copied / "model.json").write_text("{")
    elif damage == "dim":
        card["network"]["options"]["dim"] = 32
        change(copied, network=card["network"])
    elif damage == "lookback":
        card["network"]["shape"]["lookback"] = 48
        change(copied, network=card["network"])
    else:
        card["data"]["targets"] = ["v0"]
        change(copied, data=card["data"])
    line = ("forecast", csv(table()), "--model", copied, "--out", out)
    refuses(3, line, copied)


def test_model_of_another_application(refuses, table, csv, copied, out) -> None:
    change(copied, app="medical")
    line = ("forecast", csv(table()), "--model", copied, "--out", out)
    refuses(3, line, copied, "not a forecaster", "fit")


# ---- command lines ---------------------------------------------------------------------------


def test_existing_output(command, refuses, table, csv, small_model, tmp_path, out) -> None:
    """Results stay as they are unless --force is given."""
    file = csv(table())
    lines = readers(file, out, small_model)
    for verb in ("fit", "forecast", "backtest", "compare", "detect", "report"):
        shutil.rmtree(out, ignore_errors=True)
        code, _, errors = command(*lines[verb])
        assert code == 0, errors
        refuses(2, lines[verb], out.name, "--force")
        assert command(*lines[verb], "--force")[0] == 0


def test_output_that_is_a_file(refuses, table, csv, small_model, out) -> None:
    out.write_text("here first")
    lines = readers(csv(table()), out, small_model)
    del lines["evaluate"]
    for line in lines.values():
        refuses(2, line, out)


@pytest.mark.parametrize(
    ("name", "meant"), [("itransfomer", "itransformer"), ("seasonal-niave", "seasonal-naive")]
)
def test_unknown_model(refuses, table, csv, out, name, meant) -> None:
    file = csv(table())
    more = ("--model", name, "--horizon", 6, "--out", out)
    for line in (
        ("fit", file, *more),
        ("tune", file, *more),
        ("forecast", file, *more),
        ("backtest", file, *more),
        ("compare", file, *more, "--model", "drift"),
        ("detect", file, "--model", name, "--out", out),
        ("evaluate", file, "--model", name, "--horizon", 6),
    ):
        # What is not trained yet is nothing that forecast could use.
        hint = (
            f"Did you mean '{meant}'?"
            if meant != "itransformer" or line[0] != "forecast"
            else "folder"
        )
        refuses(2, line, f"unknown model '{name}'", hint)


def test_untrained_model(refuses, table, csv, out) -> None:
    for name in ("itransformer", "iTransformer", "S-Mamba"):
        line = ("forecast", csv(table()), "--model", name, "--horizon", 6, "--out", out)
        refuses(2, line, "not trained yet", "run fit FILE", "--model MODELDIR")
    line = ("fit", csv(table()), "--model", "drift", "--horizon", 6, "--out", out)
    refuses(2, line, "model drift", "needs no fitting")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["forcast", "FILE"], ["No such command 'forcast'", "'forecast'"]),
        (["forecast", "FILE", *NAIVE, "--outt", "OUT"], ["--outt", "--out"]),
        (["forecast", "FILE", *NAIVE], ["--out"]),
        (["forecast", "FILE", "--model", "drift", "--out", "OUT"], ["--horizon"]),
        (["forecast", "FILE", *NAIVE, "--horizon", "soon", "--out", "OUT"], ["--horizon"]),
        (["forecast", "FILE", *NAIVE, "--series", "v7", "--out", "OUT"], ["'v7'", "v0, v1"]),
        (["forecast", "FILE", *NAIVE, "--season", "0", "--out", "OUT"], ["--season"]),
        (["forecast", "FILE", *NAIVE, "--target", "v9", "--out", "OUT"], ["load.csv", "'v9'"]),
        (["forecast", "FILE", *NAIVE, "--fill", "fill", "--out", "OUT"], ["'fill'", "'ffill'"]),
        (["forecast", "FILE", *NAIVE, "--agg", "man", "--out", "OUT"], ["'man'", "'mean'"]),
        (["forecast", "FILE", *NAIVE, "--tz", "Berlin", "--out", "OUT"], ["'Berlin'"]),
        (["forecast", "FILE", *NAIVE, "--device", "gpu", "--out", "OUT"], ["'gpu'", "cpu"]),
        (["fit", "FILE", "--horizon", 6, "--set", "dimm=3", "--out", "OUT"], ["'dimm'", "'dim'"]),
        (["fit", "FILE", "--horizon", 6, "--set", "dim", "--out", "OUT"], ["name=value"]),
        (["fit", "FILE", "--horizon", 6, "--set", "dim=0", "--out", "OUT"], ["dim"]),
        (["fit", "FILE", "--horizon", 6, "--set", "dim=wide", "--out", "OUT"], ["dim", "wide"]),
        (["fit", "FILE", "--horizon", 6, "--set", "dim=1.5", "--out", "OUT"], ["dim", "1.5"]),
        (["fit", "FILE", "--horizon", 6, "--set", "heads=3", "--out", "OUT"], ["heads 3"]),
        (["fit", "FILE", "--horizon", 6, "--set", "dropout=2", "--out", "OUT"], ["dropout", "2"]),
        (["fit", "FILE", "--horizon", 6, "--set", "batch=0", "--out", "OUT"], ["batch", "0"]),
        (["fit", "FILE", "--horizon", 6, "--set", "epochs=x", "--out", "OUT"], ["epochs", "x"]),
        (["fit", "FILE", "--horizon", 6, "--set", "rate=0", "--out", "OUT"], ["rate", "0"]),
        (["fit", "FILE", "--horizon", 6, "--set", "mixer=wndow", "--out", "OUT"], ["'window'"]),
        (["fit", "FILE", "--horizon", 6, "--quantile", "10", "--out", "OUT"], ["between 0 and 1"]),
        (["fit", "FILE", "--horizon", 6, "--max-steps", "0", "--out", "OUT"], ["--max-steps"]),
        (["fit", "FILE", "--horizon", 6, "--resume", "--force", "--out", "OUT"], ["one of them"]),
        (["fit", "FILE", "--horizon", 6, "--protocol", "7-2-1", "--out", "OUT"], ["'7-1-2'"]),
        (["evaluate", "FILE", "--model", "drift", "--protocol", "ett_hour"], ["'ett-hour'"]),
        (["backtest", "FILE", *NAIVE, "--windows", "0", "--out", "OUT"], ["--windows"]),
        (["backtest", "FILE", *NAIVE, "--refit", "no", "--out", "OUT"], ["never, always"]),
        (["backtest", "FILE", *NAIVE, "--baseline", "etss", "--out", "OUT"], ["'ets'"]),
        (["backtest", "FILE", *NAIVE, "--align", "middle", "--out", "OUT"], ["'middle'", "'end'"]),
        (["compare", "FILE", *NAIVE, "--out", "OUT"], ["fewer than two models"]),
        (["detect", "FILE", "--rate", "1", "--out", "OUT"], ["--rate 1"]),
        (["detect", "FILE", "--since", "noon", "--out", "OUT"], ["--since noon"]),
        (["tune", "FILE", "--horizon", 6, "--search", "dimm=1:4", "--out", "OUT"], ["'dim'"]),
        (["tune", "FILE", "--horizon", 6, "--search", "dim", "--out", "OUT"], ["dim"]),
        (["tune", "FILE", "--horizon", 6, "--trials", "0", "--out", "OUT"], ["--trials"]),
        (["export", "seasonal-naive", "--out", "OUT"], ["'seasonal-naive'"]),
        (["export", "MODEL", "--format", "onx", "--out", "OUT"], ["'onnx'"]),
        (["report", "FILE", "--out", "OUT"], ["load.csv", "folder"]),
        (["models", "--jsn"], ["--jsn", "--json"]),
    ],
)  # fmt: skip
def test_misspelt_verb_or_option(refuses, table, csv, small_model, out, arguments, words) -> None:
    places = {"FILE": csv(table()), "OUT": out, "MODEL": small_model}
    refuses(2, tuple(places.get(word, word) for word in arguments), *words)


@pytest.mark.parametrize("level", ["0", "100", "-5", "nan"])
def test_level_0_and_100(refuses, table, csv, small_model, out, level) -> None:
    lines = readers(csv(table()), out, small_model)
    for verb in ("forecast", "forecast, trained", "backtest", "compare"):
        refuses(2, (*lines[verb], "--level", level), f"level {level}", "100", "as 80")


# ---- files and the machine -------------------------------------------------------------------


@pytest.fixture
def every_verb(refuses, small_model, out) -> Callable[..., None]:
    """Each verb refuses this file, ``check`` included."""

    def call(code: int, file: Path, *words: str) -> None:
        for line in (*readers(file, out, small_model).values(), ("check", file)):
            refuses(code, line, file.name, *words)

    return call


def test_missing_file(every_verb, tmp_path) -> None:
    every_verb(3, tmp_path / "none.csv", "No such file", "check the path")


def test_empty_file(every_verb, csv) -> None:
    every_verb(3, csv(""), "is empty", "header row")
    every_verb(3, csv("date,v0\n"), "header row and no data", "add rows")


def test_folder_instead_of_a_file(every_verb, tmp_path) -> None:
    (tmp_path / "folder.csv").mkdir()
    every_verb(3, tmp_path / "folder.csv", "is a folder", "CSV")


def test_file_that_is_no_table(every_verb, csv) -> None:
    every_verb(3, csv(b"\x00\x01" * 99), "is not text", "save it as")
    every_verb(3, csv("x", "load.xyz"), "'.xyz' files are not read", ".csv")
    every_verb(3, csv("x" * 99, "load.parquet"), "not a readable Parquet file")
    every_verb(3, csv("x" * 99, "load.xlsx"), "not a readable Excel file")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_no_permission(every_verb, refuses, table, csv, tmp_path, small_model) -> None:
    file, shut = csv(table()), tmp_path / "shut"
    shut.mkdir(mode=0o500)
    if os.access(shut, os.W_OK):
        pytest.skip("this user may read and write everything")
    for verb, line in readers(file, shut / "out", small_model).items():
        if verb != "evaluate":
            refuses(4, line, "shut", "no permission to write here")
    file.chmod(0)
    every_verb(4, file, "no permission to read it")


def test_permission_that_the_system_denies(every_verb, table, csv, monkeypatch):
    """As above, for whoever may read everything: the system's answer is made up."""
    real = os.access
    denied = lambda path, mode: Path(path).name != "load.csv" and real(path, mode)  # noqa: E731
    monkeypatch.setattr(os, "access", denied)
    every_verb(4, csv(table()), "no permission to read it", "change its permissions")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 16 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(place)]
    if os.name == "nt" or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:  # fmt: skip
        pytest.skip("this user cannot mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk(refuses, table, csv, small_model, small_disk) -> None:
    """Where a disk fills up while results are written, nothing of them is left."""
    lines = readers(csv(table(600)), small_disk / "out", small_model)
    for verb in ("forecast", "forecast, trained", "backtest", "report"):
        refuses(4, lines[verb], "no space left")


def test_disk_that_fills_up_within_a_file(refuses, table, csv, small_model, out, monkeypatch):
    """As above, where no disk can be made for it."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lines = readers(csv(table()), out, small_model)
    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    for verb in ("forecast", "forecast, trained", "backtest", "compare", "detect"):
        refuses(4, lines[verb], "no space left")


def test_a_network_larger_than_the_memory(refuses, table, csv, out) -> None:
    line = ("fit", csv(table()), *SIZES, *TINY, "--set", "dim=10000000000", "--out", out)
    refuses(4, line, "out of memory")


def test_a_device_that_is_not_there(refuses, table, csv, small_model, out) -> None:
    lines = readers(csv(table()), out, small_model)
    for line in lines.values():
        refuses(4, (*line, "--device", "cuda:99"), "cuda:99", "--device cpu")


def test_a_cluster_that_is_not_there(refuses, table, csv, small_model, out) -> None:
    pytest.importorskip("ray")
    lines = readers(csv(table()), out, small_model)
    for verb in ("forecast", "forecast, trained", "backtest", "compare"):
        line = (*lines[verb], "--ray", "ray://127.0.0.1:9")
        refuses(4, line, "--ray ray://127.0.0.1:9", "no Ray answers", "--ray local")
