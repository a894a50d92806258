"""Intervals from the errors that the same predictor made on the same series before.

Letters: O past origins, H steps, N targets, Q quantiles.

Forecast from past origins and let ``intervals.rolling`` go through them as it happened, with the
present as the last: split conformal bounds of both sides, around the quantiles of a model that has
some (CQR), or of whole paths around the forecast alone.  Coverage is guaranteed where the errors are
exchangeable, which those of a time series are not quite; so it is measured on the way: each origin's
bounds knew only what had been realised by *then*, and what came next is counted.  A level for which
a target has too few residuals is left out.

Measured at 80 / 90 / 95 with 200 origins, last value and mean of four seasons, 24 to 336 steps:
ETTh1 79.6-81.0 / 89.7-90.6 / 94.7-95.3; Exchange 79.6-80.9 / 89.6-90.7 / 93.5-95.1, but
77.0-77.2 / 87.2 / 91.6 at 336 steps.

Origins lie whole seasons before the end where the history suffices, for errors at nine in the
morning say little about those at night.  None is before the last stamp that a model was trained or
chosen on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.timeseries.data.panel import Series, rows_until
from apps.timeseries.intervals import JOINT, POINTWISE, RATE, rolling
from apps.timeseries.metrics import median_index

if TYPE_CHECKING:
    from apps.timeseries.methods import Predictor

WINDOW = 100
"""The latest origins whose residuals make the bounds: older ones know another world."""
RECALIBRATIONS = 50
"""How often bounds are made anew on the way through the past; each serves the origins after it."""
LEAST = 40
"""Origins of a series below which a large panel does not push them: 95 % wants 39 residuals."""
SERIES_REPORTED = 200
BLOCK = 500_000
"""Numbers that are scored at once: a thousand targets go through in pieces."""


@dataclass(frozen=True)
class Budget:
    """How many past origins of each series are forecast, at most."""

    origins: int

    @classmethod
    def of(cls, series: int, targets: int, steps: int, most: int) -> Budget:
        """``most``, fewer for many series or large forecasts, but not fewer than ``LEAST``."""
        # 40,000 forecasts of a small model take a minute; 5 million numbers take 40 MB.
        work = min(40_000 // max(1, series), 5_000_000 // (targets * steps))
        return cls(min(most, max(LEAST, work)))


@dataclass(frozen=True, eq=False)
class Bands:
    """The bounds of a forecast by level, and how such bounds fared on held-back origins.

    ``bounds`` are (lo, hi), each (H, N), NaN for a target of which any step has too few residuals; a
    higher level's contain a lower one's.
    """

    bounds: Mapping[float, tuple[np.ndarray, np.ndarray]]
    inside: Mapping[float, np.ndarray] = field(default_factory=dict)  # (H, N) counts; joint (1, N)
    asked: Mapping[float, np.ndarray] = field(default_factory=dict)
    width: Mapping[float, np.ndarray] = field(default_factory=dict)  # summed over what was asked
    origins: int = 0
    stride: int = 0
    conformalised: bool = False  # the model's own quantiles


def predict(
    predictor: Predictor, series: Series, origins: Sequence[int], steps: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Forecasts (O, H, N), and the model's quantiles (O, H, N, Q) where it has some."""
    if not predictor.quantiles:
        return predictor.predict(series, origins, steps), None
    quantiles = predictor.predict_quantiles(series, origins, steps)
    return quantiles[..., median_index(predictor.quantiles)], quantiles


def past_origins(
    predictor: Predictor, series: Series, steps: int, most: int
) -> tuple[np.ndarray, int]:
    """At most ``most`` origins (increasing) whose truth nobody has fitted, and their distance."""
    T = len(series)
    season_of = getattr(predictor, "season_of", None)
    season = max(1, int(season_of(series) if season_of else predictor.season))
    first = max(1, predictor.lookback)
    if predictor.trained_until is None:
        first = max(first, min(2 * season, T // 2))
    else:
        first = max(first, rows_until(series, predictor.trained_until))
    available = T - first
    if available < 1 or most < 1:
        return np.empty(0, np.int64), 0
    divisors = [d for d in range(min(season, available), 0, -1) if season % d == 0]
    stride = next((d for d in divisors if available // d >= most / 2), 1)
    # Long forecasts from neighbouring origins err alike: farther apart they tell more.
    stride *= int(np.clip(available // (most * stride), 1, max(1, steps // (4 * stride))))
    count = min(most, available // stride)
    return T - stride * np.arange(count, 0, -1), stride


def calibrate(
    predictor: Predictor,
    series: Series,
    steps: int,
    levels: Sequence[float],
    budget: Budget,
    *,
    joint: bool = False,
    ahead: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> Bands:
    """The bounds for a forecast of ``steps`` after the last row of ``series``, and their record.

    ``ahead`` is that forecast, as ``predict`` gives it; without it, bounds are those around zero.
    Levels for which every target has too few residuals are left out.
    """
    origins, stride = past_origins(predictor, series, steps, budget.origins if levels else 0)
    if len(origins) == 0:
        return Bands({})
    past = predict(predictor, series, origins.tolist(), steps)
    # A path has one centre: its band is made of the errors of the forecast alone.
    own = past[1] is not None and not joint
    forecasts: Any = past[int(own)]
    now = np.zeros_like(forecasts[:1]) if ahead is None else ahead[int(own)]
    forecasts = np.concatenate([forecasts, now])
    rows = origins[:, None] + np.arange(steps)
    seen = rows < len(series)
    O, H, N = len(origins), steps, series.values.shape[1]
    block = max(1, BLOCK // (O * H))
    start = min(O, WINDOW) // 2
    found: dict[float, list[tuple[np.ndarray, ...]]] = {level: [] for level in levels}
    for first in range(0, N, block):
        part = slice(first, min(N, first + block))
        truth = np.full((O + 1, H, part.stop - first), np.nan)
        truth[:O][seen] = series.values[rows[seen], part]
        centre: Any = forecasts[:, :, part]
        if own:
            pairs = {level: _pair(predictor.quantiles, level) for level in levels}
            centre = {level: (centre[..., i], centre[..., j]) for level, (i, j) in pairs.items()}
        done = rolling(
            centre, truth, levels, WINDOW, origins=np.append(origins, len(series)), joint=joint,
            symmetric=own or joint, rate=RATE, every=max(1, O // RECALIBRATIONS), start=start,
        )  # fmt: skip
        for level in levels:
            found[level].append(_count(done.lo[level], done.hi[level], truth[start:], joint))
    bounds, inside, asked, width = {}, {}, {}, {}
    for level, parts in found.items():
        lo, hi, *counts = (np.concatenate(arrays, -1) for arrays in zip(*parts))
        if np.isfinite(lo).any():
            bounds[level] = (lo, hi)
            inside[level], asked[level], width[level] = counts
    return Bands(bounds, inside, asked, width, O, stride, own)


def _count(
    lo: np.ndarray, hi: np.ndarray, truth: np.ndarray, joint: bool
) -> tuple[np.ndarray, ...]:
    """From bounds and truths (O, H, N): the last bounds, then counts inside and asked, and widths.

    Counts and summed widths (H, N), or of whole paths (1, N).
    """
    usable = (np.isfinite(lo) & np.isfinite(hi)).all(1, keepdims=True)
    seen = usable & np.isfinite(truth)
    hit = seen & (truth >= lo) & (truth <= hi)
    size = np.subtract(hi, lo, out=np.zeros_like(lo), where=seen)
    if joint:
        seen, hit = seen.all(1, keepdims=True), hit.all(1, keepdims=True)
        size = size.mean(1, keepdims=True) * seen
    now = (np.where(usable[-1], bound[-1], np.nan) for bound in (lo, hi))
    return *now, hit.sum(0), seen.sum(0), size.sum(0)


def _pair(quantiles: Sequence[float], level: float) -> tuple[int, int]:
    """The quantiles nearest to the two ends of a level's interval."""
    q, alpha = np.asarray(quantiles), 1 - level / 100
    return int(np.argmin(np.abs(q - alpha / 2))), int(np.argmin(np.abs(q - (1 - alpha / 2))))


class Record:
    """The coverage of many series, gathered one after another in memory that does not grow."""

    def __init__(self, levels: Sequence[float], steps: int, joint: bool) -> None:
        rows = 1 if joint else steps
        self.levels, self.joint = tuple(levels), joint
        self._inside = {level: np.zeros(rows) for level in levels}
        self._asked = {level: np.zeros(rows) for level in levels}
        self._series: dict[float, dict[str, dict[str, float]]] = {level: {} for level in levels}
        self._shares: dict[float, list[float]] = {level: [] for level in levels}
        self._origins: list[int] = []
        self._strides: set[int] = set()
        self._conformalised = False
        self._short = 0

    def add(self, names: Sequence[str], bands: Bands, chosen: Sequence[int]) -> None:
        """Count one series; ``chosen`` are its targets that are reported."""
        if bands.origins:
            self._origins.append(bands.origins)
            self._strides.add(bands.stride)
            self._conformalised |= bands.conformalised
        for level in bands.bounds:
            for n in chosen:
                inside, asked = bands.inside[level][:, n], bands.asked[level][:, n]
                count = asked.sum()
                if not np.isfinite(bands.bounds[level][0][:, n]).all():
                    continue
                self._inside[level] += inside
                self._asked[level] += asked
                if not count:
                    self._short += 1
                    continue
                share = float(inside.sum() / count)
                self._shares[level].append(share)
                if len(self._series[level]) < SERIES_REPORTED:
                    self._series[level][names[n]] = {
                        "measured": share,
                        "mean_width": float(bands.width[level][:, n].sum() / count),
                        "count": int(count),
                    }

    @property
    def kind(self) -> str:
        """The word that says what the intervals promise."""
        return JOINT if self.joint else POINTWISE

    def method(self, budget: Budget) -> dict[str, Any]:
        """How the intervals were made."""
        name = "split conformal, rolling recalibration"
        if self._conformalised:
            name = "conformalised quantile regression, rolling recalibration"
        return {
            "kind": self.kind,
            "method": name if self._origins else None,
            "origins": {"most": budget.origins, "least_used": min(self._origins, default=0),
                        "most_used": max(self._origins, default=0)},
            "rows_between_origins": sorted(self._strides),
            "window": WINDOW,
        }  # fmt: skip

    def report(self) -> list[dict[str, Any]]:
        """Per level: what was promised and what was measured, over all and by step and series."""
        found = []
        for level in self.levels:
            inside, asked = self._inside[level], self._asked[level]
            if not asked.sum():
                continue
            shares = np.asarray(self._shares[level])
            with np.errstate(invalid="ignore"):
                by_step = inside / asked
            found.append(
                {
                    "kind": self.kind,
                    "level": level,
                    "measured": float(100 * inside.sum() / asked.sum()),
                    "count": int(asked.sum()),
                    "by_step": None if self.joint else (100 * by_step).tolist(),
                    "by_series": {
                        "least": float(100 * shares.min()),
                        "median": float(100 * np.median(shares)),
                        "most": float(100 * shares.max()),
                        "series": {
                            name: {**entry, "measured": 100 * entry["measured"]}
                            for name, entry in self._series[level].items()
                        },
                    },
                }
            )
        return found

    def notes(self) -> list[str]:
        """What a reader should know about the record."""
        if not self._short:
            return []
        return [
            f"the coverage of {self._short} intervals could not be measured: all their past "
            "forecasts were needed to make them"
        ]


def sentence(entry: Mapping[str, Any]) -> str:
    """One entry of a coverage report, for a person."""
    what = "paths" if entry["kind"] == JOINT else "values"
    return (
        f"{entry['level']:g} % interval ({entry['kind']}): held {entry['measured']:.1f} % of "
        f"{entry['count']:,} held-back {what}"
    )
