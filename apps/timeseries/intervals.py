"""Prediction intervals from past errors: split conformal, rolling, adaptive, for steps or paths.

Glossary
    O, H, N   origins (successive, the oldest first), steps ahead, series
    residual  truth - forecast; of step h = 1 .. H of origin o, known only at the origin o + h
    score     how far outside a truth lies: |residual|, or either side of it, or what CQR says
    level     percent of truths meant to be inside, 100 (1 - alpha)

    The bound is the ceil((n + 1)(1 - alpha))-th smallest of n scores, for each step and series:
    at least the nominal share of exchangeable errors is inside (Vovk, Gammerman and Shafer 2005;
    Lei et al., JASA 2018). Where the rank exceeds n, the bound is infinite: too little is known.
    Two sides (``symmetric=False``): the same with alpha / 2 above and below. CQR (Romano, Patterson
    and Candes, NeurIPS 2019): the score of a pair of quantiles is max(q_lo - y, y - q_hi).
    Adaptive (Gibbs and Candes, NeurIPS 2021): alpha <- alpha + rate alpha* / w (alpha* - missed) for
    each series, when an origin's whole path is known, w origins after its bounds were made.
    Joint path (after Diquigiovanni, Fontana and Vantini, 2022): the score of a path is its largest
    |residual| in units of each step's mean |residual|, so that whole paths are inside.

Errors of neighbouring origins are not exchangeable, which is why coverage is measured: see
``report``. Nothing here looks at a truth before it is known (a test perturbs the others).
The rate and its units were compared on the figures below; validation parts agree (of rates 0.1 to 1,
smaller ones hold less of 90 and 95 %, and 1 falls below 80 % on ETTh1). Measured
on test parts, 96 steps ahead, origins a row apart, at 80 / 90 / 95: ETTh1 by the mean of four days
80.0 / 90.8 / 95.8, by DLinear 80.2 / 90.5 / 95.7; Exchange by DLinear 80.6 / 90.5 / 94.9, by the last
value 79.1 / 89.0 / 93.7. The same rate serves sparse origins: see ``calibrate``. Joint bands of such
dense origins hold too few paths at 95 % (92), for 720 overlapping paths are some eight.
Dividing by the local deviation made ETTh1 bounds 1 to 5 % narrower without adapting: no default.

Deviates: an origin's misses count as their share of its steps, with one alpha for all steps (of
single steps they are noughts and ones, and alpha swings); the rate is divided by w, for misses of
overlapping forecasts come in runs (undivided, Exchange held 72.5 % at 80); alpha is kept in
[alpha* / 10, 3 alpha*], and where it asks for more scores than there are, the largest is the bound,
not infinity, so its long-run guarantee holds only while it stays inside; a path is measured by the
mean errors of the other paths (measured by its own, 90 % bands held 76 % of paths).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from apps.timeseries import metrics
from core.errors import UsageError

POINTWISE, JOINT = "pointwise", "joint path"
WINDOW = 720  # residuals of each step and series: a month of hours
RATE = 0.5  # in units of alpha


@dataclass(frozen=True, eq=False, kw_only=True)
class _Scores:
    """Sorted scores that bounds are read from: (K, 1 or H, N, n) with K sides, NaN last.

    ``unit`` (H, N) is what one of them means at each step.
    """

    ordered: np.ndarray
    unit: np.ndarray | float = 1.0
    count: np.ndarray = field(init=False)  # (K, 1 or H, N), how many are known

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", (~np.isnan(self.ordered)).sum(axis=-1))

    def margin(self, alpha: np.ndarray | float, nominal: float) -> np.ndarray:
        """(K, H, N) of the share 1 - ``alpha`` (a number, or (N,)), at most the largest score.

        Infinite where there are too few scores for 1 - ``nominal``.
        """
        n, sides = self.count, len(self.ordered)
        if self.ordered.shape[-1] == 0:
            return np.full(n.shape, np.inf) * self.unit
        # (n + 1)(1 - alpha) may come out a hair above the whole number that it is.
        rank, least = (
            np.ceil((n + 1) * (1 - np.asarray(a) / sides) - 1e-9).astype(int)
            for a in (alpha, nominal)
        )
        at = np.clip(np.minimum(rank, n) - 1, 0, None)
        found = np.take_along_axis(self.ordered, at[..., None], axis=-1)[..., 0]
        return np.where(least <= n, found, np.inf) * self.unit


def _pointwise(scores: np.ndarray) -> _Scores:
    """From scores (K, W, H, N), NaN where not known."""
    return _Scores(ordered=np.sort(np.moveaxis(scores, 1, -1), axis=-1))


def _paths(scores: np.ndarray) -> _Scores:
    """From absolute scores (1, W, H, N): paths with a NaN do not count."""
    whole = np.isfinite(scores[0]).all(axis=1, keepdims=True)  # (W, 1, N)
    size = np.where(whole, scores[0], 0.0)
    total, count = size.sum(axis=0), whole.sum(axis=0)
    others = (total - size) / np.maximum(count - 1, 1)
    ratio = np.divide(size, others, out=np.zeros_like(size), where=others > 0)
    # A path that alone errs at some step is beyond any unit of the others.
    ratio[(others <= 0) & (size > 0)] = np.inf
    worst = np.where(whole[:, 0] & (count > 1), ratio.max(axis=1), np.nan)  # (W, N)
    ordered = np.sort(worst.T, axis=-1)[None, None]  # (1, 1, N, W)
    unit = total / np.maximum(count, 1)
    return _Scores(ordered=ordered, unit=np.where(unit > 0, unit, np.finfo(float).tiny))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Rule:
    symmetric: bool
    joint: bool

    def scores(self, residuals: np.ndarray) -> np.ndarray:
        """(K, O, H, N): above then below, or both at once."""
        if self.symmetric:
            return np.abs(residuals)[None]
        return np.stack([residuals, -residuals])

    def gather(self, scores: np.ndarray) -> _Scores:
        return _paths(scores) if self.joint else _pointwise(scores)


def _rule(symmetric: bool, joint: bool) -> _Rule:
    if joint and not symmetric:
        raise UsageError("a joint path band is symmetric: leave symmetric at True")
    return _Rule(symmetric=symmetric, joint=joint)


class Conformal:
    """Bounds around a forecast from the residuals (O, H, N) of earlier origins.

    Residuals not yet known are NaN; ``window`` keeps the latest known ones of each step. ``scale``
    (O, N), positive: residuals are divided by it, and ``bounds`` takes the present one. ``joint``:
    a band for the whole path, from origins whose whole path is known.
    """

    def __init__(
        self,
        residuals: np.ndarray,
        *,
        window: int | None = None,
        scale: np.ndarray | None = None,
        symmetric: bool = True,
        joint: bool = False,
    ) -> None:
        residuals = _cube("residuals", residuals)
        rule = _rule(symmetric, joint)
        if scale is not None:
            residuals = residuals / _scale(scale, residuals)
        scores = rule.scores(residuals)
        if window is not None:
            known = np.isfinite(residuals).any(axis=2)  # (O, H)
            scores = _latest(scores, len(known) - np.argmax(known[::-1], axis=0), window)
        self.kind = JOINT if joint else POINTWISE
        self._scores, self._scaled = rule.gather(scores), scale is not None

    def bounds(
        self, level: float, scale: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(lo, hi), each (H, N), to add to the forecast; infinite where too little is known."""
        if (scale is not None) != self._scaled:
            raise UsageError("give bounds a scale if, and only if, the residuals had one")
        margin = self._scores.margin(_alpha(level), _alpha(level))
        margin = margin if scale is None else margin * np.asarray(scale, dtype=float)
        return -margin[-1], margin[0]


def joint_path(
    residuals: np.ndarray, level: float, window: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(lo, hi), each (H, N): a band that holds whole paths, from residuals (O, H, N)."""
    return Conformal(residuals, window=window, joint=True).bounds(level)


def cqr(truths: np.ndarray, lower: np.ndarray, upper: np.ndarray, level: float) -> np.ndarray:
    """Margin (H, N) to take from the lower and add to the upper quantile of a new forecast.

    All (O, H, N): past truths, NaN where not known, and the quantile forecasts of them that are
    meant to hold ``level`` percent. Negative where the quantiles were too wide.
    """
    scores = np.maximum(_cube("lower", lower) - truths, truths - _cube("upper", upper))
    return _pointwise(scores[None]).margin(_alpha(level), _alpha(level))[0]


@dataclass(frozen=True, eq=False)
class Rolling:
    """Bounds of each origin: level -> (O, H, N). Infinite where too little was known by then."""

    lo: dict[float, np.ndarray]
    hi: dict[float, np.ndarray]
    kind: str

    def report(self, truths: np.ndarray, names: Sequence[str] = ()) -> dict[str, Any]:
        """``report`` of these bounds."""
        return report(truths, self.lo, self.hi, kind=self.kind, names=names)


def rolling(
    forecasts: np.ndarray | dict[float, tuple[np.ndarray, np.ndarray]],
    truths: np.ndarray,
    levels: Sequence[float],
    window: int | None = WINDOW,
    *,
    origins: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    symmetric: bool = True,
    joint: bool = False,
    rate: float = RATE,
    every: int = 24,
    start: int = 0,
) -> Rolling:
    """Bounds for each origin from what was known at that origin, and from nothing else.

    ``forecasts`` and ``truths`` (O, H, N); for CQR, forecasts are level -> (lower, upper).
    ``origins`` (O,): the row at which each stands, increasing (default 0, 1, 2, ...): step h of
    origin o is known at row o + h. A last origin whose truths are all NaN is the present. ``window``
    keeps the latest residuals of each step (None: all); half of one, if there is so much before
    ``start``, is had before alpha learns. ``scale`` (O, N) as in ``Conformal``. ``rate`` adapts alpha,
    0 leaves it. ``every`` origins, and at the last, bounds are made anew; they serve until then.
    Bounds of origins before ``start`` are not kept: the result has O - start origins.

    Bounds of a higher level contain those of a lower.
    """
    truths = _cube("truths", truths)
    o, h = truths.shape[:2]
    rule = _rule(symmetric, joint)
    levels = sorted(levels)
    at = np.arange(o) if origins is None else np.asarray(origins)
    if at.shape != (o,) or (np.diff(at) <= 0).any():
        raise UsageError(f"origins: {o} increasing rows are needed, one for each forecast")
    if every < 1 or not 0 <= start <= o or (window is not None and window < 1):
        raise UsageError(
            f"every {every}, start {start}, window {window}: every and window must be 1 or more, "
            f"start 0 to {o}"
        )
    units = np.ones((o, 1, 1)) if scale is None else _scale(scale, truths)
    if isinstance(forecasts, dict) and (joint or not symmetric):
        raise UsageError("quantile forecasts get one pointwise margin: leave symmetric and joint")
    # known[i, s]: how many origins' step s + 1 is known at origin i
    known = np.stack([np.searchsorted(at + s, at, side="left") for s in range(h)], axis=1)
    lows, highs = {}, {}
    follow = partial(_margins, rule=rule, known=known, window=window, rate=rate, every=every)
    if isinstance(forecasts, dict):
        for level in levels:
            lower, upper = (_cube("forecasts", f) for f in forecasts[level])
            scores = (np.maximum(lower - truths, truths - upper) / units)[None]
            margin = follow(scores, targets=[_alpha(level)], start=start)[0, 0] * units[start:]
            low, high = lower[start:] - margin, upper[start:] + margin
            crossed = low > high  # quantiles that were much too wide
            with np.errstate(invalid="ignore"):  # bounds without an end have no middle, nor cross
                middle = (low + high) / 2
            lows[level], highs[level] = (
                np.where(crossed, middle, low),
                np.where(crossed, middle, high),
            )
    else:
        centre = _cube("forecasts", forecasts)
        scores = rule.scores((truths - centre) / units)
        margins = follow(scores, targets=[_alpha(level) for level in levels], start=start)
        for level, margin in zip(levels, margins):
            margin *= units[start:]
            lows[level], highs[level] = centre[start:] - margin[-1], centre[start:] + margin[0]
    for inner, outer in pairwise(levels):
        np.minimum(lows[outer], lows[inner], out=lows[outer])
        np.maximum(highs[outer], highs[inner], out=highs[outer])
    return Rolling(lows, highs, JOINT if joint else POINTWISE)


def _margins(
    scores: np.ndarray,
    *,
    rule: _Rule,
    targets: Sequence[float],
    known: np.ndarray,
    window: int | None,
    rate: float,
    every: int,
    start: int,
) -> np.ndarray:
    """(targets, K, O - start, H, N) from scores (K, O, H, N); ``known`` (O, H) as in ``rolling``."""
    k, o, h, n = scores.shape
    out = np.empty((len(targets), k, o - start, h, n))
    first = min(start, min(o, window or o) // 2) if rate else start
    missed = np.full((len(targets), o, n), np.nan)  # the share of each origin's bounds
    alphas = [np.full(n, target) for target in targets]
    # Misses of overlapping forecasts come in runs as long as the wait for the truth.
    rate /= max(1, o - 1 - known[-1, -1]) if o else 1
    learnt = 0
    for begin, end in pairwise([*range(first, o - 1, every), *([o - 1] if o > first else []), o]):
        over = known[begin, -1]  # origins whose whole path is known
        until = np.full(h, over) if rule.joint else known[begin]
        gathered = rule.gather(_latest(scores, until, window))
        ahead = scores[:, begin:end]
        for j, target in enumerate(targets):
            news = np.nansum(target - missed[j, learnt:over], axis=0)
            alphas[j] = np.clip(
                alphas[j] + rate * target * news, target / 10, min(3 * target, 0.95)
            )
            margin = gathered.margin(alphas[j] if rate else target, target)
            out[j, :, max(0, begin - start) : max(0, end - start)] = margin[:, None]
            usable = np.isfinite(margin).all(axis=0) & ~np.isnan(ahead).any(axis=0)  # (E, H, N)
            outside = np.where(usable, (ahead > margin[:, None]).any(axis=0), np.nan)
            missed[j, begin:end] = outside.max(1) if rule.joint else metrics.nanmean(outside, 1)
        learnt = over
    return out


def _latest(scores: np.ndarray, until: np.ndarray, window: int | None) -> np.ndarray:
    """(K, W, H, N): of scores (K, O, H, N), of step s the W before ``until[s]``, NaN where fewer."""
    most = int(until.max(initial=0))
    size = most if window is None else min(window, most)
    rows = until - size + np.arange(size)[:, None]  # (W, H)
    found = scores[:, np.maximum(rows, 0), np.arange(len(until))]
    return np.where((rows >= 0)[..., None], found, np.nan)


def report(
    truths: np.ndarray,
    lo: dict[float, np.ndarray],
    hi: dict[float, np.ndarray],
    *,
    kind: str = POINTWISE,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """Coverage (0 .. 1) and mean width of bounds (O, H, N): overall, per step, per series.

    "joint path": coverage overall and per series is of whole paths (those with a missing truth are
    left out), per step still of single values. ``unbounded`` is the share of infinite intervals,
    which widths leave out and coverage counts.
    """
    truths = np.asarray(truths, dtype=float)
    names = list(names) or [str(i) for i in range(truths.shape[2])]
    found = {}
    for level in sorted(lo):
        low, high = lo[level], hi[level]
        missing = np.isnan(truths) | np.isnan(low) | np.isnan(high)
        inside = np.where(missing, np.nan, (truths >= low) & (truths <= high))
        counted = inside.min(axis=1, keepdims=True) if kind == JOINT else inside  # NaN stays
        size = high - low
        size = np.where(np.isfinite(size), size, np.nan)
        series = metrics.nanmean(counted, (0, 1)), metrics.nanmean(size, (0, 1))
        found[f"{level:g}"] = {
            "nominal": level / 100,
            "coverage": metrics.nanmean(counted),
            "width": metrics.nanmean(size),
            "unbounded": float(np.isinf(high - low).mean()),
            "per_horizon": {
                "coverage": metrics.nanmean(inside, (0, 2)).tolist(),
                "width": metrics.nanmean(size, (0, 2)).tolist(),
            },
            "per_series": {
                name: {"coverage": float(c), "width": float(w)}
                for name, c, w in zip(names, *series, strict=True)
            },
        }
    return {"kind": kind, "levels": found}


def local_scale(windows: np.ndarray, floor: np.ndarray | float = 1e-8) -> np.ndarray:
    """Standard deviation of each history (O, L, N), at least ``floor``: (O, N), for ``scale``.

    A constant history says nothing of the errors after it: give as ``floor`` (N,) a small share of
    the series' own deviation.
    """
    return np.maximum(
        np.nan_to_num(metrics.nanmean((windows - metrics.nanmean(windows, 1)[:, None]) ** 2, 1))
        ** 0.5,
        floor,
    )


def _alpha(level: float) -> float:
    if not 1 <= level < 100:
        raise UsageError(f"level {level:g}: must be a percentage, 1 or more and below 100 (90)")
    return 1 - level / 100


def _cube(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 3:
        raise UsageError(f"{name} of shape {values.shape}: (origins, steps, series) are needed")
    return values


def _scale(scale: np.ndarray, like: np.ndarray) -> np.ndarray:
    """``scale`` (O, N) as (O, 1, N), checked."""
    scale = np.asarray(scale, dtype=float)
    if scale.shape != (like.shape[0], like.shape[2]) or not (scale > 0).all():
        raise UsageError(
            f"scale of shape {scale.shape}: one positive number for each origin and series is "
            f"needed, {(like.shape[0], like.shape[2])}"
        )
    return scale[:, None]
