"""Crosswalks, and where walkers walk: a graph over sidewalks and the crossings between them.

Towns without sidewalk lanes get footways 1 m off the outermost lanes. Where a town marks no
crosswalk near the mouth of a road at a junction, walkers cross there all the same, unless vehicles
are allowed more than 60 km/h.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from apps.driving.world.maps.roads import Road, Roads, Section

_STEP_M = 4.0
_JOIN_M = 2.5  # ends of sidewalks this close are one way
_REACH_M = 10.0  # from the end of a crosswalk to the sidewalk
_SLOWEST_NO_CROSSING = 61 / 3.6


class Footways(NamedTuple):
    """M nodes and E undirected edges, all connected."""

    nodes: np.ndarray  # (M, 2) float64, m
    edges: np.ndarray  # (E, 2) int32
    crossing: np.ndarray  # (E) bool: the edge lies on a roadway


def find_crosswalks(roads: Roads) -> list[np.ndarray]:
    """Corner polygons (n, 2), m, not closed."""
    found = []
    for item in roads.items:
        if item.type == "crosswalk" and len(item.outline) >= 3:
            corners = item.outline
            if np.allclose(corners[0], corners[-1], atol=1e-3):
                corners = corners[:-1]
            found.append(corners)
    return found


def find_footways(roads: Roads, crosswalks: list[np.ndarray]) -> Footways:
    """The graph's largest connected part; empty arrays where a town has no footway at all."""
    chains = _Chains()
    paved = False
    for road in roads.roads.values():
        for section in road.sections:
            for lane, entry in section.lanes.items():
                if entry.type == "sidewalk" and section.length > 0.01:
                    s = _stations(section)
                    xy, _, width = road.lane_line(section, lane, s)
                    if width.min() > 0.5:
                        paved = True
                        chains.add(xy, road, section, lane)
    if not paved:
        for road in roads.roads.values():
            if road.junction == -1:
                for section in road.sections:
                    for side in (1, -1):
                        s = _stations(section)
                        borders = road.borders(section, s)
                        outermost = max(side * lane for lane in borders) * side
                        xy, _ = road.place(s, borders[outermost][:, 1] + side)
                        chains.add(xy, road, section, side)
    if not chains.points:
        return Footways(np.zeros((0, 2)), np.zeros((0, 2), np.int32), np.zeros(0, bool))
    chains.join(_JOIN_M if paved else 15.0)
    chains.cross(crosswalks)
    chains.cross_mouths(roads, crosswalks)
    return chains.largest()


def _stations(section: Section) -> np.ndarray:
    """s from end to end of a section, 1 cm inside so that the section's own records hold."""
    inset = min(0.01, section.length / 4)
    return np.linspace(
        section.s + inset, section.end - inset, max(2, math.ceil(section.length / _STEP_M) + 1)
    )


class _Chains:
    """Footways under construction: chains of points along lanes."""

    def __init__(self) -> None:
        self.points: list[np.ndarray] = []
        self.total = 0
        self.edges: list[tuple[int, int, bool]] = []
        self.ends: list[int] = []
        # (road, lies on the left of lane 0, is at the road's end) -> outermost chain's node there
        self.mouths: dict[tuple[int, bool, bool], int] = {}

    def add(self, xy: np.ndarray, road: Road, section: Section, lane: int) -> None:
        first, last = self.total, self.total + len(xy) - 1
        self.points.append(xy)
        self.total += len(xy)
        self.edges += [(i, i + 1, False) for i in range(first, last)]
        self.ends += [first, last]
        if road.junction == -1:
            if section.index == 0:
                self.mouths[road.id, lane > 0, False] = first
            if section.index == len(road.sections) - 1:
                self.mouths[road.id, lane > 0, True] = last

    def join(self, reach: float) -> None:
        """Edges between ends of different chains that are within ``reach`` (m)."""
        from scipy.spatial import cKDTree

        ends = np.array(self.ends)
        pairs = cKDTree(np.concatenate(self.points)[ends]).query_pairs(reach, output_type="ndarray")
        pairs = pairs[np.lexsort(pairs.T[::-1])]
        for a, b in pairs.tolist():
            if a // 2 != b // 2:
                self.edges.append((int(ends[a]), int(ends[b]), reach > 5.0))

    def cross(self, crosswalks: list[np.ndarray]) -> None:
        """Two nodes and an edge per crosswalk, tied to the nearest footway nodes."""
        if not crosswalks:
            return
        from scipy.spatial import cKDTree

        tree = cKDTree(np.concatenate(self.points))
        for corners in crosswalks:
            middle = corners.mean(0)
            _, _, axes = np.linalg.svd(corners - middle)
            along = (corners - middle) @ axes[0]
            ends = middle + np.outer([along.min(), along.max()], axes[0])
            distance, near = tree.query(ends)
            if distance.max() > _REACH_M or near[0] == near[1]:
                continue
            first = self.total
            self.points.append(ends)
            self.total += 2
            self.edges += [
                (int(near[0]), first, False),
                (first, first + 1, True),
                (first + 1, int(near[1]), False),
            ]

    def cross_mouths(self, roads: Roads, crosswalks: list[np.ndarray]) -> None:
        """Crossings of roads where they meet a junction, away from the marked ones."""
        points = np.concatenate(self.points)
        marked = np.array([c.mean(0) for c in crosswalks]).reshape(-1, 2)
        for road in roads.roads.values():
            fast = any(speed > _SLOWEST_NO_CROSSING for _, speed in road.speeds)
            for at_end, link in ((False, road.predecessor), (True, road.successor)):
                a = self.mouths.get((road.id, True, at_end))
                b = self.mouths.get((road.id, False, at_end))
                if a is None or b is None or fast or link is None or not link.junction:
                    continue
                middle = (points[a] + points[b]) / 2
                if len(marked) and np.hypot(*(marked - middle).T).min() < 25.0:
                    continue
                self.edges.append((a, b, True))

    def largest(self) -> Footways:
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        points, edges = np.concatenate(self.points), np.array(self.edges).reshape(-1, 3)
        shape = (len(points), len(points))
        graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape)
        _, part = connected_components(graph, directed=False)
        keep = part == np.argmax(np.bincount(part))
        number = np.cumsum(keep) - 1
        kept = edges[keep[edges[:, 0]]]
        return Footways(points[keep], number[kept[:, :2]].astype(np.int32), kept[:, 2].astype(bool))
