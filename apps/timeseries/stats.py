"""Whether one forecaster's losses are smaller than another's by more than chance.

Letters: n losses in the order of time, d = a - b their differences, h windows that share truths
with a window, itself included (horizon / distance of the origins, rounded up; 1: none overlap).

    Diebold and Mariano, Comparing predictive accuracy, 1995: mean(d) over its standard error, the
    long-run variance of d being that of a moving average of order h - 1.
    Harvey, Leybourne and Newbold, Testing the equality of prediction mean squared errors, 1997: the
    factor sqrt((n + 1 - 2h + h (h - 1) / n) / n), and Student's t with n - 1 degrees of freedom.
    Kuensch 1989 (moving blocks), Politis and Romano 1992 (circular blocks): the bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from core.errors import UsageError

NAN = float("nan")


def diebold_mariano(
    loss_a: np.ndarray,
    loss_b: np.ndarray,
    horizon: int,
    alternative: Literal["two-sided", "less", "greater"] = "two-sided",
) -> tuple[float, float]:
    """(statistic, p) of equal expected losses of two forecasters, each (n,); ``horizon`` is h.

    Negative: a is better. "less" tests for a's losses being smaller, "greater" for larger. A pair
    with a NaN is left out. The variance is Diebold and Mariano's rectangular sum, and where that is
    not positive, Newey and West's (Bartlett weights, h - 1 lags).

    (0, 1) where all losses are equal, for nothing speaks against it ("less", "greater": p 0.5).
    (NaN, NaN), untestable: n <= h, n < 2, or differences all the same but not 0.
    """
    if horizon < 1:
        raise UsageError(f"horizon {horizon}: must be 1 or more")
    if alternative not in ("two-sided", "less", "greater"):
        raise UsageError(f"alternative '{alternative}': must be two-sided, less or greater")
    from scipy import special

    a, b = np.asarray(loss_a, dtype=float), np.asarray(loss_b, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise UsageError(f"losses of shapes {a.shape} and {b.shape}: both must be (n,), in pairs")
    d = (a - b)[np.isfinite(a) & np.isfinite(b)]
    n, h = len(d), int(horizon)
    if n <= h or n < 2:
        return NAN, NAN
    if not d.any():
        return 0.0, 1.0 if alternative == "two-sided" else 0.5
    variance = long_run_variance(d, h - 1)
    if not variance > 1e-24 * float(np.max(np.abs(d))) ** 2:  # constant but for rounding
        return NAN, NAN
    factor = (n + 1 - 2 * h + h * (h - 1) / n) / n
    statistic = float(d.mean() * np.sqrt(factor * n / variance))
    below = float(special.stdtr(n - 1, statistic))
    p = {"less": below, "greater": 1 - below, "two-sided": 2 * min(below, 1 - below)}[alternative]
    return statistic, p


def long_run_variance(values: np.ndarray, lags: int) -> float:
    """gamma_0 + 2 (gamma_1 + ... + gamma_lags) of ``values`` (n,), n times the mean's variance.

    With Bartlett weights 1 - k / (lags + 1) where the plain sum is not positive.
    """
    centred = values - values.mean()
    n = len(centred)
    lags = min(lags, n - 1)
    gamma = np.array([centred[k:] @ centred[: n - k] for k in range(lags + 1)]) / n
    plain = gamma[0] + 2 * gamma[1:].sum()
    if plain > 0:
        return float(plain)
    weights = 1 - np.arange(1, lags + 1) / (lags + 1)
    return float(gamma[0] + 2 * (weights @ gamma[1:]))


def block_bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], Any] = np.mean,
    block: int = 1,
    repeats: int = 1000,
    seed: int = 0,
    level: float = 95,
    kind: Literal["moving", "circular"] = "moving",
) -> tuple[Any, Any]:
    """Percentile interval (lo, hi) of ``statistic(values)`` at ``level`` percent.

    ``values`` (n, ...) in the order of time; whole ``block``s of successive rows are drawn, with
    replacement, until there are n. "circular" lets a block run over the end into the beginning, so
    that every row is as likely as any other. ``statistic`` takes rows (n, ...) and gives a number
    or an array; the bounds have its shape. Resamples in which it is NaN are left out.

    A block of at least h (see above) keeps overlapping windows together. NaN, no interval, with
    fewer than two blocks: every resample would be nearly the sample itself.
    """
    values = np.asarray(values)
    n = len(values)
    if block < 1 or repeats < 1 or not 0 < level < 100:
        raise UsageError(
            f"block {block}, repeats {repeats}, level {level}: the first two must be 1 or more, "
            "the level a percentage between 0 and 100"
        )
    if kind not in ("moving", "circular"):
        raise UsageError(f"bootstrap '{kind}': must be moving or circular")
    if n < max(2, 2 * block):
        nothing = np.full(np.shape(statistic(values)) if n else (), np.nan)[()]
        return nothing, nothing
    rng = np.random.default_rng(seed)
    starts = n if kind == "circular" else n - block + 1
    count = -(-n // block)
    drawn = []
    for _ in range(repeats):
        rows = rng.integers(0, starts, count)[:, None] + np.arange(block)
        drawn.append(statistic(values[rows.ravel()[:n] % n]))
    sample = np.asarray(drawn, dtype=float)
    tail = (100 - level) / 2
    known = ~np.isnan(sample).all(axis=0)
    if not known.all():
        sample = np.where(known, sample, 0.0)
    lo, hi = np.nanpercentile(sample, [tail, 100 - tail], axis=0)
    return np.where(known, lo, np.nan)[()], np.where(known, hi, np.nan)[()]


def skill(
    loss: np.ndarray,
    reference: np.ndarray,
    block: int = 1,
    repeats: int = 1000,
    seed: int = 0,
    level: float = 95,
) -> tuple[float, float, float]:
    """(skill, lo, hi): 1 - mean(loss) / mean(reference), each (n,), and its bootstrap interval.

    Both are resampled together. Above 0: better than the reference; all NaN where the reference's
    mean loss is 0.
    """
    pairs = np.stack([np.asarray(loss, dtype=float), np.asarray(reference, dtype=float)], axis=1)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]

    def score(rows: np.ndarray) -> float:
        mine, theirs = rows.mean(axis=0)
        return float(1 - mine / theirs) if theirs > 0 else NAN

    if len(pairs) == 0 or np.isnan(score(pairs)):
        return NAN, NAN, NAN
    lo, hi = block_bootstrap(pairs, score, block, repeats, seed, level, kind="circular")
    return score(pairs), float(lo), float(hi)
