"""Clients come, go, work side by side and die; the world goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import carla
from harness import (
    CAR,
    HOST,
    PORT,
    TIMEOUT,
    Inbox,
    Session,
    close_to,
    free_port,
    main,
    raises,
    vector,
)


def another() -> carla.Client:
    client = carla.Client(HOST, PORT)
    client.set_timeout(TIMEOUT)
    return client


def check_versions(s: Session) -> dict[str, Any]:
    client, server = s.client.get_client_version(), s.client.get_server_version()
    assert client == server, f"client {client}, server {server}: install carla=={server}"
    return {"version": server}


def check_world_and_map(s: Session) -> dict[str, Any]:
    """The map that the server sends is the one that its spawn points lie on."""
    points = s.map.get_spawn_points()
    assert len(points) >= 10
    off = []
    for point in points:
        lane = s.map.get_waypoint(point.location, lane_type=carla.LaneType.Driving)
        off.append(lane.transform.location.distance(point.location))
        close_to(lane.transform.location.z, point.location.z, 2.0, "a spawn point's height")
    assert max(off) < 2.5, f"a spawn point lies {max(off):.1f} m from its lane"
    text = s.map.to_opendrive()
    assert "<OpenDRIVE" in text[:500]
    own = carla.Map(s.map.name, text)
    assert len(own.get_topology()) == len(s.map.get_topology()) > 0
    name = s.map.name.split("/")[-1]
    maps = s.client.get_available_maps()
    assert any(m.endswith(name) for m in maps), f"{name} is not among {maps}"
    return {"spawn_points": len(points), "maps": len(maps), "largest_offset_m": max(off)}


def check_reconnects(s: Session) -> dict[str, Any]:
    """Twenty clients one after the other."""
    before = s.tick()
    began = time.perf_counter()
    for _ in range(20):
        client = another()
        world = client.get_world()
        assert world.id == s.world.id
        assert world.get_map().name == s.map.name
        assert world.get_settings().synchronous_mode
        del world, client
    seconds = (time.perf_counter() - began) / 20
    assert s.tick() == before + 1, "a client that only looks must not move the world"
    return {"seconds_each": seconds}


def check_two_clients(s: Session) -> dict[str, Any]:
    """What one spawns and drives, the other sees and can drive or destroy."""
    world = another().get_world()
    frames: list[int] = []
    world.on_tick(lambda snapshot: frames.append(snapshot.frame))
    mine = s.car()
    first = s.tick()
    theirs = world.get_actor(mine.id)
    assert theirs is not None
    assert theirs.type_id == CAR
    close_to(vector(theirs.get_location()), vector(mine.get_location()), 0.01, "location")
    theirs.apply_control(carla.VehicleControl(throttle=0.7))
    s.tick(20)
    close_to(mine.get_control().throttle, 0.7, 1e-3, "the throttle that the other client set")
    assert mine.get_velocity().length() > 0.5
    last = s.tick()
    deadline = time.monotonic() + TIMEOUT
    while (not frames or frames[-1] < last) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [f for f in frames if f >= first] == list(range(first, last + 1)), "ticks were missed"
    assert theirs.destroy()
    s.tick()
    assert mine.id not in [a.id for a in s.world.get_actors()]
    return {"frames": last - first}


KILLED = """
import sys, time, carla
client = carla.Client({host!r}, {port}); client.set_timeout({timeout})
world = client.get_world()
library = world.get_blueprint_library()
spots = world.get_map().get_spawn_points()
car = world.spawn_actor(library.find("vehicle.tesla.model3"), spots[1])
camera = world.spawn_actor(library.find("sensor.camera.rgb"), carla.Transform(carla.Location(z=2)), car)
camera.listen(lambda image: None)
print("ready", flush=True)
time.sleep(60)
"""


def check_killed_client(s: Session) -> dict[str, Any]:
    """A client that is killed while its camera streams leaves its actors, and nobody waits for it."""
    mine = s.car()
    mail = s.sensor("sensor.other.gnss", carla.Transform(), mine)
    code = KILLED.format(host=HOST, port=PORT, timeout=TIMEOUT)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        for _ in range(10):
            mail.at(s.tick())
        child.send_signal(signal.SIGKILL)
    began = time.perf_counter()
    for _ in range(30):
        mail.at(s.tick())
    cars = s.world.get_actors().filter("vehicle.*")
    assert len(cars) == 2, "the dead client's car stays, as in CARLA"
    return {"seconds_for_30_ticks_after": time.perf_counter() - began}


def check_no_server(s: Session) -> dict[str, Any]:
    """Nobody listens: an error within the time-out, not a hang."""
    client = carla.Client(HOST, free_port())
    client.set_timeout(1.0)
    began = time.perf_counter()
    message = raises(client.get_world)
    waited = time.perf_counter() - began
    assert "time-out" in message, message
    assert waited < 10
    return {"waited_s": waited}


def check_spectator(s: Session) -> dict[str, Any]:
    spectator = s.world.get_spectator()
    assert spectator.type_id == "spectator"
    wanted = carla.Transform(carla.Location(10, -20, 30), carla.Rotation(pitch=-30, yaw=60))
    spectator.set_transform(wanted)
    s.tick(2)
    found = s.world.get_spectator().get_transform()
    close_to(vector(found.location), vector(wanted.location), 0.05, "location")
    close_to(found.rotation.yaw, 60, 0.1, "yaw")
    close_to(found.rotation.pitch, -30, 0.1, "pitch")
    return {"id": spectator.id}


def check_two_listeners(s: Session) -> dict[str, Any]:
    """Two clients listen to the same sensor; each gets every frame."""
    car = s.car()
    sensor = s.spawn("sensor.other.imu", carla.Transform(), car)
    s.tick()
    here = Inbox(sensor)
    there = Inbox(another().get_world().get_actor(sensor.id))
    s.tick(2)
    for _ in range(10):
        frame = s.tick()
        a, b = here.at(frame), there.at(frame)
        close_to(vector(a.accelerometer), vector(b.accelerometer), 1e-6, "accelerometer")
    here.stop()
    for _ in range(3):
        there.at(s.tick())
    return {"frames": 13}


if __name__ == "__main__":
    main(globals())
