"""Keeping distance, stopping, and seeing who is on the way."""

from __future__ import annotations

import math

import pytest

from apps.driving.agents.expert.following import (
    HARDEST,
    JAM,
    follow,
    free,
    halt,
    leaders,
    most,
    walkers,
)

HALF = 1.0


@pytest.mark.parametrize("speed", [2.0, 8.0, 14.0, 25.0])
@pytest.mark.parametrize("dt", [0.05, 0.1])
def test_halt_stands_at_the_place_and_not_after_it(speed: float, dt: float) -> None:
    distance, least = 80.0 + speed, 0.0
    for _ in range(round(60 / dt)):
        wanted = halt(speed, distance)
        least = min(least, wanted)
        speed = max(speed + dt * wanted, 0.0)
        distance -= dt * speed
    assert speed == 0.0
    assert -0.1 < distance < 1.0
    assert least > -3.5  # it had room to brake evenly


def test_halt_where_there_is_no_room() -> None:
    assert halt(10.0, 1.0) == -HARDEST


def test_free_driving_is_bounded() -> None:
    assert 0 < free(0.0, 10.0) <= 3.0
    assert free(10.0, 10.0) == 0.0
    assert -3.0 <= free(20.0, 1.0) < 0.0


@pytest.mark.parametrize("dt", [0.05, 0.1])
def test_following_one_who_brakes_hard(dt: float) -> None:
    """At 14 m/s behind one who stops with 6 m/s^2: no touch, and a gap of about s0 at the end."""
    gap, mine, theirs = 22.0, 14.0, 14.0
    for _ in range(round(25 / dt)):
        wanted = follow(mine, gap, theirs)
        theirs = max(theirs - 6.0 * dt, 0.0)
        mine = max(mine + dt * wanted, 0.0)
        gap += dt * (theirs - mine)
        assert gap > 0.5
    assert mine < 0.1
    assert gap == pytest.approx(JAM, abs=1.0)


def seen(straight, others, speed: float = 8.0) -> dict[int, float]:
    straight.locate(straight.xy[20])
    return {one.id: round(one.gap, 2) for one in leaders(straight, others, speed, 22.4, HALF)}


def test_a_leader(straight, bodies) -> None:
    assert seen(straight, bodies((40.0, 0.0, 0.0, 5.0))) == {1: 15.2}


def test_who_is_no_leader(straight, bodies) -> None:
    others = bodies(
        (40.0, 3.5, 0.0, 5.0),  # the next lane
        (40.0, -3.5, 180.0, 8.0),  # oncoming
        (10.0, 0.0, 0.0, 8.0),  # behind
        (190.0, 0.0, 0.0, 0.0),  # far
    )
    assert seen(straight, others) == {}
    assert seen(straight, bodies()) == {}


def test_one_across_the_way_blocks_it_with_its_width(straight, bodies) -> None:
    assert seen(straight, bodies((40.0, 1.0, 90.0, 0.0))) == {1: 16.6}


def test_one_who_swings_in_is_seen_before_it_is_there(straight, bodies) -> None:
    beside = bodies((35.0, 3.3, -15.0, 8.0))
    assert 1 in seen(straight, beside)
    assert seen(straight, bodies((35.0, 3.3, 0.0, 8.0))) == {}


def test_the_one_that_matters_most(straight, bodies) -> None:
    straight.locate(straight.xy[20])
    found = leaders(straight, bodies((35.0, 0.0, 0.0, 8.0), (42.0, 0.0, 0.0, 0.0)), 8.0, 22.4, 1.0)
    assert most(found, 8.0).id == 2
    assert most([], 8.0).gap == math.inf


def person(straight, bodies, *row: float, speed: float = 8.0) -> float:
    straight.locate(straight.xy[20])
    people = bodies((*row, 0.2, 0.2))
    return walkers(straight, people, speed, 8.0, 22.4, HALF)


def test_walkers_who_are_in_the_way(straight, bodies) -> None:
    assert 10.0 < person(straight, bodies, 38.0, 0.0, 90.0, 0.0) < 14.0
    assert 10.0 < person(straight, bodies, 38.0, 0.5, 0.0, 1.4) < 14.0  # along it
    # steps onto the road as the car comes: 16 m at 8 m/s
    assert 10.0 < person(straight, bodies, 38.0, -3.5, 90.0, 1.5) < 14.0


def test_walkers_who_are_not(straight, bodies) -> None:
    assert person(straight, bodies, 38.0, -3.0, 90.0, 0.0) == math.inf  # waits at the kerb
    assert person(straight, bodies, 38.0, -3.0, -90.0, 1.5) == math.inf  # walks off
    assert person(straight, bodies, 38.0, 3.0, 0.0, 1.5) == math.inf  # on the pavement
    assert person(straight, bodies, 60.0, 1.0, 90.0, 1.5) == math.inf  # gone long before
    assert person(straight, bodies, 38.0, -14.0, 90.0, 1.5) == math.inf  # comes long after
    assert person(straight, bodies, 15.0, 0.0, 90.0, 1.0) == math.inf  # behind
