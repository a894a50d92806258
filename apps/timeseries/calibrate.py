"""Intervals from the errors that the same predictor made on the same series before.

Letters: O past origins, H steps, N targets, n residuals of a step and target, alpha = 1 - level.

Split conformal prediction with rolling recalibration: forecast from past origins, keep what was
realised by now, and take the bounds from the ranks of the residuals with their finite-sample
correction, (n + 1)(1 - alpha/2) above and (n + 1) alpha/2 below (Vovk et al., Algorithmic Learning
in a Random World, 2005; Lei et al., JASA 2018).  A model with quantiles is conformalised on them
(Romano et al., Conformalized quantile regression, NeurIPS 2019).  Coverage is guaranteed where the
errors are exchangeable, which those of a time series are not quite; so it is measured: at each past
origin the bounds are made again from what had been realised by *then* (step h of origin o is known
at o + h), and what came next is counted.  Where too much was missed, or too little, the alpha that
is aimed at follows, target by target (Gibbs and Candes, Adaptive conformal inference, NeurIPS 2021;
deviates: only origins that are over count, with the share of their values that was missed, and
alpha stays within a tenth and three times what was asked).  ``intervals.rolling`` learns alpha for
every step instead and lets bounds become infinite where that asks for more residuals than there
are, which it did for a tenth to a half of the last bounds at 90 %; who asked for a forecast wants a
number, so here the largest residual is the end, and a level that no rank can give is left out.

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

WINDOW = 100
"""The latest origins whose residuals make the bounds: older ones know another world."""
RECALIBRATIONS = 50
"""How often bounds are made anew on the way through the past; each serves the origins after it."""
LEAST = 40
"""Origins of a series below which a large panel does not push them: 95 % wants 39 residuals."""
RATE = 0.1
"""How fast alpha follows what was missed, for each origin and in units of alpha. Last value on ETTh1,
96 steps: 80 % bands held 74.9 % of values without, 80.6 % with; of paths 67.0 and 77.7 %."""
SERIES_REPORTED = 200
BLOCK = 2_000_000
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
    """What to add to a forecast by level, and how such bounds fared on held-back origins.

    ``offsets`` are (lo, hi), each (H, N), NaN for a target of which any step has too few residuals;
    added to ``base`` (the model's own quantiles, by level) where there is one, else to the forecast
    itself.
    """

    offsets: Mapping[float, tuple[np.ndarray, np.ndarray]]
    base: Mapping[float, tuple[np.ndarray, np.ndarray]] | None = None
    inside: Mapping[float, np.ndarray] = field(default_factory=dict)  # (H, N) counts; joint (1, N)
    asked: Mapping[float, np.ndarray] = field(default_factory=dict)
    width: Mapping[float, np.ndarray] = field(default_factory=dict)  # summed over what was asked
    origins: int = 0
    stride: int = 0

    def around(self, yhat: np.ndarray) -> dict[float, tuple[np.ndarray, np.ndarray]]:
        """Bounds by level around a forecast (H, N); a higher level's contain a lower one's."""
        found: dict[float, tuple[np.ndarray, np.ndarray]] = {}
        inner: tuple[np.ndarray, np.ndarray] | None = None
        for level in sorted(self.offsets):
            lo, hi = (yhat, yhat) if self.base is None else self.base[level]
            lo, hi = lo + self.offsets[level][0], hi + self.offsets[level][1]
            if inner is not None:  # each level learns on its own how much to aim at
                lo, hi = np.minimum(lo, _or(inner[0], lo)), np.maximum(hi, _or(inner[1], hi))
            found[level] = inner = (lo, hi)
        return found


def _or(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), others, values)


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

    ``base`` (H, N, Q) are the model's quantiles of that forecast.  Levels for which every target has
    too few residuals are left out.
    """
    origins, stride = past_origins(predictor, series, steps, budget.origins if levels else 0)
    if len(origins) == 0:
        return Bands({})
    forecasts, quantiles = predict(predictor, series, origins.tolist(), steps)
    rows = origins[:, None] + np.arange(steps)
    seen = rows < len(series)
    O, H, N = forecasts.shape
    block = max(1, BLOCK // (O * H))
    found: dict[float, list[tuple[np.ndarray, ...]]] = {level: [] for level in levels}
    for first in range(0, N, block):
        part = slice(first, min(N, first + block))
        truth = np.full((O, H, part.stop - first), np.nan)
        truth[seen] = series.values[rows[seen], part]
        for level in levels:
            low = high = forecasts[..., part]
            if quantiles is not None:
                i, j = _pair(predictor.quantiles, level)
                low, high = quantiles[..., part, i], quantiles[..., part, j]
            scores = (low - truth, truth - high)  # how far the truth lies outside, below and above
            kind = _Kind(1 - level / 100, joint, symmetric=quantiles is not None)
            alpha, *record = _replay(scores, high - low, origins, kind)
            found[level].append((*_bounds(scores, kind, alpha), *record))
    offsets, inside, asked, width = {}, {}, {}, {}
    for level, parts in found.items():
        lo, hi, *counts = (np.concatenate(arrays, -1) for arrays in zip(*parts))
        if np.isfinite(lo).any():
            offsets[level] = (lo, hi)
            inside[level], asked[level], width[level] = counts
    bases = None
    if base is not None:
        pairs = {level: _pair(predictor.quantiles, level) for level in offsets}
        bases = {level: (base[..., i], base[..., j]) for level, (i, j) in pairs.items()}
    return Bands(offsets, bases, inside, asked, width, len(origins), stride)


def _pair(quantiles: Sequence[float], level: float) -> tuple[int, int]:
    """The quantiles nearest to the two ends of a level's interval."""
    q, alpha = np.asarray(quantiles), 1 - level / 100
    return int(np.argmin(np.abs(q - alpha / 2))), int(np.argmin(np.abs(q - (1 - alpha / 2))))


@dataclass(frozen=True)
class _Kind:
    """Which bounds: the share ``alpha`` that may miss, of values or whole paths, one margin or two."""

    alpha: float
    joint: bool
    symmetric: bool  # as CQR has it


def _bounds(
    scores: tuple[np.ndarray, np.ndarray], kind: _Kind, alpha: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(lo, hi) offsets, each (H, N), from the latest ``WINDOW`` scores (O, H, N) that are realised.

    ``alpha`` (N,) is aimed at.  NaN for targets with too few scores for ``kind.alpha``.
    """
    below, above = (_latest(s) for s in scores)
    both, nominal = 1 - alpha, 1 - kind.alpha
    if kind.joint:
        hi = _joint(np.maximum(below, above), both, nominal)
        lo = -hi
    elif kind.symmetric:
        hi = _rank(np.maximum(below, above), both, nominal)
        lo = -hi
    else:
        side, least = 1 - alpha / 2, 1 - kind.alpha / 2
        lo, hi = -_rank(below, side, least), _rank(above, side, least)
    whole = np.isfinite(lo).all(0) & np.isfinite(hi).all(0)
    return np.where(whole, lo, np.nan), np.where(whole, hi, np.nan)


def _joint(scores: np.ndarray, share: np.ndarray, nominal: float) -> np.ndarray:
    """Margins (H, N) for whole paths: each step has its own scale, a path's largest ratio decides."""
    whole = np.isfinite(scores).all(1, keepdims=True)  # (O, 1, N)
    size = np.where(whole, np.abs(scores), 0.0)
    total, count = size.sum(0), whole.sum(0)
    # Each path is measured by the scale of the others, as a new one will be: measured by a scale
    # that it is part of it looks tame, and 90 % bands held 76 % of paths.
    others = (total - size) / np.maximum(count - 1, 1)
    ratio = np.divide(size, others, out=np.zeros_like(size), where=others > 0)
    worst = np.where(whole[:, 0] & (count > 1), ratio.max(1), np.nan)  # (O, N)
    return _rank(worst, share, nominal) * total / np.maximum(count, 1)


def _rank(scores: np.ndarray, share: np.ndarray, nominal: float) -> np.ndarray:
    """The ceil((n + 1) share)-th smallest of each column's n numbers, at most the largest.

    NaN where n is too small for the share ``nominal``.
    """
    ordered = np.sort(scores, 0)  # NaN goes last
    n = np.isfinite(ordered).sum(0)
    # 1e-9: (n + 1) 0.9 may come out a hair above the whole number that it is.
    k, least = (np.ceil((n + 1) * p - 1e-9).astype(np.int64) for p in (share, nominal))
    found = np.take_along_axis(ordered, np.clip(np.minimum(k, n) - 1, 0, None)[None], 0)[0]
    return np.where((least >= 1) & (least <= n), found, np.nan)


def _latest(scores: np.ndarray) -> np.ndarray:
    """The last ``WINDOW`` realised scores of each step: the latest origins have no late steps yet."""
    if len(scores) <= WINDOW:
        return scores
    missing = np.isnan(scores).all(2).sum(0)  # (H,)
    last = np.clip(len(scores) - missing, WINDOW, None)
    rows = (last - WINDOW) + np.arange(WINDOW)[:, None]
    return scores[rows, np.arange(scores.shape[1])]


def _replay(
    scores: tuple[np.ndarray, np.ndarray], spread: np.ndarray, origins: np.ndarray, kind: _Kind
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Go through the past as it happened: what share to aim at now, and what was seen on the way.

    (alpha (N,); counts inside and asked and summed widths, each (H, N), or of whole paths (1, N)).
    """
    O, H, N = scores[0].shape
    shape = (1 if kind.joint else H, N)
    inside, asked, width = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    missed = np.full((O, N), np.nan)  # the share that each origin's bounds missed
    alpha, learnt = np.full(N, kind.alpha), 0
    known_at = origins[:, None] + np.arange(1, H + 1)  # the origin from which step h is known
    every = max(1, O // RECALIBRATIONS)
    for at in range(min(O, WINDOW) // 2, O, every):
        over = int(np.searchsorted(known_at[:, -1], origins[at], side="right"))
        alpha, learnt = _learn(alpha, missed[learnt:over], kind.alpha), over
        realised = (known_at[:at] <= origins[at])[..., None]
        past = [np.where(realised, s[:at], np.nan) for s in scores]
        found = _bounds((past[0], past[1]), kind, alpha)
        if not np.isfinite(found[0]).any():
            continue
        ahead = slice(at, min(O, at + every))
        below, above = scores[0][ahead], scores[1][ahead]
        seen = np.isfinite(below) & np.isfinite(above) & np.isfinite(found[0])
        hit = seen & (below <= -found[0]) & (above <= found[1])
        size = np.where(seen, spread[ahead] + found[1] - found[0], 0.0)
        if kind.joint:
            whole = seen.all(1, keepdims=True)
            hit, seen, size = hit.all(1, keepdims=True) & whole, whole, size.mean(1, keepdims=True)
            size = size * whole
        inside += hit.sum(0)
        asked += seen.sum(0)
        width += size.sum(0)
        count = seen.sum(1)
        missed[ahead] = np.where(count > 0, 1 - hit.sum(1) / np.maximum(count, 1), np.nan)
    over = int(np.searchsorted(known_at[:, -1], origins[-1] + 1, side="right"))
    return _learn(alpha, missed[learnt:over], kind.alpha), inside, asked, width


def _learn(alpha: np.ndarray, missed: np.ndarray, nominal: float) -> np.ndarray:
    """alpha (N,) after origins whose bounds ``missed`` these shares (O, N), all over by now."""
    for share in missed:
        step = np.where(np.isnan(share), 0.0, RATE * nominal * (nominal - share))
        alpha = np.clip(alpha + step, nominal / 10, min(0.9, 3 * nominal))
    return alpha


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
                if not np.isfinite(bands.offsets[level][0][:, n]).all():
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
