"""The formulas of the Leaderboard against sums done by hand."""

from __future__ import annotations

import itertools

import pytest

from apps.driving.evaluation.scores import (
    COEFFICIENTS_2_1,
    FACTORS_2_0,
    KINDS,
    Infraction,
    driving_score_1_0,
    driving_score_2_0,
    driving_score_2_1,
    penalty_1_0,
    penalty_2_0,
    penalty_2_1,
    score_route,
)

FORMULAS = {"1.0": penalty_1_0, "2.0": penalty_2_0, "2.1": penalty_2_1}


def made(*kinds: str | tuple[str, float]) -> list[Infraction]:
    """Infractions of these kinds, those with a percentage as (kind, percentage)."""
    pairs = [(kind, None) if isinstance(kind, str) else kind for kind in kinds]
    return [Infraction(kind, 1.0, (0.0, 0.0), "", share) for kind, share in pairs]


@pytest.mark.parametrize(
    ("completion", "infractions", "by_1_0", "by_2_0", "by_2_1"),
    [
        (100, [], 100, 100, 100),
        (73.5, [], 73.5, 73.5, 73.5),
        (100, ["collisions_pedestrian"], 50, 50, 50),
        (100, ["collisions_vehicle"], 60, 60, 100 / 1.7),
        (100, ["collisions_layout"], 65, 65, 62.5),
        (100, ["red_light"], 70, 70, 100 / 1.4),
        (100, ["stop_infraction"], 80, 80, 80),
        # 80 * 0.6 * 0.7 * 0.9 = 30.24; 80 * 0.9 / (1 + 0.7 + 0.4) = 34.2857
        (80, ["collisions_vehicle", "red_light", ("outside_route_lanes", 10.0)], 30.24, 30.24, 72 / 2.1),
        # three of a kind: 0.7^3 = 0.343; 1 / (1 + 1.2)
        (100, ["red_light"] * 3, 34.3, 34.3, 100 / 2.2),
        # half the traffic's speed, twice: (1 - 0.3 * 0.5)^2; 1 / (1 + 2 * 0.4 * 0.5); 1.0 has none
        (100, [("min_speed_infractions", 50.0)] * 2, 100, 72.25, 100 / 1.4),
        (100, ["scenario_timeouts"], 100, 70, 100 / 1.4),
        (100, ["yield_emergency_vehicle_infractions"], 100, 70, 100 / 1.4),
        # what ends a route costs its remainder and nothing else
        (40, ["route_dev", "vehicle_blocked", "route_timeout"], 40, 40, 40),
        (50, [("outside_route_lanes", 100.0)], 0, 0, 0),
    ],
)  # fmt: skip
def test_scores_by_hand(completion, infractions, by_1_0, by_2_0, by_2_1):
    found = made(*infractions)
    assert driving_score_1_0(completion, found) == pytest.approx(by_1_0)
    assert driving_score_2_0(completion, found) == pytest.approx(by_2_0)
    assert driving_score_2_1(completion, found) == pytest.approx(by_2_1)


@pytest.mark.parametrize("formula", FORMULAS)
def test_one_more_infraction_never_helps_and_their_order_does_not_matter(formula):
    penalty = FORMULAS[formula]
    kinds = [*FACTORS_2_0, ("min_speed_infractions", 40.0), ("outside_route_lanes", 7.0)]
    for a, b, c in itertools.product(kinds, repeat=3):
        whole = penalty(made(a, b, c))
        assert 0 < whole <= penalty(made(a, b)) <= 1
        assert whole == pytest.approx(penalty(made(c, a, b)))


def test_every_kind_of_the_formulas_is_a_kind_of_the_reports():
    assert FACTORS_2_0.keys() <= set(KINDS)
    assert FACTORS_2_0.keys() == COEFFICIENTS_2_1.keys()


def test_a_percentage_beyond_its_range_is_held_to_it():
    assert penalty_1_0(made(("outside_route_lanes", 130.0))) == 0
    assert penalty_2_1(made(("min_speed_infractions", 130.0))) == 1


def test_all_scores_of_a_route_come_from_one_pass_of_an_iterator():
    found = score_route(80, iter(made("red_light")))
    assert found["driving_score_1_0"] == pytest.approx(56)
    assert found["driving_score_2_1"] == pytest.approx(80 / 1.4)
    assert found["route_completion"] == 80
    assert found["penalty_2_1"] == pytest.approx(1 / 1.4)
