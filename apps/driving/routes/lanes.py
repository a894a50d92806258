"""The driving lanes of a map as polylines and a graph, read through CARLA's public API alone.

A lane here is one driving lane of one section of a road, named (road, section, lane) as OpenDRIVE
has it, in the direction of travel. CARLA's topology says which lane follows which.

Speed limits are those of the signs of type 274 in km/h (CARLA's vehicles read the number alone,
whatever unit its towns' files name). A sign holds downstream until the next; where ways from two
signs meet the nearer one wins; a lane that no sign leads to has that of the lane beside it. Where no
sign leads to at all, as in Town10HD, the records of the roads in the map's text hold and what lies
downstream of them; else 30 km/h, which CARLA gives a vehicle that has met no sign.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from apps.driving.routes.files import parse_xml

if TYPE_CHECKING:
    import carla

_PER_UNIT = {"km/h": 1 / 3.6, "mph": 0.44704}  # m/s where no unit is given
DEFAULT_LIMIT = 30 / 3.6  # m/s
SPEED_SIGN = "274"
STEP_M = 1.0
RIGHT, LEFT = 1, 2  # bits of carla.LaneChange
CHANGE_M = 12.0  # the shortest stretch in which a lane is changed
CHANGE_COST_M = 15.0
_MEETS_M = 0.02  # lanes' points that are nearer than this are one

Key = tuple[int, int, int]


@dataclass
class Lane:
    """``xy`` (n, 2) m, ``z`` (n,) m, ``yaw`` (n,) degrees, ``s`` (n,) m along the lane from its first
    point, ``road_s`` (n,) m along the road, ``junction`` its id or -1, ``change`` (n,) bits of
    carla.LaneChange, ``limit`` (n,) m/s."""

    key: Key
    xy: np.ndarray
    z: np.ndarray
    yaw: np.ndarray
    s: np.ndarray
    road_s: np.ndarray
    junction: int
    change: np.ndarray
    limit: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def length(self) -> float:
        """Metres from its first point to its last."""
        return float(self.s[-1])

    def at(self, s: float) -> np.ndarray:
        """(2,): the place ``s`` metres from its start."""
        return np.array([np.interp(s, self.s, self.xy[:, i]) for i in (0, 1)])

    def project(self, xy: np.ndarray | tuple[float, float]) -> tuple[float, float, float]:
        """Of its nearest point to a place: s, the distance (m), and the heading there (degrees)."""
        start, along = self.xy[:-1], np.diff(self.xy, axis=0)
        square = np.maximum(np.einsum("ij,ij->i", along, along), 1e-12)
        t = np.clip(np.einsum("ij,ij->i", xy - start, along) / square, 0.0, 1.0)
        away = np.hypot(*(xy - start - t[:, None] * along).T)
        i = int(np.argmin(away))
        s = float(self.s[i] + t[i] * (self.s[i + 1] - self.s[i]))
        return s, float(away[i]), float(self.yaw[i])

    def beside(self, side: int) -> Key:
        """The lane next to it in the same direction, if there is one."""
        road, section, lane = self.key
        outwards = 1 if lane > 0 else -1
        return (road, section, lane + (outwards if side == RIGHT else -outwards))

    def stretch(self, side: int, start: float = 0.0, end: float = math.inf) -> tuple[float, float]:
        """The longest stretch (m along the lane) between start and end where one may change."""
        allowed = (self.change & side != 0) & (self.s >= start) & (self.s <= end)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], allowed.astype(np.int8), [0]])))
        runs = [(float(self.s[a]), float(self.s[b - 1])) for a, b in edges.reshape(-1, 2).tolist()]
        return max(runs, key=lambda run: run[1] - run[0], default=(0.0, 0.0))


class Lanes:
    """Every driving lane of a map, and the graph of what leads to what.

    ``graph``: nodes are lanes' keys; an edge has ``weight`` in metres and ``side``, 0 where one lane
    follows the other, RIGHT or LEFT where one changes. Town01 takes 0.05 s, Town04 0.5 s.
    """

    def __init__(self, map: carla.Map) -> None:
        self.town = map.name.rpartition("/")[2]
        self.lanes, links = _read(map)
        self.graph = nx.DiGraph()
        self.graph.add_nodes_from(self.lanes)
        for before, after in links:
            self.graph.add_edge(before, after, weight=self.lanes[before].length, side=0)
        for lane in self.lanes.values():
            for side in (RIGHT, LEFT) if lane.junction < 0 else ():
                other = self.lanes.get(lane.beside(side))
                start, end = lane.stretch(side)
                if other is not None and end - start >= CHANGE_M:
                    self.graph.add_edge(lane.key, other.key, weight=CHANGE_COST_M, side=side)
        self._limit(map)

    def following(self, key: Key) -> list[Key]:
        """The lanes that a lane leads to, without changing lanes."""
        return [b for _, b, side in self.graph.out_edges(key, data="side") if side == 0]

    def leading(self, key: Key) -> list[Key]:
        """The lanes that lead to a lane, without changing lanes."""
        return [a for a, _, side in self.graph.in_edges(key, data="side") if side == 0]

    def _limit(self, map: carla.Map) -> None:
        at: dict[Key, list[tuple[float, float]]] = {}
        for sign in map.get_all_landmarks_of_type(SPEED_SIGN):
            value = float(sign.value)
            if 0 < value < 300:
                for key, s in self._held(sign):
                    at.setdefault(key, []).append((s, value / 3.6))
        ends = {key: max(signs)[1] for key, signs in at.items()}  # the last sign's
        begins: dict[Key, float] = {}
        self._spread(begins, ends)
        if len(ends) < len(self.lanes):
            records = _records(map.to_opendrive())
            new = {key: records[key[0]] for key in self.lanes if key[0] in records}
            begins, ends = {**new, **begins}, {**new, **ends}
            self._spread(begins, ends)
        for key, lane in self.lanes.items():
            lane.limit = np.full(len(lane.s), begins.get(key, ends.get(key, DEFAULT_LIMIT)))
            for s, value in sorted(at.get(key, [])):
                lane.limit[lane.s >= s - STEP_M] = value

    def _spread(self, begins: dict[Key, float], ends: dict[Key, float]) -> None:
        """Carry limits at lanes' ends on to lanes without one, breadth first: the nearest wins."""
        todo = deque(ends)
        while todo:
            while todo:
                key = todo.popleft()
                for after in self.following(key):
                    begins.setdefault(after, ends[key])
                    if after not in ends:
                        ends[after] = ends[key]
                        todo.append(after)
            for key, lane in self.lanes.items():
                beside = [ends[k] for k in (lane.beside(LEFT), lane.beside(RIGHT)) if k in ends]
                if key not in ends and beside:
                    ends[key] = begins[key] = beside[0]
                    todo.append(key)

    def _held(self, sign: carla.Landmark) -> list[tuple[Key, float]]:
        """Lanes that a sign holds for, and where on them it stands."""
        ranges = [sorted(pair) for pair in sign.get_lane_validities()]
        sides = {"Positive": 1, "Negative": -1}
        side = sides.get(str(sign.orientation), 0)
        found = []
        for lane in self.lanes.values():
            if lane.key[0] != sign.road_id:
                continue
            low, high = float(lane.road_s.min()), float(lane.road_s.max())
            number = lane.key[2]
            if ranges:
                held = any(first <= number <= last for first, last in ranges)
            else:
                held = number * side >= 0
            if held and low - STEP_M <= sign.s <= high + STEP_M:
                s = sign.s - low if number < 0 else high - sign.s
                found.append((lane.key, min(max(s, 0.0), lane.length)))
        return found


def _records(text: str) -> dict[int, float]:
    """m/s that a map's text gives whole roads, by their ids; the first record of each road."""
    found = {}
    for road in parse_xml(text).iter("road"):
        speed = road.find("type/speed")
        if speed is not None:
            with suppress(ValueError):  # "no limit", "undefined"
                limit = float(speed.get("max", "")) * _PER_UNIT.get(speed.get("unit", ""), 1.0)
                if 0 < limit < 90:
                    found[int(road.get("id", ""))] = limit
    return found


def _key(way: carla.Waypoint) -> Key:
    return (way.road_id, way.section_id, way.lane_id)


def _row(way: carla.Waypoint) -> tuple[float, ...]:
    """s along the road, x, y, z, yaw and the bits of what lane changes are allowed."""
    pose = way.transform
    place = pose.location
    return (way.s, place.x, place.y, place.z, pose.rotation.yaw, int(way.lane_change))


def _read(map: carla.Map) -> tuple[dict[Key, Lane], list[tuple[Key, Key]]]:
    """Lanes in the order in which CARLA names them, from beginning to end, and what follows what.

    ``generate_waypoints`` samples roads from their beginning on: it misses up to a step at the end of
    a section, which the topology's waypoints, that stand at the lanes' beginnings, fill.
    """
    rows: dict[Key, list[tuple[float, ...]]] = {}
    junctions: dict[Key, int] = {}
    for way in map.generate_waypoints(STEP_M):
        key = _key(way)
        rows.setdefault(key, []).append(_row(way))
        junctions[key] = way.junction_id if way.is_junction else -1
    # Lanes to the left of the road's reference line run against it.
    tables = {
        key: np.array(sorted(points, reverse=key[2] > 0)).reshape(-1, 6)
        for key, points in rows.items()
    }
    pairs = [(a, b) for a, b in map.get_topology() if _key(a) in tables and _key(b) in tables]
    for way in (way for pair in pairs for way in pair):
        key = _key(way)
        first = np.array([_row(way)])
        if _follows(first[0], tables[key][0]) and _apart(first[0], tables[key][0]) > _MEETS_M:
            tables[key] = np.concatenate([first, tables[key]])
    starts = {key: table[0].copy() for key, table in tables.items()}
    links = []
    for a, b in ((_key(before), _key(after)) for before, after in pairs):
        last = tables[a][-1]
        if not _follows(last, starts[b]):
            continue
        links.append((a, b))
        gap = _apart(last, starts[b])
        if gap > _MEETS_M:
            end = last.copy()
            end[0] += -gap if a[2] > 0 else gap
            end[1:4] = starts[b][1:4]
            tables[a] = np.concatenate([tables[a], end[None]])
    return {key: _lane(key, junctions[key], table) for key, table in tables.items()}, links


def _apart(row: np.ndarray, other: np.ndarray) -> float:
    return float(np.hypot(*(other[1:3] - row[1:3])))


def _follows(row: np.ndarray, after: np.ndarray) -> bool:
    """Whether a lane's point may be the next after another: just ahead, heading the same way.

    CARLA's topology joins the wrong ends of a road that leaves a junction and returns to it.
    """
    yaw = math.radians(row[4])
    x, y = after[1:3] - row[1:3]
    ahead = x * math.cos(yaw) + y * math.sin(yaw)
    across = y * math.cos(yaw) - x * math.sin(yaw)
    turned = abs((after[4] - row[4] + 180.0) % 360.0 - 180.0)
    return -0.5 < ahead < 2.5 * STEP_M and abs(across) < 1.0 and turned < 45.0


def _lane(key: Key, junction: int, table: np.ndarray) -> Lane:
    if len(table) == 1:  # a section shorter than a step that leads nowhere
        table = np.repeat(table, 2, axis=0)
        yaw = math.radians(table[0, 4])
        table[1, 1:3] += 0.1 * math.cos(yaw), 0.1 * math.sin(yaw)
    xy = table[:, 1:3]
    steps = np.hypot(*np.diff(xy, axis=0).T)
    return Lane(
        key,
        xy,
        table[:, 3],
        table[:, 4],
        np.concatenate([[0.0], np.cumsum(steps)]),
        table[:, 0],
        junction,
        table[:, 5].astype(np.int8),
    )
