"""A plan: where one is on it, its sparse points, and who follows them."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

from apps.driving.agents.base import Command
from apps.driving.routes.plan import Navigator, Plan, to_ego, to_world
from core.errors import DataError

F, L, R, S = Command.LANE_FOLLOW, Command.LEFT, Command.RIGHT, Command.STRAIGHT
TO_LEFT = Command.CHANGE_LANE_LEFT


def make(xy: Any, command: Any = None, **changes: Any) -> Plan:
    xy = np.asarray(xy, float)
    along = np.gradient(xy, axis=0)
    n = len(xy)
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
    values: dict[str, Any] = {
        "xy": xy,
        "yaw": np.degrees(np.arctan2(along[:, 1], along[:, 0])),
        "command": np.full(n, int(F)) if command is None else command,
        "junction": np.zeros(n, bool),
        "speed_limit": np.full(n, 8.0),
        "s": s,
    }
    return Plan(town="T", **(values | changes))


def straight(n: int = 101) -> Plan:
    return make(np.stack([np.arange(n), np.zeros(n)], 1))


def eight() -> Plan:
    """A route that crosses itself in the middle."""
    t = np.linspace(0, 2 * np.pi, 400)
    return make(np.stack([60 * np.sin(t), 30 * np.sin(2 * t)], 1))


@pytest.mark.parametrize(("y", "side"), [(1.5, 1.5), (-0.25, -0.25), (0.0, 0.0), (40.0, 40.0)])
def test_offset_is_positive_on_the_right(y, side):
    """CARLA's y grows to the right of x."""
    index, offset = straight().nearest((30.3, y))
    assert index == 30
    assert offset == pytest.approx(side)


def test_beyond_the_ends_the_offset_is_that_of_the_line():
    plan = straight()
    assert plan.nearest((-7.0, 2.0)) == (0, pytest.approx(2.0))
    assert plan.nearest((120.0, -2.0)) == (100, pytest.approx(-2.0))


def test_size_of_the_offset_is_the_distance_to_the_route():
    plan = eight()
    rng = np.random.default_rng(0)
    dense = np.stack(
        [np.interp(np.linspace(0, plan.length, 40_000), plan.s, plan.xy[:, i]) for i in (0, 1)], 1
    )
    for place in rng.uniform((-70, -40), (70, 40), (40, 2)):
        _, offset = plan.nearest(place)
        distance = np.hypot(*(dense - place).T).min()
        assert abs(offset) == pytest.approx(distance, abs=0.02)


def test_search_around_an_index_does_not_jump_where_the_route_crosses_itself():
    plan = eight()
    index = 0
    for i in range(len(plan)):
        index, offset = plan.nearest(plan.xy[i] + 0.4, around=index)
        assert abs(plan.s[index] - plan.s[i]) < 2.0
        assert abs(offset) < 0.6
    crossing = len(plan) // 2
    assert plan.nearest(plan.xy[crossing], around=0)[0] < 60, "only the way ahead is searched"


def test_plan_cannot_be_changed_and_keeps_its_own_arrays():
    xy = np.stack([np.arange(5.0), np.zeros(5)], 1)
    plan = make(xy)
    xy[:] = 9
    assert plan.xy[4].tolist() == [4.0, 0.0]
    with pytest.raises(ValueError):
        plan.xy[0] = 1
    assert plan.z.tolist() == [0.0] * 5
    assert (len(plan), plan.length) == (5, 4.0)
    assert (plan.command.dtype, plan.junction.dtype) == (np.int8, np.bool_)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("yaw", np.zeros(4)),
        ("speed_limit", np.full(5, np.nan)),
        ("s", np.zeros(5)),
        ("z", np.zeros(3)),
    ],
)
def test_arrays_that_do_not_fit_are_named(field, value):
    xy = np.stack([np.arange(5.0), np.zeros(5)], 1)
    with pytest.raises(DataError, match=f"plan in T: {field} "):
        make(xy, **{field: value})


@pytest.mark.parametrize("xy", [np.zeros((5, 3)), np.zeros((1, 2)), np.full((3, 2), np.inf)])
def test_points_must_be_two_or_more_in_the_plane(xy):
    rest = {name: np.zeros(len(xy)) for name in ("yaw", "command", "junction", "speed_limit")}
    with pytest.raises(DataError, match="plan in T: xy "):
        Plan(town="T", xy=xy, s=np.arange(len(xy)), **rest)


def test_sparse_points_by_hand():
    """Where the command changes, after more than 50 m, and the last."""
    command = np.full(200, int(F))
    command[80:100] = L
    command[120:130] = S
    plan = make(np.stack([np.arange(200), np.zeros(200)], 1), command)
    xy, commands = plan.sparse()
    assert xy[:, 0].tolist() == [0, 51, 80, 100, 120, 130, 181, 199]
    assert commands.tolist() == [F, F, L, F, S, F, F, F]
    assert plan.sparse(spacing=500)[0][:, 0].tolist() == [0, 80, 100, 120, 130, 199]


def test_sparse_points_of_a_change_of_lanes_are_its_two_ends():
    command = np.full(100, int(F))
    command[40:60] = TO_LEFT
    command[80:] = R
    xy, commands = make(np.stack([np.arange(100), np.zeros(100)], 1), command).sparse()
    assert xy[:, 0].tolist() == [0, 40, 59, 80, 99]
    assert commands.tolist() == [F, TO_LEFT, TO_LEFT, R, R]
    command[60:] = L  # a junction right after it must not be lost
    xy, commands = make(np.stack([np.arange(100), np.zeros(100)], 1), command).sparse()
    assert commands.tolist() == [F, TO_LEFT, TO_LEFT, L, L]


def test_navigator_by_hand():
    xy = np.array([[0.0, 0], [20, 0], [26, 0], [60, 0], [60, 40]])
    navigator = Navigator(xy, np.array([F, L, F, F, R]))
    seen = [navigator.update((x, 0.0)) for x in (0.0, 12.0, 13.0, 21.0, 53.0, 59.0)]
    assert [point.tolist() for point, _ in seen] == [
        [20, 0],
        [20, 0],  # 8 m away
        [26, 0],
        [60, 0],  # both within reach: the farthest that is
        [60, 40],
        [60, 40],
    ]
    assert [command for _, command in seen] == [L, L, F, F, R, R]


def route_planner(xy: np.ndarray, command: np.ndarray, reach: float, far: float) -> Any:
    """The rule of TransFuser's RoutePlanner over a queue: an independent statement of it."""
    queue = deque(zip(xy, command))

    def step(place: np.ndarray) -> tuple[np.ndarray, int]:
        if len(queue) <= 2:
            return queue[-1]
        drop, best, total = 0, -np.inf, 0.0
        for i in range(1, len(queue)):
            if total > far:
                break
            total += np.linalg.norm(queue[i][0] - queue[i - 1][0])
            distance = np.linalg.norm(queue[i][0] - place)
            if best < distance <= reach:
                drop, best = i, distance
        for _ in range(drop):
            if len(queue) > 2:
                queue.popleft()
        return queue[1]

    return step


@pytest.mark.parametrize("seed", range(5))
def test_navigator_chooses_as_the_route_planner_does(seed):
    rng = np.random.default_rng(seed)
    xy = np.cumsum(rng.normal(0, 12, (30, 2)), axis=0)
    command = rng.integers(1, 7, 30)
    reference = route_planner(xy, command, 7.5, 50.0)
    navigator = Navigator(xy, command)
    for t in np.linspace(0, 29, 600):
        i = min(int(t), 28)
        place = xy[i] + (t - i) * (xy[i + 1] - xy[i]) + rng.normal(0, 0.5, 2)
        point, what = navigator.update(place)
        wanted, number = reference(place)
        assert point.tolist() == wanted.tolist()
        assert what == number


def test_navigator_needs_points_with_commands():
    with pytest.raises(DataError, match="0 points"):
        Navigator(np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(DataError, match="2 points and 1 commands"):
        Navigator(np.zeros((2, 2)), np.ones(1))
    only, command = Navigator(np.array([[3.0, 4.0]]), np.array([4])).update((0, 0))
    assert (only.tolist(), command) == ([3.0, 4.0], F)


def test_frames_agree_with_carla_and_undo_each_other():
    carla = pytest.importorskip("carla")
    rng = np.random.default_rng(3)
    points = rng.normal(0, 50, (4, 5, 2))
    for heading in (0.0, 90.0, -135.0, 400.0):
        local = to_ego(points, (7.0, -3.0), heading)
        assert np.allclose(to_world(local, (7.0, -3.0), heading), points)
        pose = carla.Transform(carla.Location(7, -3, 0), carla.Rotation(yaw=heading))
        for p, q in zip(points.reshape(-1, 2), local.reshape(-1, 2)):
            there = pose.inverse_transform(carla.Location(p[0], p[1], 0))
            assert (there.x, there.y) == pytest.approx(tuple(q), abs=1e-3)
    # facing +y, a point further along +y is ahead, one at +x is to the left
    assert to_ego((0, 5), (0, 0), 90.0) == pytest.approx((5, 0))
    assert to_ego((5, 0), (0, 0), 90.0) == pytest.approx((0, -5))
