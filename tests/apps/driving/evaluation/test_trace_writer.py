"""Drives in the embedded world, traced and read back; each claim against the world itself."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from pathlib import Path

import carla
import numpy as np
import pytest
from PIL import Image

from apps.driving.agents.base import Decision, Drive, Observation
from apps.driving.evaluation import trace_writer as module
from apps.driving.evaluation.criteria import CriteriaOptions
from apps.driving.evaluation.episode import Moment, drive_route
from apps.driving.evaluation.palette import PALETTE
from apps.driving.evaluation.trace import Trace
from apps.driving.evaluation.trace_roads import crosswalks_around, lanes_around
from apps.driving.evaluation.trace_writer import TraceWriter
from apps.driving.rig import LETFUSER
from apps.driving.routes.files import RouteSpec
from apps.driving.routes.planner import Planner
from apps.driving.routes.sampling import sample_routes
from apps.driving.simulator.cameras import Cameras, SensorMissing
from apps.driving.simulator.session import open_session
from core.errors import ResourceError

SECONDS = 6.0


class Follower:
    """Steers at the plan 6 m ahead, at 6 m/s, and says a few things for the trace."""

    name = "follower"
    rig = LETFUSER
    privileged = False

    def __init__(self, cameras: frozenset[str] = frozenset()) -> None:
        self.cameras = cameras
        self.seen: list[Observation] = []

    def begin(self, drive: Drive) -> None:
        self.drive = drive

    def act(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        plan = self.drive.plan
        index, _ = plan.nearest(observation.position)
        goal = plan.xy[min(index + 6, len(plan) - 1)] - observation.position
        angle = math.degrees(math.atan2(goal[1], goal[0])) - observation.heading
        angle = (angle + 180) % 360 - 180
        return Decision(
            throttle=0.6 if observation.speed < 6 else 0.0,
            steer=max(-1.0, min(1.0, angle / 40)),
            brake=0.0,
            waypoints=np.array([[3.0, 0.0], [6.0, np.nan]]),
            red_light=0.25,
            semantics=np.full((3, 20, 40), 14, np.uint8),
            hazards={"vehicle": True, "light": False},
            interventions=("creep",) if observation.speed < 1 else (),
            parts={"network": (0.5, 0.25, 0.0)},
        )

    def end(self) -> None:
        pass


@pytest.fixture(scope="module")
def session():
    with open_session("procedural:5", traffic=12, walkers=6) as session:
        yield session


@pytest.fixture(scope="module")
def spec(session) -> RouteSpec:
    return sample_routes(session.map, session.town, 1, 3, length=(120, 250))[0]


@pytest.fixture(scope="module")
def go(session, spec) -> Callable[..., tuple[Trace, Follower, list[Moment]]]:
    plan = Planner(session.map).plan_route(spec)

    def run(
        folder: Path, seconds: float = SECONDS, cameras: frozenset[str] = frozenset(), **show: int
    ) -> tuple[Trace, Follower, list[Moment]]:
        agent, moments = Follower(cameras), list[Moment]()
        writer = TraceWriter(folder, spec.id, agent.name, 5)
        result = drive_route(
            session,
            spec,
            plan,
            agent,
            options=CriteriaOptions(max_seconds=seconds),
            show=writer.show(0.1) | show,
            watch=[writer.watch, moments.append],
        )
        writer.finish(result)
        return Trace(folder), agent, moments

    return run


@pytest.fixture(scope="module")
def driven(go, tmp_path_factory) -> tuple[Trace, Follower, list[Moment]]:
    return go(tmp_path_factory.mktemp("out") / "r.trace")


def test_decisions_come_back_as_they_were_made(driven, spec):
    trace, agent, moments = driven
    assert len(trace) == len(moments) == len(agent.seen) == pytest.approx(SECONDS / 0.1, abs=2)
    assert (trace.meta.route, trace.meta.agent, trace.meta.seed) == (spec.id, "follower", 5)
    assert trace.meta.interval == 0.1
    assert trace.meta.rig == LETFUSER
    assert np.allclose(trace.meta.plan, agent.drive.plan.xy, atol=0.006)
    for tick, moment in zip(trace.ticks, moments):
        decision = moment.decision
        assert tick.throttle == decision.throttle
        assert tick.steer == pytest.approx(decision.steer, abs=6e-4)
        assert tick.position == pytest.approx(moment.observation.position.tolist(), abs=6e-4)
        assert tick.yaw == pytest.approx(moment.observation.heading, abs=6e-4)
        assert tick.speed == pytest.approx(moment.observation.speed, abs=6e-4)
        assert tick.target == pytest.approx(moment.observation.target, abs=6e-4)
        assert tick.waypoints[0].tolist() == [3.0, 0.0]
        assert np.isnan(tick.waypoints[1, 1])
        assert tick.hazards == ("vehicle",)
        assert tick.interventions == decision.interventions
        assert tick.parts == {"network": (0.5, 0.25, 0.0)}
        assert tick.limit == pytest.approx(moment.drive.plan.speed_limit[tick.index], abs=1e-3)
    assert np.allclose(np.diff(trace.columns["time"]), 0.1, atol=2e-3)
    assert trace.columns["completion"][-1] > trace.columns["completion"][0]
    assert np.isnan(trace.columns["stop_sign"]).all()
    assert trace.interventions[0][2] == "creep"


def test_the_result_is_there_at_the_end(driven):
    trace, _, _ = driven
    assert trace.over
    assert trace.result["status"] == "failed: timed out"
    (late,) = [one for one in trace.infractions if one.kind == "route_timeout"]
    assert late.time == pytest.approx(SECONDS, abs=0.2)
    assert math.dist(late.position, trace[-1].position) < 3


def test_neighbours_are_where_the_snapshot_has_them(driven, session):
    trace, _, moments = driven
    listed = {actor.id: actor for actor in session.world.get_actors()}
    tick, moment = trace[-1], moments[-1]
    wanted = set()
    for number, actor in listed.items():
        found = moment.snapshot.find(number)
        kind = actor.type_id.split(".")[0]
        if found is None or kind not in ("vehicle", "walker") or number == moment.drive.ego.id:
            continue
        at = found.get_transform().location
        if math.dist((at.x, at.y), tick.position) < 59:
            wanted.add(number)
    known = {other.id: other for other in tick.neighbours}
    assert wanted
    assert wanted <= known.keys()
    for number in wanted:
        place = moment.snapshot.find(number).get_transform()
        other, actor = known[number], listed[number]
        assert (other.x, other.y) == pytest.approx((place.location.x, place.location.y), abs=1e-3)
        assert other.length == pytest.approx(2 * actor.bounding_box.extent.x, abs=0.01)
        assert (other.kind == "walker") == actor.type_id.startswith("walker")


def test_lights_have_the_states_that_they_had(session, go, tmp_path):
    for light in session.world.get_actors().filter("*traffic_light*"):
        light.set_state(carla.TrafficLightState.Yellow)
        light.freeze(True)
    try:
        trace, _, _ = go(tmp_path / "t", seconds=2.0)
    finally:
        for light in session.world.get_actors().filter("*traffic_light*"):
            light.freeze(False)
    assert trace.meta.lights
    for lines in trace.meta.lights.values():
        assert all(line.shape == (2, 2) for line in lines)
    states = {state for tick in trace.ticks for state in tick.lights.values()}
    assert states <= {"Yellow"}
    near = [
        number
        for number, lines in trace.meta.lights.items()
        if any(math.dist(line[0], trace[-1].position) < 55 for line in lines)
    ]
    assert set(near) <= trace[-1].lights.keys()


def test_pictures_come_five_times_a_second(driven):
    trace, agent, moments = driven
    numbers = [tick.pictures for tick in trace.ticks]
    assert numbers[::2] == list(range(len(numbers[::2])))
    assert set(numbers[1::2]) == {None}
    assert trace.kinds == ("rgb", "depth", "truth", "semantics")
    assert all(observation.rgb is observation.depth is None for observation in agent.seen)
    for index in (0, 10, 50):
        frames = moments[index].frames
        for kind in trace.kinds[:3]:
            assert trace.image(index, kind).shape == (160, 960, 3)
        want = np.concatenate(list(frames.rgb), axis=1).astype(float)
        assert np.abs(trace.image(index, "rgb") - want).mean() < 6  # of JPEG
        tags = np.concatenate(list(frames.semantics), axis=1)
        with Image.open(trace.picture(index, "truth")) as image:
            assert image.mode == "P"
            assert np.array_equal(np.asarray(image), tags)
        assert np.array_equal(trace.image(index, "truth"), PALETTE[tags])
        assert np.array_equal(
            trace.image(index, "semantics"), np.broadcast_to(PALETTE[14], (20, 120, 3))
        )
    assert len(np.unique(trace.image(0, "truth").reshape(-1, 3), axis=0)) > 4
    assert moments[1].frames.semantics is None


def test_a_driver_with_eyes_sees_the_same_pictures_and_no_truth(go, tmp_path):
    trace, agent, moments = go(tmp_path / "t", seconds=2.0, cameras=frozenset({"rgb"}))
    assert all(observation.rgb is not None for observation in agent.seen)
    assert all(observation.depth is None for observation in agent.seen)
    assert [moment.frames.semantics is not None for moment in moments[:4]] == [True, False] * 2
    assert [moment.frames.frame for moment in moments] == [one.frame for one in agent.seen]
    assert trace.kinds == ("rgb", "depth", "truth", "semantics")
    # all of one moment: what is sky in the tags is far in the depth
    frames = moments[2].frames
    sky = frames.semantics == 11
    assert sky.any()
    assert frames.depth[sky].min() > 500


def test_the_roads_around_are_the_maps(driven, session):
    trace, _, _ = driven
    assert len(trace.meta.lanes) > 3
    assert any(lane.junction for lane in trace.meta.lanes)
    for lane in trace.meta.lanes:
        steps = np.hypot(*np.diff(lane.points, axis=0).T)
        assert steps.max() < 4.5
        for x, y in lane.points[1:-1]:
            found = session.map.get_waypoint(carla.Location(x, y, 0.0))
            assert math.dist((x, y), (found.transform.location.x, found.transform.location.y)) < 0.5
    # the route runs on them
    middles = np.concatenate([lane.points for lane in trace.meta.lanes])
    away = [np.hypot(*(middles - point).T).min() for point in trace.meta.plan]
    assert max(away) < 2.5
    assert np.hypot(*(middles[:, None] - trace.meta.plan).T).T.min(1).max() < 63
    assert lanes_around(session.map, np.full((1, 2), 1e5)) == []


def test_crosswalks_are_the_maps(session):
    corners = {(round(place.x, 2), round(place.y, 2)) for place in session.map.get_crosswalks()}
    assert corners
    everywhere = np.array(sorted(corners))
    found = crosswalks_around(session.map, everywhere)
    assert {tuple(corner) for outline in found for corner in outline.tolist()} == corners
    assert all(3 <= len(outline) <= 6 for outline in found)
    assert crosswalks_around(session.map, np.full((1, 2), 1e5)) == []


def test_a_second_drive_replaces_the_first(go, tmp_path):
    folder = tmp_path / "t"
    go(folder, seconds=2.0)
    (folder / "notes.txt").write_text("mine")
    stale = folder / "pictures" / "000999-rgb.jpg"
    stale.write_bytes(b"old")
    trace, _, _ = go(folder, seconds=1.0)
    assert len(trace) < 14
    assert not stale.exists()
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_drive_can_be_followed(go, session, spec, tmp_path):
    writer = TraceWriter(tmp_path / "t", spec.id, "follower")
    assert not Trace.begun(tmp_path / "t")
    lengths, followed = [], []

    def follow(_: Moment) -> None:
        if not followed:
            followed.append(Trace(tmp_path / "t"))
        followed[0].refresh()
        lengths.append(len(followed[0]))
        assert followed[0].picture(-1).is_file()
        assert not followed[0].over

    agent = Follower()
    result = drive_route(
        session, spec, Planner(session.map).plan_route(spec), agent,
        options=CriteriaOptions(max_seconds=1.0), show=writer.show(0.1),
        watch=[writer.watch, follow],
    )  # fmt: skip
    assert lengths == list(range(1, len(agent.seen) + 1))
    writer.finish(result)
    followed[0].refresh()
    assert followed[0].over


def test_pictures_become_fewer_in_a_long_drive(go, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEWER_AFTER", 5)
    trace, _, _ = go(tmp_path / "t", seconds=3.0)
    kept = [tick.number for tick in trace.ticks if tick.pictures is not None]
    assert kept == [0, 2, 4, 6, 8, 12, 16, 20, 24, 28][: len(kept)]
    assert len(kept) >= 8


def test_a_picture_that_stays_away_is_left_out(go, tmp_path, monkeypatch):
    read = Cameras.read
    asked = []

    def lossy(self: Cameras, frame: int, timeout: float | None = None):
        asked.append(frame)
        if len(asked) == 2:
            raise SensorMissing(f"no picture for {frame}")
        return read(self, frame, timeout)

    monkeypatch.setattr(Cameras, "read", lossy)
    trace, agent, _ = go(tmp_path / "t", seconds=1.0)
    assert len(trace) == len(agent.seen)
    second = trace[2]
    assert second.pictures == 1  # of the driver's own semantics
    assert trace.picture(2, "rgb") == trace.picture(1, "rgb")
    assert trace.picture(4, "rgb") != trace.picture(2, "rgb")


def test_a_full_disk_is_named(go, tmp_path, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ResourceError, match=r"trace cannot be written \(No space left"):
        go(tmp_path / "t")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="file/t: the trace cannot be written"):
        TraceWriter(tmp_path / "file" / "t", "r", "expert")
