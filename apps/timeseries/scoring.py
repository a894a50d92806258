"""What a backtest measures: errors by window, step and series, intervals, and who beats whom.

Letters: W windows, H steps ahead, N targets, K windows that a series has.

Errors are in the data's units and scaled by each series' deviation over the training rows.  Models
are told apart by their scaled loss in each window, a mean over all series, targets and steps: W
numbers in the order of time.  Windows that share rows are dependent, and both the test and the
bootstrap count them as such; nothing smaller than a window is taken for independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apps.timeseries import catalog, metrics, stats
from apps.timeseries.data.windows import Scaling
from apps.timeseries.rolling import Outcome

REPEATS = 2000
ALPHA = 0.05
REFERENCE = catalog.REFERENCE
FEW = 10
"""Windows below which a report says that more of them would tell more."""

RULES = {
    "mse, mae, rmse, smape": "over all windows, steps and series, in the data's units (smape: percent, "
    "0 to 200, a pair of zeros counts 0); a missing truth is left out",
    "_scaled": "the same of values divided by each series' standard deviation over the training rows "
    "(1 for a constant series), so that no series outweighs another by its unit",
    "mase": "absolute error over the mean absolute seasonal difference of the training rows; series "
    "without one are left out",
    "crps": "twice the mean pinball loss over the quantiles named under crps_quantiles, each standing "
    "for the levels nearest to it; from the model's own quantiles where it has some, else from its "
    "intervals",
    "coverage": "pointwise: the share of single values inside, 0 to 1; width_scaled in deviations",
    "skill": "1 - loss / loss of seasonal naive, of the mean over windows; interval by block "
    "bootstrap over windows, widened for their number (Hesterberg 2015, expanded percentile)",
    "p": "Diebold-Mariano, two-sided, with the correction of Harvey et al. (1997), of losses per "
    "window; not corrected for the number of models",
    "beats": "p < 0.05 and a skill interval above 0",
}


@dataclass
class Tally:
    """Sums over everything one model forecast; memory does not grow with windows times series."""

    windows: int
    horizon: int
    levels: tuple[float, ...]
    sums: dict[str, np.ndarray] = field(default_factory=dict)  # metric -> (2, W, H) sum and count
    series: dict[str, dict[str, float]] = field(default_factory=dict)  # unique_id -> metric -> mean
    taus: tuple[float, ...] = ()
    own_quantiles: bool = False
    origins: list[int] = field(default_factory=list)  # fewest and most calibration origins
    uncovered: list[str] = field(default_factory=list)  # series without intervals in some window

    def add(self, names: Sequence[str], outcome: Outcome, rows: int, season: int) -> None:
        """One series: ``names`` of its N targets, the first ``rows`` rows set its scales."""
        history = outcome.series.values[:rows]
        scale = Scaling.of(history).std  # (N,)
        base = metrics.mase_scale(history, season)
        truth, yhat = outcome.truth, outcome.yhat
        error = np.abs(truth - yhat)
        parts = {
            "mse": error**2,
            "mae": error,
            "smape": metrics.smape(truth, yhat, axis=()),
            "mse_scaled": (error / scale) ** 2,
            "mae_scaled": error / scale,
            "mase": error / base,
        }
        if outcome.quantiles is not None:
            crps = metrics.crps_from_quantiles(truth, outcome.quantiles, outcome.taus, axis=())
            parts |= {"crps": crps, "crps_scaled": crps / scale}
            self.taus, self.own_quantiles = outcome.taus, outcome.own_quantiles
        for level, (lo, hi) in outcome.bounds.items():
            parts |= {
                f"coverage-{level:g}": metrics.coverage(truth, lo, hi, axis=()),
                f"width-{level:g}": hi - lo,
                f"width_scaled-{level:g}": (hi - lo) / scale,
            }
        for name, values in parts.items():
            total = self.sums.setdefault(name, np.zeros((2, self.windows, self.horizon)))
            known = ~np.isnan(values)
            total[0, outcome.numbers] += np.where(known, values, 0.0).sum(2)
            total[1, outcome.numbers] += known.sum(2)
        self._by_series(names, parts, len(outcome.numbers))
        if self.levels:
            counts = outcome.calibrated
            self.origins = [min([*self.origins[:1], *counts]), max([*self.origins[1:], *counts])]
            if len(outcome.bounds) < len(self.levels) or (counts == 0).any():
                self.uncovered += names

    def _by_series(
        self, names: Sequence[str], parts: Mapping[str, np.ndarray], windows: int
    ) -> None:
        means = {name: metrics.nanmean(values, (0, 1)) for name, values in parts.items()}
        for n, name in enumerate(names):
            row = {key: float(value[n]) for key, value in means.items()}
            self.series[name] = {"windows": windows, "rmse": row["mse"] ** 0.5, **row}

    def mean(self, metric: str, axis: int | tuple[int, int] = (0, 1)) -> Any:
        """Over windows and steps (axis 0 and 1 of (W, H)), NaN where nothing was measured."""
        total, count = self.sums[metric].sum(axis=tuple(a + 1 for a in np.atleast_1d(axis)))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)[()]

    def losses(self, loss: str) -> np.ndarray:
        """Scaled loss in each window, (W,)."""
        return np.asarray(self.mean(f"{loss}_scaled", 1))

    def report(self) -> dict[str, Any]:
        """For a machine: means, and the same by step, window and series."""
        overall = {name: float(self.mean(name)) for name in self.sums}
        overall["rmse"] = overall["mse"] ** 0.5
        plain = {k: v for k, v in overall.items() if "-" not in k}
        return plain | {
            "intervals": self._intervals(overall),
            "crps_quantiles": list(self.taus),
            "crps_from": ("model" if self.own_quantiles else "intervals") if self.taus else None,
            "per_horizon": {name: self.mean(name, 0).tolist() for name in self.sums},
            "per_window": {name: self.mean(name, 1).tolist() for name in self.sums},
            "per_series": self.series,
        }

    def _intervals(self, overall: Mapping[str, float]) -> dict[str, Any]:
        found = {}
        for level in self.levels:
            if f"coverage-{level:g}" in overall:
                found[f"{level:g}"] = {
                    "kind": "pointwise",
                    "nominal": level / 100,
                    "coverage": overall[f"coverage-{level:g}"],
                    "width": overall[f"width-{level:g}"],
                    "width_scaled": overall[f"width_scaled-{level:g}"],
                    "calibration_origins": self.origins,
                    "series_without": len(self.uncovered),
                }
        return found


def overlap(horizon: int, step: int) -> int:
    """Windows that share rows with a window, itself included: 1 where they do not overlap."""
    return -(-horizon // step)


def skill(
    loss: np.ndarray, reference: np.ndarray, shared: int, seed: int, level: float = 95
) -> dict[str, Any]:
    """1 - loss / reference, both (W,), with an interval; {"skill", "interval", "p", "windows"}.

    ``shared`` is ``overlap``. Undefined (None) where the reference is perfect; no interval and no
    p with fewer than three windows that share no rows, nor where both losses are the same.
    """
    known = np.isfinite(loss) & np.isfinite(reference)
    loss, reference = loss[known], reference[known]
    W = len(loss)
    result: dict[str, Any] = {"skill": None, "interval": None, "p": None, "windows": W}
    if W == 0 or reference.mean() <= 0:
        return result
    result["skill"] = float(1 - loss.mean() / reference.mean())
    if W // shared < 3 or np.array_equal(loss, reference):
        return result
    block = min(shared, W)
    _, low, high = stats.skill(loss, reference, block, REPEATS, seed, _expanded(level, W / shared))
    p = float(stats.diebold_mariano(loss, reference, min(shared, W - 1))[1])
    interval = [float(low), float(high)]
    result["interval"] = interval if np.isfinite(interval).all() else None
    result["p"] = p if np.isfinite(p) else None
    return result


def _expanded(level: float, n: float) -> float:
    """The level whose percentile interval of ``n`` independent values covers ``level`` per cent.

    Percentiles of a bootstrap are too narrow by sqrt((n - 1) / n) and by the normal's place for
    Student's (Hesterberg 2015, section 4.2): of 5 values at 95 %, the 99.8 % interval is taken.
    """
    from scipy.special import ndtr, stdtrit

    t = stdtrit(max(n - 1, 1), 0.5 + level / 200)
    return float(100 * (2 * ndtr(np.sqrt(n / max(n - 1, 1)) * t) - 1))


def verdict_of(name: str, found: Mapping[str, Any], reference: str = REFERENCE) -> str:
    """One sentence: who is better, by how much, how sure; and ``outcome`` in a word."""
    other = reference.replace("-", " ")
    kind = outcome_of(found)
    if kind == "undefined":
        return f"{name}: no skill to state, {other} makes no error here"
    size = f"skill {percent(found['skill'])} %"
    if found["p"] is None:
        if found["skill"] == 0:
            return f"{name} makes the same errors as {other}"
        return f"{name} against {other}: {size}; {found['windows']} windows are too few to test it"
    word = {"beats": f"beats {other}", "worse": f"is worse than {other}"}
    return figures(f"{name} {word.get(kind, f'cannot be told apart from {other}')}", found)


def figures(name: str, found: Mapping[str, Any]) -> str:
    """``name: skill 21 % [15, 27], p < 0.001``, what ``skill`` found where it tested."""
    low, high = found["interval"] if found["interval"] else (float("nan"),) * 2
    size = f"skill {percent(found['skill'])} %"
    return f"{name}: {size} [{percent(low)}, {percent(high)}], {p_text(found['p'])}"


def outcome_of(found: Mapping[str, Any]) -> str:
    """ "beats", "worse", "undecided", "untested" or "undefined"."""
    if found["skill"] is None:
        return "undefined"
    if found["p"] is None or found["interval"] is None:
        return "untested"
    if found["p"] < ALPHA and found["interval"][0] > 0:
        return "beats"
    if found["p"] < ALPHA and found["interval"][1] < 0:
        return "worse"
    return "undecided"


def percent(share: float) -> str:
    """0.214 -> 21, -0.0004 -> 0, 0.004 -> 0.4: digits that mean something, no minus zero."""
    value = 100 * share
    text = f"{value:.0f}" if abs(value) >= 1 else f"{value:.1f}"
    return "0" if float(text) == 0 else text


def p_text(p: float) -> str:
    """``p < 0.001``, ``p = 0.03``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number (Holm 1979): reject those below alpha. None stays None."""
    order = sorted((p, i) for i, p in enumerate(values) if p is not None)
    out: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        out[i] = largest
    return out
