"""Where windows lie, before anything is forecast; and a trained method that leaves its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from apps.timeseries import backtest, forecast
from apps.timeseries.data.panel import Panel
from apps.timeseries.methods import TrainedMethod
from apps.timeseries.rolling import ENOUGH, MANY, Need, plan_for
from core.errors import DataError

SMALL = {"dim": 8, "depth": 1, "ffn": 8, "heads": 2}


def test_the_plan_is_the_one_that_a_backtest_follows(make_panel: Callable[..., Panel]) -> None:
    panel = make_panel(rows=600)
    needs = [Need(1, False), Need(48, True)]
    plan = plan_for(panel, needs, horizon=12, windows=4, season=24)
    method = TrainedMethod("itransformer", 48, SMALL, {"max_steps": 2})
    done = backtest(panel, [method], horizon=12, windows=4, lookback=48).report
    clock = panel.series[0].observed
    assert [str(clock[row - 1]) for row in plan.starts] == done["cutoffs"]
    assert str(clock[plan.held - 1]) == done["trained_until"]


def test_history_and_training_push_the_first_window(make_panel: Callable[..., Panel]) -> None:
    panel = make_panel(rows=100)
    assert plan_for(panel, [], horizon=10, windows=5, season=24).starts[0] == 50
    assert plan_for(panel, [Need(50, False)], horizon=10, windows=5, season=24).starts[0] == 50
    with pytest.raises(DataError, match="51 are needed"):
        plan_for(panel, [Need(51, False)], horizon=10, windows=5, season=24)
    with pytest.raises(DataError, match="60 are needed"):
        plan_for(panel, [Need(40, True)], horizon=10, windows=5, season=24)


def test_many_series_get_fewer_calibration_origins(make_panel: Callable[..., Panel]) -> None:
    panel = make_panel(rows=3000)
    assert plan_for(panel, [], horizon=4, windows=2, season=1).wanted == 100
    many = panel.with_series(panel.series * (MANY + 1))
    assert plan_for(many, [], horizon=4, windows=2, season=1).wanted == ENOUGH
    assert plan_for(panel, [], horizon=4, windows=2, season=1, calibration=0).wanted == 0


def test_the_model_of_a_backtest_can_be_kept_and_forecasts_the_same(
    make_panel: Callable[..., Panel], tmp_path: Path
) -> None:
    panel = make_panel(rows=600)
    keep = tmp_path / "kept"
    method = TrainedMethod("itransformer", 24, SMALL, {"max_steps": 2}, keep=keep)
    done = backtest(panel, [method], horizon=6, windows=3, levels=(80,))
    frame = done.frame
    last = frame[(frame["model"] == "itransformer") & (frame["cutoff"] == frame["cutoff"].max())]
    again = forecast(panel.without_last(6), keep, levels=(80,))
    assert np.allclose(again.frame["yhat"], last["yhat"], atol=1e-6)
    # What it learnt from ends before the rows that its intervals come from.
    assert again.report["model"]["trained_until"] <= done.report["trained_until"]
    assert again.report["coverage"]
