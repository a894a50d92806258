"""Forecasts from many past origins, and intervals from what was known at each.

Letters: W windows, H steps ahead, N targets, O calibration origins, L levels of intervals, Q
quantiles.  An origin is the row of the first stamp that is forecast: rows before it are known.

    training rows | calibration origins ......... | window 1 | window 2 | ... | window W

Every method learns from the rows before the first calibration origin (``held``), unless it is
refitted at later windows.  An origin is forecast by the method as it was fitted last before it, so
that no residual, of windows or of calibration, is of a row that was learnt from.

Intervals of a window: split conformal from residuals of the last calibration origins whose whole
horizon lies before the window (Vovk et al. 2005), renewed at each window.  Calibration origins lie
a stride apart that keeps the windows' phase of the season wherever enough of them fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import gcd
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from apps.timeseries.data.panel import Panel, Series, rows_until
from apps.timeseries.fanout import Mapper
from apps.timeseries.intervals import Conformal
from core.errors import DataError, UsageError
from core.progress import Progress, SilentProgress
from core.reporting import Timer

if TYPE_CHECKING:
    from apps.timeseries.methods import Method, Predictor

HELD_BACK, HELD_BACK_UNTRAINED = 0.2, 0.5
"""Share of the rows before the first window that calibration may take, from training or from nobody."""
MANY = 100
"""Series above which fewer calibration origins are forecast by default, and ETS when asked alone."""
ENOUGH = 40
"""Calibration origins at which keeping the season's phase is worth more than having others."""
FEWEST = 8
"""Calibration origins below which there are no intervals: an 80 % one wants four on each side."""
GRID = (20.0, 40.0, 60.0, 80.0)
"""Levels whose bounds, beside the asked ones, stand for the whole distribution in CRPS."""


@dataclass(frozen=True)
class Plan:
    """Where windows and calibration origins lie, in rows of the ``reference`` series' clock.

    ``align`` "time": the windows are the same moments in every series, up to the last that half of
    them reach; "end": they are counted from each series' own end, for clocks with nothing in common.
    """

    horizon: int
    step: int
    season: int
    starts: np.ndarray  # (W,) first rows forecast
    held: int  # first calibration origin; training rows lie before it
    grid: np.ndarray  # calibration origins, ascending; may go on between the windows
    stride: int
    wanted: int  # calibration origins for each window
    history: int  # rows that must lie before any origin
    reference: Series
    align: Literal["time", "end"]

    def rows(self, series: Series, at: np.ndarray) -> np.ndarray:
        """Rows of ``series`` for rows ``at`` of the reference; may lie outside the series."""
        if series is self.reference:
            return np.asarray(at)
        if self.align == "end":
            return np.asarray(at) - (len(self.reference) - len(series))
        return np.asarray(series.observed.searchsorted(self.reference.observed[at]))

    def windows(self, series: Series) -> tuple[np.ndarray, np.ndarray]:
        """(numbers, origins) of the windows that ``series`` has all rows of, each (K,)."""
        origins = self.rows(series, self.starts)
        there = (origins >= self.history) & (origins + self.horizon <= len(series))
        return np.flatnonzero(there), origins[there]

    def calibration(self, series: Series) -> np.ndarray:
        """Calibration origins of ``series``, ascending."""
        if len(self.grid) == 0:
            return np.empty(0, np.int64)
        origins = np.unique(self.rows(series, self.grid))
        last = self.rows(series, self.starts[-1:])[0]
        return origins[
            (origins >= self.history) & (origins + self.horizon <= min(last, len(series)))
        ]

    def cut(self, panel: Panel, at: int) -> Panel:
        """What is known before row ``at`` of the reference: what a method may learn from."""
        ends = [int(self.rows(s, np.array([at]))[0]) for s in panel]
        kept = [s.head(min(end, len(s))) for s, end in zip(panel, ends) if end > 0]
        return panel.with_series([s for s in kept if np.isfinite(s.values).any()])


class Need(NamedTuple):
    """What a method asks of a plan: rows of history at each origin, and whether it is trained."""

    lookback: int
    trained: bool


def plan_for(
    panel: Panel,
    needs: Sequence[Need],
    *,
    horizon: int,
    windows: int,
    step: int | None = None,
    season: int,
    calibration: int | None = None,
    align: str | None = None,
) -> Plan:
    """The plan that leaves every method the history it needs; raises as ``make_plan``.

    ``calibration`` None: 100 origins, or ``ENOUGH`` where there are more than ``MANY`` series.
    """
    histories = [max(1, need.lookback) for need in needs]
    least = [rows + 2 * horizon * need.trained for rows, need in zip(histories, needs)]
    if calibration is None:
        calibration = 100 if len(panel) <= MANY else ENOUGH
    return make_plan(
        panel,
        horizon=horizon,
        windows=windows,
        step=step,
        season=season,
        history=max(histories, default=1),
        least=max(least, default=1),
        calibration=calibration,
        align=align,
        trains=any(need.trained for need in needs),
    )


def make_plan(
    panel: Panel,
    *,
    horizon: int,
    windows: int,
    step: int | None,
    season: int,
    history: int = 1,
    least: int = 1,
    calibration: int = 100,
    align: str | None = None,
    trains: bool = True,
) -> Plan:
    """Place ``windows`` origins ``step`` rows apart, the last horizon at the end of the data.

    ``history`` rows must lie before every origin, ``least`` before the first calibration origin for
    methods to learn from, if any ``trains``.  Raises UsageError for numbers that make no sense, DataError where the
    rows do not suffice.
    """
    step = horizon if step is None else step
    for name, value in {"horizon": horizon, "windows": windows, "step": step}.items():
        if value < 1:
            raise UsageError(f"--{name} {value}: must be 1 or more")
    if calibration < 0:
        raise UsageError(f"calibration {calibration}: must be 0 (no intervals) or more")
    if align not in (None, "time", "end"):
        raise UsageError(
            f"align {align!r}: want 'time' (the same moments) or 'end' (of each series)"
        )
    if not len(panel):
        raise DataError(f"{panel.source}: no series")
    dated = all(isinstance(s.times, pd.DatetimeIndex) and len(s) for s in panel)
    if align == "time" and not dated:
        raise UsageError("align 'time': the file has no dates; use 'end'")
    how: Literal["time", "end"] = "time" if align == "time" or (align is None and dated) else "end"
    reference, T = _reference(panel) if how == "time" else (max(panel, key=len), 0)
    T = T or len(reference)
    starts = T - horizon - step * np.arange(windows - 1, -1, -1)
    first, need = int(starts[0]), max(history, least)
    if first < need:
        raise DataError(
            f"{panel.source}: {T} rows; {windows} windows of {horizon} rows, {step} apart, leave "
            f"{max(0, first)} before the first, {need} are needed; use fewer --windows, a smaller "
            "--horizon or --lookback, or more rows"
        )
    spare = min(int((HELD_BACK if trains else HELD_BACK_UNTRAINED) * first), first - need)
    stride, count = _stride(spare, horizon, step, season, calibration)
    back = -(-horizon // stride) * stride  # the last origin whose horizon ends before window 1
    held = first - back - (count - 1) * stride if count else first
    grid = (
        np.arange(held, int(starts[-1]) - horizon + 1, stride) if count else np.empty(0, np.int64)
    )
    return Plan(
        horizon, step, season, starts, held, grid, stride, count, history, reference, how
    )  # fmt: skip


def _reference(panel: Panel) -> tuple[Series, int]:
    """The series with most rows up to the last moment that half of all still reach, and those rows.

    Not the last moment of all: one series that goes on alone would leave the others without windows.
    """
    ends = sorted((s.observed[-1] for s in panel), reverse=True)
    end = ends[(len(ends) + 1) // 2 - 1]
    rows = {i: s.observed.searchsorted(end, "right") for i, s in enumerate(panel) if s.observed[-1] >= end}  # fmt: skip
    most = max(rows, key=lambda i: rows[i])
    return panel.series[most], int(rows[most])


def _stride(spare: int, horizon: int, step: int, season: int, wanted: int) -> tuple[int, int]:
    """(rows between calibration origins, how many for a window) that fit in ``spare`` rows."""

    def count(stride: int) -> int:
        return max(0, (spare - -(-horizon // stride) * stride) // stride + 1)

    phase = gcd(step, season) if season > 1 else 1
    fitting = [d for d in range(phase, 0, -1) if phase % d == 0 and count(d) >= min(wanted, ENOUGH)]
    stride = fitting[0] if fitting else 1
    # Forecasts of origins nearer than a horizon overlap and tell less: spread out while rows last.
    while stride < horizon and count(stride + (fitting[0] if fitting else 1)) >= wanted > 0:
        stride += fitting[0] if fitting else 1
    found = min(wanted, count(stride))
    return stride, found if found >= FEWEST else 0


@dataclass
class Outcome:
    """Forecasts of one series by one method: K windows it has, intervals where ``calibrated``."""

    series: Series
    numbers: np.ndarray  # (K,) of the windows
    origins: np.ndarray  # (K,) rows of the series
    yhat: np.ndarray  # (K, H, N)
    bounds: dict[float, tuple[np.ndarray, np.ndarray]]  # level -> lo, hi, each (K, H, N)
    quantiles: np.ndarray | None  # (K, H, N, Q), or None where there is no distribution
    taus: tuple[float, ...]  # (Q,)
    own_quantiles: bool  # of the model, else from the intervals
    calibrated: np.ndarray  # (K,) calibration origins used

    @property
    def truth(self) -> np.ndarray:
        """(K, H, N)."""
        H = self.yhat.shape[1]
        return self.series.values[self.origins[:, None] + np.arange(H)]


@dataclass
class Runner:
    """One method over a plan: fit, then forecast series by series.

    ``refit``: 0 never, n at every n-th window.  All fitted states are kept until the end, so with
    ``refit`` memory grows with W times the model's size.
    """

    method: Method
    label: str
    panel: Panel
    plan: Plan
    levels: tuple[float, ...]
    refit: int = 0
    seed: int = 0
    fit_seconds: float = 0.0
    predict_seconds: float = 0.0
    fits: int = 0
    notes: list[str] = field(default_factory=list)
    seen: str | None = None  # the stamp a given model was trained until, if that is in the windows

    def run(self, progress: Progress | None = None, mapper: Mapper = map) -> Iterator[Outcome]:
        """Fit here, then yield every series that has a window, forecast by way of ``mapper``."""
        progress = progress or SilentProgress()
        fitted = self._fit(progress)
        chosen = [series for series in self.panel if len(self.plan.windows(series)[0])]
        # Without the panel, which need not travel with each series.
        work = partial(_work, replace(self, panel=self.panel.with_series(())), fitted)
        with progress.task(self.label, total=len(chosen)) as task:
            for series, (outcome, seconds, seen) in zip(chosen, mapper(work, chosen)):
                self.predict_seconds += seconds
                self.seen = seen or self.seen
                yield replace(outcome, series=series)
                task.advance()

    def _fit(self, progress: Progress) -> list[tuple[int, Predictor]]:
        """(reference row it was fitted before, predictor), ascending."""
        cuts = [self.plan.held]
        if self.method.trainable and self.refit:
            cuts += [int(row) for row in self.plan.starts[:: self.refit]]
        fitted: list[tuple[int, Predictor]] = []
        for cut in dict.fromkeys(cuts):
            seen = self.plan.cut(self.panel, cut)
            if not len(seen):
                raise DataError(f"{self.panel.source}: no rows before the first window")
            with Timer() as timer:
                found = self.method.fit(
                    seen, horizon=self.plan.horizon, seed=self.seed, progress=progress
                )
            self.fit_seconds += timer.seconds
            self.fits += 1
            fitted.append((cut, found))
        return fitted

    def _one(
        self,
        fitted: list[tuple[int, Predictor]],
        series: Series,
        numbers: np.ndarray,
        origins: np.ndarray,
    ) -> Outcome:
        H, N = self.plan.horizon, series.values.shape[1]
        own = fitted[0][1].quantiles
        yhat = np.empty((len(numbers), H, N))
        heads = np.empty((len(numbers), H, N, len(own))) if own else None
        with Timer() as timer:
            for i, origin in enumerate(origins.tolist()):
                predictor = self._at(fitted, series, origin)
                # What follows the origin is not merely ignored: it is not there.
                known = series.head(origin)
                found = columns(predictor, self.panel, predictor.predict, known, [origin], H)
                yhat[i] = found[0]
                if heads is not None:
                    quantile = predictor.predict_quantiles
                    heads[i] = columns(predictor, self.panel, quantile, known, [origin], H)[0]
        self.predict_seconds += timer.seconds
        if not np.isfinite(yhat).all():
            raise DataError(
                f"{self.panel.source}: series {series.id}: {self.label} forecasts no number; the "
                "history has missing or extreme values, see check and repair them with --fill"
            )
        chosen, residuals = self._residuals(fitted, series)
        bounds, counts = self._bounds(chosen, residuals, origins, yhat)
        asked = {level: bounds[level] for level in self.levels if level in bounds}
        if heads is not None:
            return Outcome(series, numbers, origins, yhat, asked, heads, own, True, counts)
        quantiles, taus = from_bounds(yhat, bounds)
        return Outcome(series, numbers, origins, yhat, asked, quantiles, taus, False, counts)

    def _at(self, fitted: list[tuple[int, Predictor]], series: Series, origin: int) -> Predictor:
        """The state fitted last among those that saw nothing from ``origin`` on."""
        chosen = fitted[0][1]
        for cut, predictor in fitted[1:]:
            if int(self.plan.rows(series, np.array([cut]))[0]) <= origin:
                chosen = predictor
        return chosen

    def _residuals(
        self, fitted: list[tuple[int, Predictor]], series: Series
    ) -> tuple[np.ndarray, np.ndarray]:
        """Calibration origins (O,) and their residuals (O, H, N)."""
        H = self.plan.horizon
        origins = self.plan.calibration(series)
        if not self.method.trainable:  # a given model may have learnt from rows after ``held``
            first = rows_until(series, fitted[0][1].trained_until)
            origins = origins[origins >= first]
            last = self.plan.windows(series)[1][0]
            if first > last:
                self.seen = fitted[0][1].trained_until
        truth = series.values[origins[:, None] + np.arange(H)]
        residuals = np.empty_like(truth)
        users = [id(self._at(fitted, series, int(o))) for o in origins]
        for _, predictor in fitted:
            mine = np.flatnonzero(np.array(users) == id(predictor))
            if len(mine):
                rows = origins[mine].tolist()
                known = series.head(rows[-1])
                found = columns(predictor, self.panel, predictor.predict, known, rows, H)
                residuals[mine] = truth[mine] - found
        return origins, residuals

    def _bounds(
        self, chosen: np.ndarray, residuals: np.ndarray, origins: np.ndarray, yhat: np.ndarray
    ) -> tuple[dict[float, tuple[np.ndarray, np.ndarray]], np.ndarray]:
        """Bounds by level, NaN where a window has too few origins, and how many each had."""
        levels = sorted({*GRID, *self.levels}) if self.levels else []
        bounds = {
            level: (np.full_like(yhat, np.nan), np.full_like(yhat, np.nan)) for level in levels
        }
        counts = np.zeros(len(origins), np.int64)
        for i, origin in enumerate(origins):
            usable = np.flatnonzero(chosen + self.plan.horizon <= origin)[-self.plan.wanted :]
            if self.plan.wanted == 0 or len(usable) < FEWEST:
                continue
            counts[i] = len(usable)
            conformal = Conformal(residuals[usable])
            for level in levels:
                lo, hi = conformal.bounds(level)
                known = np.isfinite(lo) & np.isfinite(hi)
                bounds[level][0][i] = np.where(known, yhat[i] + lo, np.nan)
                bounds[level][1][i] = np.where(known, yhat[i] + hi, np.nan)
        return {k: v for k, v in bounds.items() if np.isfinite(v[0]).any()}, counts


def _work(
    runner: Runner, fitted: list[tuple[int, Predictor]], series: Series
) -> tuple[Outcome, float, str | None]:
    """One series' outcome, the seconds it took, and ``Runner.seen``; ``runner`` stays as it is."""
    runner = replace(runner, predict_seconds=0.0, seen=None)
    outcome = runner._one(fitted, series, *runner.plan.windows(series))
    return outcome, runner.predict_seconds, runner.seen


def columns(
    predictor: Predictor, panel: Panel, call: Any, series: Series, origins: Sequence[int], H: int
) -> np.ndarray:
    """What ``call`` gives, with the panel's targets in the panel's order.

    A trained model knows its columns by name; see ``matching.match``.
    """
    loaded = getattr(predictor, "model", None)
    spec = getattr(loaded, "spec", None)
    if spec is None:
        return np.asarray(call(series, origins, H))
    from apps.timeseries.matching import listed, match

    matched = match(panel.with_series([series]), spec.data)
    if set(matched.targets) != set(panel.targets):
        others = [name for name in panel.targets if name not in matched.targets]
        raise DataError(
            f"{panel.source}: {predictor.name} was not trained on {listed(others)}; name its targets "
            f"alone: {' '.join(f'--target {name}' for name in matched.targets)}"
        )
    found = np.asarray(call(matched.series[0], origins, H))
    order = [matched.targets.index(name) for name in panel.targets]
    return found[:, :, order]


def from_bounds(
    yhat: np.ndarray, bounds: dict[float, tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray | None, tuple[float, ...]]:
    """Quantiles (..., Q) and their levels from central intervals, the forecast as the median."""
    if not bounds:
        return None, ()
    parts = {0.5: yhat}
    for level, (lo, hi) in bounds.items():
        parts |= {round(0.5 - level / 200, 6): lo, round(0.5 + level / 200, 6): hi}
    taus = tuple(sorted(parts))
    # Signed residuals may put both bounds on one side of the forecast.
    return np.sort(np.stack([parts[tau] for tau in taus], -1), -1), taus
