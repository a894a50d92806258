"""One route with agents that drive well, badly, and not at all, in the embedded world."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import carla
import numpy as np
import pytest

from apps.driving.agents.base import Decision, Drive, Observation
from apps.driving.evaluation.criteria import CriteriaOptions, EgoGone
from apps.driving.evaluation.episode import BLIND_DECISIONS, control, drive_route
from apps.driving.evaluation.scores import KINDS
from apps.driving.rig import LETFUSER
from apps.driving.routes.files import RouteSpec
from apps.driving.routes.plan import Plan
from apps.driving.simulator.cameras import Cameras, SensorMissing
from apps.driving.simulator.session import Session, open_session
from core.errors import DataError
from core.files import plain

SPEC = RouteSpec("r1", "Procedural5", ((0.0, 0.0), (1.0, 1.0)))
GO = Decision(throttle=0.5, steer=0.0, brake=0.0)


class Scripted:
    """Does what a function says."""

    name = "scripted"
    rig = LETFUSER
    privileged = False

    def __init__(
        self,
        act: Callable[[Observation, Drive], Decision],
        cameras: frozenset[str] = frozenset(),
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._act, self.cameras, self._begin = act, cameras, begin
        self.seen: list[Observation] = []
        self.ended = 0

    def begin(self, drive: Drive) -> None:
        self.drive = drive
        self._begin()

    def act(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        return self._act(observation, self.drive)

    def end(self) -> None:
        self.ended += 1


def follow(observation: Observation, drive: Drive) -> Decision:
    """Steers at the plan 6 m ahead, at 6 m/s."""
    index, _ = drive.plan.nearest(observation.position)
    goal = drive.plan.xy[min(index + 6, len(drive.plan) - 1)] - observation.position
    angle = math.degrees(math.atan2(goal[1], goal[0])) - observation.heading
    angle = (angle + 180) % 360 - 180
    throttle = 0.6 if observation.speed < 6 else 0.0
    return Decision(throttle=throttle, steer=max(-1.0, min(1.0, angle / 40)), brake=0.0)


@pytest.fixture(scope="module")
def session():
    with open_session("procedural:5") as session:
        yield session


@pytest.fixture(scope="module")
def plan(session) -> Plan:
    """60 m along a lane without a junction."""
    for start in session.map.generate_waypoints(15.0):
        lane = [start]
        while len(lane) < 61 and not lane[-1].is_junction:
            following = lane[-1].next(1.0)
            if not following:
                break
            lane.append(following[0])
        if len(lane) == 61 and not any(waypoint.is_junction for waypoint in lane):
            break
    poses = [waypoint.transform for waypoint in lane]
    return Plan(
        town="Procedural5",
        xy=np.array([(p.location.x, p.location.y) for p in poses]),
        yaw=np.array([p.rotation.yaw for p in poses]),
        command=np.full(61, 4),
        junction=np.zeros(61, bool),
        speed_limit=np.full(61, 8.0),
        s=np.arange(61.0),
    )


def count(session: Session) -> int:
    session.tick()
    return len(session.world.get_actors())


def test_a_good_driver_is_perfect_and_leaves_nothing_behind(session, plan):
    before = count(session)
    agent = Scripted(follow)
    found = drive_route(session, SPEC, plan, agent, seed=3)
    assert found.status == "perfect"
    assert found.completion == 100
    assert found.error is None
    assert agent.drive.seed == 3
    assert agent.ended == 1
    assert count(session) == before
    row = json.loads(json.dumps(plain(found.as_dict())))
    assert row["driving_score_2_1"] == row["driving_score_1_0"] == 100
    assert row["seed"] == 3
    assert row["infractions"] == {kind: [] for kind in KINDS}
    # a decision every 0.1 s of the world's time
    assert row["decisions"] == pytest.approx(row["duration_s"] / 0.1, abs=2)
    times = np.diff([observation.time for observation in agent.seen])
    np.testing.assert_allclose(times, 0.1, atol=1e-6)


def test_the_same_again_is_the_same(session, plan):
    runs = []
    for _ in range(2):
        agent = Scripted(follow)
        drive_route(session, SPEC, plan, agent)
        runs.append(np.array([(*o.position, o.speed) for o in agent.seen]))
    np.testing.assert_array_equal(runs[0], runs[1])


def test_a_blocked_driver_gets_what_it_drove(session, plan):
    options = CriteriaOptions(blocked_after=3.0)
    found = drive_route(
        session, SPEC, plan, Scripted(lambda o, d: Decision(0, 0, 1.0)), options=options
    )
    assert found.status == "failed: blocked"
    assert found.completion < 3
    assert [infraction.kind for infraction in found.infractions] == ["vehicle_blocked"]
    assert found.duration == pytest.approx(3.05, abs=0.2)


def test_a_route_may_be_given_less_time(session, plan):
    options = CriteriaOptions(max_seconds=2.0)
    found = drive_route(session, SPEC, plan, Scripted(follow), options=options)
    assert found.status == "failed: timed out"
    assert 0 < found.completion < 50
    assert found.duration == pytest.approx(2.05, abs=0.1)


def test_a_driver_that_leaves_the_road_hits_something_or_is_outside(session, plan):
    def off(observation: Observation, drive: Drive) -> Decision:
        return replace(GO, throttle=0.7, steer=0.25)

    options = CriteriaOptions(blocked_after=5.0)
    found = drive_route(session, SPEC, plan, Scripted(off), options=options)
    assert found.status in ("failed: blocked", "failed: deviated from the route")
    assert found.as_dict()["driving_score_2_1"] < found.completion


@pytest.mark.parametrize("late", [False, True])
def test_an_exception_fails_the_route_and_nothing_else(session, plan, late):
    before = count(session)

    def breaks(observation: Observation, drive: Drive) -> Decision:
        if late and observation.speed < 3:
            return GO
        raise KeyError("wheel")

    agent = Scripted(breaks)
    found = drive_route(session, SPEC, plan, agent)
    assert found.status == "failed: agent crashed"
    assert "KeyError" in found.error
    assert (found.completion > 0) == late
    assert agent.ended == 1
    assert count(session) == before


def test_an_agent_that_cannot_begin_says_why(session, plan):
    def refuse() -> None:
        raise DataError("weights for other cameras")

    found = drive_route(session, SPEC, plan, Scripted(follow, begin=refuse))
    assert found.status == "failed: agent could not be set up"
    assert found.error == "weights for other cameras"
    assert found.completion == 0


@pytest.mark.parametrize("name", ["throttle", "steer", "brake"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_decision_that_is_no_number_is_an_error_of_the_agent(session, plan, name, value):
    agent = Scripted(lambda o, d: replace(GO, **{name: value}))
    found = drive_route(session, SPEC, plan, agent)
    assert found.status == "failed: agent crashed"
    assert f"{name} {value}" in found.error


def test_controls_beyond_their_range_are_cut():
    assert control(Decision(throttle=3, steer=-7, brake=-1)) == carla.VehicleControl(
        throttle=1, steer=-1, brake=0
    )


def test_interventions_are_counted(session, plan):
    def helped(observation: Observation, drive: Drive) -> Decision:
        return replace(follow(observation, drive), interventions=("emergency brake",))

    found = drive_route(session, SPEC, plan, Scripted(helped))
    assert found.interventions == {"emergency brake": found.decisions}


def test_watchers_see_pictures_that_the_agent_did_not_ask_for(session, plan):
    seen = []
    found = drive_route(session, SPEC, plan, Scripted(follow), show={"rgb": 1}, watch=[seen.append])
    assert found.status == "perfect"
    assert len(seen) == found.decisions
    assert seen[-1].observation.rgb.shape == (3, 160, 320, 3)
    assert seen[-1].criteria.completion > 90


def test_a_dropped_picture_brakes_the_car_and_a_dead_camera_ends_the_route(
    session, plan, monkeypatch
):
    before = count(session)
    read = Cameras.read
    calls = [0]

    def dropping(self: Cameras, frame: int, timeout: float | None = None) -> object:
        calls[0] += 1
        if calls[0] in dropped:
            raise SensorMissing("camera 'front' (rgb) sent no picture")
        return read(self, frame, timeout)

    monkeypatch.setattr(Cameras, "read", dropping)
    dropped = range(20, 23)
    found = drive_route(session, SPEC, plan, Scripted(follow, frozenset({"rgb"})))
    assert found.status == "perfect"
    assert found.blind == 3

    calls[0], dropped = 0, range(20, 20 + BLIND_DECISIONS)
    agent = Scripted(follow, frozenset({"rgb"}))
    with pytest.raises(SensorMissing, match="front"):
        drive_route(session, SPEC, plan, agent)
    assert agent.ended == 1
    assert count(session) == before


def test_a_car_that_somebody_destroys_is_named(session, plan):
    def destroy(observation: Observation, drive: Drive) -> Decision:
        drive.world.get_actor(drive.ego.id).destroy()
        return GO

    with pytest.raises(EgoGone, match="gone"):
        drive_route(session, SPEC, plan, Scripted(destroy))
