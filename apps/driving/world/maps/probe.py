"""A program of its own that asks ``carla.Map`` everything a client may ask of an OpenDRIVE text.

    python probe.py < town.xodr

``carla.Map`` aborts or crashes the process on some files (a signal, not an exception), so the
server runs this first and looks at how it ended. Prints "ok" at the end; exits with 1 and one line
on standard error where CARLA raises.
"""

from __future__ import annotations

import sys


def probe(text: str) -> None:
    """Load the map and walk it; what the C++ library throws passes through."""
    import carla

    town = carla.Map("probe", text)
    if not town.get_topology():
        raise RuntimeError("CARLA finds no lane that leads anywhere")
    waypoints = town.generate_waypoints(5.0)
    if not waypoints:
        raise RuntimeError("CARLA finds no driving lane")
    junctions = set()
    for waypoint in waypoints:
        waypoint.next(2.0), waypoint.previous(2.0)
        waypoint.get_left_lane(), waypoint.get_right_lane()
        _ = waypoint.lane_change, waypoint.left_lane_marking, waypoint.right_lane_marking
        # Once a junction: asked for each waypoint it is most of the time for a large town.
        if waypoint.is_junction and waypoint.junction_id not in junctions:
            junctions.add(waypoint.junction_id)
            waypoint.get_junction().get_waypoints(carla.LaneType.Driving)
    for waypoint in waypoints[:: 1 + len(waypoints) // 2000]:
        town.get_waypoint(waypoint.transform.location)
    for landmark in town.get_all_landmarks()[:100]:
        town.get_all_landmarks_from_id(landmark.id)
    for landmark in waypoints[0].get_landmarks(50.0):
        str(landmark)
    town.get_crosswalks()
    town.transform_to_geolocation(waypoints[0].transform.location)


if __name__ == "__main__":
    try:
        probe(sys.stdin.buffer.read().decode("utf-8"))
    except Exception as error:  # whatever the library throws is this program's answer
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print("ok")
