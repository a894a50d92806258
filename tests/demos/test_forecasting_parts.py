"""What the forecasting page is made of, piece by piece."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("streamlit", reason="needs the extra 'demos'")

from apps.timeseries import catalog
from apps.timeseries.data.panel import Panel, Series
from core.progress import SilentProgress
from demos.forecasting import charts, settings
from demos.forecasting.settings import Settings
from demos.forecasting.wording import FIELDS, in_page


def panel(rows: int = 400, zone: str | None = None) -> Panel:
    times = pd.date_range("2024-01-01", periods=rows, freq="h", tz=zone)
    t = np.arange(rows)[:, None]
    values = np.sin(2 * np.pi * t / 24 + np.arange(2)) + 0.1 * np.cos(t)
    none = np.empty((rows, 0))
    return Panel((Series("s", times, values, none, none, {}, "h"),), ("a", "b"), source="made.csv")


def wanted(**changes: object) -> Settings:
    usual = {"models": (), "train": (), "horizon": 12, "windows": 3, "step": 12, "season": 24}
    return Settings(**(usual | changes))


def test_every_option_that_reads_a_file_has_a_field() -> None:
    from apps.timeseries.run import READING

    assert {name.replace("_", "-") for name in READING} <= set(FIELDS)


def test_options_are_told_as_fields() -> None:
    assert in_page("fill it with --fill ffill") == "fill it with “Fill gaps” ffill"
    assert (
        in_page("--sentinel=-9999 and --tz") == "“Numbers that mean missing” -9999 and “Time zone”"
    )
    assert in_page("--unheard-of 3") == "--unheard-of 3"


def test_the_folds_that_are_drawn_are_those_that_are_run(tmp_path) -> None:
    from demos.forecasting.work import run

    made = panel()
    asked = wanted(models=("drift",), train=("itransformer",), lookback=24, epochs=1)
    plan = settings.plan(made, asked)
    path = tmp_path / "made.csv"
    path.write_text("not read again")
    done = run(path, {}, made, asked, tmp_path, SilentProgress())
    clock = made.series[0].observed
    assert done.backtest is not None
    assert done.backtest.report["cutoffs"] == [str(clock[row - 1]) for row in plan.starts]
    assert set(done.forecasts) == {"itransformer", "drift", catalog.REFERENCE}
    assert list(done.attention) == ["itransformer"]
    assert done.attention["itransformer"].names[:3] == ("a", "b", "hour of day")
    assert len(charts.weights(done.attention["itransformer"].frame(), 2).data[0].y) == 2


def test_one_model_that_cannot_does_not_stop_the_others(tmp_path, monkeypatch) -> None:
    from core.errors import DataError
    from demos.forecasting import work

    given = work._forecast

    def fails(panel, name, *rest):
        if name == "drift":
            raise DataError("made.csv: no; use --fill")
        return given(panel, name, *rest)

    monkeypatch.setattr(work, "_forecast", fails)
    done = work.run(tmp_path, {}, panel(), wanted(models=("drift",)), tmp_path, SilentProgress())
    assert done.notes == ("drift gives no forecast: made.csv: no; use “Fill gaps”",)
    assert list(done.forecasts) == [catalog.REFERENCE]


def test_first_values_suit_small_and_large_data() -> None:
    for rows in (2, 10, 30, 100, 144, 1000, 20_000):
        for season in (1, 4, 7, 12, 24, 96, 1440):
            horizon, lookback = settings._sizes(rows, season)
            assert 1 <= horizon <= max(1, rows // 3)
            assert 1 <= lookback <= max(1, rows // 2)
            assert settings._folds(rows, horizon) >= 1


def test_thinning_keeps_peaks_ends_and_gaps() -> None:
    values = pd.Series(np.sin(np.arange(50_000) / 1000))
    values[31_234], values[40_001] = 9.0, -9.0
    values[10_000:15_000] = np.nan
    thin = charts.thinned(values, 1000)
    assert len(thin) <= 1002
    assert (thin.max(), thin.min()) == (9.0, -9.0)
    assert (thin.index[0], thin.index[-1]) == (0, 49_999)
    assert thin.isna().sum() == 50  # one of each stretch in the gap
    short = values[:100]
    assert charts.thinned(short, 1000) is short


def test_no_line_joins_two_folds() -> None:
    frame = pd.DataFrame(
        {
            "unique_id": "a",
            "model": "m",
            "cutoff": np.repeat([2, 4], 2),
            "ds": [3, 4, 5, 6],
            "y": 1.0,
            "yhat": [1.0, 2.0, 3.0, 4.0],
            "lo-80": 0.0,
            "hi-80": 5.0,
        }
    )
    past = pd.Series(np.arange(7.0), index=pd.RangeIndex(7))
    figure = charts.folds(past, frame, "m", [], 80.0, 0, "a")
    line = next(trace for trace in figure.data if trace.name == "m")
    assert list(line.y) == [1.0, 2.0, None, 3.0, 4.0, None]
    assert sum(trace.name == "80 %" and trace.showlegend is not False for trace in figure.data) == 1


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_charts_are_json_with_the_wall_clock(zone: str | None) -> None:
    made = panel(zone=zone)
    past = pd.Series(made.series[0].values[:, 0], index=made.series[0].observed)
    past.iloc[5] = np.nan
    clock = made.series[0].observed
    figure = charts.planned(
        past, [clock[300], clock[350]], [clock[349], clock[399]], clock[200], "a"
    )
    spec = json.loads(figure.to_json())
    assert spec["data"][0]["x"][1] == "2024-01-01T01:00:00"
    assert spec["data"][0]["y"][5] is None
    assert len([shape for shape in spec["layout"]["shapes"] if shape["type"] == "rect"]) == 3
