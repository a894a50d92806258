"""Alarms by forecast residual: at the rate that was asked for, and where the spikes are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from apps.timeseries.anomaly import FILES, detect, print_report, rolling_thresholds, threshold_of
from apps.timeseries.data.panel import Panel, Series
from core.errors import DataError, UsageError


def series(values: np.ndarray, id: str = "s") -> Series:
    values = np.asarray(values, float).reshape(len(values), -1)
    times = pd.date_range("2024-01-01", periods=len(values), freq="h")
    none = np.empty((len(values), 0))
    return Series(id, times, values, none, none, freq="h")


def wide(values: np.ndarray) -> Panel:
    one = series(values)
    return Panel((one,), tuple("abcdefgh"[: one.values.shape[1]]), source="data.csv")


def wave(T: int, columns: int = 1, seed: int = 0, noise: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 5 * np.sin(2 * np.pi * np.arange(T) / 24)[:, None] + noise * rng.normal(
        size=(T, columns)
    )


@pytest.mark.parametrize("rate", [0.01, 0.05])
@pytest.mark.parametrize(
    ("model", "rolling"),
    [("seasonal-naive", True), ("seasonal-naive", False), ("seasonal-mean", True)],
)
def test_alarm_rate_on_clean_data(rate: float, model: str, rolling: bool) -> None:
    result = detect(wide(wave(20_000, columns=2)), model, rate=rate, rolling=rolling)
    report = result.report
    alarms, values = report["alarms"], report["monitored"]
    assert values > 19_000
    # A value also stands behind the forecasts of the next seasons, so alarms come in pairs: their
    # number has about twice a binomial's variance, and the threshold, from as many values, as much.
    deviation = np.sqrt(2 * 2 * values * rate * (1 - rate))
    assert abs(alarms - values * rate) < 3 * deviation
    assert report["alarm_rate"] == pytest.approx(alarms / values)
    assert report["calibration_check"]["alarm_rate"] == pytest.approx(rate, rel=0.5)
    assert len(result.frame) == alarms


def test_alarm_rate_of_independent_residuals_is_binomial() -> None:
    """A forecast that knows the mean: residuals are independent, the exact law is beta-binomial."""

    class Mean:
        name, lookback, horizon, quantiles, season, trained_until = "mean", 1, None, (), 1, None

        def predict(self, series: Any, origins: Any, horizon: int) -> np.ndarray:
            return np.zeros((len(origins), horizon, series.values.shape[1]))

    T, rate, seen = 4000, 0.02, []
    for seed in range(20):
        values = np.random.default_rng(seed).standard_t(4, size=(T, 1))
        report = detect(wide(values), Mean(), rate=rate, rolling=False).report
        n = report["per_series"]["a"]["calibrated_on"]
        rank = int(np.ceil((n + 1) * (1 - rate) - 1e-9))
        law = stats.betabinom(report["monitored"], n + 1 - rank, rank)
        low, high = law.ppf([0.0005, 0.9995])
        assert low <= report["alarms"] <= high
        seen.append(report["alarm_rate"])
    assert np.mean(seen) == pytest.approx(rate, rel=0.15)


def test_spikes_are_found_and_described() -> None:
    values = wave(4000, columns=2, noise=0.5)
    spikes = [2500, 3000, 3333]
    values[spikes, 1] += [12, -12, 15]
    result = detect(wide(values), "seasonal-mean", rate=0.001)
    found = result.frame[result.frame.unique_id == "b"].set_index("ds")
    times = pd.date_range("2024-01-01", periods=4000, freq="h")
    for row in spikes:
        alarm = found.loc[times[row]]
        assert alarm.y == values[row, 1]
        assert not alarm.lo <= alarm.y <= alarm.hi
        assert alarm.score > alarm.threshold
        assert alarm.expected == pytest.approx((alarm.lo + alarm.hi) / 2)
        assert alarm.expected == pytest.approx(5 * np.sin(2 * np.pi * row / 24), abs=1.5)
    # The three are by far the largest.
    top = found.sort_values("score", ascending=False).head(3)
    assert set(top.index) == {times[row] for row in spikes}


def test_mending_takes_away_the_echo() -> None:
    values = wave(3000, noise=0.5)
    values[2000] += 20
    times = pd.date_range("2024-01-01", periods=3000, freq="h")
    plain = detect(wide(values), "seasonal-naive", rate=0.001).frame
    mended = detect(wide(values), "seasonal-naive", rate=0.001, mend=True).frame
    assert times[2000] in set(plain.ds)
    assert times[2024] in set(plain.ds)  # seasonal naive expects the spike again
    assert times[2000] in set(mended.ds)
    assert times[2024] not in set(mended.ds)


def test_the_future_changes_no_earlier_alarm() -> None:
    values = wave(3000, noise=0.5)
    changed = values.copy()
    changed[2500:] = 1e6
    stamp = pd.date_range("2024-01-01", periods=3000, freq="h")[2500]
    first, second = (
        detect(wide(v), "seasonal-mean", since="2024-03-01", ahead=3, keep_all=True).frame
        for v in (values, changed)
    )
    assert (first.ds < stamp).sum() == 2500 - 60 * 24
    pd.testing.assert_frame_equal(
        first[first.ds < stamp], second[second.ds < stamp], check_exact=True
    )


def test_forecasts_further_ahead_are_made_earlier() -> None:
    values = np.zeros(400)
    values[300:] = np.arange(1, 101)  # a ramp that last value runs after
    values += 1e-3 * np.random.default_rng(0).normal(size=400)
    for ahead in (1, 5):
        frame = detect(wide(values), "last-value", ahead=ahead, rate=0.05, keep_all=True).frame
        late = frame[frame.ds >= series(values).times[310]]
        np.testing.assert_allclose(late.y - late.expected, ahead, atol=0.02)


def test_short_series_share_a_threshold() -> None:
    many = tuple(series(wave(200, seed=i), f"s{i}") for i in range(30))
    panel = Panel(many, ("y",), layout="long", source="data.csv")
    result = detect(panel, "seasonal-naive", rate=0.005)
    limits = {row["threshold"] for row in result.report["per_series"].values()}
    assert len(limits) == 1
    assert result.report["series"] == 30
    assert any("share one" in note for note in result.report["notes"])
    assert result.report["alarm_rate"] < 0.02
    with pytest.raises(DataError, match=r"rate of 0.001 % needs 99999"):
        detect(panel, "seasonal-naive", rate=0.00001)


def test_rows_that_a_model_learnt_from_are_not_used() -> None:
    class Given:
        name, lookback, horizon, quantiles, season = "given", 5, 4, (), 24
        trained_until = "2024-01-05 03:00:00"  # row 99

        def __init__(self) -> None:
            self.first: list[int] = []

        def predict(self, series: Any, origins: Any, horizon: int) -> np.ndarray:
            self.first.append(min(origins))
            return np.zeros((len(origins), horizon, series.values.shape[1]))

    model = Given()
    report = detect(wide(wave(500)), model, rate=0.05, ahead=2).report
    assert min(model.first) == 100 - 2 + 1
    assert report["per_series"]["a"]["calibrated_on"] + report["monitored"] == 400
    with pytest.raises(UsageError, match="forecasts 4 rows at most"):
        detect(wide(wave(500)), model, ahead=5)


def test_constant_counts_and_missing_values() -> None:
    values = np.zeros((600, 2))
    values[::7, 1] = 1.0  # mostly zeros: the median deviation is 0
    values[500, 0] = 1.0
    values[550, 1] = np.nan
    result = detect(wide(values), "last-value", rate=0.01, keep_all=True)
    a = result.frame[(result.frame.unique_id == "a") & result.frame.alarm]
    assert list(a.ds) == list(series(values).times[[500, 501]])
    assert np.isfinite(result.frame.score).all()
    b = result.frame[result.frame.unique_id == "b"]
    assert series(values).times[550] not in set(b.ds)


def test_files_and_print(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    values = wave(1500)
    values[1200] += 30
    out = tmp_path / "alarms"
    result = detect(wide(values), "seasonal-naive", out=out)
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)
    table = pd.read_csv(out / "alarms.csv", parse_dates=["ds"])
    assert list(table.columns) == [
        "unique_id", "ds", "y", "expected", "lo", "hi", "score", "threshold"
    ]  # fmt: skip
    np.testing.assert_allclose(table.score, result.frame.score)
    assert json.loads((out / "report.json").read_text())["alarms"] == len(table)
    print_report(result)
    text = capsys.readouterr().out
    assert f"{len(table)} alarms in " in text
    assert "asked for at most 1 %" in text
    assert "alarm rate measured inside the calibration part" in text
    with pytest.raises(UsageError, match="already exists"):
        detect(wide(values), "seasonal-naive", out=out)


def test_a_rolling_threshold_keeps_the_rate_where_errors_grow() -> None:
    T = 12_000
    values = (
        wave(T) * 0 + np.random.default_rng(0).normal(size=(T, 1)) * np.linspace(1, 3, T)[:, None]
    )
    fixed, renewed = (
        detect(wide(values), "last-value", rate=0.02, rolling=rolling).report
        for rolling in (False, True)
    )
    assert fixed["alarm_rate"] > 0.08
    assert any("change over time" in note for note in fixed["notes"])
    assert renewed["alarm_rate"] == pytest.approx(0.02, abs=0.012)


def test_rolling_thresholds_are_those_of_the_scores_before() -> None:
    scores = np.random.default_rng(0).random(300)
    scores[[3, 150, 151]] = np.nan
    found = rolling_thresholds(scores, 60, 0.1, 40)
    for i, limit in enumerate(found):
        before = scores[: 60 + i]
        assert limit == threshold_of(before[~np.isnan(before)][-40:], 0.1)


def test_threshold_is_the_right_order_statistic() -> None:
    scores = np.arange(1.0, 100.0)  # 99 of them
    assert threshold_of(scores, 0.01) == 99  # exceeded with probability 1 / 100
    assert threshold_of(scores, 0.05) == 95
    assert threshold_of(scores[:98], 0.01) is None
    assert threshold_of(np.append(scores, np.nan), 0.01) == 99


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 0}, "--rate 0"),
        ({"rate": 1}, "--rate 1"),
        ({"ahead": 0}, "--ahead 0"),
        ({"calibration": 1.0}, "--calibration 1"),
        ({"season": 0}, "--season 0"),
        ({"since": "yesterday evening"}, "--since yesterday evening"),
        ({"model": "itransformer"}, "not trained yet"),
    ],
)
def test_bad_settings(options: dict[str, Any], words: str) -> None:
    model = options.pop("model", "seasonal-naive")
    with pytest.raises(UsageError, match=words):
        detect(wide(wave(300)), model, **options)


def test_nothing_to_monitor() -> None:
    with pytest.raises(DataError, match="no series has rows to monitor"):
        detect(wide(wave(24)), "seasonal-naive", rate=0.2)
    with pytest.raises(DataError, match="another --since than 2100-01-01"):
        detect(wide(wave(300)), "seasonal-naive", rate=0.2, since="2100-01-01")
