"""The lanes of a town as arrays: N nodes about every 2 m, and what vehicles and walkers ask of them.

A node stands for a cell of a driving lane of one section: a section of length L has ceil(L / 2 m)
equal cells along its reference line, the node is at the middle of its cell, so no two nodes fall
together where lanes join. The nodes of a lane
are consecutive and in the direction of travel: where node i has a successor in its lane it is
i + 1. Places are in CARLA's frame (m), ``yaw_rad`` is the direction of travel.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from apps.driving.world.geometry import Transform
from apps.driving.world.maps.footways import Footways, find_crosswalks, find_footways
from apps.driving.world.maps.roads import Lane, Road, Roads, Section
from apps.driving.world.maps.sites import LightSite, SignSite, find_lights, find_signs

if TYPE_CHECKING:
    import carla

__all__ = ["Csr", "Footways", "LightSite", "Network", "SignSite"]

STEP_M = 2.0
DEFAULT_LIMIT = 30 / 3.6  # m/s: what CARLA gives a vehicle that has met no sign
SPAWN_GAP_M = 12.0
MAX_SPAWN_POINTS = 400
_NARROWEST_M = 2.3  # lanes that taper away are no place to spawn or to change to


class Csr(NamedTuple):
    """Lists of node indices, one a node: ``indices[indptr[i]:indptr[i + 1]]``."""

    indptr: np.ndarray  # (N + 1) int32
    indices: np.ndarray  # (E) int32

    def of(self, node: int) -> np.ndarray:
        """The list of one node."""
        return self.indices[self.indptr[node] : self.indptr[node + 1]]

    @classmethod
    def build(cls, n: int, sources: np.ndarray, targets: np.ndarray) -> Csr:
        """From E pairs; each list keeps the order of the pairs."""
        order = np.argsort(sources, kind="stable")
        counts = np.bincount(sources, minlength=n)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return cls(indptr, np.asarray(targets, np.int32)[order])


class Network:
    """Lanes, lights, signs, spawn points, crosswalks and footways of one town.

    ``map`` must be of the same ``text``; it gives only what CARLA alters after reading (where
    signals stand). 17,000 nodes of Town04 take 0.3 s.
    """

    position: np.ndarray  # (N, 2) float64, m
    yaw_rad: np.ndarray  # (N) direction of travel
    width: np.ndarray  # (N) m
    length: np.ndarray  # (N) m of the lane that the node stands for
    speed_limit: np.ndarray  # (N) m/s
    road: np.ndarray  # (N) int32, as section, lane
    section: np.ndarray
    lane: np.ndarray
    s: np.ndarray  # (N) m along the road
    junction: np.ndarray  # (N) int32, -1 outside
    next: Csr  # where the lane leads; empty at dead ends
    previous: Csr
    left: np.ndarray  # (N) int32, the node beside where a change is allowed, else -1
    right: np.ndarray
    turn: np.ndarray  # (N) int8, of the way through a junction: -1 left, 0 straight on, 1 right

    def __init__(self, map: carla.Map, text: str, roads: Roads | None = None) -> None:
        self.roads = roads or Roads.parse(text)
        self._runs: dict[tuple[int, int, int], tuple[int, int]] = {}  # lane -> first node, count
        self._build_nodes()
        self._build_links()
        self._build_turns()
        self._tree: Any = None
        landmarks = {landmark.id: landmark.transform for landmark in map.get_all_landmarks()}
        self.lights: list[LightSite] = find_lights(self, landmarks)
        self.signs: list[SignSite] = find_signs(self, landmarks)
        self._spread_limits()
        self.spawn_points: list[Transform] = self._find_spawn_points()
        self.crosswalks: list[np.ndarray] = find_crosswalks(self.roads)
        self.sidewalk: Footways = find_footways(self.roads, self.crosswalks)

    def __len__(self) -> int:
        return len(self.s)

    def nearest(self, xy: np.ndarray, yaw_rad: np.ndarray | float | None = None) -> np.ndarray:
        """The node (...) nearest to each place (..., 2); with ``yaw_rad`` (...), the nearest of the
        8 closest that points within 60 degrees of it, where there is one (oncoming lanes, and roads
        that cross above each other on a flat world)."""
        xy = np.asarray(xy, float)
        tree = self._kdtree()
        if yaw_rad is None:
            found: np.ndarray = tree.query(xy)[1]
            return found
        _, near = tree.query(xy, k=min(8, len(self)))
        near = near.reshape(*xy.shape[:-1], -1)
        fits = np.cos(self.yaw_rad[near] - np.asarray(yaw_rad, float)[..., None]) > 0.5
        best = np.argmax(fits, -1)  # the first that fits, else 0: the nearest of all
        chosen: np.ndarray = np.take_along_axis(near, best[..., None], -1)[..., 0]
        return chosen

    def node_at(self, road: int, lane: int, s: float) -> int:
        """The node of a driving lane at s, or -1 where there is no such lane."""
        if road not in self.roads.roads:
            return -1
        section = self.roads.roads[road].section_at(s)
        run = self._runs.get((road, section.index, lane))
        if run is None:
            return -1
        first, count = run
        cell = int((s - section.s) / max(section.length, 1e-9) * count)
        cell = min(max(cell, 0), count - 1)
        return first + (cell if lane < 0 else count - 1 - cell)

    def place(self, node: int, z: float = 0.0) -> Transform:
        """A node as a Transform."""
        x, y = self.position[node]
        return Transform(float(x), float(y), z, 0.0, math.degrees(self.yaw_rad[node]), 0.0)

    def _kdtree(self) -> Any:  # scipy has no hints
        if self._tree is None:
            from scipy.spatial import cKDTree

            self._tree = cKDTree(self.position)
        return self._tree

    def _build_nodes(self) -> None:
        parts: list[tuple[np.ndarray, ...]] = []
        total = 0
        for road in self.roads.roads.values():
            for section in road.sections:
                lanes = [i for i, lane in section.lanes.items() if lane.type == "driving"]
                count = max(1, math.ceil(section.length / STEP_M - 1e-6))
                s = section.s + (np.arange(count) + 0.5) * section.length / count
                for lane in lanes:
                    xy, yaw, width = road.lane_line(section, lane, s)
                    limit = _limits(road, section, section.lanes[lane], s)
                    way = slice(None, None, -1 if lane > 0 else 1)
                    whole = np.empty((count, 5), np.int32)
                    whole[:] = (road.id, section.index, lane, road.junction, 0)
                    cell = np.full(count, section.length / count)
                    if count > 1:  # off the reference line a lane is longer or shorter than it
                        cell = np.hypot(*np.gradient(xy, axis=0).T)
                    parts.append(
                        (xy[way], yaw[way], width[way], limit[way], s[way], cell[way], whole)
                    )
                    self._runs[road.id, section.index, lane] = (total, count)
                    total += count
        xy, yaw, width, limit, s, cell, whole = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        self.position, self.width, self.speed_limit, self.s = xy, width, limit, s
        self.length = cell
        self.yaw_rad = (yaw + np.pi) % (2 * np.pi) - np.pi
        self.road, self.section, self.lane, self.junction = (
            np.ascontiguousarray(column) for column in whole.T[:4]
        )

    def _build_links(self) -> None:
        n = len(self)
        inner = np.ones(n, bool)
        sources, targets = [], []
        self.left = np.full(n, -1, np.int32)
        self.right = np.full(n, -1, np.int32)
        for (road_id, index, lane), (first, count) in self._runs.items():
            road = self.roads.roads[road_id]
            section = road.sections[index]
            last = first + count - 1
            inner[last] = False
            for key in self.roads.following(road, section, lane):
                if key in self._runs:
                    sources.append(last)
                    targets.append(self._runs[key][0])
            outside = lane + (1 if lane > 0 else -1)
            beside = self._runs.get((road_id, index, outside))
            if beside is not None:
                here = np.arange(first, first + count)
                there = np.arange(beside[0], beside[0] + count)
                wide = (self.width[here] > _NARROWEST_M) & (self.width[there] > _NARROWEST_M)
                wide &= _changes(section, lane, self.s[here])
                self.right[here[wide]] = there[wide]
                self.left[there[wide]] = here[wide]
        along = np.flatnonzero(inner)
        a = np.concatenate([along, np.array(sources, int)])
        b = np.concatenate([along + 1, np.array(targets, int)])
        self.next = Csr.build(n, a, b)
        self.previous = Csr.build(n, b, a)

    def _build_turns(self) -> None:
        """A way through a junction turns left or right when it changes its heading by over 30
        degrees in all, over every section of its road."""
        self.turn = np.zeros(len(self), np.int8)
        for road in self.roads.roads.values():
            if road.junction == -1:
                continue
            heading = road.plan(np.array([0.0, road.length]))[2]
            # Minus OpenDRIVE's: clockwise is positive in CARLA's frame.
            change = (heading[0] - heading[1] + np.pi) % (2 * np.pi) - np.pi
            for section in road.sections:
                for lane in section.lanes:
                    run = self._runs.get((road.id, section.index, lane))
                    if run is not None and abs(change) > math.radians(30):
                        side = 1 if (change > 0) == (lane < 0) else -1
                        self.turn[run[0] : run[0] + run[1]] = side

    def _spread_limits(self) -> None:
        """A sign holds downstream until the next: CARLA's vehicles keep the limit of the last sign
        they drove past. Where ways from two signs meet, the nearer one wins; a lane that begins
        beside another has that one's limit. Where no sign leads to, the file's records hold, and
        these downstream of where they end (RoadRunner writes none in junctions)."""
        value = np.full(len(self), np.nan)
        starts: list[int] = []
        for sign in self.signs:
            if sign.kind == "speed_limit" and sign.value > 0:
                value[sign.stop_nodes] = sign.value / 3.6
                starts += sign.stop_nodes
        self._spread(value, starts)
        value = np.where(np.isnan(value), self.speed_limit, value)
        self._spread(value, np.flatnonzero(~np.isnan(value)).tolist())
        self.speed_limit = np.where(np.isnan(value), DEFAULT_LIMIT, value)

    def _spread(self, value: np.ndarray, starts: list[int]) -> None:
        """Carry values from ``starts`` on, to where ``value`` (N) is NaN."""
        todo = deque(starts)
        while todo:
            while todo:
                node = todo.popleft()
                for after in self.next.of(node).tolist():
                    if math.isnan(value[after]):
                        value[after] = value[node]
                        todo.append(after)
            for beside in (self.left, self.right):
                new = np.flatnonzero(np.isnan(value) & (beside >= 0) & ~np.isnan(value[beside]))
                value[new] = value[beside[new]]
                todo += new.tolist()

    def _find_spawn_points(self) -> list[Transform]:
        """Nodes outside junctions, 8 m and more from the ends of their road, ``SPAWN_GAP_M`` apart
        along a lane and 2.8 m across; where there are over 400, 400 of them evenly."""
        ends = np.array([self.roads.roads[r].length for r in self.road.tolist()])
        free = (self.junction == -1) & (self.width > _NARROWEST_M)
        free &= (self.s > 8.0) & (self.s < ends - 8.0)
        candidates = np.flatnonzero(free)
        if not len(candidates):
            candidates = np.flatnonzero(self.junction == -1)
        if not len(candidates):
            candidates = np.arange(len(self))
        from scipy.spatial import cKDTree

        tree = cKDTree(self.position[candidates])
        taken = np.zeros(len(candidates), bool)
        chosen = []
        for row, node in enumerate(candidates.tolist()):
            if not taken[row]:
                chosen.append(node)
                near = np.array(tree.query_ball_point(self.position[node], SPAWN_GAP_M))
                other = candidates[near]
                x, y = (self.position[other] - self.position[node]).T
                yaw, own = self.yaw_rad[other], self.yaw_rad[node]
                # In either's frame: in a bend they differ.
                in_way = np.abs(x * np.sin(own) - y * np.cos(own)) < 2.8
                in_way |= np.abs(x * np.sin(yaw) - y * np.cos(yaw)) < 2.8
                taken[near[in_way | (np.abs(np.cos(yaw - own)) < 0.9)]] = True
        if len(chosen) > MAX_SPAWN_POINTS:
            keep = np.linspace(0, len(chosen) - 1, MAX_SPAWN_POINTS).round().astype(int)
            chosen = [chosen[i] for i in keep]
        return [self.place(node, z=0.5) for node in chosen]


def _limits(road: Road, section: Section, lane: Lane, s: np.ndarray) -> np.ndarray:
    """m/s of the lane's own records, else of the road's; NaN without."""
    limit = road.speed_at(s)
    for start, speed in lane.speeds:
        if math.isfinite(speed):
            limit[s >= section.s + start - 1e-9] = speed
    return limit


def _changes(section: Section, lane: int, s: np.ndarray) -> np.ndarray:
    """Whether one may cross a lane's outer mark at s (n), as ``carla.Waypoint.lane_change`` says: a
    mark without laneChange allows it. OpenDRIVE's "increase" and "decrease" (towards higher or lower
    lane ids) CARLA takes as "both" on the right, respectively the left, of lane 0, else as "none".
    """
    allowed = np.ones(len(s), bool)
    for mark in section.lanes[lane].marks:
        here = s - section.s >= mark.s_offset - 1e-9
        side = "increase" if lane < 0 else "decrease"
        allowed[here] = mark.lane_change in ("", "both", side)
    return allowed
