"""The benchmark protocols: fixed borders, published settings, every test window, scaled space.

Errors are means over all test windows, steps and variates of values scaled by the training rows'
mean and deviation, as papers report them.  No window is dropped: keeping only whole batches of 512
test windows flatters an error by 1.5 % (measured on ETTh1).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps.timeseries import catalog
from apps.timeseries.data.panel import Panel
from apps.timeseries.data.reading import read_panel
from apps.timeseries.data.splits import Borders, origins, protocol_borders
from apps.timeseries.data.windows import Scaling
from apps.timeseries.fit import LOOKBACK, train
from apps.timeseries.methods import BaselinePredictor, Predictor
from apps.timeseries.predictor import ModelPredictor
from core.errors import DataError, UsageError
from core.progress import Progress, SilentProgress
from core.reporting import Timer, peak_memory_mb

NAMES = {"exchange_rate": "Exchange"}
"""File names that benchmarks call otherwise."""

CHUNK = 512
"""Windows whose forecasts are held at once: at horizon 720 and 7 variates 20 MB."""

NAIVE = ("last-value", "seasonal-naive", "seasonal-mean", "drift")
"""The rows beside every model; ETS, fitted to each window, takes minutes and has to be asked for."""


def dataset_name(file: Path | str) -> str:
    """What benchmarks call a file."""
    stem = Path(file).name.split(".")[0]
    return NAMES.get(stem, stem)


def published(model: str, dataset: str, horizon: int) -> dict[str, Any]:
    """The published changes to the model's recipe for a data set and horizon."""
    table = catalog.model(model).protocols
    own = table.get((dataset, horizon), table.get((dataset, None), {}))
    return table.get(("*", None), {}) | own


def evaluate(
    file: Path | str,
    protocol: str,
    model: str,
    *,
    lookback: int = LOOKBACK,
    horizon: int = 96,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    max_minutes: float | None = None,
    naive: bool = True,
    out: Path | None = None,
    resume: bool = False,
    force: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train by the published settings, forecast every test window once: {"mse", "mae", ...}.

    ``model`` may be a baseline.  ``out`` keeps the training run (with ``resume``, for another try).
    Raises UsageError for an unknown protocol or model, DataError for a file that does not fit.
    """
    progress = progress or SilentProgress()
    panel = read_panel(file)
    if len(panel) != 1:
        raise DataError(
            f"{panel.source}: {len(panel)} series; a protocol wants one wide file of variates on one "
            "clock"
        )
    if horizon < 1 or lookback < 1:
        raise UsageError(f"lookback {lookback}, horizon {horizon}: must be 1 or more")
    rows = len(panel.series[0])
    borders = protocol_borders(protocol, rows, panel.source)
    if len(origins(borders.val, borders.test, lookback, horizon)) == 0:
        raise DataError(
            f"{panel.source}: {borders.test - borders.val} test rows are fewer than the horizon "
            f"{horizon}; choose a smaller --horizon"
        )
    name = catalog.baseline(model)
    dataset = dataset_name(file)
    training: dict[str, Any] = {}
    earlier_seconds = earlier_cpu_seconds = 0.0
    with Timer() as timer, tempfile.TemporaryDirectory(prefix="triptych-") as scratch:
        predictor: Predictor
        if name is not None:
            predictor = BaselinePredictor(name)
        else:
            changes = published(model, dataset, horizon) | dict(options or {})
            trained = train(
                panel,
                model,
                lookback=lookback,
                horizon=horizon,
                borders=borders,
                options=changes,
                max_steps=max_steps,
                max_minutes=max_minutes,
                seed=seed,
                run_dir=Path(out) if out is not None else Path(scratch) / "run",
                resume=resume,
                force=force,
                device=device,
                progress=progress,
            )
            predictor, training = ModelPredictor(trained.model), trained.model.spec.training
            training = training | {"validation": trained.result.metrics, "changes": changes}
            earlier_seconds = trained.result.earlier_seconds
            earlier_cpu_seconds = trained.result.earlier_cpu_seconds
        scores = score(panel, predictor, borders, lookback, [horizon], progress)[horizon]
    return {
        "model": predictor.name,
        "dataset": dataset,
        "protocol": protocol,
        "lookback": lookback,
        "horizon": horizon,
        "seed": seed,
        "borders": borders.report(),
        **scores,
        "naive": {
            each: score(panel, BaselinePredictor(each), borders, lookback, [horizon], progress)[
                horizon
            ]
            for each in (NAIVE if naive else ())
            if each != predictor.name
        },
        "training": training,
        "file_sha256": panel.sha256,
        "seconds": round(timer.seconds + earlier_seconds, 1),
        "cpu_seconds": round(timer.cpu_seconds + earlier_cpu_seconds, 1),
        "peak_memory_mb": round(peak_memory_mb()),
    }


def score(
    panel: Panel,
    predictor: Predictor,
    borders: Borders,
    lookback: int,
    horizons: Sequence[int],
    progress: Progress | None = None,
) -> dict[int, dict[str, Any]]:
    """For each horizon mse and mae in scaled space over every test window, and their number.

    Several ``horizons`` share one forecast of each window, of which the shorter ones score the
    first steps.  That is right for a baseline, whose steps do not depend on how many are wanted.
    """
    series = panel.series[0]
    scaling = Scaling.of(series.values[: borders.train])
    chosen = origins(borders.val, borders.test, lookback, min(horizons))
    squared, absolute = dict.fromkeys(horizons, 0.0), dict.fromkeys(horizons, 0.0)
    windows = dict.fromkeys(horizons, 0)
    with (progress or SilentProgress()).task(f"test, {predictor.name}", total=len(chosen)) as task:
        for at in range(0, len(chosen), CHUNK):
            part = chosen[at : at + CHUNK]
            found = predictor.predict(series, part.tolist(), max(horizons))
            for horizon in horizons:
                inside = part[part + horizon <= borders.test]
                truth = series.values[inside[:, None] + np.arange(horizon)]
                error = (found[: len(inside), :horizon] - truth) / scaling.std
                squared[horizon] += float((error**2).sum())
                absolute[horizon] += float(np.abs(error).sum())
                windows[horizon] += len(inside)
            task.advance(len(part))
    scores = {}
    for horizon in horizons:
        count = windows[horizon] * horizon * series.values.shape[1]
        scores[horizon] = {
            "mse": squared[horizon] / count,
            "mae": absolute[horizon] / count,
            "windows": windows[horizon],
        }
    return scores
