"""Trend, season and rest of a series: classical additive decomposition.

Letters: T rows, m the season in rows.

    trend   the mean over one whole season around each row; for an even m the two rows at its ends
            count half (a "2 x m" moving average)
    season  the mean of y - trend at each phase of the season, moved to mean 0
    rest    y - trend - season

(Hyndman and Athanasopoulos, Forecasting: principles and practice, 3rd ed., section 3.4.)  The
strengths of trend and season are theirs (section 4.3, after Wang, Smith and Hyndman 2006): 0 where
the rest hides the part, 1 where there is no rest.

The first and the last m / 2 rows have no trend and so no rest: nothing is made up for them.  The
season is one shape for all rows; where it changes, decompose fewer of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.errors import DataError, UsageError

KNOWN = 0.5
"""Share of a moving window that must be observed for it to have a mean."""


@dataclass(frozen=True, eq=False)
class Parts:
    """observed = trend + season + rest, each (T,); NaN where a part is not known."""

    observed: np.ndarray
    trend: np.ndarray
    season: np.ndarray
    rest: np.ndarray
    period: int

    @property
    def trend_strength(self) -> float:
        """0 to 1; NaN where trend and rest together do not vary."""
        return _strength(self.trend, self.rest)

    @property
    def season_strength(self) -> float:
        """0 to 1; NaN where season and rest together do not vary."""
        return _strength(self.season, self.rest)


def decompose(values: np.ndarray, period: int) -> Parts:
    """The parts of ``values`` (T,), NaN where missing, whose season has ``period`` rows.

    Raises UsageError for a period below 2, DataError for less than two whole seasons.
    """
    y = np.asarray(values, dtype=float)
    if y.ndim != 1:
        raise UsageError(f"values of shape {y.shape}: one series at a time, (T,)")
    if period < 2:
        raise UsageError(f"season {period}: a season has 2 rows or more")
    if len(y) < 2 * period:
        raise DataError(
            f"{len(y)} rows are less than two seasons of {period}; give more rows or a shorter season"
        )
    trend = _moving_mean(y, period)
    loose = y - trend
    phase = np.arange(len(y)) % period
    shape = np.array([_mean(loose[phase == p]) for p in range(period)])
    season = (shape - _mean(shape))[phase]
    return Parts(y, trend, season, y - trend - season, period)


def _moving_mean(y: np.ndarray, period: int) -> np.ndarray:
    """The mean around each row of (T,); NaN at both ends, and where too few rows are observed."""
    weights = np.ones(period) if period % 2 else np.r_[0.5, np.ones(period - 1), 0.5]
    weights /= weights.sum()
    half = len(weights) // 2
    seen = np.isfinite(y)
    total = np.convolve(np.where(seen, y, 0.0), weights, mode="valid")
    share = np.convolve(seen.astype(float), weights, mode="valid")
    out = np.full(len(y), np.nan)
    enough = share >= KNOWN
    out[half : half + len(total)] = np.where(enough, total / np.where(enough, share, 1.0), np.nan)
    return out


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _strength(part: np.ndarray, rest: np.ndarray) -> float:
    both = part + rest
    known = np.isfinite(both)
    whole = float(np.var(both[known])) if known.any() else 0.0
    return max(0.0, 1.0 - float(np.var(rest[known])) / whole) if whole > 0 else float("nan")
