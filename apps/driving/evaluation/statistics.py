"""Means over routes and seeds with intervals, and the difference of two drivers on the same routes.

A route is driven once for each seed, so two results of one route are not independent of each other,
nor are two results of one seed (which decides the traffic). Intervals therefore come from resampling
whole routes and whole seeds, independently of each other: the pigeonhole bootstrap, Owen 2007 (The
pigeonhole bootstrap, Annals of Applied Statistics 1), whose variance is never too small in the limit.
With one seed that is the ordinary bootstrap over routes.

Percentiles of a bootstrap of few units are too narrow, by sqrt((n - 1) / n) and by the normal's place
for Student's t. The percentiles are taken further out to make up for it (Hesterberg 2015, What
teachers should know about the bootstrap, the expanded percentile interval), by the number of routes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from apps.driving.evaluation.scores import KINDS

RESAMPLES = 4000
SCORES = (
    "driving_score_2_1",
    "driving_score_2_1_min_speed",
    "driving_score_2_0",
    "driving_score_1_0",
    "route_completion",
)
CRASHED = "failed: simulation crashed"


def table(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """(routes, seeds) values of ``key``, NaN where a route was not driven with a seed."""
    routes = sorted({(str(row["town"]), str(row["route"])) for row in rows})
    seeds = sorted({int(row["seed"]) for row in rows})
    values = np.full((len(routes), len(seeds)), np.nan)
    for row in rows:
        at = routes.index((str(row["town"]), str(row["route"]))), seeds.index(int(row["seed"]))
        values[at] = row[key]
    return values


def interval(
    values: np.ndarray, *, level: float = 95.0, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Interval (low, high) of the mean of ``values`` (routes, seeds), NaN where there is none.

    None where there is one value only, of which nothing can be said.
    """
    values = np.atleast_2d(np.asarray(values, float))
    known = ~np.isnan(values)
    if known.sum() < 2:
        return None
    rng = np.random.default_rng([seed, 101])
    routes, seeds = values.shape
    weight = rng.multinomial(routes, np.full(routes, 1 / routes), resamples).astype(float)
    other = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples).astype(float)
    sums = np.einsum("br,rs,bs->b", weight, np.where(known, values, 0.0), other)
    counts = np.einsum("br,rs,bs->b", weight, known.astype(float), other)
    means = sums[counts > 0] / counts[counts > 0]
    units = routes if routes > 1 else seeds
    low, high = np.percentile(means, _places(level, units))
    return float(low), float(high)


def estimate(rows: Sequence[Mapping[str, Any]], key: str, *, seed: int = 0) -> dict[str, Any]:
    """``mean`` and 95 % ``interval`` of ``key`` over the rows."""
    values = table(rows, key)
    found = interval(values, seed=seed)
    return {"mean": float(np.nanmean(values)), "interval": None if found is None else list(found)}


def difference(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], key: str, *, seed: int = 0
) -> dict[str, Any]:
    """``mean`` and 95 % ``interval`` of a - b on the routes and seeds that both have driven."""
    theirs = {(r["town"], r["route"], r["seed"]): r[key] for r in b}
    rows = [
        {**row, key: row[key] - theirs[row["town"], row["route"], row["seed"]]}
        for row in a
        if (row["town"], row["route"], row["seed"]) in theirs
    ]
    if not rows:
        return {"mean": None, "interval": None, "pairs": 0}
    return estimate(rows, key, seed=seed) | {"pairs": len(rows)}


def summarise(rows: Sequence[Mapping[str, Any]], *, seed: int = 0) -> dict[str, Any]:
    """What one driver's results come to: scores, infractions, statuses.

    ``rows`` are ``RouteResult.as_dict()``. Each score is a plain mean over all rows, as in the
    Leaderboard, and has its interval in ``intervals``; a route that the simulator did not live
    through counts with 0 and is among ``simulation_crashed``.
    """
    driven = sum(row["length_m"] * row["route_completion"] / 100 for row in rows) / 1000
    counts = {kind: sum(len(row["infractions"][kind]) for row in rows) for kind in KINDS}
    scores = {key: estimate(rows, key, seed=seed) for key in SCORES}
    outside = sum(
        found["percentage"] / 100 * row["length_m"] * row["route_completion"] / 100 / 1000
        for row in rows
        for found in row["infractions"]["outside_route_lanes"]
    )
    return {
        **{key: round(found["mean"], 3) for key, found in scores.items()},
        "intervals": {key: _rounded(found["interval"]) for key, found in scores.items()},
        "routes_driven": len(rows),
        "success_rate": round(_share(rows, lambda row: row["route_completion"] >= 100), 3),
        "perfect_rate": round(_share(rows, lambda row: row["status"] == "perfect"), 3),
        "simulation_crashed": sum(row["status"] == CRASHED for row in rows),
        "infractions": counts,
        "infractions_per_km": {
            kind: round(count / max(driven, 1e-3), 3)
            for kind, count in counts.items()
            if kind != "outside_route_lanes"
        },
        "outside_route_lanes_km": round(outside, 4),
        "driven_km": round(driven, 3),
        "statuses": dict(Counter(str(row["status"]) for row in rows).most_common()),
        "interventions": _total(rows, "interventions"),
        "decision_ms": round(_mean([row["decision_ms"].get("mean") for row in rows]), 3),
    }


def _places(level: float, units: int) -> tuple[float, float]:
    """Percentiles that give a mean of ``units`` values the cover of Student's interval."""
    from scipy import special

    tail = (100 - level) / 200
    t = special.stdtrit(units - 1, 1 - tail)
    reach = float(special.ndtr(-np.sqrt(units / (units - 1)) * t))
    return 100 * reach, 100 * (1 - reach)


def _share(rows: Sequence[Mapping[str, Any]], holds: Callable[[Mapping[str, Any]], bool]) -> float:
    return sum(map(holds, rows)) / max(len(rows), 1)


def _total(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for row in rows:
        found.update(row[key])
    return dict(sorted(found.items()))


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def _rounded(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [round(value, 3) for value in values]
