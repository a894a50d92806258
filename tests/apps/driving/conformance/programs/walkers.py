"""People on foot, by direct control and by their navigation."""

from __future__ import annotations

from typing import Any

import carla
import numpy as np
from harness import Session, ahead, close_to, main, vector

WALKER = "walker.pedestrian.0001"


def walker_on(s: Session, place: carla.Transform, settle: int = 20) -> Any:
    found = s.spawn(WALKER, ahead(place, 0, z=0.8))
    s.tick(settle)
    return found


def flat(actor: carla.Actor) -> np.ndarray:
    return vector(actor.get_location())[:2]


def check_walks(s: Session) -> dict[str, Any]:
    """1.5 m/s for three seconds in a given direction, then stands."""
    place = s.straight(40)
    walker = walker_on(s, place)
    start, forward = flat(walker), place.get_forward_vector()
    walker.apply_control(carla.WalkerControl(direction=forward, speed=1.5))
    s.tick(60)
    moved = flat(walker) - start
    along = float(moved @ vector(forward)[:2])
    close_to(along, 4.5, 0.9, "metres in 3 s at 1.5 m/s")
    close_to(np.linalg.norm(moved), along, 0.3, "metres in all")
    control = walker.get_control()
    close_to(control.speed, 1.5, 1e-3, "speed of the control")
    close_to(walker.get_velocity().length(), 1.5, 0.3, "velocity")
    walker.apply_control(carla.WalkerControl(direction=forward, speed=0.0))
    s.tick(20)
    stood = flat(walker)
    s.tick(20)
    close_to(flat(walker), stood, 0.05, "place of a walker who stands")
    return {"metres_in_3_s": along}


def check_stands_on_the_ground(s: Session) -> dict[str, Any]:
    """A walker's middle is half its height above the road."""
    place = s.straight(40)
    walker = walker_on(s, place, settle=30)
    road = s.map.get_waypoint(place.location).transform.location.z
    box = walker.bounding_box
    feet = walker.get_location().z + box.location.z - box.extent.z
    close_to(feet, road, 0.35, "height of the feet")
    return {"middle_above_road_m": walker.get_location().z - road}


def check_turns_to_its_way(s: Session) -> dict[str, Any]:
    place = s.straight(40)
    walker = walker_on(s, place)
    direction = place.get_right_vector()
    walker.apply_control(carla.WalkerControl(direction=direction, speed=1.0))
    s.tick(40)
    looks = vector(walker.get_transform().get_forward_vector())
    assert looks @ vector(direction) > 0.8, "it walks sideways"
    return {}


def check_random_locations(s: Session) -> dict[str, Any]:
    """Places to walk from: near the ground, not all the same."""
    found = [s.world.get_random_location_from_navigation() for _ in range(20)]
    assert all(place is not None for place in found), "there is no navigation for walkers"
    spread = np.array([vector(place) for place in found])
    assert np.ptp(spread[:, :2], axis=0).max() > 10
    for place in found[:5]:
        near = s.map.get_waypoint(place, lane_type=carla.LaneType.Any)
        close_to(place.z, near.transform.location.z, 2.0, "height")
    return {"first": spread[0].round(2).tolist()}


def check_controllers(s: Session) -> dict[str, Any]:
    """Five walkers with controllers go to places of their own choosing."""
    s.world.set_pedestrians_seed(5)
    s.world.set_pedestrians_cross_factor(0.0)
    walkers = []
    for _ in range(20):
        place = s.world.get_random_location_from_navigation()
        assert place is not None, "there is no navigation for walkers"
        place.z += 1.0
        found = s.world.try_spawn_actor(s.library.find(WALKER), carla.Transform(place))
        if found is not None:
            walkers.append(found)
        if len(walkers) == 5:
            break
    assert len(walkers) == 5
    s.tick()
    blueprint = s.library.find("controller.ai.walker")
    controllers = [s.world.spawn_actor(blueprint, carla.Transform(), w) for w in walkers]
    s.tick()
    for controller in controllers:
        controller.start()
        controller.go_to_location(s.world.get_random_location_from_navigation())
        controller.set_max_speed(1.5)
    s.tick(2)
    start = [flat(w) for w in walkers]
    longest = 0.0
    for _ in range(200):
        s.tick()
        longest = max(longest, *(w.get_velocity().length() for w in walkers))
    moved = [float(np.linalg.norm(flat(w) - p)) for w, p in zip(walkers, start, strict=True)]
    assert sum(m > 3 for m in moved) >= 3, f"moved {np.round(moved, 1)} m in 10 s"
    assert longest < 4
    for controller, walker in zip(controllers, walkers, strict=True):
        controller.stop()
        assert controller.destroy()
        assert walker.destroy()
    s.tick(2)
    assert not len(s.world.get_actors().filter("walker.*"))
    return {"metres_in_10_s": moved}


def check_poses(s: Session) -> dict[str, Any]:
    """Calls on a skeleton are taken or refused; the walker can be used afterwards."""
    walker = walker_on(s, s.straight(40))
    calls = {
        "blend_pose": lambda: walker.blend_pose(0.5),
        "show_pose": walker.show_pose,
        "hide_pose": walker.hide_pose,
        "get_pose_from_animation": walker.get_pose_from_animation,
        "set_bones": lambda: walker.set_bones(carla.WalkerBoneControlIn([])),
    }
    answers = {}
    for name, call in calls.items():
        try:
            call()
            answers[name] = "done"
        except RuntimeError as error:
            answers[name] = str(error)[:80]
        s.tick()
    start = flat(walker)
    walker.apply_control(carla.WalkerControl(carla.Vector3D(1, 0, 0), 1.0))
    s.tick(40)
    assert np.linalg.norm(flat(walker) - start) > 1
    return answers


def check_bones(s: Session) -> dict[str, Any]:
    """A walker's skeleton can be asked for, or the server says that it has none."""
    walker = walker_on(s, s.straight(40))
    try:
        bones = walker.get_bones().bone_transforms
    except RuntimeError as error:
        return {"answer": str(error)}
    return {"bones": len(bones)}


if __name__ == "__main__":
    main(globals())
