"""Exponential smoothing in state-space form, its form chosen by AICc: many series at once.

Hyndman, Koehler, Ord and Snyder, Forecasting with Exponential Smoothing, 2008, chapters 2, 5 and 7.

    y_t = l_(t-1) + phi b_(t-1) + s_(t-m) + e_t         one step ahead, error e_t
    l_t = l_(t-1) + phi b_(t-1) + alpha e_t             level
    b_t = phi b_(t-1) + beta e_t                        slope; phi = 1 undamped, 0.8 .. 0.98 damped
    s_t = s_(t-m) + gamma e_t                           season of m stamps
    0 < alpha < 1,  beta = alpha beta*,  gamma = (1 - alpha) gamma*,  0 < beta*, gamma* < 1

Letters: T stamps, S series, G grid points, Q problems (a form and a series), P initial states (level,
slope, all seasons but the last, which the level can take), K smoothing parameters.

Forms are trend in {none, additive, damped} x season in {none, additive, multiplicative}, error
additive. Given the parameters, errors are linear in the initial states, which are therefore not
searched but solved for by least squares (section 5.2: the exact maximum of the likelihood given the
parameters). What remains, at most four numbers, starts from the best point of a coarse grid that
all series share and is refined by damped Gauss-Newton steps for all series and forms at once.

    AICc = T log(SSE / T) + 2k + 2k(k + 1) / (T - k - 1),  k = K + P + 1 (the variance)

Deviates from the book: a multiplicative season is the additive model of log y, with the Jacobian
2 sum(log y) in its likelihood, so that the two compare; it is tried where every y > 0 and needs a
season, with no or a damped trend (an exponential trend is no default), and forecasts the median.
Only the latest ``bounded`` stamps are fitted. Fewer than two seasons: no season is tried. Fewer
stamps than any form needs (five): the last value. Seasons above ``LONGEST`` are taken off as the
mean of the last four, and the rest is smoothed without season.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

SHORTEST = 5  # stamps; ETS(A,N,N) has k = 3, and AICc needs k + 2
LONGEST = 200  # the initial states of longer seasons cost T P^2 a step
STEPS = 12  # Gauss-Newton steps; 40 lower the AICc of AirPassengers by 0.05
CHUNK = 4_000_000  # float64 in the largest array, 32 MB
TRENDS = ("none", "additive", "damped")


@dataclass(frozen=True)
class Form:
    """One model. ``log``: of the logarithms, which makes the season multiplicative."""

    trend: str  # of TRENDS
    season: bool = False
    log: bool = False

    @property
    def searched(self) -> tuple[bool, bool, bool, bool]:
        """Which of alpha, beta*, phi, gamma* the form has."""
        return True, self.trend != "none", self.trend == "damped", self.season

    def solved(self, m: int) -> tuple[bool, ...]:
        """Which of the initial states (level, slope, m - 1 seasons) the form has."""
        return True, self.trend != "none", *[self.season] * (m - 1)

    def size(self, m: int) -> int:
        """k, with the variance."""
        return sum(self.searched) + sum(self.solved(m)) + 1

    def __str__(self) -> str:
        trend = dict(zip(TRENDS, ("N", "A", "Ad")))[self.trend]
        return f"ETS(A,{trend},{'N' if not self.season else 'M' if self.log else 'A'})"


PLAIN = tuple(Form(trend) for trend in TRENDS)
SEASONAL = tuple(Form(trend, True) for trend in TRENDS)
LOGS = tuple(Form(trend, True, True) for trend in ("none", "damped"))


@dataclass(frozen=True, eq=False)
class Fit:
    """The chosen form of each series (S,), its parameters and its state after the last stamp.

    ``theta`` (S, 4): alpha, beta, phi, gamma. ``states`` (S, 2 + m): level, slope, then the season
    of the next m stamps.
    """

    forms: list[Form]
    theta: np.ndarray
    states: np.ndarray
    aicc: np.ndarray

    def predict(self, horizon: int) -> np.ndarray:
        """(H, S): level + (phi + ... + phi^h) slope + season; exp of it for logarithms."""
        h = np.arange(1, horizon + 1)
        damping = np.cumsum(self.theta[:, 2] ** h[:, None], axis=0)
        seasons = self.states[:, 2:].T
        out = self.states[:, 0] + damping * self.states[:, 1] + seasons[(h - 1) % len(seasons)]
        logs = np.array([form.log for form in self.forms])
        return np.where(logs, np.exp(np.where(logs, np.minimum(out, 700), 0)), out)


def forecast(y: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """Forecast (H, S) of the rows after ``y`` (T, S), each column on its own.

    ``season`` in stamps, 1 for none. A column with a NaN is forecast as NaN.
    """
    y = np.asarray(y, dtype=float)
    if len(y) < 2 * season:
        season = 1
    if season > LONGEST:
        cycle = y[-season * min(4, len(y) // season) :].reshape(-1, season, y.shape[1]).mean(axis=0)
        cycle = cycle - cycle.mean(axis=0)
        rest = y - cycle[np.arange(-len(y), 0) % season]
        return forecast(rest, horizon, 1) + cycle[np.arange(horizon) % season]
    y = y[-bounded(season) :]
    out = np.repeat(y[-1:], horizon, axis=0)
    out[:, np.isnan(y).any(axis=0)] = np.nan
    # Rounding in a constant is no signal; a NaN compares false too.
    varying = np.ptp(y, axis=0) > 1e-12 * np.abs(y).max(axis=0)
    todo = np.flatnonzero(varying) if len(y) >= SHORTEST else np.empty(0, int)
    per = max(1, CHUNK // (len(y) * (season + 8) * len(SEASONAL)))
    for start in range(0, len(todo), per):
        some = todo[start : start + per]
        out[:, some] = fit(y[:, some], season).predict(horizon)
    return out


def bounded(m: int) -> int:
    """How many stamps are fitted: ten seasons, at least 200 and at most 500, yet four seasons."""
    return max(min(max(10 * m, 200), 500), 4 * m)


def fit(y: np.ndarray, m: int) -> Fit:
    """The form of least AICc for every column of ``y`` (T, S): T >= 5, none constant or NaN.

    m = 1 for no season, otherwise T >= 2 m.
    """
    s = y.shape[1]
    best = Fit([PLAIN[0]] * s, np.zeros((s, 4)), np.zeros((s, 2 + m)), np.full(s, np.inf))
    everyone = np.arange(s)
    _improve(best, y, PLAIN, 1, everyone, np.zeros(s))
    if m > 1:
        _improve(best, y, SEASONAL, m, everyone, np.zeros(s))
        positive = np.flatnonzero((y > 0).all(axis=0))
        if positive.size:
            logs = np.log(y[:, positive])
            # The density of y is that of log y divided by y.
            _improve(best, logs, LOGS, m, positive, 2 * logs.sum(axis=0))
    return best


def _improve(
    best: Fit, y: np.ndarray, forms: Sequence[Form], m: int, into: np.ndarray, extra: np.ndarray
) -> None:
    """Fit ``forms`` to each column of ``y`` (T, S) and keep in ``best[into]`` what is better.

    ``extra`` (S,) is added to the deviance.
    """
    t = len(y)
    forms = [form for form in forms if form.size(m) < t - 1]
    # The model knows no unit: shift and scale, so that tolerances mean the same to every series.
    shift, scale = y.mean(axis=0), y.std(axis=0)
    if not forms:
        return
    z = (y - shift) / scale
    theta, states, sse = _refine(z, forms, m, *_search(z, forms, m))
    # An exact fit has no likelihood: errors of 1e-9 of the spread count as exact.
    deviance = t * np.log(np.maximum(sse / t, 1e-18)) + 2 * t * np.log(scale) + extra
    for i, form in enumerate(forms):
        k = form.size(m)
        aicc = deviance[i] + 2 * k + 2 * k * (k + 1) / (t - k - 1)
        better = np.flatnonzero(aicc < best.aicc[into] - 1e-9)
        to = into[better]
        best.aicc[to], best.theta[to] = aicc[better], theta[i, better]
        best.states[to] = 0
        best.states[to, : 2 + m if m > 1 else 2] = (
            states[i, better, : 2 + m if m > 1 else 2] * scale[better, None]
        )
        best.states[to, 0] += shift[better]
        for column in to:
            best.forms[column] = form


def _natural(u: np.ndarray, searched: np.ndarray) -> np.ndarray:
    """alpha, beta, phi, gamma (..., 4) from unbounded numbers ``u`` (..., 4)."""
    unit = 0.0005 + 0.999 / (1 + np.exp(-u))
    alpha = unit[..., 0]
    out = np.empty(np.broadcast_shapes(u.shape, searched.shape))
    out[..., 0] = alpha
    out[..., 1] = np.where(searched[..., 1], alpha * unit[..., 1], 0)
    out[..., 2] = np.where(searched[..., 2], 0.8 + 0.18 * unit[..., 2], 1)
    out[..., 3] = np.where(searched[..., 3], (1 - alpha) * unit[..., 3], 0)
    return out


def _grid(forms: Sequence[Form]) -> tuple[np.ndarray, np.ndarray]:
    """Points (G, 4) in the unbounded numbers, and the form (G,) that each belongs to."""
    values = ((0.03, 0.15, 0.4, 0.7, 0.95), (0.03, 0.3), (0.8,), (0.03, 0.3, 0.8))
    points, owner = [], []
    for i, form in enumerate(forms):
        axes = [v if has else (0.5,) for v, has in zip(values, form.searched)]
        cells = list(product(*axes))
        points += cells
        owner += [i] * len(cells)
    unit = np.array(points)
    return np.log(unit / (1 - unit)), np.array(owner)


def _search(y: np.ndarray, forms: Sequence[Form], m: int) -> tuple[np.ndarray, np.ndarray]:
    """Best grid point (F, S, 4) and its initial states (F, S, P) for every form and column.

    The response to the initial states depends on the parameters only: series share it.
    """
    t, s = y.shape
    points, owner = _grid(forms)
    has = np.array([form.solved(m) for form in forms])[owner]  # (G, P)
    theta = _natural(points, np.array([form.searched for form in forms])[owner])
    g, p = has.shape
    u, x = np.empty((len(forms), s, 4)), np.empty((len(forms), s, p))
    per = max(1, CHUNK // (t * g) - p)
    for start in range(0, s, per):
        some = y[:, None, start : start + per]  # (T, 1, S)
        n = some.shape[-1]
        initial = np.concatenate([np.zeros((g, n, p)), _units(has)], axis=1)
        e = _errors(some, theta[:, None], initial, m)[0]  # (G, T, S + P)
        found = _solve(e[..., n:], e[..., :n], has)  # (G, P, S)
        sse = np.square(e[..., :n] + e[..., n:] @ found).sum(axis=1)  # (G, S)
        for i in range(len(forms)):
            mine = np.flatnonzero(owner == i)
            least = mine[np.argmin(sse[mine], axis=0)]
            u[i, start : start + n] = points[least]
            x[i, start : start + n] = found[least, :, np.arange(n)]
    return u, x


def _refine(
    y: np.ndarray, forms: Sequence[Form], m: int, u: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levenberg-Marquardt from ``u`` (F, S, 4) and ``x`` (F, S, P), all problems side by side.

    Returns theta (F, S, 4), final states (F, S, 2 + m) and SSE (F, S). Variable projection in
    Kaufman's form: the derivative of the errors by the parameters, less what the initial states
    explain of it. Columns of one pass: y from 0 | y from x | y from x with a parameter moved, four
    times | 0 from each unit state.
    """
    f, s = len(forms), y.shape[1]
    searched = np.repeat([form.searched for form in forms], s, axis=0)  # (Q, 4)
    has = np.repeat([form.solved(m) for form in forms], s, axis=0)  # (Q, P)
    u, x = u.reshape(f * s, 4), x.reshape(f * s, -1)
    series = np.tile(y, (1, f))[:, :, None]  # (T, Q, 1)
    moved, move = 1e-4 * np.eye(4), np.full(f * s, 1e-2)
    best_u, best_x, best = u, x, np.full(f * s, np.inf)
    normal, slope = np.zeros((f * s, 4, 4)), np.zeros((f * s, 4))
    for _ in range(STEPS):
        theta = np.concatenate(
            [
                np.repeat(_natural(u, searched)[:, None], 2, axis=1),
                _natural(u[:, None] + moved, searched[:, None]),
                np.repeat(_natural(u, searched)[:, None], has.shape[1], axis=1),
            ],
            axis=1,
        )  # (Q, C, 4)
        initial = np.concatenate(
            [np.zeros_like(x)[:, None], np.repeat(x[:, None], 5, axis=1), _units(has)], axis=1
        )
        e = _errors(series, theta, initial, m, with_y=6)[0]  # (Q, T, C)
        response = e[..., 6:]
        # Both at once: what the states leave of the errors, and of the derivatives.
        targets = np.concatenate([e[..., :1], (e[..., 2:6] - e[..., 1:2]) / 1e-4], axis=-1)
        solved = _solve(response, targets, has)
        left = targets + response @ solved
        sse = np.square(left[..., 0]).sum(axis=1)
        better = sse < best
        best = np.where(better, sse, best)
        best_u = np.where(better[:, None], u, best_u)
        best_x = np.where(better[:, None], solved[..., 0], best_x)
        gram = left.swapaxes(1, 2) @ left  # (Q, 5, 5)
        normal = np.where(better[:, None, None], gram[:, 1:, 1:], normal)
        slope = np.where(better[:, None], gram[:, 1:, 0], slope)
        move = np.clip(np.where(better, move / 5, move * 8), 1e-8, 1e8)
        damped = normal.copy()
        diagonal = np.einsum("qii->qi", damped)
        # Floored, for at its bounds a parameter has no slope, and the step would be rounding.
        diagonal += move[:, None] * diagonal + 1e-4 * diagonal.max(axis=1, keepdims=True) + 1e-30
        step = -np.linalg.solve(damped, slope[..., None])[..., 0]
        u = np.clip(best_u + np.clip(step, -2, 2) * searched, -9, 9)
        x = best_x
    final = _errors(series, _natural(best_u, searched)[:, None], best_x[:, None], m)[1]
    states = final[:, 0].reshape(f, s, -1)
    return _natural(best_u, searched).reshape(f, s, 4), states, best.reshape(f, s)


def _units(has: np.ndarray) -> np.ndarray:
    """Unit initial states (Q, P, P) of those that a problem has, zeros for the others."""
    return np.eye(has.shape[1]) * has[:, None, :]


def _solve(response: np.ndarray, target: np.ndarray, has: np.ndarray) -> np.ndarray:
    """x (Q, P, R) that minimises the squares of target (Q, T, R) + response (Q, T, P) x."""
    across = response.swapaxes(1, 2)
    gram = across @ response
    diagonal = np.einsum("qii->qi", gram)
    # A state that is absent has a column of zeros; one forgotten within rounding nearly has.
    diagonal += np.where(has, 1e-10 * (1 + diagonal), 1.0)
    return -np.linalg.solve(gram, across @ target)


def _errors(
    y: np.ndarray, theta: np.ndarray, initial: np.ndarray, m: int, with_y: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One-step errors (Q, T, C) and final states (Q, C, 2 + m) of Q x C filters at once.

    ``y`` (T, Q or 1, columns or 1) goes to the first ``with_y`` columns (default: as many as it
    has), zero to the others. ``theta`` (Q, C or 1, 4); ``initial`` (Q, C, P).
    """
    t = len(y)
    q, c, _ = initial.shape
    with_y = y.shape[-1] if with_y is None else with_y
    # The slope is worth T stamps, so that the initial states are of one size.
    level, slope = initial[..., 0].copy(), initial[..., 1] / t
    season = np.zeros((m, q, c))
    season[: m - 1] = np.moveaxis(initial[..., 2:], -1, 0)
    alpha, beta, phi, gamma = (np.broadcast_to(theta[..., i], (q, c)).copy() for i in range(4))
    e, buffer, damped = np.empty((t, q, c)), np.empty((q, c)), np.empty((q, c))
    for i in range(t):
        here = e[i]
        np.multiply(phi, slope, out=damped)
        level += damped
        np.negative(level, out=here)
        if m > 1:
            here -= season[i % m]
        here[:, :with_y] += y[i]
        np.multiply(alpha, here, out=buffer)
        level += buffer
        np.multiply(beta, here, out=buffer)
        np.add(damped, buffer, out=slope)
        if m > 1:
            np.multiply(gamma, here, out=buffer)
            season[i % m] += buffer
    turned = np.moveaxis(np.roll(season, -(t % m), axis=0), 0, -1)
    states = np.concatenate([level[..., None], slope[..., None], turned], axis=-1)
    return np.ascontiguousarray(e.transpose(1, 0, 2)), states
