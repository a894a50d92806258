"""Training and what it leaves: no leak, the same result for a seed, resumption, borders, messages."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.timeseries.fit import fit, settings, train
from apps.timeseries.predictor import ModelPredictor
from apps.timeseries.store import load
from core.errors import DataError, UsageError

SMALL = {"dim": 16, "depth": 1, "ffn": 16, "heads": 2, "rate": 1e-3}


def changed(panel, rows, value=1e3):
    """``panel`` with other values from row ``rows`` on."""
    found = []
    for series in panel:
        values = series.values.copy()
        values[rows:] = value
        found.append(dataclasses.replace(series, values=values))
    return panel.with_series(found)


def small(panel, tmp_path, name="itransformer", **more):
    options = more.pop("options", SMALL if name == "itransformer" else {})
    return train(panel, name, lookback=24, horizon=6, run_dir=tmp_path, options=options, **more)


@pytest.mark.parametrize("name", ["itransformer", "olinear"])
def test_test_rows_change_nothing_of_a_model(make_panel, tmp_path: Path, name: str) -> None:
    """Scaling, OLinear's bases, the choice of the epoch: none has seen a test row."""
    options = {"dim": 16, "depth": 1, "ffn": 16, "epochs": 2}
    panel = make_panel(rows=400)
    models = [
        small(p, tmp_path / str(i), name, options=options).model
        for i, p in enumerate((panel, changed(panel, 360)))
    ]
    first, second = (m.network.state_dict() for m in models)
    assert all(torch.equal(first[k], second[k]) for k in first)
    for kind in ("mean", "std"):
        a, b = (getattr(m.scalings["s0"].values, kind) for m in models)
        np.testing.assert_array_equal(a, b)


def test_validation_rows_choose_but_do_not_train(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=400)
    options = SMALL | {"epochs": 1}  # one epoch: there is nothing to choose
    a = small(panel, tmp_path / "a", options=options).model.network.state_dict()
    b = small(changed(panel, 320), tmp_path / "b", options=options).model.network.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_seed_gives_the_same_model_and_another_seed_another(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=300)
    options = SMALL | {"epochs": 2}
    states = [
        small(panel, tmp_path / str(i), options=options, seed=seed).model.network.state_dict()
        for i, seed in enumerate((0, 0, 1))
    ]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_a_killed_run_resumes_to_the_same_model(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=300)
    options = SMALL | {"epochs": 3}
    whole = small(panel, tmp_path / "whole", options=options, max_steps=20)
    small(panel, tmp_path / "cut", options=options, max_steps=9)
    resumed = small(panel, tmp_path / "cut", options=options, max_steps=20, resume=True)
    a, b = (t.model.network.state_dict() for t in (whole, resumed))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_trained_model_beats_the_mean_and_forecasts_in_original_units(
    make_panel, tmp_path: Path
) -> None:
    panel = make_panel(rows=500)
    trained = small(panel, tmp_path, options=SMALL | {"epochs": 6})
    assert trained.result.metrics["mse"] < 0.2  # of a variance of 1
    series = panel.series[0]
    found = ModelPredictor(trained.model).predict(series, [460, 470], 6)
    error = found - np.stack([series.values[460:466], series.values[470:476]])
    assert found.shape == (2, 6, 2)
    assert (error**2).mean() < 0.2 * series.values.var()


def test_fit_writes_a_folder_that_loads_to_the_same_forecast(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=400, known=1)
    report = fit(
        panel, "itransformer", lookback=24, horizon=6, out=tmp_path / "m",
        options=SMALL | {"epochs": 1}, quantiles=(0.9, 0.5, 0.1),
    )  # fmt: skip
    spec = json.loads((tmp_path / "m" / "model.json").read_text())
    assert spec["app"] == "timeseries"
    assert spec["quantiles"] == [0.1, 0.5, 0.9]
    assert spec["data"]["borders"] == {"train": 320, "val": 360, "test": 400}
    assert set(spec["metrics"]["test"]["naive"]) >= {"last-value", "seasonal-naive"}
    assert report.report()["metrics"]["test"]["windows"] == 35
    predictor = ModelPredictor(load(tmp_path / "m"))
    series = panel.series[0]
    found = predictor.predict_quantiles(series, [400], 6)
    assert found.shape == (1, 6, 2, 3)
    assert (np.diff(found, axis=-1) >= 0).all()
    again = ModelPredictor(load(tmp_path / "m")).predict_quantiles(series, [400], 6)
    np.testing.assert_array_equal(found, again)
    with pytest.raises(UsageError, match="--force"):
        fit(panel, "itransformer", lookback=24, horizon=6, out=tmp_path / "m")


def test_many_series_share_a_model_and_short_ones_are_left_out(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=200, count=3, variates=1)
    panel = panel.with_series([*panel.series[:2], panel.series[2].head(20)])
    trained = small(panel, tmp_path, options=SMALL | {"epochs": 1})
    assert "1 of 3 series are too short" in trained.notes[0]
    assert set(trained.borders) == {"s0", "s1"}
    assert list(trained.model.scalings) == ["s0", "s1", "s2"]


def test_messages(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=400)
    with pytest.raises(UsageError, match="horizon 0"):
        train(panel, "dlinear", lookback=24, horizon=0, run_dir=tmp_path)
    with pytest.raises(DataError, match=r"made.csv: series s0: 35 rows: lookback 24 and horizon 6"):
        small(panel.with_series([panel.series[0].head(35)]), tmp_path)
    with pytest.raises(UsageError, match="Did you mean 'dim'"):
        settings("itransformer", {"dims": 3})
    with pytest.raises(UsageError, match="Did you mean 'itransformer'"):
        settings("itransfomer")
    with pytest.raises(UsageError, match="is a baseline and needs no fitting"):
        fit(panel, "drift", lookback=24, horizon=6, out=tmp_path / "x")
    with pytest.raises(UsageError, match="between 0 and 1"):
        small(panel, tmp_path, quantiles=(0.5, 1.5))
    with pytest.raises(UsageError, match=r"quantile 0\.5 alone bounds no interval"):
        small(panel, tmp_path / "one", quantiles=(0.5,))
    assert not (tmp_path / "one").exists()


def test_training_that_ends_with_its_epochs_says_so(make_panel, tmp_path: Path) -> None:
    whole = small(make_panel(), tmp_path / "whole", options=SMALL | {"epochs": 1}, max_steps=10_000)
    assert whole.model.spec.training["stopped_because"] == "epochs"
    part = small(make_panel(), tmp_path / "part", options=SMALL | {"epochs": 1}, max_steps=2)
    assert part.model.spec.training["stopped_because"] == "max_steps"
