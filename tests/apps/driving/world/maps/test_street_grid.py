"""The plan of generated towns: every corner joined, every edge part of one road."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from apps.driving.world.maps.street_grid import Grid
from apps.driving.world.maps.xodr import KINDS


@pytest.mark.parametrize("side", [3, 4, 8])
@pytest.mark.parametrize("removed", [0.0, 0.2, 0.4])
def test_a_grid_stays_whole(side: int, removed: float) -> None:
    for seed in range(5):
        grid = Grid(np.random.default_rng(seed), side, 110.0, removed)
        degree = Counter(corner for corner, _ in grid.edges)
        assert min(degree.values()) >= 2
        assert len(degree) == side**2
        assert max(degree.values()) == 4
        for corner, d in grid.edges:
            assert (grid.neighbour(corner, d), (d + 2) % 4) in grid.edges


@pytest.mark.parametrize("removed", [0.0, 0.3])
def test_every_edge_is_part_of_one_road(removed: float) -> None:
    grid = Grid(np.random.default_rng(2), 5, 110.0, removed)
    passed: Counter[tuple[int, int]] = Counter()
    degree = Counter(corner for corner, _ in grid.edges)
    for chain in grid.chains():
        assert chain.kind in KINDS
        assert degree[chain.steps[0][0]] > 2
        assert degree[chain.last] > 2
        assert all(degree[corner] == 2 for corner, _ in chain.steps[1:])
        assert grid.length(chain) > 60 * len(chain.steps)
        for corner, d in chain.steps:
            passed[corner, d] += 1
            passed[grid.neighbour(corner, d), (d + 2) % 4] += 1
        assert (chain.last, chain.back) in passed
    assert set(passed) == grid.edges
    assert set(passed.values()) == {1}


def test_share_of_edges_taken_away() -> None:
    for removed in (0.0, 0.1, 0.2):
        grid = Grid(np.random.default_rng(1), 10, 110.0, removed)
        whole = 2 * 10 * 9
        assert len(grid.edges) // 2 == pytest.approx(whole * (1 - removed), abs=1)
