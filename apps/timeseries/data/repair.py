"""Repairs that were asked for: sentinels, duplicates, a regular grid, missing numbers.

Letters: R rows of a series, C columns.  ``ffill`` and ``seasonal`` use what is before a gap only;
``interpolate`` uses what is after it, too, and so lets a model see a little beyond a gap in what it
learns from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from apps.timeseries.data import frequency
from core.errors import UsageError, unknown

FILLS = ("none", "ffill", "interpolate", "seasonal")
AGGREGATES = ("mean", "sum", "first", "last")


@dataclass
class Rows:
    """The rows of one series as they are in a file, sorted by stamp."""

    id: str
    times: pd.Index
    values: np.ndarray  # (R, N)
    past: np.ndarray  # (R, P)
    known: np.ndarray  # (R, K)
    static: dict[str, Any]

    def take(self, at: Any) -> Rows:
        """The rows ``at``."""
        return replace(
            self,
            times=self.times[at],
            values=self.values[at],
            past=self.past[at],
            known=self.known[at],
        )


def check_options(fill: str, agg: str | None, max_gap: int | None) -> None:
    """UsageError for a repair that there is not."""
    if fill not in FILLS:
        raise UsageError(unknown("fill", fill, FILLS))
    if agg is not None and agg not in AGGREGATES:
        raise UsageError(unknown("aggregate", agg, AGGREGATES))
    if max_gap is not None and max_gap < 1:
        raise UsageError(f"max gap {max_gap}: must be 1 or more")
    if max_gap is not None and fill == "none":
        raise UsageError("--max-gap bounds a --fill; give one of ffill, interpolate, seasonal")


def without_sentinels(values: np.ndarray, sentinels: tuple[float, ...]) -> np.ndarray:
    """``values`` with NaN for each of ``sentinels``."""
    wanted = [s for s in sentinels if not np.isnan(s)]
    return np.where(np.isin(values, wanted), np.nan, values) if wanted else values


def _aggregate(columns: np.ndarray, starts: np.ndarray, how: str) -> np.ndarray:
    """Of each group of rows that begins at ``starts``, NaN left out; NaN where nothing is left."""
    if columns.shape[1] == 0:
        return columns[starts]
    if how in ("first", "last"):
        position = np.arange(len(columns))[:, None]
        if how == "first":
            at = np.minimum.reduceat(np.where(np.isnan(columns), len(columns), position), starts)
        else:
            at = np.maximum.reduceat(np.where(np.isnan(columns), -1, position), starts)
        none = (at < 0) | (at == len(columns))
        found = np.take_along_axis(columns, np.where(none, 0, at), 0)
        return np.where(none, np.nan, found)
    seen = ~np.isnan(columns)
    count = np.add.reduceat(seen.astype(np.int64), starts)
    total = np.add.reduceat(np.where(seen, columns, 0.0), starts)
    result = total / np.maximum(count, 1) if how == "mean" else total
    return np.where(count > 0, result, np.nan)


def merge(rows: Rows, agg: str) -> Rows:
    """One row for each stamp. Covariates are averaged where the targets are summed."""
    stamps = np.asarray(rows.times.asi8 if isinstance(rows.times, pd.DatetimeIndex) else rows.times)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(stamps) != 0]))
    other = "mean" if agg == "sum" else agg
    return replace(
        rows,
        times=rows.times[starts],
        values=_aggregate(rows.values, starts, agg),
        past=_aggregate(rows.past, starts, other),
        known=_aggregate(rows.known, starts, other),
    )


def resample(rows: Rows, freq: str, agg: str) -> Rows:
    """Rows on the grid of ``freq``; one without a stamp in it is NaN.

    Bins and their labels are those of ``pandas.DataFrame.resample``: hours, days, month starts are
    labelled by their beginning, weeks and month ends by their end.
    """
    other = "mean" if agg == "sum" else agg
    found = []
    for part, how in ((rows.values, agg), (rows.past, other), (rows.known, other)):
        bins = pd.DataFrame(part, index=rows.times).resample(freq)
        found.append(bins.sum(min_count=1) if how == "sum" else getattr(bins, how)())
    times = pd.DatetimeIndex(found[0].index)._with_freq(None)
    return replace(
        rows,
        times=times,
        values=found[0].to_numpy(np.float64).reshape(len(times), -1),
        past=found[1].to_numpy(np.float64).reshape(len(times), -1),
        known=found[2].to_numpy(np.float64).reshape(len(times), -1),
    )


def complete(rows: Rows, grid: pd.Index) -> Rows:
    """The same rows at all stamps of ``grid``; new ones are NaN."""
    at = grid.get_indexer(rows.times)
    if len(grid) == len(rows.times):
        return rows

    def spread(part: np.ndarray) -> np.ndarray:
        found = np.full((len(grid), part.shape[1]), np.nan)
        found[at] = part
        return found

    return replace(
        rows,
        times=grid,
        values=spread(rows.values),
        past=spread(rows.past),
        known=spread(rows.known),
    )


def fill(columns: np.ndarray, how: str, season: int = 1, max_gap: int | None = None) -> np.ndarray:
    """``columns`` (R, C) without the NaN runs of at most ``max_gap`` rows.

    ffill: the last number before; interpolate: on the line between the numbers around; seasonal:
    the number one season before, or as many seasons as it takes.  What lies before a column's first
    number, for ``interpolate`` also after its last, stays missing; so does, for ``seasonal``, a gap
    that nothing was seen one or more seasons before.
    """
    missing = np.isnan(columns)
    if not missing.any() or how == "none":
        return columns
    R = len(columns)
    row = np.arange(R)[:, None]
    before = np.maximum.accumulate(np.where(missing, -1, row), 0)
    after = np.minimum.accumulate(np.where(missing, R, row)[::-1], 0)[::-1]
    fillable = missing & (before >= 0)
    if max_gap is not None:
        fillable &= after - before - 1 <= max_gap
    if how == "ffill":
        found = np.take_along_axis(columns, np.maximum(before, 0), 0)
    elif how == "interpolate":
        fillable &= after < R
        low = np.take_along_axis(columns, np.maximum(before, 0), 0)
        high = np.take_along_axis(columns, np.minimum(after, R - 1), 0)
        found = low + (high - low) * (row - before) / np.maximum(after - before, 1)
    elif how == "seasonal":
        cycles = -(-R // season)
        padded = np.full((cycles * season, columns.shape[1]), np.nan)
        padded[:R] = columns
        by_phase = padded.reshape(cycles, -1)
        found = fill(by_phase, "ffill").reshape(padded.shape)[:R]
    else:
        raise UsageError(unknown("fill", how, FILLS))
    return np.where(fillable, found, columns)


def fill_rows(rows: Rows, how: str, freq: str | None, max_gap: int | None, observed: int) -> tuple[Rows, int]:  # fmt: skip
    """The first ``observed`` rows filled, and how many numbers that took."""
    season = frequency.season(freq)
    filled, count = {}, 0
    for name in ("values", "past", "known"):
        part = getattr(rows, name)
        found = part.copy()
        found[:observed] = fill(part[:observed], how, season, max_gap)
        count += int(np.isnan(part).sum() - np.isnan(found).sum())
        filled[name] = found
    return replace(rows, **filled), count
