"""A trained model on the rows that neither trained nor chose it: errors beside naive ones, coverage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from apps.timeseries import calibrate
from apps.timeseries.data.panel import Panel
from apps.timeseries.data.splits import Borders, origins
from apps.timeseries.data.windows import Scaling
from apps.timeseries.evaluate import NAIVE
from apps.timeseries.methods import BaselinePredictor, Predictor
from core.progress import Progress

LEVELS = (80.0, 90.0, 95.0)
TEST_WINDOWS = 20_000
"""At most so many test windows of all series together, evenly spread over each."""
SERIES = 200
"""At most so many series, evenly spread, are measured; a thousand would only cost time."""
CHUNK = 256
CALIBRATION_ORIGINS = 400


def assess(
    panel: Panel,
    predictor: Predictor,
    borders: Mapping[str, Borders],
    horizon: int,
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """(metrics, coverage, notes) for model.json; errors are in each series' scaled space.

    Errors: over the test windows of every series.  Coverage: of conformal intervals calibrated, at
    each origin, on what had been realised since training ended.
    """
    tested = [s for s in panel if s.id in borders and borders[s.id].test > borders[s.id].val]
    if not tested:
        return {}, {}, ("too few rows for a test part: no error and no coverage was measured",)
    tested = tested[:: -(-len(tested) // SERIES)]
    methods: list[Predictor] = [predictor, *(BaselinePredictor(name) for name in NAIVE)]
    sums = np.zeros((len(methods), 2))
    count, windows = 0, 0
    budget = calibrate.Budget.of(len(tested), len(panel.targets), horizon, CALIBRATION_ORIGINS)
    record = calibrate.Record(LEVELS, horizon, joint=False)
    with progress.task("test", total=len(tested)) as task:
        for series in tested:
            border = borders[series.id]
            scaling = Scaling.of(series.values[: border.train])
            lookback = max(m.lookback for m in methods)
            found = origins(border.val, border.test, lookback, horizon)
            found = found[:: max(1, -(-len(found) * len(tested) // TEST_WINDOWS))]
            for at in range(0, len(found), CHUNK):
                part = found[at : at + CHUNK]
                truth = series.values[part[:, None] + np.arange(horizon)]
                for i, each in enumerate(methods):
                    error = (each.predict(series, part.tolist(), horizon) - truth) / scaling.std
                    sums[i] += np.nansum(error**2), np.nansum(np.abs(error))
                count += int(np.isfinite(truth).sum())
            windows += len(found)
            bands = calibrate.calibrate(predictor, series, horizon, LEVELS, budget)
            record.add(panel.names(series), bands, range(len(panel.targets)))
            task.advance(1, note=series.id)
    rows = [{"mse": float(a), "mae": float(b)} for a, b in sums / max(1, count)]
    test: dict[str, Any] = {**rows[0], "windows": windows, "naive": dict(zip(NAIVE, rows[1:]))}
    coverage = {**record.method(budget), "levels": record.report()} if record.report() else {}
    return {"test": test}, coverage, tuple(record.notes())
