"""Ways on foot: A* (Hart, Nilsson and Raphael, IEEE Trans. SSC 1968) over a town's footways.

A metre of road counts as ``DETOUR`` metres of footway, for those who may cross roads at all.
"""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import numpy as np

DETOUR = 6.0  # how much farther one walks to avoid a metre of road
FAR = 120.0  # m: wanderers choose goals within


class Footpath(NamedTuple):
    """A way: places to walk through, and whether the piece that leads to each lies on a road."""

    places: np.ndarray  # (k, 2)
    crossing: np.ndarray  # (k) bool


class Footpaths:
    """The footways as a graph to search."""

    def __init__(self, footways: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """``footways`` are nodes (M, 2), edges (E, 2) and which of those lie on a road (E)."""
        nodes, edges, crossing = footways
        self.nodes, self.edges, self.crossing = nodes, edges, crossing
        self.neighbours: list[list[tuple[int, float, bool]]] = [[] for _ in range(len(nodes))]
        lengths = np.hypot(*(nodes[edges[:, 0]] - nodes[edges[:, 1]]).T) if len(edges) else []
        self.lengths = np.asarray(lengths, float)
        for (a, b), length, road in zip(
            edges.tolist(), self.lengths.tolist(), crossing.tolist(), strict=True
        ):
            self.neighbours[a].append((b, length, road))
            self.neighbours[b].append((a, length, road))
        self.paved = np.flatnonzero(~np.asarray(crossing, bool))
        self.part = _parts(len(nodes), edges[self.paved])  # connected without a road between
        self.middles = (
            0.5 * (nodes[edges[:, 0]] + nodes[edges[:, 1]]) if len(edges) else np.zeros((0, 2))
        )

    def random(
        self,
        rng: np.random.Generator,
        near: tuple[float, float] | None = None,
        may_cross: bool = True,
    ) -> tuple[float, float, float] | None:
        """A place on a footway; near one, and on its side of the roads, where asked for."""
        chosen = self.paved
        if near is not None and len(chosen):
            if not may_cross:
                part = self.part[np.argmin(np.hypot(*(self.nodes - near).T))]
                chosen = chosen[self.part[self.edges[chosen, 0]] == part]
            within = np.abs(self.middles[chosen] - near).max(1, initial=0.0) < FAR
            chosen = chosen[within] if within.any() else chosen
        if not len(chosen):
            return None
        total = np.cumsum(self.lengths[chosen])
        at = float(rng.random()) * total[-1]
        i = min(int(np.searchsorted(total, at, "right")), len(chosen) - 1)
        edge = chosen[i]
        share = 1.0 - (total[i] - at) / max(float(self.lengths[edge]), 1e-9)
        a, b = self.nodes[self.edges[edge]]
        x, y = a + (b - a) * share
        return float(x), float(y), 0.0

    def find(
        self, start: tuple[float, float], goal: tuple[float, float], may_cross: bool
    ) -> Footpath | None:
        """The cheapest way by A*, over the nearest nodes of start and goal."""
        if not len(self.nodes):
            return None
        first = int(np.argmin(np.hypot(*(self.nodes - start).T)))
        last = int(np.argmin(np.hypot(*(self.nodes - goal).T)))
        came = self._search(first, last, may_cross)
        if came is None:
            return None
        chain = [last]
        while chain[-1] != first:
            chain.append(came[chain[-1]][0])
        chain.reverse()
        roads = [False] + [came[node][1] for node in chain[1:]]
        # The nearest node may lie behind: begin with the next one where that is shorter.
        if len(chain) > 1 and not roads[1]:
            a, b = self.nodes[chain[0]], self.nodes[chain[1]]
            if np.dot(np.array(start) - a, b - a) > 0:
                del chain[0], roads[0]
        places = np.concatenate([self.nodes[chain], np.array([goal])])
        return Footpath(places, np.array([*roads, False]))

    def _search(self, first: int, last: int, may_cross: bool) -> dict[int, tuple[int, bool]] | None:
        goal = self.nodes[last]
        left = np.hypot(*(self.nodes - goal).T).tolist()
        came: dict[int, tuple[int, bool]] = {}
        cost = {first: 0.0}
        todo = [(left[first], first)]
        done = set()
        while todo:
            _, node = heapq.heappop(todo)
            if node == last:
                return came
            if node in done:
                continue
            done.add(node)
            for other, length, road in self.neighbours[node]:
                if road and not may_cross:
                    continue
                total = cost[node] + length * (DETOUR if road else 1.0)
                if total < cost.get(other, math.inf):
                    cost[other] = total
                    came[other] = node, road
                    heapq.heappush(todo, (total + left[other], other))
        return None


def _parts(n: int, edges: np.ndarray) -> np.ndarray:
    """A number (n) for each connected part."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (n, n))
    parts: np.ndarray = connected_components(graph, directed=False)[1] if n else np.zeros(0)
    return parts
