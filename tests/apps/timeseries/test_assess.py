"""Errors and coverage on rows that neither trained nor chose a model."""

from __future__ import annotations

import numpy as np
import pytest

from apps.timeseries.assess import LEVELS, assess
from apps.timeseries.data.splits import Borders
from apps.timeseries.methods import BaselinePredictor
from core.progress import SilentProgress

H = 4


def test_errors_are_scaled_and_of_test_rows_alone(make_panel) -> None:
    panel = make_panel(rows=600)
    series = panel.series[0]
    borders = {series.id: Borders(300, 400, 600)}
    predictor = BaselinePredictor("last-value")
    found, coverage, notes = assess(panel, predictor, borders, H, SilentProgress())
    errors = [
        (series.values[o : o + H] - series.values[o - 1]) / series.values[:300].std(0)
        for o in range(400, 600 - H + 1)
    ]
    assert found["test"]["windows"] == len(errors)
    assert found["test"]["mse"] == pytest.approx(np.mean(np.square(errors)))
    assert found["test"]["mae"] == pytest.approx(np.mean(np.abs(errors)))
    assert "seasonal-naive" in found["test"]["naive"]
    assert coverage["kind"] == "pointwise"
    assert notes == ()


def test_coverage_is_measured_near_what_was_promised(make_panel) -> None:
    panel = make_panel(rows=4000, count=2)
    borders = {s.id: Borders(2000, 2500, 4000) for s in panel}
    predictor = BaselinePredictor("seasonal-naive")
    _, coverage, _ = assess(panel, predictor, borders, H, SilentProgress())
    assert [entry["level"] for entry in coverage["levels"]] == list(LEVELS)
    for entry in coverage["levels"]:
        assert entry["measured"] == pytest.approx(entry["level"], abs=2)
        assert len(entry["by_series"]["series"]) == 4


def test_without_test_rows_nothing_is_measured(make_panel) -> None:
    panel = make_panel(rows=100)
    borders = {panel.series[0].id: Borders(80, 100, 100)}
    found = assess(panel, BaselinePredictor("last-value"), borders, H, SilentProgress())
    assert found[:2] == ({}, {})
    assert "too few rows" in found[2][0]
