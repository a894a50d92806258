"""What every client program here shares: a session with a CARLA server, and one JSON line a check.

A program is a file of functions ``check_*(session)``.  Run it alone against any CARLA 0.9.16 server:

    CARLA_HOST=127.0.0.1 CARLA_PORT=2000 python sensors.py              # every check of the file
    CARLA_HOST=127.0.0.1 CARLA_PORT=2000 python sensors.py depth fov    # two of them

A check asserts what any CARLA server does and returns what it measured.  Each prints one line:

    {"check": "sensors.depth", "passed": true, "measured": {...}, "calls": ["Client.get_world", ...]}

``skipped`` says why a check does not apply (a town without a long road, a server that is not the
embedded one).  The exit status is 1 if a check failed.  ``calls`` are the methods of the client's
classes that the check used; ``coverage.py`` makes the table of them.

Environment: CARLA_HOST, CARLA_PORT, CARLA_TIMEOUT (s, 20), CARLA_EMBEDDED=1 for this project's world.
Units are CARLA's: metres, seconds, degrees, left-handed with y to the right.
"""

from __future__ import annotations

import functools
import json
import math
import os
import queue
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import carla
import numpy as np

from apps.driving.simulator.waker import Waker

HOST = os.environ.get("CARLA_HOST", "127.0.0.1")
PORT = int(os.environ.get("CARLA_PORT", "2000"))
TIMEOUT = float(os.environ.get("CARLA_TIMEOUT", "20"))
EMBEDDED = os.environ.get("CARLA_EMBEDDED") == "1"
DT = 0.05
CAR = "vehicle.tesla.model3"
KMH = 1 / 3.6

calls: set[str] = set()
"""Methods of carla's classes called so far, as ``World.tick``."""


class Skip(Exception):
    """This check does not apply here; the message says why."""


def embedded_only(why: str) -> None:
    """Leave a check that no other server is held to."""
    if not EMBEDDED:
        raise Skip(f"only for the embedded world: {why}")


def record_calls() -> None:
    """Note every public method of carla's classes as it is called; Boost's classes let us wrap them."""
    spaces = [(carla, ""), (carla.command, "command.")]
    for module, prefix in spaces:
        for name, found in vars(module).items():
            if not isinstance(found, type):
                continue
            if prefix and type(vars(found).get("__init__")).__name__ == "function":
                _wrap(found, "__init__", prefix + name)
            for method, value in list(vars(found).items()):
                if not method.startswith("_") and type(value).__name__ == "function":
                    _wrap(found, method, f"{name}.{method}")


def _wrap(owner: type, method: str, label: str) -> None:
    original = getattr(owner, method)

    def called(*arguments: Any, **named: Any) -> Any:
        calls.add(label)
        return original(*arguments, **named)

    setattr(owner, method, functools.wraps(original, assigned=("__doc__",))(called))


class Inbox:
    """What a sensor sent, in order; listening begins here."""

    def __init__(self, sensor: carla.Sensor) -> None:
        self.sensor = sensor
        self._queue: queue.Queue[Any] = queue.Queue()
        sensor.listen(self._queue.put)
        time.sleep(0.1)  # a subscription is not acknowledged; a tick may be quicker than it

    def at(self, frame: int, timeout: float = TIMEOUT) -> Any:
        """The datum of that frame; older ones are dropped, a newer one is a failure."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                datum = self._queue.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"{self.sensor.type_id} sent nothing for frame {frame} within {timeout} s"
                ) from None
            if datum.frame == frame:
                return datum
            assert datum.frame < frame, f"frame {datum.frame} came before {frame}"

    def stop(self) -> None:
        """Listen no longer. Have the last reading first.

        The client's library reads a stream in a thread of its own. When the stream is closed between a
        reading's size and its data, 0.9.16 decodes a buffer that was never filled, and aborts.
        """
        self.sensor.stop()

    def drain(self, settle: float = 0.2) -> list[Any]:
        """Everything that came so far, after ``settle`` s of silence."""
        found = []
        while True:
            try:
                found.append(self._queue.get(timeout=settle))
            except queue.Empty:
                return found


class Session:
    """A synchronous world at 20 Hz with nobody in it; what it spawns goes when it closes."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self.client = carla.Client(HOST, PORT)
        self.client.set_timeout(TIMEOUT)
        self.world = self.client.get_world()
        self.map = self.world.get_map()
        self.library = self.world.get_blueprint_library()
        self._waker: Waker | None = None
        self.synchronous()
        self.clear()
        self.world.set_weather(carla.WeatherParameters.ClearNoon)
        self.world.freeze_all_traffic_lights(False)
        self.world.reset_all_traffic_lights()
        self.tick()
        calls.clear()  # the check's own are wanted

    def synchronous(self, dt: float = DT) -> None:
        """Ticks happen when asked for, each of ``dt`` seconds."""
        settings = self.world.get_settings()
        settings.synchronous_mode = True
        settings.fixed_delta_seconds = dt
        settings.no_rendering_mode = False
        settings.substepping = True
        settings.max_substep_delta_time = 0.01
        settings.max_substeps = max(10, math.ceil(dt / 0.01))
        self.world.apply_settings(settings)

    def clear(self) -> None:
        """Destroy all vehicles, walkers, sensors, controllers and props, in one batch.

        Never with ``do_tick``: apply_batch_sync keeps Python's lock while it waits for the frame, and
        with two cores two pictures that wait for that lock in their callbacks keep the frame away.
        """
        self.tick()
        actors = self.world.get_actors()
        gone = [
            actor
            for kind in ("controller.*", "sensor.*", "vehicle.*", "walker.*", "static.prop*")
            for actor in actors.filter(kind)
        ]
        if gone:
            self.client.apply_batch_sync([carla.command.DestroyActor(a) for a in gone], False)
            self.tick()

    def close(self) -> None:
        """Empty the world and let it run by itself, as a server does after its start."""
        settings = self.world.get_settings()
        if not settings.synchronous_mode:
            self.synchronous()
        self.clear()
        self._unwatched()
        settings.synchronous_mode = False
        settings.fixed_delta_seconds = None
        self.world.apply_settings(settings)

    def tick(self, n: int = 1) -> int:
        """Advance n steps; the last frame's number."""
        frame = 0
        for _ in range(n):
            if self._waker is None:
                frame = self.world.tick(TIMEOUT)
            else:
                frame = self._waker.tick(self.world, TIMEOUT)
        return frame

    def manager(self) -> tuple[Any, int]:
        """A synchronous Traffic Manager on a port of its own, whose hangs are freed."""
        port = free_port()
        found = self.client.get_trafficmanager(port)
        assert found.get_port() == port
        found.set_synchronous_mode(True)
        found.set_random_device_seed(3)
        self._unwatched()
        self._waker = Waker(port)
        return found, port

    def _unwatched(self) -> None:
        if self._waker is not None:
            self._waker.close()
            self._waker = None

    def until(self, done: Callable[[], bool], ticks: int) -> bool:
        """Tick until ``done``, at most ``ticks`` times; whether it came true."""
        for _ in range(ticks):
            if done():
                return True
            self.tick()
        return done()

    def present(self) -> set[int]:
        """Ids of the last frame; ``World.get_actor`` also finds what has gone, in the client's cache."""
        return {actor.id for actor in self.world.get_snapshot()}

    # -- actors ----------------------------------------------------------------------------------

    def spawn(
        self,
        blueprint: str,
        place: carla.Transform | None = None,
        parent: carla.Actor | None = None,
        attachment: carla.AttachmentType = carla.AttachmentType.Rigid,
        **attributes: Any,
    ) -> Any:
        """An actor; attributes are set by name."""
        found = self.library.find(blueprint)
        for name, value in attributes.items():
            found.set_attribute(name, str(value))
        place = place if place is not None else self.map.get_spawn_points()[0]
        actor = self.world.spawn_actor(found, place, parent, attachment)
        self._kept.append(actor)  # the client warns when a sensor's object goes before the sensor
        return actor

    def car(self, place: carla.Transform | None = None, settle: int = 20, **attributes: Any) -> Any:
        """The default car, standing on its wheels: CARLA drops it from the spawn point's height."""
        found = self.spawn(CAR, place, **attributes)
        found.apply_control(carla.VehicleControl(brake=1.0))
        self.tick(settle)
        return found

    def sensor(
        self, kind: str, place: carla.Transform, parent: Any = None, **attributes: Any
    ) -> Inbox:
        """A sensor that already listens."""
        return Inbox(self.spawn(kind, place, parent, **attributes))

    # -- places ----------------------------------------------------------------------------------

    def straight(self, length: float) -> carla.Transform:
        """A spawn point followed by ``length`` m of lane that deviates less than 0.5 m and 2 degrees."""
        for point in self.map.get_spawn_points():
            lane = list(follow(self.map.get_waypoint(point.location), length))
            if len(lane) >= length / 4 and all(is_ahead(point, way.transform) for way in lane):
                return point
        raise Skip(f"{self.map.name} has no straight lane of {length:.0f} m after a spawn point")

    def open_square(self) -> carla.Location:
        """The middle of the largest junction: nothing stands there."""
        boxes = {}
        for start, _ in self.map.get_topology():
            if start.is_junction:
                junction = start.get_junction()
                boxes[junction.id] = junction.bounding_box
        if not boxes:
            raise Skip(f"{self.map.name} has no junction")
        box = max(boxes.values(), key=lambda b: min(b.extent.x, b.extent.y))
        return box.location


def follow(start: carla.Waypoint, length: float, step: float = 4.0) -> Iterator[carla.Waypoint]:
    """Waypoints along a lane, straight on where it forks."""
    way = start
    for _ in range(int(length / step) + 1):
        yield way
        ahead = way.next(step)
        if not ahead:
            return
        yaw = way.transform.rotation.yaw
        way = min(ahead, key=lambda w: abs(turn(yaw, w.transform.rotation.yaw)))


def turn(before: float, after: float) -> float:
    """Degrees from one heading to another, -180 to 180."""
    return (after - before + 180) % 360 - 180


def is_ahead(start: carla.Transform, there: carla.Transform) -> bool:
    """Whether a pose lies on the straight line of another, same heading."""
    local = start.inverse_transform(there.location)
    heading = turn(start.rotation.yaw, there.rotation.yaw)
    return abs(local.y) < 0.5 and abs(heading) < 2 and abs(local.z) < 1.5


def ahead(pose: carla.Transform, x: float, y: float = 0.0, z: float = 0.0) -> carla.Transform:
    """A pose x m ahead, y m to the right and z m above, same heading."""
    return carla.Transform(pose.transform(carla.Location(x, y, z)), pose.rotation)


def vector(found: Any) -> np.ndarray:
    """(3,) of a Location or Vector3D."""
    return np.array([found.x, found.y, found.z])


def speed(vehicle: carla.Actor) -> float:
    """Metres per second."""
    return float(vehicle.get_velocity().length())


def pixels(image: carla.Image) -> np.ndarray:
    """(H, W, 4) uint8: blue, green, red, alpha."""
    return np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)


def depth_metres(image: carla.Image) -> np.ndarray:
    """(H, W) metres along the optical axis, from CARLA's 24 bits over a kilometre."""
    bgra = pixels(image).astype(np.float64)
    return 1000 * (bgra[..., 2] + 256 * bgra[..., 1] + 65536 * bgra[..., 0]) / (2**24 - 1)


def close_to(found: Any, wanted: Any, within: float, what: str = "value") -> None:
    """Fail with both numbers."""
    difference = float(np.max(np.abs(np.asarray(found, float) - np.asarray(wanted, float))))
    assert difference <= within, f"{what} is {found}, wanted {wanted} within {within}"


def raises(action: Callable[[], Any], *kinds: type[BaseException]) -> str:
    """The message of the exception that the action must raise."""
    wanted = kinds or (RuntimeError,)
    try:
        result = action()
    except wanted as error:
        message = str(error)
        if "internal error" not in message:
            return message
        result = message
    raise AssertionError(f"no error: it returned {result!r}")


def free_port() -> int:
    """A port nobody listens on, for a Traffic Manager."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(program: dict[str, Any]) -> None:
    """Run the checks named on the command line, or all of a program's."""
    record_calls()
    folder = os.path.splitext(os.path.basename(program["__file__"]))[0]
    checks = {name[6:]: found for name, found in program.items() if name.startswith("check_")}
    chosen = sys.argv[1:] or list(checks)
    unknown = sorted(set(chosen) - set(checks))
    if unknown:
        sys.exit(f"no check {unknown[0]!r} in {folder}; there are: {', '.join(checks)}")
    failed = False
    for name in chosen:
        line: dict[str, Any] = {"check": f"{folder}.{name}", "passed": True}
        began = time.monotonic()
        try:
            session = Session()
            try:
                line["measured"] = checks[name](session) or {}
            finally:
                line["calls"] = sorted(calls)
                session.close()
        except Skip as why:
            line["skipped"] = str(why)
        except Exception as error:
            failed = True
            traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            line |= {
                "passed": False,
                "error": f"{type(error).__name__}: {error}",
                "line": where.lineno,
            }
        line["seconds"] = round(time.monotonic() - began, 2)
        print(json.dumps(line, default=float), flush=True)
    sys.exit(int(failed))
