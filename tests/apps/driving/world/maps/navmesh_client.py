"""A client whose walkers find their own way; prints what they did as one JSON object.

    python navmesh_client.py PORT X0 Y0 X1 Y1

The four numbers are two places on either side of a roadway.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import carla

STEPS = 800  # of 0.05 s


def pair(place: Any) -> list[float]:
    return [place.x, place.y]


def main(port: int, x0: float, y0: float, x1: float, y1: float) -> None:
    client = carla.Client("127.0.0.1", port)
    client.set_timeout(20.0)
    world = client.get_world()
    world.tick()

    def seeded(seed: int, n: int) -> list[Any]:
        world.set_pedestrians_seed(seed)
        return [world.get_random_location_from_navigation() for _ in range(n)]

    places = seeded(7, 300)
    found: dict[str, Any] = {
        "random": [pair(p) for p in places],
        "same_seed": [pair(p) for p in seeded(7, 300)],
        "other_seed": [pair(p) for p in seeded(8, 300)],
        "height": [p.z for p in places],
    }

    library = world.get_blueprint_library()
    spawned: list[Any] = []

    def walker(place: Any, goal: Any, speed: float) -> tuple[Any, Any]:
        body = world.spawn_actor(library.find("walker.pedestrian.0001"), carla.Transform(place))
        world.tick()
        mind = world.spawn_actor(library.find("controller.ai.walker"), carla.Transform(), body)
        world.tick()
        mind.start()
        mind.go_to_location(goal)
        mind.set_max_speed(speed)
        spawned.append((body, mind))
        return body, mind

    world.set_pedestrians_cross_factor(0.0)
    found["goals"] = []
    taken: list[Any] = []
    for place in places:
        # Along the same pavement: Town01's streets run along x and y.
        near = [
            p
            for p in places
            if 15 < p.distance(place) < 45 and min(abs(p.x - place.x), abs(p.y - place.y)) < 2
        ]
        if near and all(place.distance(p) > 5 for p in taken):
            taken.append(place)
            found["goals"].append(pair(near[0]))
            walker(place, near[0], 0.7 if len(taken) > 5 else 1.5)
        if len(taken) == 6:
            break
    here, there = carla.Location(x0, y0, 0.0), carla.Location(x1, y1, 0.0)
    found["goals"].append(pair(there))
    walker(here, there, 1.5)
    world.set_pedestrians_cross_factor(1.0)
    found["goals"].append(pair(there))
    walker(here + carla.Location(0.0, 2.0, 0.0), there, 1.5)

    found["paths"] = [[] for _ in spawned]
    for _ in range(STEPS):
        world.tick()
        for path, (body, _) in zip(found["paths"], spawned, strict=True):
            path.append(pair(body.get_location()))
    for _, mind in spawned:
        mind.stop()
    world.tick()
    found["gone"] = all(mind.destroy() and body.destroy() for body, mind in spawned)
    world.tick()
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(float, sys.argv[2:]))
