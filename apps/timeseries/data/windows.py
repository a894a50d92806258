"""All rows of a panel as flat tensors, and batches of windows gathered from them.

A window is named by its origin, the flat row of its first future stamp.  Nothing is copied before a
batch is asked for: a million windows cost eight megabytes of origins.  (0.1 ms for a batch of 32
windows of 192 x 7 where a loader of items takes 8 to 55 ms.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apps.timeseries.data import calendar
from apps.timeseries.data.panel import Panel, Series
from core.errors import DataError


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of every column, each (columns,)."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Scaling:
        """Of ``rows`` (T, columns), leaving out NaN; population deviation, 1 where it is 0.

        A column without any value is left as it is.
        """
        seen = np.isfinite(rows)
        count = np.maximum(seen.sum(0), 1)
        mean = np.where(seen, rows, 0.0).sum(0) / count
        std = np.sqrt(np.where(seen, (rows - mean) ** 2, 0.0).sum(0) / count)
        # What rounding leaves of a constant's deviation is no scale.
        return cls(mean, np.where(std > 1e-8 * np.abs(mean), std, 1.0))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Scaled rows; the columns are the last axis."""
        return (rows - self.mean) / self.std

    def undo(self, rows: np.ndarray) -> np.ndarray:
        """The inverse of ``apply``."""
        return rows * self.std + self.mean


@dataclass(frozen=True)
class SeriesScaling:
    """The scalings of one series."""

    values: Scaling
    past: Scaling
    known: Scaling

    @classmethod
    def of(cls, series: Series, rows: int, known: Scaling) -> SeriesScaling:
        """From the first ``rows`` stamps alone; ``known`` is of all series together."""
        return cls(Scaling.of(series.values[:rows]), Scaling.of(series.past[:rows]), known)


def scalings(panel: Panel, rows: Sequence[int]) -> list[SeriesScaling]:
    """Of each series from its first ``rows`` stamps.

    Targets and past covariates are scaled series by series.  Known covariates, static ones among
    them, are scaled by all series together: what tells series apart must not be scaled away.
    """
    pooled = np.concatenate([series.known[:n] for series, n in zip(panel, rows)])
    known = Scaling.of(pooled)
    return [SeriesScaling.of(series, n, known) for series, n in zip(panel, rows)]


def with_static(series: Series, names: Sequence[str]) -> Series:
    """``series`` with its static numbers as known covariates, before the others and constant in time.

    Raises DataError for a static value that is missing or no number.
    """
    if not names:
        return series
    try:
        static = [float(series.static[name]) for name in names]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"series {series.id}: its static covariates {', '.join(names)} must be numbers ({error})"
        ) from error
    constant = np.tile(static, (len(series.times), 1))
    return replace(series, known=np.concatenate([constant, series.known], 1))


def known_rows(series: Series, scaling: SeriesScaling, marks: bool, first: int = 0) -> np.ndarray:
    """Scaled known covariates from stamp ``first`` on, with calendar features after them if ``marks``."""
    known = scaling.known.apply(series.known[first:])
    if not marks:
        return known
    return np.concatenate([known, calendar.features(series.times[first:], series.freq)], 1)


class Rows:
    """Scaled rows of every series, one after another: values, past and known covariates."""

    def __init__(self, panel: Panel, scalings: list[SeriesScaling], marks: bool) -> None:
        lengths = [len(series.times) for series in panel]
        self.first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        total, N, P = int(self.first[-1]), len(panel.targets), len(panel.past_names)
        K = panel.series[0].known.shape[1] + (len(calendar.names(panel.freq)) if marks else 0)
        self.values = torch.full((total, N), torch.nan)
        self.past = torch.full((total, P), torch.nan)
        self.known = torch.empty((total, K))
        for series, scaling, at in zip(panel, scalings, self.first):
            T, end = len(series), int(at) + len(series.times)
            self.values[at : at + T] = torch.from_numpy(scaling.values.apply(series.values)).float()
            self.past[at : at + T] = torch.from_numpy(scaling.past.apply(series.past)).float()
            rows = known_rows(series, scaling, marks) if K else np.empty((end - at, 0))
            self.known[at:end] = torch.from_numpy(rows).float()

    def usable(self, origins: np.ndarray, lookback: int, horizon: int) -> np.ndarray:
        """The flat origins among ``origins`` whose windows hold no missing number."""
        bad = self.values.isnan().any(1)
        if not bool(bad.any()):  # as usual: no counting, which takes 40 bytes for each row
            return origins
        before = torch.cat([torch.zeros(1, dtype=torch.int64), bad.cumsum(0)]).numpy()
        complete = before[origins + horizon] == before[origins - lookback]
        return origins[complete]

    def gather(self, origins: np.ndarray, lookback: int, horizon: int) -> dict[str, Tensor]:
        """x (B, L, N), y (B, H, N), and where there are some past (B, L, P), known (B, L + H, K)."""
        rows = torch.from_numpy(origins)[:, None] + torch.arange(-lookback, horizon)
        values = self.values[rows]
        batch = {"x": values[:, :lookback], "y": values[:, lookback:]}
        if self.past.shape[1]:
            batch["past"] = self.past[rows[:, :lookback]]
        if self.known.shape[1]:
            batch["known"] = self.known[rows]
        return batch


class WindowBatches:
    """Batch ``i`` of a seeded shuffle of all windows, epoch after epoch; the last may be smaller."""

    def __init__(
        self,
        rows: Rows,
        origins: np.ndarray,
        lookback: int,
        horizon: int,
        *,
        batch: int,
        seed: int,
    ) -> None:
        self.rows, self.origins = rows, origins
        self.lookback, self.horizon = lookback, horizon
        self.batch, self.seed = batch, seed
        self._epoch, self._order = -1, origins

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.origins) // self.batch)

    def batch_at(self, index: int) -> dict[str, Any]:
        epoch, place = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.origins))
            self._epoch, self._order = epoch, self.origins[order]
        chosen = self._order[place * self.batch : (place + 1) * self.batch]
        return self.rows.gather(chosen, self.lookback, self.horizon)
