"""CARLA's Traffic Manager, which runs in the client, drives the vehicles of the server."""

from __future__ import annotations

import time
from typing import Any

import carla
import numpy as np
from harness import (
    CAR,
    HOST,
    PORT,
    TIMEOUT,
    Session,
    Skip,
    ahead,
    embedded_only,
    free_port,
    main,
    speed,
    turn,
    vector,
)

Red, Green = carla.TrafficLightState.Red, carla.TrafficLightState.Green


def to_the_lane(s: Session, car: Any) -> float:
    """Metres from the middle of the nearest driving lane."""
    lane = s.map.get_waypoint(car.get_location(), lane_type=carla.LaneType.Driving)
    return float(np.linalg.norm((vector(lane.transform.location) - vector(car.get_location()))[:2]))


def check_autopilot(s: Session) -> dict[str, Any]:
    """Ten cars drive for twenty seconds, in their lanes, without touching each other."""
    tm, port = s.manager()
    points = s.map.get_spawn_points()[::4][:10]
    cars = [s.spawn(CAR, point) for point in points]
    mails = [s.sensor("sensor.other.collision", carla.Transform(), car) for car in cars]
    s.tick(5)
    for car in cars:
        tm.ignore_lights_percentage(car, 100)
        car.set_autopilot(True, port)
    driven = np.zeros(len(cars))
    before = [vector(c.get_location()) for c in cars]
    offsets = []
    for i in range(400):
        s.tick()
        now = [vector(c.get_location()) for c in cars]
        driven += [np.linalg.norm(b - a) for a, b in zip(before, now, strict=True)]
        before = now
        if i % 20 == 0:
            offsets.append([to_the_lane(s, car) for car in cars])
    hits = sum(
        e.other_actor.type_id.startswith("vehicle") for mail in mails for e in mail.drain(0.05)
    )
    for car in cars:
        car.set_autopilot(False, port)
    s.tick()
    tm.shut_down()
    assert np.median(driven) > 40, f"driven in 20 s: {driven.round()} m"
    assert (driven > 5).sum() >= 8
    assert np.percentile(offsets, 95) < 1.6, (
        f"95 % within {np.percentile(offsets, 95):.1f} m of a lane"
    )
    assert hits <= 2, f"{hits} collisions"
    return {"median_m": float(np.median(driven)), "offset_m": float(np.percentile(offsets, 95))}


def check_stops_at_red(s: Session) -> dict[str, Any]:
    """At a light that stays red the car waits; at green it goes."""
    for light in s.world.get_actors().filter("traffic.traffic_light"):
        stops = [w for w in light.get_stop_waypoints() if w.previous(25) and not w.is_junction]
        if stops and not stops[0].previous(25)[0].is_junction:
            break
    else:
        raise Skip(f"{s.map.name} has no light with 25 m of lane before it")
    stop = stops[0]
    s.world.freeze_all_traffic_lights(True)
    for other in light.get_group_traffic_lights():
        other.set_state(Red)
    tm, port = s.manager()
    place = stop.previous(25)[0].transform
    place.location.z += 0.4
    car = s.car(place)
    car.set_autopilot(True, port)
    s.tick(300)
    local = stop.transform.inverse_transform(car.get_location())
    assert speed(car) < 0.3, f"{speed(car):.1f} m/s before a red light"
    assert -25 < local.x < 4, f"it stands {local.x:.1f} m past the line"
    assert local.x > -18, f"it stands {-local.x:.1f} m before the line"
    for other in light.get_group_traffic_lights():
        other.set_state(Green)
    s.tick(160)
    local_after = stop.transform.inverse_transform(car.get_location())
    car.set_autopilot(False, port)
    s.tick()
    tm.shut_down()
    s.world.freeze_all_traffic_lights(False)
    moved = local_after.distance(local)
    assert moved > 8, f"it went {moved:.1f} m within 8 s of green"
    return {"stood_m_past_the_line": local.x}


def check_keeps_its_distance(s: Session) -> dict[str, Any]:
    """Behind a car that stands, the managed one stops without touching it."""
    place = s.straight(70)
    tm, port = s.manager()
    front = s.car(ahead(place, 40), settle=0)
    car = s.car(place)
    front.apply_control(carla.VehicleControl(hand_brake=True))
    mail = s.sensor("sensor.other.collision", carla.Transform(), car)
    tm.distance_to_leading_vehicle(car, 3.0)
    tm.ignore_lights_percentage(car, 100)
    tm.auto_lane_change(car, False)
    car.set_autopilot(True, port)
    s.tick(240)
    gap = car.get_location().distance(front.get_location())
    gap -= car.bounding_box.extent.x + front.bounding_box.extent.x
    hits = [e for e in mail.drain() if e.other_actor.id == front.id]
    car.set_autopilot(False, port)
    s.tick()
    tm.shut_down()
    assert speed(car) < 0.3
    assert not hits, "it ran into the car ahead"
    assert 0 < gap < 15, f"it stopped {gap:.1f} m behind"
    return {"gap_m": gap}


def check_speed(s: Session) -> dict[str, Any]:
    """A desired speed is reached and held."""
    place = s.straight(150)
    tm, port = s.manager()
    car = s.car(place)
    tm.ignore_lights_percentage(car, 100)
    tm.set_desired_speed(car, 25.0)
    car.set_autopilot(True, port)
    s.tick(160)
    speeds = []
    for _ in range(20):
        s.tick()
        speeds.append(speed(car) * 3.6)
    car.set_autopilot(False, port)
    s.tick()
    tm.shut_down()
    mean = float(np.mean(speeds))
    assert 18 < mean < 30, f"{mean:.1f} km/h instead of 25"
    return {"kmh": mean}


def check_options(s: Session) -> dict[str, Any]:
    """Every option is taken; the next actions can be asked for."""
    tm, port = s.manager()
    car = s.car()
    car.set_autopilot(True, port)
    tm.global_percentage_speed_difference(10.0)
    tm.vehicle_percentage_speed_difference(car, 20.0)
    tm.set_global_distance_to_leading_vehicle(2.0)
    tm.global_lane_offset(0.0)
    tm.vehicle_lane_offset(car, 0.1)
    tm.update_vehicle_lights(car, True)
    tm.collision_detection(car, car, False)
    tm.force_lane_change(car, True)
    tm.auto_lane_change(car, True)
    tm.ignore_signs_percentage(car, 50)
    tm.ignore_vehicles_percentage(car, 50)
    tm.ignore_walkers_percentage(car, 50)
    tm.random_left_lanechange_percentage(car, 10)
    tm.random_right_lanechange_percentage(car, 10)
    tm.set_hybrid_physics_mode(False)
    tm.set_hybrid_physics_radius(50.0)
    tm.set_osm_mode(True)
    tm.keep_slow_lane_rule_percentage(car, 10)
    tm.set_respawn_dormant_vehicles(False)
    tm.set_boundaries_respawn_dormant_vehicles(25.0, 50.0)
    tm.set_route(car, ["Straight", "Left", "Right"])
    s.tick(30)
    action = tm.get_next_action(car)
    assert len(action) == 2, action
    assert len(tm.get_all_actions(car)) >= 1
    lights = int(car.get_light_state())
    car.set_autopilot(False, port)
    s.tick()
    tm.shut_down()
    return {"next": str(action[0]), "lights": lights}


def check_path(s: Session) -> dict[str, Any]:
    """A path of one's own is followed: past a junction, on the branch that it takes."""
    tm, port = s.manager()
    for point in s.map.get_spawn_points():
        way, path = s.map.get_waypoint(point.location), []
        while way is not None and len(path) < 30:
            path.append(way)
            ahead_of = way.next(4.0)
            # The branch that turns most, where there is one.
            way = max(
                ahead_of,
                key=lambda w, yaw=way.transform.rotation.yaw: abs(
                    turn(yaw, w.transform.rotation.yaw)
                ),
                default=None,
            )
        bend = abs(turn(path[0].transform.rotation.yaw, path[-1].transform.rotation.yaw))
        if len(path) == 30 and 60 < bend < 120 and any(w.is_junction for w in path[:18]):
            break
    else:
        raise Skip(f"{s.map.name} has no turn within 70 m of a spawn point")
    car = s.car(point)
    tm.ignore_lights_percentage(car, 100)
    tm.auto_lane_change(car, False)
    tm.set_path(car, [w.transform.location for w in path])
    car.set_autopilot(True, port)
    places = np.array([vector(w.transform.location)[:2] for w in path])
    nearest, last = [], 0
    for _ in range(400):
        s.tick()
        gaps = np.linalg.norm(places - vector(car.get_location())[:2], axis=1)
        nearest.append(gaps.min())
        last = max(last, int(gaps.argmin()))
        if last >= len(path) - 4:
            break
    car.set_autopilot(False, port)
    s.tick()
    tm.shut_down()
    assert last >= len(path) - 6, f"it came to point {last} of {len(path)} in 20 s"
    assert max(nearest) < 4.5, f"it left the path by {max(nearest):.1f} m"
    return {"largest_distance_m": float(max(nearest)), "points": last}


def check_batch_autopilot(s: Session) -> dict[str, Any]:
    """Spawn, then SetAutopilot, as CARLA's generate_traffic example does."""
    tm, port = s.manager()
    blueprint = s.library.find(CAR)
    answers = s.client.apply_batch_sync(
        [
            carla.command.SpawnActor(blueprint, point).then(
                carla.command.SetAutopilot(carla.command.FutureActor, True, port)
            )
            for point in s.map.get_spawn_points()[::5][:6]
        ],
        True,
    )
    assert not any(a.has_error() for a in answers)
    cars = s.world.get_actors([a.actor_id for a in answers])
    s.tick(160)
    moving = sum(speed(car) > 1 for car in cars)
    s.client.apply_batch_sync([carla.command.DestroyActor(c) for c in cars], True)
    s.tick()
    tm.shut_down()
    assert moving >= 2, f"{moving} of 6 cars move after 8 s"
    return {"moving": moving}


def check_destroyed_under_way(s: Session) -> dict[str, Any]:
    """Cars destroyed while the manager drives them, in real time: the client's process survives.

    Its thread asks for what it drives; an answer that is an error ends the whole process there.
    """
    embedded_only("there is no promise in CARLA's own server that the client survives this")
    settings = s.world.get_settings()
    settings.synchronous_mode = False
    s.world.apply_settings(settings)
    port = free_port()
    tm = s.client.get_trafficmanager(port)
    blueprint = s.library.find(CAR)
    points = s.map.get_spawn_points()
    rounds = 24
    for i in range(rounds):
        cars = [s.world.try_spawn_actor(blueprint, p) for p in points[10 * i : 10 * i + 3]]
        made = [car for car in cars if car is not None]
        assert made
        for car in made:
            car.set_autopilot(True, port)
        s.world.wait_for_tick(TIMEOUT)
        s.world.wait_for_tick(TIMEOUT)
        time.sleep(0.0005 * i)  # the manager asks in the milliseconds after each frame
        s.client.apply_batch([carla.command.DestroyActor(car) for car in made])
        s.world.wait_for_tick(TIMEOUT)
    s.synchronous()
    s.tick()
    tm.shut_down()
    assert len(s.world.get_actors().filter("vehicle.*")) == 0
    return {"rounds": rounds}


def check_second_manager(s: Session) -> dict[str, Any]:
    """A second client on the same port shares the first one's manager."""
    tm, port = s.manager()
    other = carla.Client(HOST, PORT)
    other.set_timeout(TIMEOUT)
    again = other.get_trafficmanager(port)
    assert again.get_port() == port
    car = s.car()
    s.tick()
    mirrored = other.get_world().get_actor(car.id)
    mirrored.set_autopilot(True, port)
    s.tick(100)
    moved = speed(car)
    car.set_autopilot(False, port)
    s.tick()
    tm.shut_down()
    return {"metres_per_second": moved}


def check_load_world(s: Session) -> dict[str, Any]:
    """A town is loaded while a manager lives, as CARLA's Leaderboard does; both go on."""
    tm, port = s.manager()
    s.tick()
    s.world = s.client.load_world(s.map.name.rpartition("/")[2], reset_settings=False)
    frames = [s.tick() for _ in range(3)]
    assert frames[2] == frames[0] + 2
    s.map = s.world.get_map()
    car = s.car()
    s.tick()
    car.set_autopilot(True, port)
    s.tick(100)
    moved = speed(car)
    assert moved > 1.0
    car.set_autopilot(False, port)
    s.tick()
    tm.shut_down()
    return {"metres_per_second": moved}


if __name__ == "__main__":
    main(globals())
