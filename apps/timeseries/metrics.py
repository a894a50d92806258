"""Errors of forecasts: pure functions of arrays, blind to missing values.

Glossary
    y, f     truth and forecast, of any shapes that broadcast; in this application (O, H, N):
             origins, steps ahead, series
    m        season: stamps after which the series repeats
    tau      level of a quantile, in (0, 1)

    MSE, MAE, RMSE   of y - f
    sMAPE = mean of 200 |y - f| / (|y| + |f|)  in percent, 0 .. 200 (Makridakis 1993, as in M4);
            a pair of zeros is exact and counts 0
    MASE  = mean |y - f| / mean |y_t - y_(t-m)| over the history (Hyndman and Koehler 2006): 1 is
            the error that seasonal naive made in sample
    pinball rho_tau = max(tau (y - q), (tau - 1) (y - q))        (Koenker and Bassett 1978)
    CRPS  = 2 x integral of rho_tau over tau                       (Gneiting and Raftery 2007)

A pair in which either side is NaN is left out. What has no pair, or no scale, is NaN: undefined,
never 0. ``axis`` is as in NumPy and counts the axes of the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.errors import UsageError

Axis = int | tuple[int, ...] | None


def mse(truth: np.ndarray, forecast: np.ndarray, axis: Axis = None) -> Any:
    """Mean squared error."""
    return nanmean((_array(truth) - _array(forecast)) ** 2, axis)


def mae(truth: np.ndarray, forecast: np.ndarray, axis: Axis = None) -> Any:
    """Mean absolute error."""
    return nanmean(np.abs(_array(truth) - _array(forecast)), axis)


def rmse(truth: np.ndarray, forecast: np.ndarray, axis: Axis = None) -> Any:
    """Root of the mean squared error over ``axis``: not the mean of roots."""
    return np.sqrt(mse(truth, forecast, axis))


def smape(truth: np.ndarray, forecast: np.ndarray, axis: Axis = None) -> Any:
    """Symmetric mean absolute percentage error, 0 .. 200."""
    truth, forecast = np.broadcast_arrays(_array(truth), _array(forecast))
    size = np.abs(truth) + np.abs(forecast)
    # Where both are 0 the numerator is 0 too: 0 / 1.
    return nanmean(200 * np.abs(truth - forecast) / np.where(size == 0, 1.0, size), axis)


def mase_scale(history: np.ndarray, season: int) -> np.ndarray:
    """Mean |y_t - y_(t-m)| of each column of ``history`` (T, N): (N,).

    NaN, so that MASE is undefined, where the history is not longer than the season or never
    changes from one season to the next (rounding aside).
    """
    history = _array(history)
    season = max(1, int(season))
    if len(history) <= season:
        return np.full(history.shape[1:], np.nan)
    scale = np.asarray(nanmean(np.abs(history[season:] - history[:-season]), 0))
    largest = np.max(np.nan_to_num(np.abs(history), posinf=0.0), axis=0)
    return np.where(scale > 1e-12 * largest, scale, np.nan)


def mase(
    truth: np.ndarray, forecast: np.ndarray, history: np.ndarray, season: int, axis: Axis = None
) -> Any:
    """Mean absolute scaled error; the last axis of ``truth`` (..., N) is ``history``'s (T, N).

    A series without a scale (see ``mase_scale``) is left out of means with other series and is
    NaN on its own.
    """
    return nanmean(np.abs(_array(truth) - _array(forecast)) / mase_scale(history, season), axis)


def pinball(
    truth: np.ndarray, quantiles: np.ndarray, taus: Sequence[float], axis: Axis = None
) -> np.ndarray:
    """Mean pinball loss of each quantile: truth (...), quantiles (..., Q) -> (reduced..., Q)."""
    truth, quantiles = _array(truth), _array(quantiles)
    levels = _taus(taus, quantiles.shape[-1])
    miss = truth[..., None] - quantiles  # (..., Q)
    loss = np.maximum(levels * miss, (levels - 1) * miss)
    if axis is None:
        axis = tuple(range(truth.ndim))
    axes = (axis,) if isinstance(axis, int) else axis
    return np.asarray(nanmean(loss, tuple(a % truth.ndim for a in axes)))


def crps_from_quantiles(
    truth: np.ndarray, quantiles: np.ndarray, taus: Sequence[float], axis: Axis = None
) -> Any:
    """CRPS approximated from quantiles: truth (...), quantiles (..., Q) at levels ``taus``.

    The integral over (0, 1) is a sum in which each level stands for the levels nearest to it, so
    levels need not be even; with levels (i - 1/2) / Q it is twice the mean pinball loss. The
    median alone gives the absolute error.
    """
    levels = _taus(taus, np.shape(quantiles)[-1])
    borders = np.concatenate(([0.0], (levels[1:] + levels[:-1]) / 2, [1.0]))
    return 2 * (pinball(truth, quantiles, taus, axis) @ np.diff(borders))


def median_index(quantiles: Sequence[float]) -> int:
    """Which of ``quantiles`` stands for the forecast itself: the one nearest to a half."""
    return int(np.argmin(np.abs(np.asarray(quantiles) - 0.5)))


def coverage(truth: np.ndarray, lo: np.ndarray, hi: np.ndarray, axis: Axis = None) -> Any:
    """Share of truths in [lo, hi], 0 .. 1."""
    truth, lo, hi = np.broadcast_arrays(_array(truth), _array(lo), _array(hi))
    known = ~(np.isnan(truth) | np.isnan(lo) | np.isnan(hi))
    return nanmean(np.where(known, (truth >= lo) & (truth <= hi), np.nan), axis)


def width(lo: np.ndarray, hi: np.ndarray, axis: Axis = None) -> Any:
    """Mean of hi - lo: infinite if one interval is."""
    return nanmean(_array(hi) - _array(lo), axis)


def interval_score(
    truth: np.ndarray, lo: np.ndarray, hi: np.ndarray, level: float, axis: Axis = None
) -> Any:
    """Width plus 2 / alpha times the distance of truths outside; alpha = 1 - ``level`` / 100.

    Proper for central intervals (Winkler 1972; Gneiting and Raftery 2007, eq. 43): smaller is
    better, and neither too wide nor too narrow intervals gain.
    """
    truth, lo, hi = _array(truth), _array(lo), _array(hi)
    outside = np.maximum(lo - truth, 0) + np.maximum(truth - hi, 0)
    return nanmean(hi - lo + 2 / (1 - level / 100) * outside, axis)


def nanmean(values: np.ndarray, axis: Axis = None) -> Any:
    """Mean of what is not NaN, NaN where nothing is; np.nanmean warns there."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean if mean.ndim else float(mean)


def _array(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=float)


def _taus(taus: Sequence[float], count: int) -> np.ndarray:
    levels = np.asarray(taus, dtype=float)
    if (
        len(levels) != count
        or np.any(np.diff(levels) <= 0)
        or not np.all((levels > 0) & (levels < 1))
    ):
        raise UsageError(
            f"quantile levels {list(taus)} for {count} forecasts: give as many levels as forecasts, "
            "ascending, between 0 and 1"
        )
    return levels
