"""Who waits for whom where two ways meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apps.driving.agents.expert.yielding import Yielding

HALF = np.array([2.4, 1.0])
NO_LINES = np.zeros((0, 3))


class Straight:
    """Every vehicle goes straight on; ``inside`` says whether in a junction."""

    def __init__(self, inside: bool = False) -> None:
        self.inside = inside

    def ways(self, xy: Any, yaw: float, length: float) -> list[tuple[np.ndarray, bool]]:
        s = np.arange(0.0, length)
        way = np.stack([xy[0] + s * np.cos(yaw), xy[1] + s * np.sin(yaw), np.full(len(s), yaw)], 1)
        return [(way, self.inside)]


def ask(straight, others, at=20, lines=NO_LINES, inside=False, speed=8.0, **options: Any) -> Any:
    """Distance to stand at for a car at x = ``at`` going along x; None for nobody."""
    straight.locate(straight.xy[at])
    values = {"hold": np.inf, "waited": 0.0, "dt": 0.1, **options}
    found = Yielding(Straight(inside)).find(  # type: ignore[arg-type]
        straight, others, lines, speed=speed, wish=8.0, front=at + 2.4, half=HALF, **values
    )
    return None if found is None else found.distance


def test_one_who_crosses_at_the_same_time(straight, bodies) -> None:
    distance = ask(straight, bodies((50.0, -25.0, 90.0, 8.0)))
    # before the zone, which begins a car's width before x = 50
    assert 20.0 < distance < 50.0 - 22.4 - 2.0


def test_before_the_junction_when_it_has_not_entered_it(straight, bodies) -> None:
    assert ask(straight, bodies((50.0, -25.0, 90.0, 8.0)), hold=38.0) == pytest.approx(38 - 22.4)


def test_those_who_come_long_before_or_after(straight, bodies) -> None:
    assert ask(straight, bodies((70.0, -12.0, 90.0, 12.0))) is None
    assert ask(straight, bodies((40.0, -55.0, 90.0, 6.0))) is None


def test_those_on_the_way_itself_are_left_to_following(straight, bodies) -> None:
    assert ask(straight, bodies((40.0, 0.0, 0.0, 3.0))) is None
    assert ask(straight, bodies((5.0, 0.0, 0.0, 12.0))) is None


def test_the_next_lanes_meet_nothing(straight, bodies) -> None:
    assert ask(straight, bodies((80.0, -3.5, 180.0, 8.0), (20.0, 3.5, 0.0, 9.0))) is None


def test_a_red_light_keeps_the_other_away(straight, bodies) -> None:
    line = np.array([[50.0, -10.0, np.pi / 2]])
    other = bodies((50.0, -25.0, 90.0, 8.0))
    assert ask(straight, other, lines=line) is None
    assert ask(straight, other, lines=line + [0, 0, np.pi]) is not None  # of the other direction
    behind = line - [0, 20.0, 0]
    assert ask(straight, other, lines=behind) is not None  # it has passed that


def test_one_who_merges_and_is_first(straight, bodies) -> None:
    """At 30 degrees onto our lane, to be there half a second before us."""
    other = bodies((50.0 - 20 * np.cos(0.52), 20 * np.sin(0.52), -30.0, 8.0))
    assert ask(straight, other) is not None


def test_who_stands_is_waited_for_until_it_is_seen_to_stay(straight, bodies) -> None:
    other = bodies((30.0, -6.0, 90.0, 0.0))
    yielding = Yielding(Straight(True))  # type: ignore[arg-type]
    straight.locate(straight.xy[20])
    answers = [
        yielding.find(
            straight, other, NO_LINES,
            speed=0.0, wish=8.0, front=22.4, half=HALF, hold=np.inf, waited=0.0, dt=0.5,
        )
        for _ in range(10)
    ]  # fmt: skip
    assert answers[0] is not None
    assert answers[-1] is None


def test_it_goes_on_where_it_cannot_stop_any_more(straight, bodies) -> None:
    """The zone begins 1.5 m ahead; at 8 m/s the car is through before the other comes."""
    other = bodies((26.5, -14.0, 90.0, 8.0))
    assert ask(straight, other) is None
