"""Sessions with the embedded world and with one that somebody else serves.

The clients run in processes of their own: CARLA's library ends a process on some errors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.driving.simulator.connection import SimulatorGone, connect, explain, plain_town
from apps.driving.simulator.session import open_session
from core.errors import DataError, ResourceError, UsageError

carla = pytest.importorskip("carla")

ROOT = Path(__file__).resolve().parents[4]

HEAD = """
import hashlib, json, sys, time
import carla
import numpy as np
from apps.driving.agents.base import Command
from apps.driving.rig import LETFUSER, Camera, Rig
from apps.driving.routes.plan import Navigator
from apps.driving.routes.planner import Planner
from apps.driving.simulator.cameras import Cameras, SensorMissing, observe
from apps.driving.simulator.session import SimulatorGone, open_session
from apps.driving.world import serve
from core.errors import DataError, ResourceError, TriptychError, UsageError
TOWN = "samples/Town01.xodr"
out = {}

def said(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except TriptychError as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]
"""


@pytest.fixture(scope="module")
def program(samples: Path) -> Callable[[str], dict[str, Any]]:
    """Run a client program in the repository; what it left in ``out``."""

    def run(code: str) -> dict[str, Any]:
        text = HEAD + textwrap.dedent(code) + "\nprint('\\n' + json.dumps(out, default=float))\n"
        done = subprocess.run(
            [sys.executable, "-c", text],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return found

    return run


@pytest.fixture(scope="module")
def embedded(program):
    return program(
        """
        def drive():
            with open_session(TOWN, seed=3, traffic=6, walkers=4) as s:
                plan = Planner(s.map).plan([(-2.0, 70.0), (-1.99, 220.0)])
                other = s.world.get_actors().filter("vehicle.*")[0]
                before = len(s.world.get_actors().filter("vehicle.*"))
                start = other.get_transform()
                ego = s.spawn_ego(start)
                after = len(s.world.get_actors().filter("vehicle.*"))
                out["cleared"] = [before, after, s.alive(other), s.alive(ego)]
                out["height"] = ego.get_location().z
                s.destroy([ego, None]); s.tick()
                out["destroyed"] = not s.alive(ego)

                ego = s.spawn_ego((*plan.xy[0], plan.z[0], plan.yaw[0]))
                pose = ego.get_transform()
                out["pose"] = [pose.location.x, pose.location.y, pose.rotation.yaw]
                out["wanted"] = [*plan.xy[0], plan.yaw[0]]
                out["role"] = ego.attributes["role_name"]
                navigator = Navigator(*plan.sparse())
                cameras = Cameras(s, ego, LETFUSER, every=0.1)
                ego.apply_control(carla.VehicleControl(throttle=0.5))
                digest, due, times = hashlib.sha256(), [], []
                for _ in range(30):
                    snapshot = s.tick()
                    due.append(cameras.due(snapshot.frame))
                    if due[-1]:
                        frames = cameras.read(snapshot.frame)
                        seen = observe(s, ego, navigator, frames, snapshot)
                        for part in (frames.rgb, frames.depth, frames.semantics, seen.position):
                            digest.update(np.ascontiguousarray(part).tobytes())
                        times.append(seen.time)
                out["due"] = [due[0], due[1], sum(due)]
                out["interval"] = np.diff(times).tolist()
                out["shapes"] = [list(frames.rgb.shape), list(frames.depth.shape)]
                out["same_frame"] = frames.frame == seen.frame == snapshot.frame - 1
                out["speed"] = [seen.speed, ego.get_velocity().length()]
                out["heading"] = seen.heading
                out["target"] = seen.target.tolist()
                out["road_ahead"] = int((frames.semantics[1, 140:, 100:220] == 1).sum())
                out["depth_of_road"] = float(np.median(frames.depth[1, 150, 120:200]))
                bare = observe(s, ego, navigator)
                out["bare"] = [bare.rgb is None, bare.frame == s.world.get_snapshot().frame]

                cameras._sensors[4].destroy()
                s.tick(); snapshot = s.tick()
                while not cameras.due(snapshot.frame):
                    snapshot = s.tick()
                out["lost_camera"] = said(cameras.read, snapshot.frame, 0.3)
                cameras.destroy()

                s.set_weather({"cloudiness": 80, "sun_altitude_angle": -20})
                s.tick()
                weather = s.world.get_weather()
                out["weather"] = [weather.cloudiness, weather.sun_altitude_angle, weather.wetness]
                out["noon"] = carla.WeatherParameters.ClearNoon.cloudiness
                out["bad_weather"] = said(s.set_weather, {"clouds": 1})
                out["nan_weather"] = said(s.set_weather, {"wetness": float("nan")})
                out["off_road"] = said(s.spawn_ego, (-150.0, 0.0))
                out["no_place"] = said(s.spawn_ego, (1.0, float("inf")))
                out["no_car"] = said(s.spawn_ego, tuple(plan.xy[50]), "vehicle.tesla.model4")
                blocked = carla.Transform(ego.get_location())
                out["no_room"] = said(s.spawn, "vehicle.tesla.model3", blocked)
                out["no_attribute"] = said(s.spawn, "sensor.other.gnss", blocked, ego, wings=2)
                cars = s.world.get_actors().filter("vehicle.*")
                s.destroy([ego]); s.destroy([ego])
                s.tick()
                out["gone"] = said(observe, s, ego, navigator)
                out["town"] = [s.town, s.embedded, s.step]
            return digest.hexdigest()

        out["digests"] = [drive(), drive()]
        """
    )


def test_whoever_stands_at_the_start_is_removed(embedded):
    before, after, other, ego = embedded["cleared"]
    assert (before, after) == (6, 6), "one went, the ego came"
    assert not other
    assert ego
    assert embedded["destroyed"]


def test_car_stands_on_the_road_where_it_was_put(embedded):
    assert embedded["pose"][:2] == pytest.approx(embedded["wanted"][:2], abs=0.1)
    assert embedded["pose"][2] == pytest.approx(embedded["wanted"][2], abs=0.5)
    assert embedded["height"] == pytest.approx(0, abs=0.05)
    assert embedded["role"] == "hero"


def test_pictures_and_measurements_are_of_one_frame(embedded):
    assert embedded["same_frame"]
    assert embedded["due"] == [True, False, 15]
    assert embedded["interval"] == pytest.approx([0.1] * 14)
    assert embedded["shapes"] == [[3, 160, 320, 3], [3, 160, 320]]
    assert embedded["bare"] == [True, True]


def test_observation_is_of_the_car(embedded):
    speed, length = embedded["speed"]
    assert speed == pytest.approx(length, abs=0.5)
    assert speed > 2
    assert embedded["heading"] == pytest.approx(90, abs=2)
    assert embedded["target"][0] > 30
    assert abs(embedded["target"][1]) < 1


def test_front_camera_sees_the_road_where_it_is(embedded):
    """Row 150 looks atan((150.5 - 80) / 277.1) below the horizon from 2.3 m above the road."""
    assert embedded["road_ahead"] > 1500
    assert embedded["depth_of_road"] == pytest.approx(2.3 * 277.13 / 70.5, rel=0.02)


def test_same_seed_same_bytes(embedded):
    first, second = embedded["digests"]
    assert first == second


def test_camera_that_has_gone_is_named(embedded):
    kind, message = embedded["lost_camera"]
    assert kind == "SensorMissing"
    assert "camera 'front' (depth)" in message


def test_weather(embedded):
    assert embedded["weather"] == pytest.approx([80, -20, 0])
    assert embedded["noon"] != 80, "CARLA's preset is left alone"
    assert embedded["bad_weather"][0] == "UsageError"
    assert "no field 'clouds'" in embedded["bad_weather"][1]
    assert embedded["nan_weather"][0] == "DataError"


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("off_road", "DataError", "no driving lane of Town01 within 10 m"),
        ("no_place", "DataError", "a place to start at"),
        ("no_car", "UsageError", "Did you mean 'vehicle.tesla.model3'"),
        ("no_room", "ResourceError", "cannot be spawned"),
        ("no_attribute", "UsageError", "no attribute 'wings'"),
        ("gone", "SimulatorGone", "the car has gone"),
    ],
)
def test_what_cannot_be_is_said(embedded, what, kind, message):
    assert embedded[what][0] == kind
    assert message in embedded[what][1]


def test_session_knows_itself(embedded):
    assert embedded["town"] == ["Town01", True, 0.05]


def test_server_that_is_not_ours_is_left_as_it_was_found(program):
    """A served world stands for a real CARLA: another town, the Traffic Manager, AI walkers."""
    out = program(
        """
        def left(port):
            client = carla.Client("127.0.0.1", port); client.set_timeout(10)
            world = client.get_world()
            time.sleep(0.3)
            kinds = ("vehicle", "walker", "sensor", "controller")
            actors = [a.type_id for a in world.get_actors() if a.type_id.startswith(kinds)]
            settings = world.get_settings()
            return [settings.synchronous_mode, settings.fixed_delta_seconds, actors]

        with serve(TOWN) as port:
            named = dict(host="127.0.0.1", port=port, timeout=20)
            out["before"] = left(port)
            with open_session("Town01", seed=2, traffic=5, walkers=2, **named) as s:
                out["session"] = [s.town, s.embedded]
                actors = s.world.get_actors()
                out["crowd"] = [len(actors.filter(k)) for k in ("vehicle.*", "walker.*")]
                places = {a.id: a.get_location() for a in actors.filter("vehicle.*")}
                s.ticks(60)
                out["moved"] = sum(
                    a.get_location().distance(places[a.id]) > 1 for a in actors.filter("vehicle.*")
                )
                ego = s.spawn_ego(s.map.get_spawn_points()[3])
                cameras = Cameras(s, ego, Rig((Camera("front"),)), ["rgb"], every=0.1)
                read = 0
                for _ in range(6):
                    frame = s.tick().frame
                    if cameras.due(frame):
                        read += cameras.read(frame).rgb.shape == (1, 160, 320, 3)
                out["read"] = read
            out["after"] = left(port)
            with open_session("procedural:2", **named) as s:
                out["built"] = [s.town, len(s.map.get_topology()) > 20]
                out["cars"] = len(s.world.get_actors().filter("vehicle.*"))
            def enter(town):
                with open_session(town, **named):
                    pass
            out["unknown"] = said(enter, "Town99")
            out["number"] = said(enter, "procedural:x")
        """
    )
    assert out["before"] == out["after"] == [False, out["before"][1], []]
    assert out["session"] == ["Town01", False]
    assert out["crowd"] == [5, 2]
    assert out["moved"] >= 2
    assert out["read"] == 3
    assert out["built"] == ["Procedural2", True]
    assert out["cars"] == 0
    assert out["unknown"][0] == "DataError"
    assert "Town01" in out["unknown"][1]
    assert out["number"][0] == "UsageError"


def test_simulator_that_dies_in_mid_route(program):
    out = program(
        """
        import subprocess
        from apps.driving.world.server import PROGRAM
        server = subprocess.Popen(
            [sys.executable, str(PROGRAM), "world", "--town", TOWN, "--port", "0", "--json"]
            + ["--attached"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        port = json.loads(server.stdout.readline())["port"]
        def drive():
            with open_session("Town01", host="127.0.0.1", port=port, timeout=6.0) as s:
                ego = s.spawn_ego(s.map.get_spawn_points()[0])
                cameras = Cameras(s, ego, Rig((Camera("front"),)), ["rgb"])
                for i in range(100):
                    s.tick()
                    if i == 5:
                        server.kill(); server.wait()
                        out["at"], out["killed"] = port, time.monotonic()
        out["error"] = said(drive)
        out["seconds"] = time.monotonic() - out["killed"]
        """
    )
    kind, message = out["error"]
    assert kind == "SimulatorGone"
    assert f"127.0.0.1:{out['at']}" in message
    assert "\n" not in message
    assert out["seconds"] < 60, "it waited longer than for a few calls"


def test_nobody_listens():
    with (
        pytest.raises(SimulatorGone, match=r"127\.0\.0\.1:9 does not answer"),
        open_session("Town01", host="127.0.0.1", port=9, timeout=0.5),
    ):
        pass


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(carla.Client, "get_server_version", lambda self: "0.9.13")
    with pytest.raises(ResourceError, match=r"runs CARLA 0\.9\.13, but the .* client is 0\.9\.16"):
        connect("127.0.0.1", 2000, 1.0)
    monkeypatch.setattr(carla.Client, "get_server_version", lambda self: "0.9.16-dirty")
    assert connect("127.0.0.1", 2000, 1.0) is not None


@pytest.mark.parametrize(
    ("town", "options", "error"),
    [
        ("nowhere.xodr", {}, DataError),
        ("procedural:x", {}, UsageError),
        ("Town01", {}, UsageError),
        ("procedural:0", {"step": 0.0}, UsageError),
        ("procedural:0", {"host": "127.0.0.1", "port": 70000}, UsageError),
    ],
)
def test_towns_and_options_that_cannot_be(town, options, error):
    with pytest.raises(error), open_session(town, **options):
        pass


def test_errors_of_the_client_are_told_apart():
    gone = explain(RuntimeError("time-out of 20000ms while waiting for\nthe simulator"), "h:1")
    assert type(gone) is SimulatorGone
    assert gone.exit_code == 4
    refused = explain(RuntimeError("Spawn failed because of collision at spawn position"), "h:1")
    assert type(refused) is ResourceError


def test_plain_towns():
    assert [
        plain_town(n) for n in ("Carla/Maps/Town01_Opt", "Town02", "/Game/Carla/Maps/Town10HD")
    ] == [
        "Town01",
        "Town02",
        "Town10HD",
    ]


def test_importing_the_simulator_needs_no_carla(python):
    code = (
        "import sys, apps.driving.simulator.cameras, apps.driving.simulator.remote;"
        "print(sorted({'carla', 'torch'} & set(sys.modules)))"
    )
    assert python("-c", code).stdout.strip() == "[]"
