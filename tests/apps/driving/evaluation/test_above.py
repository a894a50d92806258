"""Drives drawn from above: what is where, in which colour."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from apps.driving.agents.base import Command
from apps.driving.evaluation.above import (
    CAR,
    GROUND,
    LIGHTS,
    MEANS,
    OTHERS,
    ROAD,
    ROUTE,
    TOLD,
    WRONG,
    draw_above,
    draw_route,
)
from apps.driving.evaluation.scores import Infraction
from apps.driving.evaluation.trace import Lane, Meta, Neighbour, Tick, Trace
from apps.driving.rig import LETFUSER
from core.errors import UsageError

ALONG = np.stack([np.arange(101.0), np.zeros(101)], axis=-1)
META = Meta(
    route="r",
    town="Town01",
    agent="small",
    seed=0,
    interval=0.1,
    picture_every=2,
    rig=LETFUSER,
    plan=ALONG,
    s=ALONG[:, 0],
    speed_limit=np.full(101, 8.0),
    command=np.full(101, 4),
    lanes=(
        Lane(ALONG[::2], 3.5, False),
        Lane(ALONG[::2] - (0, 3.5), 3.5, False),
    ),
    lights={7: (np.array([[60.0, -1.8], [60.0, 1.8]]),)},
    stops=(),
    crosswalks=(np.array([[70.0, -2], [73, -2], [73, 2], [70, 2]]),),
)
TICK = Tick(
    number=0,
    time=0.0,
    x=40.0,
    y=0.0,
    yaw=0.0,
    speed=5.0,
    limit=8.0,
    throttle=0.5,
    steer=0.0,
    brake=0.0,
    completion=40.0,
    index=40,
    command=Command.LANE_FOLLOW,
    target=np.array([16.0, 0.0]),
    waypoints=np.array([[4.0, 0.0], [8.0, 0.0], [12.0, -4.0]]),
    lights={7: "Red"},
    neighbours=(Neighbour(3, "vehicle", 50.0, 10.0, 0.0, 4.6, 2.0, 3.0),),
)
CRASH = Infraction("collisions_layout", 1.0, (45.0, -8.0), "hit a wall")


def trace(*ticks: Tick, infractions: tuple[Infraction, ...] = (), **meta: Any) -> Trace:
    found = ticks or (TICK,)
    columns = {name: np.array([getattr(t, name) for t in found]) for name in ("x", "y", "time")}

    class Some(SimpleNamespace):
        def __len__(self) -> int:
            return len(found)

        def __getitem__(self, index: int) -> Tick:
            return found[index]

    return cast(
        Trace,
        Some(meta=replace(META, **meta), columns=columns, infractions=infractions),
    )


def near(picture: np.ndarray, x: float, y: float, colour: tuple[int, int, int]) -> bool:
    """Whether a colour is within 3 pixels of a place."""
    u, v = round(x), round(y)
    patch = picture[max(v - 3, 0) : v + 4, max(u - 3, 0) : u + 4].astype(int)
    return bool((np.abs(patch - colour).max(-1) < 12).any())


def place(ahead: float, right: float) -> tuple[float, float]:
    """Pixels in 400 x 400 that reach 40 m: 7 a metre, the car at (200, 280)."""
    return 200 + 7 * right, 280 - 7 * ahead


@pytest.mark.parametrize("yaw", [0.0, 90.0, -137.0])
def test_what_is_where_whichever_way_the_car_heads(yaw: float) -> None:
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    turn = np.array([[c, s], [-s, c]])  # of the whole world about its origin

    def turned(points: Any) -> np.ndarray:
        return np.asarray(points, float) @ turn

    other = TICK.neighbours[0]
    x, y = turned([other.x, other.y])
    tick = replace(
        TICK,
        x=float(turned([40.0, 0.0])[0]),
        y=float(turned([40.0, 0.0])[1]),
        yaw=yaw,
        neighbours=(replace(other, x=float(x), y=float(y), yaw=yaw),),
    )
    at = turned(CRASH.position)
    picture = draw_above(
        trace(
            tick,
            plan=turned(ALONG),
            lanes=tuple(replace(lane, points=turned(lane.points)) for lane in META.lanes),
            lights={7: tuple(turned(line) for line in META.lights[7])},
            crosswalks=(),
            infractions=(replace(CRASH, time=0.0, position=(float(at[0]), float(at[1]))),),
        ),
        0,
        size=(400, 400),
    )
    assert picture.shape == (400, 400, 3)
    assert picture.dtype == np.uint8
    assert near(picture, *place(-1.5, 0.5), CAR)
    assert near(picture, *place(10, 10), OTHERS["vehicle"])
    assert near(picture, *place(8, 0), MEANS)
    assert near(picture, *place(12, -4), MEANS)
    assert near(picture, *place(16, 0.8), TOLD)
    assert near(picture, *place(26, 0), ROUTE)
    assert near(picture, *place(20, 1.3), LIGHTS["Red"])
    assert near(picture, *place(5, -8), WRONG)
    assert near(picture, *place(3, -3.5), ROAD)
    assert near(picture, *place(20, 18), GROUND)
    assert not near(picture, *place(10, -10), OTHERS["vehicle"])


def test_a_light_has_its_colour_and_none_where_it_is_not_known() -> None:
    for state, colour in LIGHTS.items():
        picture = draw_above(trace(replace(TICK, lights={7: state})), 0, size=(400, 400))
        assert near(picture, *place(20, 1.3), colour), state
    picture = draw_above(trace(replace(TICK, lights={})), 0, size=(400, 400))
    assert not any(near(picture, *place(20, 1.3), colour) for colour in LIGHTS.values())


def test_infractions_appear_when_they_happen() -> None:
    both = trace(TICK, replace(TICK, number=1, time=1.0), infractions=(CRASH,))
    pictures = [draw_above(both, index, size=(400, 400)) for index in (0, 1, -1)]
    assert [near(picture, *place(5, -8), WRONG) for picture in pictures] == [False, True, True]


def test_a_target_beyond_the_edge_is_shown_where_the_way_to_it_leaves() -> None:
    picture = draw_above(trace(replace(TICK, target=np.array([0.0, 500.0]))), 0, size=(400, 400))
    assert near(picture, 390, 274, TOLD)  # the ring is 6 wide


def test_the_whole_route_has_the_car_and_its_infractions() -> None:
    whole = trace(TICK, replace(TICK, number=1, time=1.0, x=50.0), infractions=(CRASH,))
    # 130 m of world across 390 pixels: 3 a metre, from x = -15 on; y = 0 in the middle
    now, later, all_of_it = (draw_route(whole, i, size=(390, 390)) for i in (0, 1, None))
    assert near(now, 3 * 55, 195, CAR)
    assert near(later, 3 * 65, 195, CAR)
    assert near(all_of_it, 3 * 100, 195, ROUTE)
    marks = [near(picture, 3 * 60, 195 - 24, WRONG) for picture in (now, later, all_of_it)]
    assert marks == [False, True, True]


@pytest.mark.parametrize(
    "tick",
    [
        replace(TICK, waypoints=np.zeros((0, 2)), neighbours=()),
        replace(TICK, waypoints=np.full((4, 2), np.nan), target=np.full(2, np.nan)),
        replace(TICK, waypoints=np.full((4, 2), 1e11), target=np.full(2, 1e11)),
        replace(TICK, x=1e11, y=-1e11),
        replace(TICK, target=np.zeros(2)),
    ],
)
def test_whatever_a_driver_says_can_be_drawn(tick: Tick) -> None:
    assert draw_above(trace(tick), 0).shape == (480, 480, 3)
    assert draw_route(trace(tick)).shape == (480, 480, 3)


def test_sizes_that_will_not_do() -> None:
    for size in ((10, 400), (400, 100_000)):
        with pytest.raises(UsageError, match="pixels"):
            draw_above(trace(), 0, size=size)
    with pytest.raises(UsageError, match="reach"):
        draw_above(trace(), 0, reach=0)
    with pytest.raises(IndexError):
        draw_above(trace(), 3)
