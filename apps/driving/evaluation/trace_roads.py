"""The roads around a route, as a trace keeps them: through the map of CARLA's client alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import carla

AROUND_M = 60.0  # of the route
LANE_STEP_M = 2.0


def lanes_around(town: carla.Map, route: np.ndarray) -> list[dict[str, Any]]:
    """Driving lanes within ``AROUND_M`` of the route (n, 2), as ``meta.json`` has them."""
    pieces: dict[tuple[int, int, int], list[Any]] = {}
    waypoints = town.generate_waypoints(LANE_STEP_M)
    at = np.array([(w.transform.location.x, w.transform.location.y) for w in waypoints])
    for waypoint in (w for w, near in zip(waypoints, _near(at, route)) if near):
        key = waypoint.road_id, waypoint.section_id, waypoint.lane_id
        pieces.setdefault(key, []).append(waypoint)
    found = []
    for piece in pieces.values():
        piece.sort(key=lambda waypoint: waypoint.s)
        run: list[Any] = []
        for waypoint in [*piece, None]:
            # what lies too far from the route is missing in between
            if run and (waypoint is None or waypoint.s - run[-1].s > 2 * LANE_STEP_M):
                found.append(_lane(run))
                run = []
            run.append(waypoint)
    return found


def _lane(run: list[Any]) -> dict[str, Any]:
    """A lane through waypoints in order, half a step on at both ends so that pieces meet."""
    points = np.array([(w.transform.location.x, w.transform.location.y) for w in run])
    way = [w.transform.get_forward_vector() for w in (run[0], run[-1])]
    ends = LANE_STEP_M / 2 * np.array([(v.x, v.y) for v in way])
    if run[0].lane_id > 0:  # its s grows against the traffic
        ends = -ends
    points = np.concatenate([[points[0] - ends[0]], points, [points[-1] + ends[1]]])
    return {
        "points": points.round(2),
        "width": round(float(np.median([w.lane_width for w in run])), 2),
        "junction": bool(run[len(run) // 2].is_junction),
    }


def crosswalks_around(town: carla.Map, route: np.ndarray) -> list[np.ndarray]:
    """Outlines (k, 2): the map gives them one after the other, each closed by its first point."""
    outlines: list[np.ndarray] = []
    outline: list[tuple[float, float]] = []
    for place in town.get_crosswalks():
        point = (round(place.x, 2), round(place.y, 2))
        if outline and point == outline[0]:
            corners = np.array(outline)
            if len(corners) >= 3 and _near(corners.mean(0, keepdims=True), route)[0]:
                outlines.append(corners)
            outline = []
        else:
            outline.append(point)
    return outlines


def _near(points: np.ndarray, route: np.ndarray) -> np.ndarray:
    """(m,) bool: whether points (m, 2) are within ``AROUND_M`` of a route (n, 2)."""
    from scipy.spatial import cKDTree

    if not len(points):
        return np.zeros(0, bool)
    away, _ = cKDTree(route).query(points, distance_upper_bound=AROUND_M)
    return np.isfinite(away)
