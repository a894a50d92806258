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
    # Every 7th: neighbours are asked much the same, and 17,000 waypoints would take 2 s.
    for waypoint in waypoints:
        for _ in (waypoint.next(2.0), waypoint.previous(2.0)):
            pass
        for _ in (waypoint.get_left_lane(), waypoint.get_right_lane(), waypoint.lane_change):
            pass
        for _ in (waypoint.left_lane_marking, waypoint.right_lane_marking):
            pass
        if waypoint.is_junction:
            waypoint.get_junction().get_waypoints(carla.LaneType.Driving)
        town.get_waypoint(waypoint.transform.location)
    for landmark in town.get_all_landmarks():
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
