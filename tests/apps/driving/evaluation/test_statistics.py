"""Means and their intervals, against Student's and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from apps.driving.evaluation.scores import KINDS
from apps.driving.evaluation.statistics import (
    CRASHED,
    difference,
    estimate,
    interval,
    summarise,
    table,
)


def row(route: str, seed: int, score: float, **other) -> dict:
    found = {
        "town": "Town01",
        "route": route,
        "seed": seed,
        "status": "perfect",
        "driving_score_2_1": score,
        "driving_score_2_1_min_speed": score,
        "driving_score_2_0": score,
        "driving_score_1_0": score,
        "route_completion": 100.0,
        "length_m": 500.0,
        "interventions": {},
        "decision_ms": {"mean": 2.0},
        "infractions": {kind: [] for kind in KINDS},
    }
    return found | other


def test_a_table_has_routes_as_rows_seeds_as_columns_and_knows_what_is_missing():
    values = table([row("b", 1, 4.0), row("a", 0, 1.0), row("b", 0, 3.0)], "driving_score_1_0")
    np.testing.assert_array_equal(values, [[1.0, np.nan], [3.0, 4.0]])


def test_with_one_seed_it_is_near_students_interval():
    values = np.random.default_rng(0).normal(50, 10, 12)
    low, high = interval(values[:, None])
    wanted = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert low == pytest.approx(wanted[0], abs=1.5)
    assert high == pytest.approx(wanted[1], abs=1.5)


def test_it_covers_the_truth_about_as_often_as_it_says_where_routes_and_seeds_both_vary():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        values = rng.normal(0, 3, (12, 1)) + rng.normal(0, 1, (1, 3)) + rng.normal(0, 2, (12, 3))
        low, high = interval(values, resamples=400)
        covered += low <= 0 <= high
    assert 0.9 <= covered / 200 <= 1.0


def test_seeds_that_repeat_each_other_make_it_no_narrower():
    values = np.random.default_rng(2).normal(50, 10, (10, 1))
    one = interval(values)
    three = interval(np.repeat(values, 3, axis=1))
    assert three[1] - three[0] == pytest.approx(one[1] - one[0], rel=0.06)


def test_one_value_has_no_interval_and_equal_values_have_a_point():
    assert interval(np.array([[3.0]])) is None
    assert interval(np.array([[3.0], [np.nan]])) is None
    assert interval(np.full((5, 2), 7.0)) == (7.0, 7.0)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(3).normal(size=(6, 3))
    assert interval(values, seed=4) == interval(values, seed=4) != interval(values, seed=5)


def test_a_difference_is_taken_on_the_same_routes_and_seeds():
    a = [row(name, seed, 10.0 * i + seed + 5) for i, name in enumerate("abcd") for seed in (0, 1)]
    b = [row(name, seed, 10.0 * i + seed) for i, name in enumerate("abcd") for seed in (0, 1, 2)]
    found = difference(a, b, "driving_score_2_1")
    assert found == {"mean": 5.0, "interval": [5.0, 5.0], "pairs": 8}
    assert difference(a, [row("z", 0, 1.0)], "driving_score_2_1")["pairs"] == 0


def test_a_summary_counts_and_averages_by_hand():
    light = {kind: [] for kind in KINDS} | {"red_light": [{"time": 1.0}]}
    beside = {kind: [] for kind in KINDS} | {"outside_route_lanes": [{"percentage": 10.0}]}
    rows = [
        row("a", 0, 100.0),
        row("b", 0, 71.4, status="completed", infractions=light, interventions={"brake": 2}),
        row("c", 0, 45.0, status="failed: blocked", route_completion=50.0, infractions=beside),
        row("d", 0, 0.0, status=CRASHED, route_completion=0.0, decision_ms={}),
    ]
    found = summarise(rows)
    assert found["driving_score_2_1"] == pytest.approx((100 + 71.4 + 45) / 4)
    assert found["route_completion"] == pytest.approx(62.5)
    assert found["driven_km"] == pytest.approx(1.25)
    assert found["infractions"]["red_light"] == 1
    assert found["infractions_per_km"]["red_light"] == pytest.approx(0.8)
    assert found["outside_route_lanes_km"] == pytest.approx(0.025)
    assert found["success_rate"] == 0.5
    assert found["perfect_rate"] == 0.25
    assert found["simulation_crashed"] == 1
    assert found["interventions"] == {"brake": 2}
    assert found["decision_ms"] == 2.0
    low, high = found["intervals"]["driving_score_2_1"]
    assert low < found["driving_score_2_1"] < high


def test_an_estimate_leaves_missing_values_out():
    found = estimate([row("a", 0, 1.0), row("a", 1, 2.0), row("b", 0, 6.0)], "driving_score_1_0")
    assert found["mean"] == pytest.approx(3.0)
    assert not math.isnan(found["interval"][0])
