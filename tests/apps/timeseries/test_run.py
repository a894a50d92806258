"""The command lines that scripts rely on, as they are written down, and what they write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import apps.timeseries
from apps.timeseries.data.reading import read_panel
from apps.timeseries.data.splits import protocol_borders
from apps.timeseries.evaluate import score
from apps.timeseries.methods import BaselinePredictor

INTERVALS = ["lo-80", "hi-80", "lo-90", "hi-90"]
COLUMNS = ["unique_id", "model", "cutoff", "ds", "yhat", *INTERVALS]


@pytest.fixture
def forecast(command, csv, tmp_path):
    """forecast.csv of a table, as text: nothing is read into it."""

    def call(table: pd.DataFrame, horizon: int, *arguments: object, name: str = "load.csv"):
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        line = ("forecast", csv(table, name), "--model", "seasonal-naive", "--horizon", horizon)
        code, _, errors = command(*line, *arguments, "--out", out)
        assert code == 0, errors
        return pd.read_csv(out / "forecast.csv", dtype={"ds": str, "cutoff": str})

    return call


def test_from_a_file_to_a_forecast(command, table, csv, tmp_path) -> None:
    """check, fit, forecast with the options of the manual."""
    file, model, out = csv(table(500)), tmp_path / "model", tmp_path / "out"
    code, report, errors = command("check", file)
    assert (code, errors) == (0, "")
    assert {
        "ok": True, "layout": "wide", "freq": "h", "rows": 500, "series": 1, "season": 24, "tz": None,
        "targets": ["v0", "v1"], "problems": [],
    }.items() <= report.items()  # fmt: skip

    sizes = ("--lookback", 96, "--horizon", 96)
    line = ("fit", file, "--model", "itransformer", *sizes, "--out", model)
    code, report, errors = command(*line, "--max-minutes", 0.02, "--seed", 0)
    assert code == 0, errors
    assert report["borders"] == {"train": 308, "val": 404, "test": 500}
    assert {"folder", "model", "training", "metrics", "coverage", "notes"} <= set(report)
    assert (report["lookback"], report["horizon"]) == (96, 96)
    assert set(report["metrics"]["test"]["naive"]) >= {"last-value", "seasonal-naive"}
    names = {path.name for path in model.iterdir()}
    assert names >= {"model.safetensors", "model.json"}
    assert json.loads((model / "model.json").read_text())["training"]["seed"] == 0

    line = ("forecast", file, "--model", model, "--horizon", 96, "--level", 80, "--level", 90)
    code, report, errors = command(*line, "--out", out)
    assert code == 0, errors
    assert {path.name for path in out.iterdir()} == {
        "forecast.csv", "forecast.json", "forecast.png", "forecast.html",
    }  # fmt: skip
    found = pd.read_csv(out / "forecast.csv")
    assert list(found.columns) == COLUMNS
    assert found["unique_id"].tolist() == ["v0"] * 96 + ["v1"] * 96
    assert set(found["model"]) == {"itransformer"}
    assert set(found["cutoff"]) == {table(500)["date"].iloc[-1]}
    ahead = pd.date_range(table(500)["date"].iloc[-1], periods=97, freq="h")[1:]
    assert found["ds"][:96].tolist() == ahead.astype(str).tolist()
    assert np.isfinite(found["yhat"]).all()
    assert (report["horizon"], report["rows"], report["levels"]) == (96, 192, [80.0, 90.0])
    assert report["intervals"]["kind"] == "pointwise"
    saved = json.loads((out / "forecast.json").read_text())
    assert saved["data"]["sha256"] == report["data"]["sha256"]


def test_intervals_are_ordered(command, table, csv, small_model, tmp_path) -> None:
    out = tmp_path / "out"
    line = ("forecast", csv(table(600)), "--model", small_model, "--level", 80, "--level", 90)
    code, report, _ = command(*line, "--out", out)
    assert code == 0
    found = pd.read_csv(out / "forecast.csv")
    columns = ["lo-90", "lo-80", "hi-80", "hi-90"]
    assert (np.diff(found[columns].to_numpy(), axis=1) >= 0).all()
    for entry in report["coverage"]:
        assert abs(entry["measured"] - entry["level"]) < 10
        assert entry["kind"] == "pointwise"


def test_backtest(command, table, csv, small, tmp_path) -> None:
    out = tmp_path / "out"
    line = ("backtest", csv(table(400)), "--model", "itransformer", "--model", "seasonal-naive")
    code, report, errors = command(
        *line, "--horizon", 24, "--windows", 5, "--out", out, "--max-steps", 2, *small
    )
    assert code == 0, errors
    assert (report["windows"], report["horizon"], len(report["cutoffs"])) == (5, 24, 5)
    assert set(report["models"]) == {
        "itransformer", "seasonal-naive", "last-value", "seasonal-mean", "drift", "ets",
    }  # fmt: skip
    for name in report["models"]:
        scores = report["scores"][name]
        for measure in ("mse", "mae", "rmse", "smape", "mase", "crps", "mse_scaled", "mae_scaled"):
            assert np.isfinite(scores[measure]), (name, measure)
        assert len(scores["per_horizon"]["mae"]) == 24
    assert "seasonal naive" in report["verdict"]
    names = {path.name for path in out.iterdir()}
    assert names == {"backtest.csv", "report.json", "report.md"}
    frame = pd.read_csv(out / "backtest.csv")
    one = frame.query("model == 'seasonal-naive' and unique_id == 'v0'")
    assert len(one) == 5 * 24
    # The forecasts say what the rule says: the value of a day ago.
    values = table(400).set_index("date")["v0"]
    first = one.iloc[:24]
    before = (pd.to_datetime(first["ds"]) - pd.Timedelta("1D")).astype(str)
    np.testing.assert_allclose(first["yhat"], values[before], rtol=1e-8)


@pytest.mark.parametrize("protocol", ["ett-hour", "ett-minute", "7-1-2"])
def test_evaluate_on_a_sample(command, samples, protocol) -> None:
    """The published borders and every test window: the naive error is a number that is known."""
    line = ("evaluate", samples / "ETTh1.csv", "--protocol", protocol, "--model", "seasonal-naive")
    sizes = ("--lookback", 96, "--horizon", 96, "--seed", 0)
    code, report, errors = command(*line, *sizes, "--no-naive")
    if protocol == "ett-minute":
        assert code == 3
        assert "ETTh1.csv: 17420 rows: protocol ett-minute needs 57,600" in errors
        return
    assert code == 0
    if protocol == "ett-hour":
        assert report["windows"] == 2785
        assert report["mse"] == pytest.approx(0.512, abs=5e-4)
        assert report["mae"] == pytest.approx(0.433, abs=5e-4)


def test_evaluate_a_model(command, table, csv) -> None:
    line = ("evaluate", csv(table(1000)), "--protocol", "7-1-2", "--model", "olinear")
    line += ("--lookback", 96, "--horizon", 96, "--seed", 0)
    code, report, errors = command(*line, "--max-steps", 1, "--set", "dim=16")
    assert code == 0, errors
    assert {"mse", "mae", "windows", "borders", "naive", "training"} <= set(report)
    assert report["borders"] == {"train": 700, "val": 800, "test": 1000}
    assert report["windows"] == 200 - 96 + 1
    assert 0 < report["mae"] < 10
    assert report["training"]["steps"] == 1


def test_evaluate_by_hand(command, table, csv) -> None:
    """Scaled by training rows, over every window: the number that the formula gives."""
    rows = table(200)
    code, report, _ = command(
        "evaluate", csv(rows), "--model", "last-value", "--lookback", 24, "--horizon", 6
    )
    assert code == 0
    values = rows[["v0", "v1"]].to_numpy()
    scaled = (values - values[:140].mean(0)) / values[:140].std(0)
    errors = np.stack([scaled[o : o + 6] - scaled[o - 1] for o in range(160, 195)])
    assert report["windows"] == 35
    assert report["mse"] == pytest.approx((errors**2).mean())
    assert report["mae"] == pytest.approx(np.abs(errors).mean())


def test_horizons_of_a_baseline_share_a_forecast(command, table, csv) -> None:
    """One pass over the windows scores every horizon as the horizon alone would be."""
    file = csv(table(400))
    panel = read_panel(file)
    borders = protocol_borders("7-1-2", 400, "it")
    for name in ("last-value", "seasonal-naive", "seasonal-mean", "drift", "ets"):
        together = score(panel, BaselinePredictor(name), borders, 24, [6, 48, 24])
        for horizon in (6, 24, 48):
            line = ("evaluate", file, "--model", name, "--lookback", 24, "--horizon", horizon)
            code, alone, errors = command(*line, "--no-naive")
            assert code == 0, errors
            assert together[horizon]["windows"] == alone["windows"] == 80 - horizon + 1
            for measure in ("mse", "mae"):
                assert together[horizon][measure] == pytest.approx(alone[measure], rel=1e-9)


def test_the_same_forecast_in_python(command, table, csv, tmp_path, small_model) -> None:
    file = csv(table())
    assert command("forecast", file, "--model", small_model, "--out", tmp_path / "out")[0] == 0
    found = apps.timeseries.forecast(file, small_model, levels=(80, 90))
    saved = pd.read_csv(tmp_path / "out" / "forecast.csv")
    assert list(found.frame.columns) == COLUMNS
    np.testing.assert_allclose(found.frame["yhat"], saved["yhat"], rtol=1e-8)


# ---- stamps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freq", "start", "ahead"),
    [
        ("h", "2024-02-28 20:00", ["2024-02-29 20:00:00", "2024-02-29 21:00:00"]),
        ("15min", "2023-12-31 18:00", ["2024-01-01 00:00:00", "2024-01-01 00:15:00"]),
        ("D", "2024-02-05", ["2024-02-29", "2024-03-01"]),
        ("B", "2024-02-05", ["2024-03-08", "2024-03-11"]),
        ("W", "2024-02-04", ["2024-07-21", "2024-07-28"]),
        ("MS", "2022-03-01", ["2024-03-01", "2024-04-01"]),
        ("ME", "2022-02-28", ["2024-02-29", "2024-03-31"]),
        ("QE", "2018-03-31", ["2024-03-31", "2024-06-30"]),
        ("YS", "2000-01-01", ["2024-01-01", "2025-01-01"]),
    ],
)
def test_future_stamps(forecast, table, freq, start, ahead) -> None:
    """24 rows, then exactly the next ones: no stamp twice, none left out, ends of months kept."""
    found = forecast(table(24, 1, freq, start), 2)
    assert found["ds"].tolist() == ahead


@pytest.mark.parametrize(
    ("last", "ahead"),
    [
        # The night of the 31st has no 02:00, that of the 27th of October two.
        ("2024-03-31 00:00", ["00:00:00+01:00", "01:00:00+01:00", "03:00:00+02:00"]),
        ("2024-10-27 01:00", ["01:00:00+02:00", "02:00:00+02:00", "02:00:00+01:00"]),
    ],
)
@pytest.mark.parametrize("naive", [False, True])
def test_the_time_zone_is_kept_through_daylight_saving(forecast, last, ahead, naive) -> None:
    times = pd.date_range(end=last, periods=100, freq="h", tz="Europe/Berlin")
    clock = times.tz_localize(None).astype(str) if naive else [t.isoformat() for t in times]
    values = np.random.default_rng(0).normal(size=100)
    found = forecast(pd.DataFrame({"date": clock, "v0": values}), 2, "--tz", "Europe/Berlin")
    stamps = [found["cutoff"][0], *found["ds"]]
    day = last.split()[0]
    assert stamps == [f"{day} {clock}" for clock in ahead]


def test_an_offset_is_kept(forecast, table) -> None:
    rows = table(48, 1)
    rows["date"] += "+05:30"
    assert forecast(rows, 1)["ds"].tolist() == ["2024-01-03 00:00:00+05:30"]


def test_numbered_rows(forecast, table) -> None:
    rows = table(48, 1).rename(columns={"date": "step"})
    rows["step"] = np.arange(100, 148)
    found = forecast(rows, 2, "--time", "step", "--season", 24)
    assert found["ds"].tolist() == ["148", "149"]


def test_a_long_file_of_several_calendars(forecast, long_table) -> None:
    rows = long_table(3)
    rows = rows[(rows["unique_id"] != "s1") | (rows["ds"] < "2024-01-04")]
    found = forecast(rows, 2)
    assert found.groupby("unique_id")["ds"].first().to_dict() == {
        "s0": "2024-01-06 00:00:00", "s1": "2024-01-04 00:00:00", "s2": "2024-01-06 00:00:00",
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv.gz", "parquet", "xlsx"])
def test_other_kinds_of_files_give_the_same_forecast(command, forecast, table, tmp_path, suffix):
    expected = forecast(table(60), 3)
    file = tmp_path / f"load.{suffix}"
    rows = table(60)
    if suffix == "csv.gz":
        rows.to_csv(file, index=False)
    elif suffix == "parquet":
        rows.assign(date=pd.to_datetime(rows["date"])).to_parquet(file)
    else:
        rows.assign(date=pd.to_datetime(rows["date"])).to_excel(file, index=False)
    out = tmp_path / "other"
    line = ("forecast", file, "--model", "seasonal-naive", "--horizon", 3, "--out", out)
    assert command(*line)[0] == 0
    pd.testing.assert_frame_equal(pd.read_csv(out / "forecast.csv"), expected)


# ---- covariates ------------------------------------------------------------------------------


def test_a_known_covariate_changes_the_future(command, table, csv, small, tmp_path) -> None:
    """Fitted with a price that is known ahead; its future rows are read, and missing ones refused."""
    rows = table(206, 1).assign(price=np.arange(206) % 5)
    rows.loc[200:, "v0"] = np.nan
    model, out = tmp_path / "model", tmp_path / "out"
    sizes = ("--lookback", 24, "--horizon", 6, "--max-steps", 3, *small)
    file = csv(rows)
    code, _, errors = command("fit", file, *sizes, "--known", "price", "--out", model)
    assert code == 0, errors
    first = command("forecast", file, "--model", model, "--out", out)
    assert first[0] == 0, first[2]
    before = pd.read_csv(out / "forecast.csv")
    assert before["cutoff"][0] == rows["date"][199]
    rows.loc[200:, "price"] += 100
    assert command("forecast", csv(rows), "--model", model, "--out", out, "--force")[0] == 0
    assert (pd.read_csv(out / "forecast.csv")["yhat"] != before["yhat"]).any()
    line = ("forecast", csv(rows.iloc[:203]), "--model", model, "--out", tmp_path / "none")
    code, report, _ = command(*line)
    assert code == 3
    assert "load.csv: series load: known covariates end 3 stamps" in report["error"]["message"]
    assert not (tmp_path / "none").exists()


# ---- as programs -----------------------------------------------------------------------------


def test_as_a_process(python, table, csv, tmp_path) -> None:
    """One object on standard output; run as a file, from a folder that is not the repository."""
    file, out = csv(table(60)), tmp_path / "out"
    run = str(Path(apps.timeseries.__file__).with_name("run.py"))
    line = ("forecast", str(file), "--model", "drift", "--horizon", "3", "--out", str(out))
    done = python(run, *line, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 6
    done = python(run, *line, "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["exit_code"] == 2
    assert [text[:7] for text in done.stderr.splitlines()] == ["error: "]


def test_help_and_models_import_nothing_heavy(root) -> None:
    code = (
        "import sys; from core.cli import main; from apps.timeseries.run import app; "
        "main(app, ['models', '--json']); main(app, ['forecast', '--help']); "
        "print(sorted({'numpy', 'pandas', 'torch'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
