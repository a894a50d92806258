"""From a few waypoints to a plan: the shortest way over the lanes of a map, point by point.

A* (networkx) over the graph of ``routes.lanes``, as CARLA's GlobalRoutePlanner
(PythonAPI/carla/agents/navigation/global_route_planner.py) does, with its commands: at a junction
LEFT, RIGHT, or STRAIGHT where the heading turns by less than 35 degrees between entry and exit.

Deviates from it. A change of lanes costs 15 m instead of nothing and is a smooth stretch of 8 to 25 m
instead of a jump. Turns are named by their angle alone, not by what else the junction offers.
Where lanes lie on each other, as in junctions, and a waypoint could belong to several, the choice
that makes the whole route shortest is taken, not the first nearest lane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
from scipy.spatial import cKDTree

from apps.driving.routes.files import RouteSpec
from apps.driving.routes.lanes import CHANGE_COST_M, CHANGE_M, Key, Lanes
from apps.driving.routes.plan import Plan
from apps.driving.routes.tracing import Leg, Place, trace, turned
from core.errors import DataError

if TYPE_CHECKING:
    import carla

OFF_ROAD_M = 150.0  # files of LeTFuser's routes have waypoints up to 93 m off the road
HEADING_M, HEADING_DEG = 3.0, 60.0  # a waypoint's heading chooses among lanes that are this near
_SAME_PLACE_M = 0.75
_LEVEL_M = 4.0  # of height between a bridge and what is under it
_MOST_CANDIDATES = 4


class Planner:
    """Plans routes in one town; ``resolution`` is the distance between points (m).

    Reading Town01 takes 0.1 s, Town04 0.6 s; a route some milliseconds.
    """

    def __init__(self, map: carla.Map, resolution: float = 1.0) -> None:
        self.resolution = resolution
        self.lanes = Lanes(map)
        self.town = self.lanes.town
        lanes = list(self.lanes.lanes.values())
        if not lanes:
            raise DataError(f"{self.town}: no driving lanes in this map")
        self._keys = [lane.key for lane in lanes]
        self._lane_of = np.repeat(np.arange(len(lanes)), [len(lane.s) for lane in lanes])
        self._z = np.concatenate([lane.z for lane in lanes])
        self._yaw = np.concatenate([lane.yaw for lane in lanes])
        self._tree = cKDTree(np.concatenate([lane.xy for lane in lanes]))

    def plan(self, waypoints: Sequence[Sequence[float]], name: str = "route") -> Plan:
        """The shortest way through ``waypoints``: (x, y), (x, y, z) or (x, y, z, yaw).

        Raises DataError with ``name``: fewer than two waypoints, one that is farther than
        ``OFF_ROAD_M`` from every lane, no way from one to the next, nothing to drive.
        """
        if len(waypoints) < 2:
            raise DataError(f"{name}: {len(waypoints)} waypoints; want a start and a goal")
        choices = [self.places(point, name) for point in waypoints]
        legs = self._cheapest(choices, name)
        return trace(self.lanes, legs, self.resolution, name)

    def plan_route(self, spec: RouteSpec) -> Plan:
        """``plan`` of a route of a file, which the errors name. The town is not compared."""
        return self.plan(spec.waypoints, f"route {spec.id}")

    def places(self, point: Sequence[float], name: str = "route") -> list[Place]:
        """Where on the lanes a waypoint may be meant to be, nearest first.

        The nearest lane and those that lie on the same spot. A heading leaves those that agree with
        it within ``HEADING_DEG``, if any within ``HEADING_M`` does; a height those on its level.
        """
        x, y = float(point[0]), float(point[1])
        if not (math.isfinite(x) and math.isfinite(y)):
            raise DataError(f"{name}: waypoint {tuple(point)} is no place")
        nearest = float(self._tree.query((x, y))[0])
        if nearest > OFF_ROAD_M:
            raise DataError(
                f"{name}: waypoint ({x:.1f}, {y:.1f}) is {nearest:.0f} m from the nearest lane of "
                f"{self.town}; is the route of another town?"
            )
        # Half a step: the nearest sample of a lane is that much farther than the lane itself.
        radius = max(nearest + _SAME_PLACE_M + 0.5, HEADING_M)
        rows = np.array(sorted(self._tree.query_ball_point((x, y), radius)))
        if len(point) > 2:
            level = np.abs(self._z[rows] - point[2]) < _LEVEL_M
            rows = rows[level] if level.any() else rows
        found: list[tuple[Place, float]] = []
        for number in np.unique(self._lane_of[rows]).tolist():
            key = self._keys[number]
            s, away, yaw = self.lanes.lanes[key].project((x, y))
            found.append((Place(key, s, away), yaw))
        if len(point) > 3:
            agreeing = [
                (place, yaw)
                for place, yaw in found
                if place.away <= HEADING_M and abs(turned(float(point[3]), yaw)) <= HEADING_DEG
            ]
            found = agreeing or found
        ranked = sorted((place for place, _ in found), key=lambda place: (place.away, place.lane))
        nearest_xy = self._at(ranked[0])
        same = [
            place for place in ranked if np.hypot(*(self._at(place) - nearest_xy)) <= _SAME_PLACE_M
        ]
        return same[:_MOST_CANDIDATES]

    def _at(self, place: Place) -> np.ndarray:
        return self.lanes.lanes[place.lane].at(place.s)

    # --- the way

    def _cheapest(self, choices: list[list[Place]], name: str) -> list[Leg]:
        """One leg between each two waypoints: of all choices of places, the shortest in total."""
        # Farther candidates cost ten times what they are farther, so that a tie goes to the nearest.
        cost = [10.0 * place.away for place in choices[0]]
        history: list[list[tuple[int, list[Key]]]] = []
        for number, (before, after) in enumerate(pairwise(choices)):
            costs, steps = [], []
            for goal in after:
                best: tuple[float, int, list[Key]] = (math.inf, -1, [])
                for i, start in enumerate(before):
                    if cost[i] < best[0]:
                        length, path = self._way(start, goal)
                        if cost[i] + length < best[0]:
                            best = (cost[i] + length, i, path)
                costs.append(best[0] + 10.0 * goal.away)
                steps.append(best[1:])
            if not min(costs) < math.inf:
                raise DataError(
                    f"{name}: no way in {self.town} from waypoint {number + 1} to waypoint "
                    f"{number + 2}; check their lanes and the direction of travel"
                )
            cost = costs
            history.append(steps)
        choice = int(np.argmin(cost))
        legs = []
        for number in range(len(history) - 1, -1, -1):
            previous, path = history[number][choice]
            legs.append((choices[number][previous], choices[number + 1][choice], path))
            choice = previous
        return legs[::-1]

    def _way(self, start: Place, goal: Place) -> tuple[float, list[Key]]:
        """Metres and the lanes from place to place; infinity where there is no way.

        The first lane is the start's, the last one the goal's; where both are one lane and the goal
        is ahead, it is named once.
        """
        ahead = goal.s - start.s
        if start.lane == goal.lane and ahead >= 0:
            return ahead, [start.lane]
        same_road = start.lane[:2] == goal.lane[:2] and start.lane[2] * goal.lane[2] > 0
        changes = abs(start.lane[2] - goal.lane[2])
        behind = same_road and ahead < CHANGE_M * changes
        # Where the goal is beside or behind, a mere change of lanes does not lead to it. Either the
        # first lane or the last one is then entered by its beginning.
        for leave, arrive in ((False, True), (True, False)) if behind else ((True, True),):
            length, path = self._search(start, goal, leave, arrive)
            if path:
                return length + ahead, path
        return math.inf, []

    def _search(
        self, start: Place, goal: Place, leave: bool, arrive: bool
    ) -> tuple[float, list[Key]]:
        """Shortest path between the beginnings of two lanes; ``leave``, ``arrive``: by changing."""
        graph, lanes = self.lanes.graph, self.lanes.lanes
        origin, end = (-1, 0, 0), (-2, 0, 0)
        try:
            for _, after, edge in list(graph.out_edges(start.lane, data=True)):
                low, high = lanes[start.lane].stretch(edge["side"] or 3, start.s)
                if edge["side"] == 0 or (leave and high - low >= CHANGE_M):
                    graph.add_edge(origin, after, **edge)
            for before, _, edge in list(graph.in_edges(goal.lane, data=True)):
                if before == origin and edge["side"] and not arrive:
                    continue
                lane = start.lane if before == origin else before
                low, high = lanes[lane].stretch(edge["side"] or 3, 0.0, goal.s)
                if edge["side"] == 0 or (arrive and high - low >= CHANGE_M):
                    graph.add_edge(before, end, **edge)
            if origin not in graph or end not in graph:
                return math.inf, []
            target = lanes[goal.lane].xy[0]

            def straight(node: Key, _: Key) -> float:
                if node in (origin, end):
                    return 0.0
                # Changing lanes may move sideways for its flat cost, but never by more than that.
                return max(0.0, float(np.hypot(*(lanes[node].xy[0] - target))) - CHANGE_COST_M)

            path = nx.astar_path(graph, origin, end, heuristic=straight, weight="weight")
            length = sum(graph.edges[a, b]["weight"] for a, b in pairwise(path))
            return float(length), [start.lane, *path[1:-1], goal.lane]
        except nx.NetworkXNoPath:
            return math.inf, []
        finally:
            graph.remove_nodes_from([node for node in (origin, end) if node in graph])
