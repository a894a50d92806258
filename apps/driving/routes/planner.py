"""From a few waypoints to a plan: the shortest way over the lanes of a map, point by point.

A* (networkx) over the graph of ``routes.lanes``, as CARLA's GlobalRoutePlanner
(PythonAPI/carla/agents/navigation/global_route_planner.py) does, with its commands: at a junction
LEFT, RIGHT, or STRAIGHT where the heading turns by less than 35 degrees between entry and exit.

Deviates from it. A change of lanes costs 15 m instead of nothing and is a smooth stretch of 12 to 25
m instead of a jump. Turns are named by their angle alone, not by what else the junction offers.
Where lanes lie on each other, as in junctions, and a waypoint could belong to several, the choice
that makes the whole route shortest is taken, not the first nearest lane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
from scipy.spatial import cKDTree

from apps.driving.agents.base import Command
from apps.driving.routes.files import RouteSpec
from apps.driving.routes.lanes import CHANGE_COST_M, CHANGE_M, RIGHT, Key, Lanes
from apps.driving.routes.plan import Plan
from core.errors import DataError

if TYPE_CHECKING:
    import carla

STRAIGHT_DEG = 35.0
OFF_ROAD_M = 150.0  # files of LeTFuser's routes have waypoints up to 93 m off the road
HEADING_M, HEADING_DEG = 3.0, 60.0  # a waypoint's heading chooses among lanes that are this near
_SAME_PLACE_M = 0.75
_LEVEL_M = 4.0  # of height between a bridge and what is under it
_MOST_CANDIDATES = 4
_CHANGE_LENGTH_M = 25.0
_SHORTEST_CHANGE_M = 8.0
_SHORTEST_M = 3.0

_Visit = tuple[Key, float, float, int]
"""A lane, from where to where on it (m), and the side by which it was entered (0: its beginning)."""


@dataclass(frozen=True)
class Place:
    """A point of a lane, ``s`` metres from the lane's start, ``away`` metres from what was meant."""

    lane: Key
    s: float
    away: float


@dataclass
class _Points:
    """Rows of the route before it is resampled."""

    xy: np.ndarray
    z: np.ndarray
    limit: np.ndarray
    junction: np.ndarray
    command: np.ndarray

    def __getitem__(self, rows: Any) -> _Points:
        return _Points(
            *(v[rows] for v in (self.xy, self.z, self.limit, self.junction, self.command))
        )

    @classmethod
    def join(cls, parts: Sequence[_Points]) -> _Points:
        names = ("xy", "z", "limit", "junction", "command")
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


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
        points = self._points(legs)
        return self._resample(points, name)

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
        for lane in np.unique(self._lane_of[rows]).tolist():
            place, yaw = self._project(self._keys[lane], np.array([x, y]))
            found.append((place, yaw))
        if len(point) > 3:
            agreeing = [
                (place, yaw)
                for place, yaw in found
                if place.away <= HEADING_M and abs(_turn(float(point[3]), yaw)) <= HEADING_DEG
            ]
            found = agreeing or found
        ranked = sorted((place for place, _ in found), key=lambda place: (place.away, place.lane))
        nearest_xy = self._at(ranked[0])
        same = [
            place for place in ranked if np.hypot(*(self._at(place) - nearest_xy)) <= _SAME_PLACE_M
        ]
        return same[:_MOST_CANDIDATES]

    def _at(self, place: Place) -> np.ndarray:
        """(2,) m."""
        lane = self.lanes.lanes[place.lane]
        return np.array([np.interp(place.s, lane.s, lane.xy[:, i]) for i in (0, 1)])

    def _project(self, key: Key, xy: np.ndarray) -> tuple[Place, float]:
        """The nearest point of a lane, and the lane's heading there (degrees)."""
        lane = self.lanes.lanes[key]
        start, along = lane.xy[:-1], np.diff(lane.xy, axis=0)
        square = np.maximum(np.einsum("ij,ij->i", along, along), 1e-12)
        t = np.clip(np.einsum("ij,ij->i", xy - start, along) / square, 0.0, 1.0)
        away = np.hypot(*(xy - start - t[:, None] * along).T)
        i = int(np.argmin(away))
        s = float(lane.s[i] + t[i] * (lane.s[i + 1] - lane.s[i]))
        return Place(key, s, float(away[i])), float(lane.yaw[i])

    # --- the way

    def _cheapest(
        self, choices: list[list[Place]], name: str
    ) -> list[tuple[Place, Place, list[Key]]]:
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

    # --- the points

    def _points(self, legs: list[tuple[Place, Place, list[Key]]]) -> _Points:
        """Rows of the whole route."""
        # Legs meet within a lane.
        visits: list[_Visit] = []
        for start, goal, path in legs:
            for i, key in enumerate(path):
                low = start.s if i == 0 else 0.0
                high = goal.s if i == len(path) - 1 else self.lanes.lanes[key].length
                side = self._side(path[i - 1], key) if i else 0
                if i == 0 and visits and visits[-1][0] == key:
                    _, low, _, side = visits.pop()
                visits.append((key, low, high, side))
        commands = self._commands(visits)
        parts = []
        i, at = 0, visits[0][1]
        while i < len(visits):
            key, _, high, _ = visits[i]
            if i + 1 < len(visits) and visits[i + 1][3]:
                side = visits[i + 1][3]
                leave = max(at, self.lanes.lanes[key].stretch(side, at)[0])
                parts.append(self._part(key, at, leave, commands[i]))
                i, at = self._rejoin(visits, i, leave)
                end = self._part(visits[i][0], at, at, commands[i])
                parts.append(
                    self._changing(parts[-1][-1:], key, leave, end, visits[i][0], at, side)
                )
            else:
                if high > at or not parts:
                    parts.append(self._part(key, at, high, commands[i]))
                i, at = i + 1, 0.0
        return _Points.join(parts)

    def _rejoin(self, visits: list[_Visit], i: int, leave: float) -> tuple[int, float]:
        """Visit and place on its lane where the change out of visit ``i`` at ``leave`` ends.

        As far on as there is room up to ``_CHANGE_LENGTH_M``: up to the end of the lane beside, and
        leaving as much for each further change in the same section. Where that is too short it goes
        on into what follows.
        """
        here = self._at(Place(visits[i][0], leave, 0.0))
        i += 1
        at = self._project(visits[i][0], here)[0].s
        changes = 1
        while i + changes < len(visits) and visits[i + changes][3]:
            changes += 1
        room = (visits[i][2] - at) / changes
        remaining = min(max(room, _SHORTEST_CHANGE_M), _CHANGE_LENGTH_M)
        if room < _SHORTEST_CHANGE_M and changes == 1:
            remaining = CHANGE_M
            while at + remaining > visits[i][2] and i + 1 < len(visits) and not visits[i + 1][3]:
                remaining -= max(visits[i][2] - at, 0.0)
                i, at = i + 1, 0.0
        return i, min(at + remaining, self.lanes.lanes[visits[i][0]].length)

    def _changing(
        self,
        start: _Points,
        left: Key,
        leave: float,
        end: _Points,
        joined: Key,
        at: float,
        side: int,
    ) -> _Points:
        """A cubic from pose to pose: rows a metre apart, without its ends but for the last."""
        yaws = []
        for key, s in ((left, leave), (joined, at)):
            lane = self.lanes.lanes[key]
            yaws.append(math.radians(float(lane.yaw[int(np.argmin(np.abs(lane.s - s)))])))
        p, q = start.xy[0], end.xy[0]
        length = float(np.hypot(*(q - p)))
        u, v = (length * np.array([math.cos(yaw), math.sin(yaw)]) for yaw in yaws)
        t = np.linspace(0.0, 1.0, max(3, round(length) + 1))[1:, None]
        xy = (
            (2 * t**3 - 3 * t**2 + 1) * p
            + (t**3 - 2 * t**2 + t) * u
            + (3 * t**2 - 2 * t**3) * q
            + (t**3 - t**2) * v
        )
        n = len(t)
        command = Command.CHANGE_LANE_RIGHT if side == RIGHT else Command.CHANGE_LANE_LEFT
        return _Points(
            xy,
            np.interp(t[:, 0], (0.0, 1.0), (start.z[0], end.z[0])),
            np.full(n, start.limit[0]),
            np.zeros(n, bool),
            np.full(n, int(command), np.int8),
        )

    def _side(self, before: Key, after: Key) -> int:
        """0 where ``after`` follows, RIGHT or LEFT where it lies beside."""
        if before != after and before[:2] == after[:2]:
            edge = self.lanes.graph.get_edge_data(before, after)
            return int(edge["side"]) if edge else 0
        return 0

    def _part(self, key: Key, low: float, high: float, command: Command) -> _Points:
        lane = self.lanes.lanes[key]
        inner = lane.s[(lane.s > low + 1e-6) & (lane.s < high - 1e-6)]
        s = np.concatenate([[low], inner, [high] if high > low + 1e-6 else []])
        xy = np.stack([np.interp(s, lane.s, lane.xy[:, i]) for i in (0, 1)], axis=1)
        nearest = np.clip(np.searchsorted(lane.s, s, side="right") - 1, 0, len(lane.s) - 1)
        n = len(s)
        return _Points(
            xy,
            np.interp(s, lane.s, lane.z),
            lane.limit[nearest],
            np.full(n, lane.junction >= 0),
            np.full(n, int(command), np.int8),
        )

    def _commands(self, visits: list[_Visit]) -> list[Command]:
        """The manoeuvre of each visited lane; a junction's lanes have one in common."""
        lanes = [self.lanes.lanes[visit[0]] for visit in visits]
        found: list[Command] = []
        first = 0
        while first < len(lanes):
            last = first
            if lanes[first].junction < 0:
                found.append(Command.LANE_FOLLOW)
            else:
                while last + 1 < len(lanes) and lanes[last + 1].junction == lanes[first].junction:
                    last += 1
                turn = _turn(_entry(lanes[first].xy), _exit(lanes[last].xy))
                command = Command.RIGHT if turn > 0 else Command.LEFT
                if abs(turn) < STRAIGHT_DEG:
                    command = Command.STRAIGHT
                found += [command] * (last + 1 - first)
            first = last + 1
        return found

    def _resample(self, points: _Points, name: str) -> Plan:
        """Equal steps of about ``resolution``."""
        steps = np.hypot(*np.diff(points.xy, axis=0).T)
        points = points[np.concatenate([[True], steps > 1e-3])]
        s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points.xy, axis=0).T))])
        length = float(s[-1])
        if length < _SHORTEST_M:
            raise DataError(
                f"{name}: start and goal are {length:.1f} m apart on the same lane of {self.town}; "
                "nothing to drive"
            )
        at = np.linspace(0.0, length, max(2, round(length / self.resolution) + 1))
        xy = np.stack([np.interp(at, s, points.xy[:, i]) for i in (0, 1)], axis=1)
        row = np.clip(np.searchsorted(s, at + 1e-9, side="right") - 1, 0, len(s) - 1)
        row[-1] = len(s) - 1
        along = np.gradient(xy, axis=0)
        return Plan(
            town=self.town,
            xy=xy,
            yaw=np.degrees(np.arctan2(along[:, 1], along[:, 0])),
            command=points.command[row],
            junction=points.junction[row],
            speed_limit=points.limit[row],
            s=at,
            z=np.interp(at, s, points.z),
        )


def _turn(before: float, after: float) -> float:
    """Degrees from one heading to another, -180 to 180."""
    return (after - before + 180.0) % 360.0 - 180.0


def _entry(xy: np.ndarray) -> float:
    return math.degrees(math.atan2(*(xy[1] - xy[0])[::-1]))


def _exit(xy: np.ndarray) -> float:
    return math.degrees(math.atan2(*(xy[-1] - xy[-2])[::-1]))
