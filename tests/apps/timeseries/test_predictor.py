"""Predictors: nothing after an origin is looked at, horizons, covariates, new series, messages."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apps.timeseries import catalog
from apps.timeseries.fit import train
from apps.timeseries.methods import BaselinePredictor, FixedMethod, load_predictor, method
from apps.timeseries.predictor import ModelPredictor
from core.errors import DataError, UsageError

TINY = {
    "itransformer": {"dim": 8, "depth": 1, "ffn": 8, "heads": 2},
    "s-mamba": {"dim": 8, "depth": 1, "ffn": 8},
    "olinear": {"dim": 8, "depth": 1, "ffn": 8},
    "autoformer": {"dim": 8, "ffn": 8},
}


def tiny(panel, tmp_path: Path, name: str, **more) -> ModelPredictor:
    """A predictor after one step of training."""
    options = dict(TINY.get(name, {}))
    trained = train(
        panel, name, lookback=48, horizon=6, run_dir=tmp_path, options=options, max_steps=1, **more
    )
    return ModelPredictor(trained.model)


@pytest.mark.parametrize("name", list(catalog.MODELS))
def test_the_future_changes_no_forecast_bit(make_panel, tmp_path: Path, name: str) -> None:
    panel = make_panel(rows=300, variates=2)
    predictor = tiny(panel, tmp_path, name)
    series = panel.series[0]
    before = predictor.predict(series, [100, 200], 6)
    values = series.values.copy()
    values[200:] = 1e9
    other = dataclasses.replace(series, values=values)
    np.testing.assert_array_equal(before, predictor.predict(other, [100, 200], 6))
    assert np.isfinite(before).all()


@pytest.mark.parametrize("name", list(catalog.BASELINES))
def test_the_future_changes_no_baseline(make_panel, name: str) -> None:
    series = make_panel(rows=300).series[0]
    predictor = BaselinePredictor(name)
    before = predictor.predict(series, [5, 120, 200], 30)
    values = series.values.copy()
    values[200:] = np.nan
    other = dataclasses.replace(series, values=values)
    np.testing.assert_array_equal(before, predictor.predict(other, [5, 120, 200], 30))


def test_a_shorter_horizon_is_the_start_of_the_trained_one(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=300)
    predictor = tiny(panel, tmp_path, "itransformer")
    series = panel.series[0]
    whole, short = (predictor.predict(series, [250], h) for h in (6, 4))
    np.testing.assert_allclose(short, whole[:, :4], rtol=1e-6)


def test_a_longer_horizon_feeds_forecasts_back(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=300)
    predictor = tiny(panel, tmp_path, "dlinear")
    series = panel.series[0]
    assert predictor.rolled(7)
    assert not predictor.rolled(6)
    long = predictor.predict(series, [250], 15)
    first = predictor.predict(series, [250], 6)
    np.testing.assert_allclose(long[:, :6], first, rtol=1e-6)
    values = series.values.copy()
    values[250:256] = first[0]
    fed = dataclasses.replace(series, values=values)
    np.testing.assert_allclose(long[:, 6:12], predictor.predict(fed, [256], 6), rtol=1e-4)


def test_known_covariates_reach_the_forecast_and_must(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=300, known=1)
    predictor = tiny(panel, tmp_path, "itransformer")
    series = panel.series[0]
    before = predictor.predict(series, [300], 6)
    known = series.known.copy()
    known[303] += 5.0
    after = predictor.predict(dataclasses.replace(series, known=known), [300], 6)
    assert np.abs(before - after).max() > 1e-6
    cut = dataclasses.replace(series, known=series.known[:302], times=series.times[:302])
    with pytest.raises(DataError, match="known covariates end 4 stamps before the forecast does"):
        predictor.predict(cut, [300], 6)


def test_calendar_features_go_on_after_the_file(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=300)
    predictor = tiny(panel, tmp_path, "itransformer")
    assert predictor.model.spec.data.marks
    series = panel.series[0]
    later = pd.date_range(series.times[0], periods=330, freq="h")
    values = np.concatenate([series.values, np.zeros((30, 2))])
    longer = dataclasses.replace(
        series, times=later, values=values, known=np.empty((330, 0)), past=np.empty((330, 0))
    )
    np.testing.assert_array_equal(
        predictor.predict(series, [300], 6), predictor.predict(longer, [300], 6)
    )


def test_a_new_series_is_scaled_by_its_own_history(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=300, variates=1)
    predictor = tiny(panel, tmp_path, "dlinear")
    series = panel.series[0]
    moved = dataclasses.replace(series, id="new", values=series.values * 100 + 7)
    found = predictor.predict(moved, [300], 6)
    assert abs(found.mean() - moved.values.mean()) < 5 * moved.values.std()


def test_too_little_history_and_missing_values(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=300)
    predictor = tiny(panel, tmp_path, "dlinear")
    series = panel.series[0]
    with pytest.raises(DataError, match=r"series s0: 47 rows of history, model dlinear needs 48"):
        predictor.predict(series, [47], 6)
    values = series.values.copy()
    values[240] = np.nan
    with pytest.raises(DataError, match=r"48 rows before row 250; repair them with --fill"):
        predictor.predict(dataclasses.replace(series, values=values), [200, 250], 6)
    assert predictor.predict(series, [], 6).shape == (0, 6, 2)


def test_what_a_reference_means(make_panel) -> None:
    assert method("Seasonal_Naive").name == "seasonal-naive"
    assert method("iTransformer").trainable
    assert load_predictor("drift").horizon is None
    with pytest.raises(UsageError, match="no such model folder"):
        method("./nowhere")
    fixed = FixedMethod(BaselinePredictor("drift"))
    assert fixed.fit(make_panel(), horizon=3) is fixed.predictor
