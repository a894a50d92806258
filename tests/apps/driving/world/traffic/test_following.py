"""The intelligent driver model against its own closed forms; props that block a road."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.motion.catalogue import DEFAULT, WALKERS
from apps.driving.world.motion.collisions import FixedIndex
from apps.driving.world.motion.vehicles import Fleet
from apps.driving.world.motion.walkers import Walkers
from apps.driving.world.traffic.following import (
    ACCELERATION,
    HARDEST,
    HEADWAY,
    JAM,
    idm,
    things,
    wish,
)


def one(*values: float) -> list[np.ndarray]:
    return [np.array([v]) for v in values]


def test_a_free_road_speeds_up_to_the_wanted_speed() -> None:
    assert idm(*one(0.0, 10.0, math.inf, 0.0))[0] == ACCELERATION
    assert idm(*one(10.0, 10.0, math.inf, 0.0))[0] == 0.0
    assert idm(*one(12.0, 10.0, math.inf, 0.0))[0] < -1.0


@pytest.mark.parametrize("speed", [1.0, 5.0, 12.0])
def test_the_gap_of_equal_speeds_is_in_equilibrium(speed: float) -> None:
    # Eq. 4 of the paper: s = (s0 + v T) / sqrt(1 - (v / v0)^4).
    gap = (JAM + speed * HEADWAY) / math.sqrt(1.0 - (speed / 15.0) ** 4)
    assert idm(*one(speed, 15.0, gap, 0.0))[0] == pytest.approx(0.0, abs=1e-12)
    assert (
        idm(*one(speed, 15.0, 0.8 * gap, 0.0))[0] < 0.0 < idm(*one(speed, 15.0, 1.2 * gap, 0.0))[0]
    )


def test_closing_in_asks_for_more_room_and_braking_is_bounded() -> None:
    assert wish(*one(10.0, 5.0))[0] > wish(*one(10.0, 0.0))[0] > wish(*one(10.0, -3.0))[0] >= JAM
    assert idm(*one(20.0, 20.0, 0.0, 20.0))[0] == -HARDEST


def test_what_is_around_has_three_points() -> None:
    fleet = Fleet()
    fleet.add(1, DEFAULT, Transform(x=10.0, yaw=90.0))
    fleet.add(2, DEFAULT, Transform(x=30.0))
    fleet.solid[1] = False  # a ghost
    box = Boxes.empty(1)
    box.centre[:], box.half[:] = (50.0, 5.0, 0.5), (1.0, 0.4, 0.5)
    found = things(fleet, None, FixedIndex(box))
    assert found.owner.tolist() == [0, -1]
    middle = 10.0, DEFAULT.centre[0]
    assert found.x[0] == pytest.approx(middle[0])
    assert found.y[0] == pytest.approx(middle[1] + DEFAULT.half[0] * np.array([1.0, 0.0, -1.0]))
    assert found.x[1].tolist() == [51.0, 50.0, 49.0]
    assert found.wide.tolist() == pytest.approx([DEFAULT.half[1], 0.4])


def test_a_walker_is_seen_where_it_will_be() -> None:
    nowhere: Any = SimpleNamespace(
        sidewalk=(np.zeros((0, 2)), np.zeros((0, 2), np.int32), np.zeros(0, bool))
    )
    walkers = Walkers(nowhere, 0)
    walkers.add(1, WALKERS["walker.pedestrian.0001"], Transform(z=0.93))
    walkers.set_control(1, (0.0, 1.0, 0.0), 1.5)
    for _ in range(10):
        walkers.step(0.05)
    found = things(Fleet(), walkers, None)
    assert found.y[0] == pytest.approx(walkers.y[0] + 1.5 * np.array([0.0, 1.0, 2.0]))
