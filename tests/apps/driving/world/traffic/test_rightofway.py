"""Reservations of ways through a junction."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apps.driving.world.maps.network import Csr
from apps.driving.world.traffic.rightofway import PATIENT, Junctions, Way

# A crossing of two lanes: nodes 0-4 eastwards, 5-9 northwards (they meet in 2 and 7), 10-12 turn off
# from 0's lane, 13-15 run beside the eastward lane, 4 m away.
PLACES = np.array(
    [[2.0 * i, 0.0] for i in range(5)]
    + [[4.0, 4.0 - 2.0 * i] for i in range(5)]
    + [[0.0, 0.0], [2.0, 1.0], [3.0, 3.0]]
    + [[2.0 * i, 4.0 + 4.0] for i in range(3)]
    + [[-2.0, 0.0]]
)
EDGES = np.array([(16, 0), (16, 10), (0, 1), (10, 11)])


@pytest.fixture
def junctions() -> Junctions:
    network: Any = SimpleNamespace(
        position=PLACES,
        next=Csr.build(17, EDGES[:, 0], EDGES[:, 1]),
        previous=Csr.build(17, EDGES[:, 1], EDGES[:, 0]),
    )
    found = Junctions(network)
    for way, nodes in (
        (EAST, range(5)),
        (NORTH, range(5, 10)),
        (TURN, range(10, 13)),
        (FAR, range(13, 16)),
    ):
        found.learn(way, np.array(list(nodes)))
    return found


EAST, NORTH, TURN, FAR = Way(1, 0, 4), Way(1, 5, 9), Way(1, 10, 12), Way(1, 13, 15)


def test_ways_that_cross_meet_and_others_do_not(junctions: Junctions) -> None:
    assert junctions.meet(EAST, NORTH)
    assert junctions.meet(NORTH, EAST)
    assert junctions.meet(NORTH, TURN)
    assert not junctions.meet(EAST, TURN)  # they begin on one lane
    assert not junctions.meet(EAST, FAR)
    assert not junctions.meet(EAST, EAST)  # one follows the other
    assert not junctions.meet(EAST, Way(2, 5, 9))


def test_the_first_to_ask_goes_first(junctions: Junctions) -> None:
    junctions.grant([(1, EAST, 0.5, True), (2, NORTH, 2.0, True), (3, FAR, 0.0, True)])
    assert junctions.holds(2, NORTH)
    assert junctions.holds(3, FAR)
    assert not junctions.holds(1, EAST)
    junctions.give_back(2, NORTH)
    junctions.grant([(1, EAST, 0.6, True)])
    assert junctions.holds(1, EAST)
    junctions.grant([(4, EAST, 0.0, True), (5, NORTH, 5.0, True)])
    assert junctions.holds(4, EAST)  # behind the first
    assert not junctions.holds(5, NORTH)


def test_nobody_enters_without_room_behind(junctions: Junctions) -> None:
    junctions.grant([(1, EAST, 20.0, False), (2, NORTH, 0.0, True)])
    assert not junctions.holds(1, EAST)
    assert junctions.holds(2, NORTH)


def test_who_has_waited_long_is_not_overtaken(junctions: Junctions) -> None:
    junctions.hold(9, NORTH)
    junctions.grant([(1, EAST, PATIENT + 1, True), (2, NORTH, 1.0, True)])
    assert not junctions.holds(2, NORTH)  # it could, behind 9, but 1 waits for the gap
    junctions.give_back(9, NORTH)
    junctions.grant([(1, EAST, PATIENT + 1, True), (2, NORTH, 1.0, True)])
    assert junctions.holds(1, EAST)
    assert not junctions.holds(2, NORTH)


def test_waiting_counts_from_the_first_wish(junctions: Junctions) -> None:
    assert junctions.ask(1, EAST, 10.0) == 0.0
    assert junctions.ask(1, EAST, 14.0) == 4.0
    assert junctions.ask(1, NORTH, 15.0) == 0.0
    junctions.forget(1)
    assert junctions.ask(1, NORTH, 20.0) == 0.0
    junctions.hold(1, NORTH)
    junctions.release(1)
    assert not junctions.holds(1, NORTH)
