"""A* over footways against Dijkstra's algorithm of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import Delaunay

from apps.driving.world.motion.footpaths import DETOUR, Footpaths


def town(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """80 places joined as triangles, a third of the edges on roads."""
    rng = np.random.default_rng(seed)
    nodes = rng.uniform(0.0, 200.0, (80, 2))
    sides = np.concatenate(
        [Delaunay(nodes).simplices[:, [a, b]] for a, b in ((0, 1), (1, 2), (0, 2))]
    )
    edges = np.unique(np.sort(sides, 1), axis=0)
    return nodes, edges, rng.random(len(edges)) < 0.33


@pytest.mark.parametrize("may_cross", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_ways_are_the_cheapest(seed: int, may_cross: bool) -> None:
    nodes, edges, crossing = footways = town(seed)
    paths = Footpaths(footways)
    length = np.hypot(*(nodes[edges[:, 0]] - nodes[edges[:, 1]]).T)
    cost = np.where(crossing, length * DETOUR, length)
    kept = np.ones(len(edges), bool) if may_cross else ~crossing
    graph = coo_matrix((cost[kept], (edges[kept, 0], edges[kept, 1])), (80, 80))
    best = dijkstra(graph, directed=False)
    for first, last in np.random.default_rng(seed).integers(0, 80, (30, 2)).tolist():
        found = paths.find(tuple(nodes[first]), tuple(nodes[last]), may_cross)
        assert (found is None) == np.isinf(best[first, last])
        if found is not None:
            steps = np.hypot(*np.diff(found.places, axis=0).T)
            paid = (steps * np.where(found.crossing[1:], DETOUR, 1.0)).sum()
            assert paid == pytest.approx(best[first, last])


def test_a_goal_on_this_side_is_reachable_without_crossing() -> None:
    nodes, _, _ = footways = town(7)
    paths, rng = Footpaths(footways), np.random.default_rng(0)
    for _ in range(50):
        start = tuple(nodes[int(rng.integers(80))])
        goal = paths.random(rng, start, may_cross=False)
        assert goal is None or paths.find(start, goal[:2], may_cross=False) is not None
