"""The Leaderboard's agent without the Leaderboard, and under what stands in for its evaluator."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apps.driving.agents import leaderboard_agent as module
from apps.driving.agents.base import Command, Decision, Drive, Observation
from apps.driving.agents.leaderboard_agent import (
    LeaderboardAgent,
    Settings,
    allow_depth_cameras,
    get_entry_point,
    plan_of,
    read_settings,
)
from apps.driving.rig import LETFUSER
from apps.driving.routes.plan import to_ego
from apps.driving.simulator.cameras import encode_depth
from core.errors import DataError, UsageError

carla = pytest.importorskip("carla")
ROOT = Path(__file__).parents[4]


class Watcher:
    """Asks for everything, goes straight on and keeps what it saw."""

    name, privileged, rig = "watcher", False, LETFUSER
    cameras = frozenset({"rgb", "depth"})

    def __init__(self) -> None:
        self.seen: list[Observation] = []
        self.drive: Drive | None = None
        self.ended = 0
        self.decision = Decision(0.5, 0.1, 0.0)

    def begin(self, drive: Drive) -> None:
        self.drive = drive

    def act(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        return self.decision

    def end(self) -> None:
        self.ended += 1


def route() -> tuple[list[Any], list[Any]]:
    """300 m to the south with a left turn in the middle, as the evaluator hands it out."""
    world, gps = [], []
    for i in range(300):
        option = SimpleNamespace(value=1 if 140 <= i < 160 else 4)
        pose = carla.Transform(carla.Location(100.0, 50.0 + i), carla.Rotation(yaw=90))
        lat = -math.degrees((50.0 + i) / 6378137.0)
        world.append((pose, option))
        gps.append(({"lat": lat, "lon": math.degrees(100.0 / 6378137.0), "z": 0.0}, option))
    return gps, world


def ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[LeaderboardAgent, Watcher]:
    driver = Watcher()
    monkeypatch.setattr(module, "make_agent", lambda *args, **options: driver)
    agent = LeaderboardAgent("localhost", 2000)
    agent.set_global_plan(*route())
    config = tmp_path / "drive.yaml"
    config.write_text("agent: watcher\ndepth_cameras: true\n")
    agent.setup(str(config))
    return agent, driver


def sensed(k: int, **other: Any) -> dict[str, tuple[int, Any]]:
    """What the evaluator gives at tick k: the car stands at the start and looks south."""
    lat = math.degrees(50.0 / 6378137.0)  # CARLA 0.9.16's sensor: grows with y
    depth = np.zeros((160, 320, 4), np.uint8)
    depth[..., 2::-1] = encode_depth(np.full((160, 320), 12.5))
    data: dict[str, Any] = {
        "gnss": np.array([lat, math.degrees(100.0 / 6378137.0), 0.0]),
        "imu": np.array([0, 0, 9.8, 0, 0, 0, math.pi]),
        "speed": {"speed": 3.0},
        **{f"rgb_{camera.name}": bgra(i) for i, camera in enumerate(LETFUSER.cameras)},
        **{f"depth_{camera.name}": depth for camera in LETFUSER.cameras},
        **other,
    }
    return {name: (k, value) for name, value in data.items() if value is not None}


def bgra(i: int) -> np.ndarray:
    return np.full((160, 320, 4), (10 + i, 20 + i, 30 + i, 255), np.uint8)


def test_entry_point_names_the_class() -> None:
    assert getattr(module, get_entry_point()) is LeaderboardAgent
    assert LeaderboardAgent.get_ros_version() == -1


def test_sensors_are_the_drivers_cameras_and_the_navigation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agent, _ = ready(monkeypatch, tmp_path)
    found = {sensor["id"]: sensor for sensor in agent.sensors()}
    assert len(found) == 9
    assert found["depth_left"]["type"] == "sensor.camera.depth"
    assert {k: found["rgb_right"][k] for k in ("x", "z", "yaw", "width", "fov")} == {
        "x": 1.3, "z": 2.3, "yaw": 60.0, "width": 320, "fov": 60.0,
    }  # fmt: skip
    for sensor in found.values():
        assert math.hypot(sensor.get("x", 0), sensor.get("y", 0), sensor.get("z", 0)) <= 3.0


def test_what_the_driver_sees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    agent, driver = ready(monkeypatch, tmp_path)
    control = agent.run_step(sensed(7), 1.0)
    assert (control.throttle, control.steer, control.brake) == pytest.approx((0.5, 0.1, 0.0))
    seen = driver.seen[0]
    assert (seen.frame, seen.time, seen.speed, seen.heading) == (7, 1.0, 3.0, pytest.approx(90.0))
    np.testing.assert_allclose(seen.position, (100.0, 50.0), atol=0.1)
    assert seen.rgb is not None
    assert seen.rgb[2, 0, 0].tolist() == [32, 22, 12]
    assert seen.depth is not None
    np.testing.assert_allclose(seen.depth, 12.5, atol=1e-3)
    assert driver.drive is not None
    points, commands = driver.drive.plan.sparse(50.0)
    expected = to_ego(points[1], seen.position, seen.heading)
    np.testing.assert_allclose(seen.target, expected, atol=1e-4)
    assert Command.LEFT in commands
    assert (driver.drive.world, driver.drive.ego) == (None, None)  # it is not privileged


def test_decisions_come_at_their_interval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    agent, driver = ready(monkeypatch, tmp_path)
    for k in range(20):
        agent.run_step(sensed(k), 5.0 + 0.05 * k)
    assert len(driver.seen) == 10
    agent.destroy()
    agent.destroy()
    assert driver.ended == 1
    LeaderboardAgent("localhost", 2000).destroy()  # never set up


def test_wild_decisions_are_bounded_and_no_numbers_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agent, driver = ready(monkeypatch, tmp_path)
    driver.decision = Decision(7.0, -7.0, -1.0)
    control = agent.run_step(sensed(0), 0.0)
    assert (control.throttle, control.steer, control.brake) == (1.0, -1.0, 0.0)
    driver.decision = Decision(float("nan"), 0.0, 0.0)
    with pytest.raises(DataError, match="not numbers"):
        agent.run_step(sensed(2), 0.1)


def test_bad_sensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    agent, driver = ready(monkeypatch, tmp_path)
    agent.run_step(sensed(0, rgb_front=None), 0.0)
    assert driver.seen[-1].rgb is None  # the driver, or its supervisor, says what that means
    with pytest.raises(DataError, match=r"camera 'rgb_left' .*\(80, 320, 4\).*160 x 320"):
        agent.run_step(sensed(2, rgb_left=np.zeros((80, 320, 4), np.uint8)), 0.1)
    agent.run_step(sensed(4, speed={"speed": None}), 0.2)
    assert driver.seen[-1].speed == 3.0


def test_settings(tmp_path: Path) -> None:
    assert read_settings("") == Settings()
    assert read_settings("expert").agent == "expert"
    path = tmp_path / "a.yaml"
    path.write_text("agnt: expert\n")
    with pytest.raises(UsageError, match=r"agnt.*Did you mean 'agent'"):
        read_settings(str(path))
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        read_settings(str(tmp_path / "nowhere.yaml"))


def test_depth_cameras_must_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "make_agent", lambda *args, **options: Watcher())
    with pytest.raises(UsageError, match="depth_cameras: true"):
        LeaderboardAgent("localhost", 2000).setup("watcher")


def test_the_evaluator_learns_of_depth_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapper:
        def _preprocess_sensor_spec(self, spec: dict[str, Any]) -> tuple[Any, ...]:
            assert spec["type"] == "sensor.camera.rgb"  # it knows no other
            return spec["type"], spec["id"], "pose", {"fov": spec["fov"]}

    wrapper: Any = ModuleType("leaderboard.autoagents.agent_wrapper")
    wrapper.SENSORS_LIMITS = {"sensor.camera.rgb": 8}
    wrapper.QUALIFIER_SENSORS_LIMITS = {"sensor.camera.rgb": 4}
    wrapper.AgentWrapper = Wrapper
    evaluator: Any = ModuleType("leaderboard.leaderboard_evaluator")
    evaluator.sensors_to_icons = {"sensor.camera.rgb": "carla_camera"}
    monkeypatch.setitem(sys.modules, wrapper.__name__, wrapper)
    monkeypatch.setitem(sys.modules, evaluator.__name__, evaluator)
    allow_depth_cameras()
    allow_depth_cameras()
    assert wrapper.SENSORS_LIMITS["sensor.camera.depth"] == 8
    assert evaluator.sensors_to_icons["sensor.camera.depth"] == "carla_camera"
    spec = {"type": "sensor.camera.depth", "id": "d", "fov": 60}
    assert Wrapper()._preprocess_sensor_spec(spec) == (
        "sensor.camera.depth",
        "d",
        "pose",
        {"fov": 60},
    )
    rgb = {**spec, "type": "sensor.camera.rgb"}
    assert Wrapper()._preprocess_sensor_spec(rgb)[0] == "sensor.camera.rgb"


def test_routes_become_plans() -> None:
    plan = plan_of(route()[1])
    assert (len(plan), plan.length) == (300, pytest.approx(299.0))
    assert plan.command[150] == Command.LEFT
    assert plan.junction.sum() == 20
    twice = plan_of([*route()[1][:5], *route()[1][4:9]])  # a leg begins where the last one ended
    assert len(twice) == 9
    with pytest.raises(DataError, match="two or more"):
        plan_of(route()[1][:1])


PROGRAM = """
import json, math, sys
import carla, numpy as np
sys.path.insert(0, {root!r})
from apps.driving.agents.leaderboard_agent import LeaderboardAgent
from apps.driving.routes.planner import Planner
from apps.driving.simulator.session import open_session

with open_session({town!r}, seed=1) as session:
    lane = max((a for a, b in session.map.get_topology() if not a.is_junction),
               key=lambda w: len(w.next_until_lane_end(1.0)))
    places = [w.transform for w in lane.next_until_lane_end(1.0)]
    start = places[0]
    ego = session.spawn_ego(start)
    def gps(pose):  # the Leaderboard's own formula
        return {{"lat": -math.degrees(pose.location.y / 6378137.0),
                 "lon": math.degrees(pose.location.x / 6378137.0), "z": 0.0}}
    agent = LeaderboardAgent("127.0.0.1", 0)
    agent.set_global_plan([(gps(p), 4) for p in places], [(p, 4) for p in places])
    agent.setup("blind")
    data = {{}}
    for kind in ("gnss", "imu"):
        sensor = session.spawn("sensor.other." + kind, carla.Transform(), ego)
        sensor.listen(lambda event, kind=kind: data.__setitem__(kind, event))
    off, head, forward = [], [], 0.0
    for k in range(160):
        snap = session.tick()
        while any(getattr(data.get(kind), "frame", -1) < snap.frame for kind in ("gnss", "imu")):
            pass
        pose, v = ego.get_transform(), ego.get_velocity()
        f = pose.get_forward_vector()
        given = {{
            "gnss": (snap.frame, np.array([data["gnss"].latitude, data["gnss"].longitude, 0.0])),
            "imu": (snap.frame, np.array([0, 0, 0, 0, 0, 0, data["imu"].compass])),
            "speed": (snap.frame, {{"speed": v.x * f.x + v.y * f.y}}),
        }}
        ego.apply_control(agent.run_step(given, snap.timestamp.elapsed_seconds))
        found = agent._localizer
        off.append(math.hypot(found.position[0] - pose.location.x, found.position[1] - pose.location.y))
        head.append(abs((found.heading - pose.rotation.yaw + 180) % 360 - 180))
    agent.destroy()
    end = ego.get_transform().location
    way = min(p.location.distance(end) for p in places)
    print(json.dumps({{"off": max(off[5:]), "head": max(head), "way": way,
                      "gone": start.location.distance(end), "length": len(places)}}))
"""


def test_it_finds_its_way_with_the_worlds_own_sensors() -> None:
    """The blind driver by GNSS, compass and speedometer alone; a client of its own (it may abort)."""
    program = PROGRAM.format(root=str(ROOT), town=str(ROOT / "samples" / "Town01.xodr"))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["head"] < 0.5
    assert found["off"] < 0.6
    assert found["gone"] > 30.0
    assert found["way"] < 1.0
