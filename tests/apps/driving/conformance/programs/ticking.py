"""Frames, time and settings, in step with a client and free-running."""

from __future__ import annotations

import time
from typing import Any

import carla
from harness import EMBEDDED, TIMEOUT, Session, close_to, main, vector


def check_synchronous(s: Session) -> dict[str, Any]:
    """One frame and one step of time a tick; the snapshot is that frame's."""
    previous = s.world.get_snapshot()
    for _ in range(20):
        frame = s.tick()
        snapshot = s.world.get_snapshot()
        assert frame == snapshot.frame == snapshot.timestamp.frame == previous.frame + 1
        close_to(snapshot.timestamp.delta_seconds, 0.05, 1e-6, "delta_seconds")
        elapsed = snapshot.timestamp.elapsed_seconds - previous.timestamp.elapsed_seconds
        close_to(elapsed, 0.05, 1e-6, "elapsed time")
        assert snapshot.timestamp.platform_timestamp >= previous.timestamp.platform_timestamp
        previous = snapshot
    began = time.perf_counter()
    s.tick(50)
    return {"empty_ticks_per_s": 50 / (time.perf_counter() - began)}


def check_waits_for_the_client(s: Session) -> dict[str, Any]:
    frame = s.tick()
    time.sleep(0.5)
    assert s.world.get_snapshot().frame == frame, "a synchronous world must not move by itself"
    return {"frame": frame}


def check_step_sizes(s: Session) -> dict[str, Any]:
    for dt in (0.01, 0.1, 1 / 30):
        s.synchronous(dt)
        s.tick()
        before = s.world.get_snapshot().timestamp
        s.tick(5)
        after = s.world.get_snapshot().timestamp
        close_to(after.delta_seconds, dt, 1e-5, "delta_seconds")
        close_to(after.elapsed_seconds - before.elapsed_seconds, 5 * dt, 1e-4, "five steps")
    return {"sizes": 3}


def check_asynchronous(s: Session) -> dict[str, Any]:
    """Left alone, the world runs in real time and calls back at every frame."""
    settings = s.world.get_settings()
    settings.synchronous_mode = False
    settings.fixed_delta_seconds = None
    s.world.apply_settings(settings)
    frames: list[int] = []
    number = s.world.on_tick(lambda snapshot: frames.append(snapshot.frame))
    first = s.world.wait_for_tick(TIMEOUT)
    began = time.perf_counter()
    last = first
    while time.perf_counter() - began < 1.5:
        following = s.world.wait_for_tick(TIMEOUT)
        assert following.frame > last.frame
        assert following.timestamp.elapsed_seconds > last.timestamp.elapsed_seconds
        last = following
    wall = time.perf_counter() - began
    s.world.remove_on_tick(number)
    simulated = last.timestamp.elapsed_seconds - first.timestamp.elapsed_seconds
    assert 0.6 * wall < simulated < 1.4 * wall, f"{simulated:.2f} s passed there, {wall:.2f} s here"
    assert len(frames) >= 5
    assert frames == sorted(set(frames))
    return {
        "simulated_to_wall": simulated / wall,
        "frames_per_s": (last.frame - first.frame) / wall,
    }


def check_asynchronous_fixed_step(s: Session) -> dict[str, Any]:
    """Asynchronous with a fixed step: each frame is that step, however fast they come."""
    settings = s.world.get_settings()
    settings.synchronous_mode = False
    settings.fixed_delta_seconds = 0.05
    s.world.apply_settings(settings)
    s.world.wait_for_tick(TIMEOUT)
    deltas = [s.world.wait_for_tick(TIMEOUT).timestamp.delta_seconds for _ in range(5)]
    close_to(deltas, [0.05] * 5, 1e-5, "delta_seconds")
    return {"frames": 5}


def check_settings(s: Session) -> dict[str, Any]:
    """What is set is what is read, by this client and another."""
    settings = s.world.get_settings()
    settings.no_rendering_mode = True
    settings.fixed_delta_seconds = 0.04
    settings.max_substep_delta_time = 0.008
    settings.max_substeps = 12
    settings.max_culling_distance = 150.0
    settings.deterministic_ragdolls = False
    settings.tile_stream_distance = 2500.0
    settings.actor_active_distance = 1500.0
    frame = s.world.apply_settings(settings)
    assert isinstance(frame, int)
    found = s.client.get_world().get_settings()
    assert found == settings, f"set {settings}, found {found}"
    s.tick()
    close_to(s.world.get_snapshot().timestamp.delta_seconds, 0.04, 1e-6, "delta_seconds")
    settings.no_rendering_mode = False
    s.world.apply_settings(settings)
    return {"frame": frame}


def check_snapshot(s: Session) -> dict[str, Any]:
    """The snapshot knows every actor, and the actors say what it says."""
    car = s.car()
    car.apply_control(carla.VehicleControl(throttle=0.8, steer=0.2))
    s.tick(20)
    snapshot = s.world.get_snapshot()
    actors = s.world.get_actors()
    assert len(actors) > 1
    missing = [a.id for a in actors if not snapshot.has_actor(a.id)]
    assert not missing, f"the snapshot lacks actors {missing[:5]}"
    state = snapshot.find(car.id)
    for found, wanted in (
        (state.get_transform().location, car.get_location()),
        (state.get_velocity(), car.get_velocity()),
        (state.get_acceleration(), car.get_acceleration()),
        (state.get_angular_velocity(), car.get_angular_velocity()),
    ):
        close_to(vector(found), vector(wanted), 1e-5, "a snapshot's value")
    assert car.get_velocity().length() > 0.5
    unknown = max(a.id for a in actors) + 1000
    assert snapshot.find(unknown) is None
    assert not snapshot.has_actor(unknown)
    return {"actors": len(snapshot)}


def check_callbacks(s: Session) -> dict[str, Any]:
    """Two callbacks see each frame in order, until one is removed."""
    seen: dict[str, list[int]] = {"a": [], "b": []}
    s.world.on_tick(lambda snapshot: seen["a"].append(snapshot.frame))
    number = s.world.on_tick(lambda snapshot: seen["b"].append(snapshot.frame))
    frames = [s.tick() for _ in range(5)]
    time.sleep(0.3)
    assert seen["a"] == seen["b"] == frames
    s.world.remove_on_tick(number)
    more = [s.tick() for _ in range(3)]
    time.sleep(0.3)
    assert seen["a"] == frames + more
    assert seen["b"] == frames
    return {"frames": len(frames + more)}


def check_long_run(s: Session) -> dict[str, Any]:
    """A thousand frames: time does not drift."""
    ticks = 1000 if EMBEDDED else 200
    before = s.world.get_snapshot().timestamp.elapsed_seconds
    s.tick(ticks)
    after = s.world.get_snapshot().timestamp.elapsed_seconds
    close_to(after - before, ticks * 0.05, 1e-4, "elapsed time")
    return {"ticks": ticks}


if __name__ == "__main__":
    main(globals())
