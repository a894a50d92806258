"""Forecasts that any model must beat: last value, seasonal naive, seasonal mean, drift, ETS.

Letters: B windows, T observed stamps, N series, H steps ahead, m the season in stamps.

    last-value      y_T
    seasonal-naive  y_(T+h-m), the last season repeated
    seasonal-mean   mean of the same phase in the last four whole seasons (fewer if fewer are there)
    drift           y_T + h (y_T - y_1) / (T - 1)
    ets             exponential smoothing, see ``ets``

Conventions
    - A history shorter than one season is taken as having none (m = 1): seasonal naive is then the
      last value and the seasonal mean that of the last four values.
    - Missing values: last value and drift use the observed ones only. The others take the value one
      season earlier, else the last observed, else the first observed. A series in which nothing is
      observed is forecast as NaN.
    - Every series and window is forecast alone: none changes with what else is in the batch.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from apps.timeseries.catalog import BASELINES, baseline
from core.errors import DataError, UsageError, unknown

SEASONS = 4  # of seasonal-mean: four days at the same hour is the strongest simple rule on ETTh1


def predict(name: str, history: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """Forecast of the H rows after ``history`` (T, N): (H, N), float64. See ``predict_windows``."""
    return predict_windows(name, np.asarray(history)[None], horizon, season)[0]


def predict_windows(name: str, windows: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """Forecast of the H rows after each of ``windows`` (B, T, N): (B, H, N), float64.

    Raises UsageError for an unknown name, a horizon below 1 or a season below 1, DataError for an
    empty or an infinite history.
    """
    known = baseline(name)
    if known is None:
        raise UsageError(unknown("baseline", name, BASELINES))
    if horizon < 1 or season < 1:
        raise UsageError(f"horizon {horizon} and season {season}: both must be 1 or more")
    windows = np.asarray(windows, dtype=float)
    b, t, n = windows.shape
    if t == 0:
        raise DataError("the history is empty: a baseline needs at least one stamp")
    if np.isinf(windows).any():
        raise DataError("the history contains infinite values: replace or remove them first")
    m = season if season <= t else 1
    y = windows.transpose(1, 0, 2).reshape(t, b * n)
    if known == "last-value":
        out = np.repeat(_last(y)[None], horizon, axis=0)
    elif known == "drift":
        out = _drift(y, horizon)
    elif known == "seasonal-naive":
        out = _repeat(fill(y, m)[-m:], horizon)
    elif known == "seasonal-mean":
        seasons = min(SEASONS, t // m)
        tail = fill(y, m)[-m * seasons :] if m > 1 else fill(y, m)[-SEASONS:]
        out = _repeat(tail.reshape(-1, m, b * n).mean(axis=0), horizon)
    else:
        from apps.timeseries.ets import forecast  # SciPy is needed by this one only

        out = forecast(fill(y, m), horizon, m)
    return out.reshape(horizon, b, n).transpose(1, 0, 2)


def fill(y: np.ndarray, season: int) -> np.ndarray:
    """``y`` (T, S) without NaN: one season earlier, else the last observed, else the first.

    A column of NaN only stays one.
    """
    if not np.isnan(y).any():
        return y
    y = y.copy()
    for start in range(season, len(y), season):
        here = y[start : start + season]
        before = y[start - season : start - season + len(here)]
        np.copyto(here, before, where=np.isnan(here))
    for order in (y, y[::-1]):
        for previous, here in pairwise(order):
            np.copyto(here, previous, where=np.isnan(here))
    return y


def _last(y: np.ndarray) -> np.ndarray:
    """The last observed value of each column of (T, S): (S,)."""
    return y[_last_index(y), np.arange(y.shape[1])]


def _last_index(y: np.ndarray) -> np.ndarray:
    return len(y) - 1 - np.argmax(~np.isnan(y[::-1]), axis=0)


def _drift(y: np.ndarray, horizon: int) -> np.ndarray:
    columns = np.arange(y.shape[1])
    first, last = np.argmax(~np.isnan(y), axis=0), _last_index(y)
    end = y[last, columns]
    slope = (end - y[first, columns]) / np.maximum(last - first, 1)
    # The line goes on from the last observed value at its own stamp, which may lie before T.
    ahead = len(y) - 1 - last + np.arange(1, horizon + 1)[:, None]
    return end + slope * ahead


def _repeat(cycle: np.ndarray, horizon: int) -> np.ndarray:
    """Rows of one season (m, S) repeated to H rows."""
    return cycle[np.arange(horizon) % len(cycle)]
