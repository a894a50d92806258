"""Traffic lights and signs: what they show, when it changes, whom they hold."""

from __future__ import annotations

import itertools
from typing import Any

import carla
from harness import (
    CAR,
    Session,
    Skip,
    close_to,
    follow,
    main,
    speed,
)

State = carla.TrafficLightState
NEXT = {State.Green: State.Yellow, State.Yellow: State.Red, State.Red: State.Green}


def all_lights(s: Session) -> list[Any]:
    found = list(s.world.get_actors().filter("traffic.traffic_light"))
    if not found:
        raise Skip(f"{s.map.name} has no traffic lights")
    return found


def check_found(s: Session) -> dict[str, Any]:
    """Each light is one of the map's signals, and each way of asking for it gives the same one."""
    lights = all_lights(s)
    signals = {m.id: m for m in s.map.get_all_landmarks_of_type("1000001")}
    known = [light for light in lights if light.get_opendrive_id() in signals]
    assert len(known) >= 0.9 * len(lights), "lights without a signal in the OpenDRIVE text"
    for light in known[:10]:
        name = light.get_opendrive_id()
        assert s.world.get_traffic_light_from_opendrive_id(name).id == light.id
        assert s.world.get_traffic_light(signals[name]).id == light.id
        where = signals[name].transform.location
        assert where.distance(light.get_location()) < 40
    return {"lights": len(lights), "signals": len(signals)}


def check_set_state(s: Session) -> dict[str, Any]:
    light = all_lights(s)[0]
    s.world.freeze_all_traffic_lights(True)
    s.tick(2)
    assert light.is_frozen()
    for state in (State.Red, State.Yellow, State.Green, State.Off, State.Red):
        light.set_state(state)
        s.tick(2)
        assert light.get_state() == light.state == state
    s.tick(40)
    assert light.get_state() == State.Red, "frozen lights change only when told"
    s.world.freeze_all_traffic_lights(False)
    s.tick(2)
    assert not light.is_frozen()
    return {}


def check_times(s: Session) -> dict[str, Any]:
    """Durations can be read and set."""
    light = all_lights(s)[0]
    before = (light.get_green_time(), light.get_yellow_time(), light.get_red_time())
    assert all(0 < t < 120 for t in before), before
    light.set_green_time(4.5)
    light.set_yellow_time(1.5)
    light.set_red_time(2.5)
    s.tick(2)
    found = (light.get_green_time(), light.get_yellow_time(), light.get_red_time())
    close_to(found, (4.5, 1.5, 2.5), 1e-3, "times")
    light.set_green_time(before[0])
    light.set_yellow_time(before[1])
    light.set_red_time(before[2])
    s.tick()
    return {"green_s": before[0], "yellow_s": before[1], "red_s": before[2]}


def check_cycle(s: Session) -> dict[str, Any]:
    """Left alone, a group goes green, yellow, red in that order, each for its time."""
    light = max(all_lights(s), key=lambda l: len(l.get_group_traffic_lights()))
    group = light.get_group_traffic_lights()
    times = [(m, m.get_green_time(), m.get_yellow_time(), m.get_red_time()) for m in group]
    for member in group:
        member.set_green_time(2.0)
        member.set_yellow_time(1.0)
        member.set_red_time(0.5)
    light.reset_group()
    s.tick()
    ticks = int(20 * (3.5 * len(group) + 14))
    shown: dict[int, list[tuple[Any, int]]] = {m.id: [] for m in group}
    greens = 0
    for _ in range(ticks):
        s.tick()
        states = {m.id: m.get_state() for m in group}
        greens = max(greens, sum(v == State.Green for v in states.values()))
        for name, state in states.items():
            if not shown[name] or shown[name][-1][0] != state:
                shown[name].append((state, 0))
            shown[name][-1] = (state, shown[name][-1][1] + 1)
    for member, *durations in times:
        member.set_green_time(durations[0])
        member.set_yellow_time(durations[1])
        member.set_red_time(durations[2])
    s.tick()
    for name, phases in shown.items():
        wrong = [(str(a), str(b)) for (a, _), (b, _) in itertools.pairwise(phases) if NEXT[a] != b]
        assert not wrong, f"light {name} went {wrong[0]}"
        assert len(phases) >= 4, f"light {name} only showed {phases}"
        # The first phase began before the times were set, the last has not ended.
        for state, length in phases[2:-1]:
            if state == State.Green:
                close_to(length * 0.05, 2.0, 0.11, "seconds of green")
            if state == State.Yellow:
                close_to(length * 0.05, 1.0, 0.11, "seconds of yellow")
    if len(group) >= 3:
        assert greens < len(group), "all approaches of a junction had green at once"
    return {"lights": len(group), "most_green_at_once": greens, "ticks": ticks}


def check_freeze_one(s: Session) -> dict[str, Any]:
    """A frozen light keeps its state and clock while the world goes on."""
    light = all_lights(s)[0]
    light.set_state(State.Green)
    light.freeze(True)
    s.tick(2)
    assert light.is_frozen()
    s.tick(400)
    assert light.get_state() == State.Green
    light.freeze(False)
    s.tick(2)
    assert not light.is_frozen()
    return {"seconds": 20}


def check_elapsed(s: Session) -> dict[str, Any]:
    """The clock of a light runs with the world's."""
    light = all_lights(s)[0]
    s.world.reset_all_traffic_lights()
    s.tick(3)
    before, state = light.get_elapsed_time(), light.get_state()
    s.tick(20)
    after = light.get_elapsed_time()
    if light.get_state() == state:
        close_to(after - before, 1.0, 0.11, "seconds")
    return {"before": before, "after": after}


def check_groups(s: Session) -> dict[str, Any]:
    """Groups are symmetric and disjoint; poles are numbered."""
    lights = all_lights(s)
    seen: set[int] = set()
    sizes = []
    for light in lights:
        if light.id in seen:
            continue
        group = {m.id for m in light.get_group_traffic_lights()}
        assert light.id in group
        assert not group & seen, "a light belongs to two groups"
        for member in light.get_group_traffic_lights():
            assert {m.id for m in member.get_group_traffic_lights()} == group
        seen |= group
        sizes.append(len(group))
    assert seen == {light.id for light in lights}
    assert all(light.get_pole_index() >= 0 for light in lights)
    return {"groups": len(sizes), "sizes": sorted(set(sizes))}


def check_where_it_holds(s: Session) -> dict[str, Any]:
    """The lanes that a light holds are driving lanes close to it; so are the places to stop."""
    lights = all_lights(s)
    affected = stops = 0
    for light in lights:
        box = light.trigger_volume
        assert box.extent.x > 0
        assert box.extent.y > 0
        for way in light.get_affected_lane_waypoints():
            affected += 1
            assert way.transform.location.distance(light.get_location()) < 70
        for way in light.get_stop_waypoints():
            stops += 1
            assert way.lane_type == carla.LaneType.Driving
            assert way.transform.location.distance(light.get_location()) < 70
        assert isinstance(light.get_light_boxes(), list)
    assert affected >= len(lights)
    assert stops >= 0.9 * len(lights), f"{stops} stop waypoints for {len(lights)} lights"
    return {"affected_waypoints": affected, "stop_waypoints": stops}


def check_lookup(s: Session) -> dict[str, Any]:
    """Lights of a junction, and lights ahead of a waypoint."""
    for start, _ in s.map.get_topology():
        if not start.is_junction:
            continue
        found = s.world.get_traffic_lights_in_junction(start.get_junction().id)
        if found:
            break
    else:
        raise Skip("no junction with lights")
    everyone = {light.id for light in all_lights(s)}
    assert {light.id for light in found} <= everyone
    stop = next(w for light in found for w in light.get_stop_waypoints())
    behind = stop.previous(10)[0]
    coming = s.world.get_traffic_lights_from_waypoint(behind, 60.0)
    assert {light.id for light in coming} <= everyone
    assert coming, "no light within 60 m ahead of a place 10 m before a stop"
    return {"in_junction": len(found), "ahead": len(coming)}


def check_vehicle_at_light(s: Session) -> dict[str, Any]:
    """A car that comes to a red light knows it, and knows which."""
    for light in all_lights(s):
        ways = [w.previous(8.0) for w in light.get_stop_waypoints() if not w.is_junction]
        if ways and ways[0]:
            start = ways[0][0]
            break
    else:
        raise Skip("no light with a lane before it")
    s.world.freeze_all_traffic_lights(True)
    light.set_state(State.Red)
    place = start.transform
    place.location.z += 0.4
    car = s.car(place)
    assert car.get_traffic_light_state() in (State.Green, State.Red, State.Unknown)
    car.apply_control(carla.VehicleControl(throttle=0.35))
    came = s.until(car.is_at_traffic_light, 120)
    assert came, "it passed the light without noticing"
    assert car.get_traffic_light().id == light.id
    assert car.get_traffic_light_state() == State.Red
    light.set_state(State.Green)
    car.apply_control(carla.VehicleControl(brake=1.0))
    s.tick(2)
    if car.is_at_traffic_light():
        assert car.get_traffic_light_state() == State.Green
    s.world.freeze_all_traffic_lights(False)
    return {"metres_from_light": car.get_location().distance(light.get_location())}


def check_reset(s: Session) -> dict[str, Any]:
    """After a reset every group starts over, and lights go on changing."""
    lights = all_lights(s)
    s.world.freeze_all_traffic_lights(False)
    s.world.reset_all_traffic_lights()
    s.tick(2)
    first = [light.get_state() for light in lights]
    s.tick(300)
    later = [light.get_state() for light in lights]
    assert first != later, "no light changed within 15 s"
    assert any(state == State.Green for state in later)
    return {"green": sum(state == State.Green for state in later)}


def check_signs(s: Session) -> dict[str, Any]:
    """Signs of the map are actors with a volume where they apply."""
    signs = [a for a in s.world.get_actors().filter("traffic.*") if "light" not in a.type_id]
    if not signs:
        raise Skip(f"{s.map.name} has no signs")
    kinds = sorted({sign.type_id for sign in signs})
    assert all(
        k.startswith(("traffic.stop", "traffic.yield", "traffic.speed_limit", "traffic.unknown"))
        for k in kinds
    ), kinds
    for sign in signs:
        assert sign.trigger_volume.extent.x > 0
    found = 0
    for mark in s.map.get_all_landmarks_of_type("274"):
        sign = s.world.get_traffic_sign(mark)
        if sign is not None:
            found += 1
            assert sign.type_id.startswith("traffic.speed_limit")
    return {"signs": len(signs), "kinds": kinds, "speed_limits_by_landmark": found}


def check_speed_signs_hold(s: Session) -> dict[str, Any]:
    """Past a speed sign, that is the car's limit."""
    limits = {}
    for sign in s.world.get_actors().filter("traffic.speed_limit.*"):
        if sign.type_id in limits:
            continue
        middle = sign.get_transform().transform(sign.trigger_volume.location)
        lane = s.map.get_waypoint(middle, lane_type=carla.LaneType.Driving)
        before = lane.previous(12.0)
        ahead_of = list(follow(lane, 16))
        if not before or before[0].is_junction or any(w.is_junction for w in ahead_of):
            continue
        place = before[0].transform
        place.location.z += 0.4
        car = s.world.try_spawn_actor(s.library.find(CAR), place)
        if car is None:
            continue
        s.tick(10)
        for _ in range(120):
            near = list(follow(s.map.get_waypoint(car.get_location()), 8))[-1]
            local = car.get_transform().inverse_transform(near.transform.location)
            car.apply_control(
                carla.VehicleControl(
                    throttle=0.5 if speed(car) < 7 else 0.0,
                    steer=max(-1.0, min(1.0, 0.08 * local.y)),
                )
            )
            s.tick()
            if car.get_location().distance(place.location) > 18:
                break
        limits[sign.type_id] = (car.get_speed_limit(), float(sign.type_id.rsplit(".", 1)[1]))
        assert car.destroy()
        s.tick()
    if not limits:
        raise Skip(f"{s.map.name} has no speed sign with a free lane before it")
    for kind, (found, wanted) in limits.items():
        close_to(found, wanted, 0.5, f"speed limit past {kind}")
    return {kind: found for kind, (found, _) in limits.items()}


if __name__ == "__main__":
    main(globals())
