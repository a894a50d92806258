"""Intervals from the errors that the same predictor made on the same series before.

Letters: O past origins, H steps, N targets, n residuals of a step and target, alpha = 1 - level.

Split conformal prediction with rolling recalibration: forecast from past origins, keep what was
realised by now, and take the bounds from the ranks of the residuals with their finite-sample
correction, (n + 1)(1 - alpha/2) above and (n + 1) alpha/2 below (Vovk et al., Algorithmic Learning
in a Random World, 2005; Lei et al., JASA 2018).  A model with quantiles is conformalised on them
(Romano et al., Conformalized quantile regression, NeurIPS 2019).  Coverage is guaranteed where the
errors are exchangeable, which those of a time series are not quite; so it is measured: at each past
origin the bounds are made again from what had been realised by *then* (step h of origin o is known
at o + h), and what came next is counted.

Origins lie whole seasons before the end where the history suffices, for errors at nine in the
morning say little about those at night.  None is before the last stamp that a model was trained or
chosen on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from apps.timeseries.data.panel import Series
from core.errors import DataError

if TYPE_CHECKING:
    from apps.timeseries.methods import Predictor

WINDOW = 60
"""The latest origins whose residuals make the bounds: older ones know another world."""
RECALIBRATIONS = 50
"""How often bounds are made anew on the way through the past; each serves the origins after it."""
LEAST = 40
"""Origins of a series below which a large panel does not push them: 95 % wants 39 residuals."""
SERIES_REPORTED = 200


@dataclass(frozen=True)
class Budget:
    """How many past origins of each series are forecast, at most."""

    origins: int

    @classmethod
    def of(cls, series: int, targets: int, steps: int, most: int) -> Budget:
        """``most``, fewer for many series or large forecasts, but not fewer than ``LEAST``."""
        # 40,000 forecasts of a small model take a minute; 10 million numbers take 80 MB.
        work = min(40_000 // max(1, series), 10_000_000 // (targets * steps))
        return cls(min(most, max(LEAST, work)))


@dataclass(frozen=True, eq=False)
class Bands:
    """What to add to a forecast by level, and how such bounds fared on held-back origins.

    ``offsets`` are (lo, hi), each (H, N), NaN where a step has too few residuals; added to ``base``
    (the model's own quantiles, by level) where there is one, else to the forecast itself.
    """

    offsets: Mapping[float, tuple[np.ndarray, np.ndarray]]
    base: Mapping[float, tuple[np.ndarray, np.ndarray]] | None = None
    inside: Mapping[float, np.ndarray] = field(default_factory=dict)  # (H, N) counts; joint (1, N)
    asked: Mapping[float, np.ndarray] = field(default_factory=dict)
    width: Mapping[float, np.ndarray] = field(default_factory=dict)  # summed over what was asked
    origins: int = 0
    stride: int = 0

    def around(self, yhat: np.ndarray) -> dict[float, tuple[np.ndarray, np.ndarray]]:
        """Bounds by level around a forecast (H, N)."""
        found = {}
        for level, (below, above) in self.offsets.items():
            lo, hi = (yhat, yhat) if self.base is None else self.base[level]
            found[level] = (lo + below, hi + above)
        return found


def predict(
    predictor: Predictor, series: Series, origins: Sequence[int], steps: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Forecasts (O, H, N), and the model's quantiles (O, H, N, Q) where it has some."""
    if not predictor.quantiles:
        return predictor.predict(series, origins, steps), None
    quantiles = predictor.predict_quantiles(series, origins, steps)
    middle = int(np.argmin(np.abs(np.asarray(predictor.quantiles) - 0.5)))
    return quantiles[..., middle], quantiles


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
    divisors = [d for d in range(season, 0, -1) if season % d == 0]
    stride = next((d for d in divisors if available // d >= most / 2), 1)
    # Long forecasts from neighbouring origins err alike: farther apart they tell more.
    stride *= int(np.clip(available // (most * stride), 1, max(1, steps // (4 * stride))))
    count = min(most, available // stride)
    return T - stride * np.arange(count, 0, -1), stride


def rows_until(series: Series, stamp: str) -> int:
    """How many observed rows are not after ``stamp``."""
    times = series.observed
    if not isinstance(times, pd.DatetimeIndex):
        try:
            return int(np.searchsorted(np.asarray(times), int(float(stamp)), side="right"))
        except ValueError as error:
            raise DataError(
                f"series {series.id}: has row numbers, the model was trained up to {stamp}; give "
                "the file with its column of stamps"
            ) from error
    try:
        at = pd.Timestamp(stamp)
    except ValueError as error:
        raise DataError(
            f"series {series.id}: has stamps, the model was trained up to row {stamp} of a file "
            "without; fit it again on a file with stamps"
        ) from error
    if (at.tz is None) != (times.tz is None):
        at = at.tz_localize(times.tz) if at.tz is None else at.tz_convert("UTC").tz_localize(None)
    return int(times.searchsorted(at, side="right"))


def calibrate(
    predictor: Predictor,
    series: Series,
    steps: int,
    levels: Sequence[float],
    budget: Budget,
    *,
    joint: bool = False,
    base: np.ndarray | None = None,
) -> Bands:
    """The bounds for a forecast of ``steps`` after the last row of ``series``, and their record.

    ``base`` (H, N, Q) are the model's quantiles of that forecast.  Levels for which any step has
    too few residuals are left out.
    """
    origins, stride = past_origins(predictor, series, steps, budget.origins if levels else 0)
    if len(origins) == 0:
        return Bands({})
    forecasts, quantiles = predict(predictor, series, origins.tolist(), steps)
    rows = origins[:, None] + np.arange(steps)
    truth = np.full(forecasts.shape, np.nan)
    seen = rows < len(series)
    truth[seen] = series.values[rows[seen]]
    offsets, bases, inside, asked, width = {}, {}, {}, {}, {}
    for level in levels:
        if quantiles is None:
            low = high = forecasts
        else:
            pick = _pair(predictor.quantiles, level)
            low, high = quantiles[..., pick[0]], quantiles[..., pick[1]]
        scores = (low - truth, truth - high)  # how far the truth lies outside, below and above
        found = _bounds(scores, level, joint, symmetric=quantiles is not None)
        if found is None:
            continue
        offsets[level] = found
        if base is not None:
            bases[level] = (base[..., pick[0]], base[..., pick[1]])
        inside[level], asked[level], width[level] = _replay(
            scores, high - low, origins, level, joint, symmetric=quantiles is not None
        )
    return Bands(
        offsets, bases if base is not None else None, inside, asked, width, len(origins), stride
    )


def _pair(quantiles: Sequence[float], level: float) -> tuple[int, int]:
    """The quantiles nearest to the two ends of a level's interval."""
    q, alpha = np.asarray(quantiles), 1 - level / 100
    return int(np.argmin(np.abs(q - alpha / 2))), int(np.argmin(np.abs(q - (1 - alpha / 2))))


def _bounds(
    scores: tuple[np.ndarray, np.ndarray], level: float, joint: bool, symmetric: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """(lo, hi) offsets, each (H, N), from the latest ``WINDOW`` scores (O, H, N) that are realised.

    None where they are too few.  ``symmetric``: one margin for both sides, as CQR has it.
    """
    below, above = (_latest(s) for s in scores)
    alpha = 1 - level / 100
    if joint:
        return _joint(below, above, alpha)
    if symmetric:
        margin = _rank(np.maximum(below, above), 1 - alpha)
        lo, hi = -margin, margin
    else:
        lo, hi = -_rank(below, 1 - alpha / 2), _rank(above, 1 - alpha / 2)
    return (lo, hi) if np.isfinite(lo).all() and np.isfinite(hi).all() else None


def _joint(
    below: np.ndarray, above: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """One factor for the whole path: each step has its own scale, the path's largest score decides."""
    both = np.maximum(below, above)
    whole = np.abs(both[np.isfinite(both).all(axis=(1, 2))])
    if len(whole) < 2:
        return None
    scale = whole.mean(0)
    # Each path is measured by the scale of the others, as a new one will be: measured by a scale
    # that it is part of it looks tame, and 90 % bands held 76 % of paths.
    others = (whole.sum(0) - whole) / (len(whole) - 1)
    ratio = np.divide(whole, others, out=np.zeros_like(whole), where=others > 0)
    factor = _rank(ratio.max(1), 1 - alpha)[None]  # (1, N)
    if not np.isfinite(factor).all():
        return None
    return -factor * scale, factor * scale


def _rank(scores: np.ndarray, share: float) -> np.ndarray:
    """The ceil((n + 1) share)-th smallest of each column's n numbers; NaN where there are too few."""
    ordered = np.sort(scores, 0)  # NaN goes last
    n = np.isfinite(ordered).sum(0)
    # 1e-9: (n + 1) 0.9 may come out a hair above the whole number that it is.
    k = np.ceil((n + 1) * share - 1e-9).astype(np.int64)
    found = np.take_along_axis(ordered, np.clip(k - 1, 0, len(ordered) - 1)[None], 0)[0]
    return np.where((k >= 1) & (k <= n), found, np.nan)


def _latest(scores: np.ndarray) -> np.ndarray:
    """The last ``WINDOW`` realised scores of each step: the latest origins have no late steps yet."""
    if len(scores) <= WINDOW:
        return scores
    missing = np.isnan(scores).all(2).sum(0)  # (H,)
    last = np.clip(len(scores) - missing, WINDOW, None)
    rows = (last - WINDOW) + np.arange(WINDOW)[:, None]
    return scores[rows, np.arange(scores.shape[1])]


def _replay(
    scores: tuple[np.ndarray, np.ndarray],
    spread: np.ndarray,
    origins: np.ndarray,
    level: float,
    joint: bool,
    symmetric: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Go through the past as it happened: counts inside and asked, summed widths, each (H, N).

    With ``joint`` the counts are of whole paths, (1, N).
    """
    O, H, N = scores[0].shape
    inside, asked = np.zeros((1 if joint else H, N)), np.zeros((1 if joint else H, N))
    width = np.zeros((1 if joint else H, N))
    every = max(1, O // RECALIBRATIONS)
    known_at = origins[:, None] + np.arange(1, H + 1)  # the origin from which step h is known
    for at in range(min(O, WINDOW) // 2, O, every):
        realised = (known_at[:at] <= origins[at])[..., None]
        past = [np.where(realised, s[:at], np.nan) for s in scores]
        found = _bounds((past[0], past[1]), level, joint, symmetric)
        if found is None:
            continue
        next_ones = slice(at, min(O, at + every))
        below, above = scores[0][next_ones], scores[1][next_ones]
        seen = np.isfinite(below) & np.isfinite(above)
        hit = seen & (below <= -found[0]) & (above <= found[1])
        size = np.where(seen, spread[next_ones] + found[1] - found[0], 0.0)
        if joint:
            whole = seen.all(1)
            inside[0] += (hit.all(1) & whole).sum(0)
            asked[0] += whole.sum(0)
            width[0] += (size.mean(1) * whole).sum(0)
        else:
            inside += hit.sum(0)
            asked += seen.sum(0)
            width += size.sum(0)
    return inside, asked, width


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
            self._conformalised |= bands.base is not None
        for level in bands.offsets:
            for n in chosen:
                inside, asked = bands.inside[level][:, n], bands.asked[level][:, n]
                count = asked.sum()
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
        return "joint path" if self.joint else "pointwise"

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
    what = "paths" if entry["kind"] == "joint path" else "values"
    return (
        f"{entry['level']:g} % interval ({entry['kind']}): held {entry['measured']:.1f} % of "
        f"{entry['count']:,} held-back {what}"
    )
