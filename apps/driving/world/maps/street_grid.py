"""The plan of a generated town: which corners of a grid are joined, where they lie, by what kind of
road. Corner n i + j is in column i from the west and row j from the south; n corners a side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from apps.driving.world.maps.xodr import KINDS

DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # east, north, west, south; north is OpenDRIVE's
_RANK = list(KINDS)


class Chain(NamedTuple):
    """A road from junction to junction: the corners it leaves with the direction (index into
    ``DIRECTIONS``), the junction it ends at, its direction seen from there, and its kind."""

    steps: list[tuple[int, int]]
    last: int
    back: int
    kind: str


class Grid:
    """``corner`` (n^2, 2) places in OpenDRIVE's frame (m) and ``edges`` {(corner, direction)} both
    ways; every corner has two edges at least, and one has four."""

    def __init__(self, rng: np.random.Generator, side: int, spacing: float, removed: float) -> None:
        self.rng, self.side = rng, side
        self._place_corners(spacing)
        self._choose_kinds()
        self._remove_edges(removed)

    def neighbour(self, corner: int, direction: int) -> int:
        """The corner next to one, or -1 outside of the town."""
        i, j = divmod(corner, self.side)
        di, dj = DIRECTIONS[direction]
        inside = 0 <= i + di < self.side and 0 <= j + dj < self.side
        return (i + di) * self.side + j + dj if inside else -1

    def length(self, chain: Chain) -> float:
        """Distance (m) from corner to corner along a road."""
        ends = self.corner[[(c, self.neighbour(c, d)) for c, d in chain.steps]]  # (edges, 2, 2)
        return float(np.hypot(*(ends[:, 1] - ends[:, 0]).T).sum())

    def chains(self) -> list[Chain]:
        """Every road once; a corner with two edges left is a bend of one, or nothing to see."""
        used: set[tuple[int, int]] = set()
        found = []
        for corner in range(self.side**2):
            if len(self._open(corner, self.edges)) < 3:
                continue
            for d in self._open(corner, self.edges):
                if (corner, d) not in used:
                    steps = [(corner, d)]
                    at, way = self.neighbour(corner, d), d
                    while len(self._open(at, self.edges)) == 2:
                        back = (way + 2) % 4
                        way = next(k for k in self._open(at, self.edges) if k != back)
                        steps.append((at, way))
                        at = self.neighbour(at, way)
                    back = (way + 2) % 4
                    used |= {*steps, (at, back)}
                    found.append(Chain(steps, at, back, self._kind(steps)))
        return found

    def _kind(self, steps: list[tuple[int, int]]) -> str:
        """A road that bends from one line of the grid into another takes the smaller kind, but an
        expressway goes on around the bend."""
        kinds = [self._edge_kind(*edge) for edge in steps]
        return "expressway" if "expressway" in kinds else min(kinds, key=_RANK.index)

    def _place_corners(self, spacing: float) -> None:
        n = self.side
        steps = self.rng.uniform(0.85, 1.25, (2, n - 1)) * spacing
        x, y = (np.concatenate([[0.0], np.cumsum(row)]) for row in steps)
        grid = np.stack(np.meshgrid(x - x.mean(), y - y.mean(), indexing="ij"), -1)
        shift = 0.05 * min(spacing, 120.0)
        moved = grid + self.rng.uniform(-shift, shift, grid.shape)
        self.corner = moved.reshape(-1, 2)  # corner n i + j

    def _choose_kinds(self) -> None:
        """One kind a line of the grid: an avenue, or two, and an expressway on one border."""
        n = self.side
        rows = [["street", "residential"][int(self.rng.random() < 0.4)] for _ in range(2 * n)]
        avenue = int(self.rng.integers(1, n - 1))
        rows[avenue] = "avenue"
        if n > 4:
            rows[n + int(self.rng.integers(1, n - 1))] = "avenue"
        # Across the avenue, so that the two meet.
        rows[n + int(self.rng.choice([0, n - 1]))] = "expressway"
        self.line = rows  # 0..n-1: lines of constant i (north-south), then of constant j

    def _edge_kind(self, corner: int, direction: int) -> str:
        i, j = divmod(corner, self.side)
        return self.line[self.side + j] if direction % 2 == 0 else self.line[i]

    def _remove_edges(self, share: float) -> None:
        """Take away edges whose corners keep two others, while the town stays in one piece."""
        n = self.side**2
        self.edges = {
            (c, d) for c in range(n) for d in range(4) if self.neighbour(c, d) != -1
        }  # both ways
        single = sorted((c, d) for c, d in self.edges if d < 2)
        budget = round(share * len(single))
        for index in self.rng.permutation(len(single)).tolist():
            if not budget:
                break
            c, d = single[index]
            other = self.neighbour(c, d)
            # The expressway keeps its side roads, the avenue is not cut into pieces.
            beside = [self._edge_kind(*edge) for edge in self._around(c, other)]
            if "expressway" in beside or self._edge_kind(c, d) == "avenue":
                continue
            rest = self.edges - {(c, d), (other, (d + 2) % 4)}
            degrees = [len(self._open(corner, rest)) for corner in (c, other)]
            if min(degrees) >= 2 and self._whole(rest):
                self.edges, budget = rest, budget - 1

    def _open(self, corner: int, edges: set[tuple[int, int]]) -> list[int]:
        return [d for d in range(4) if (corner, d) in edges]

    def _around(self, *corners: int) -> list[tuple[int, int]]:
        return [(c, d) for c in corners for d in range(4) if self.neighbour(c, d) != -1]

    def _whole(self, edges: set[tuple[int, int]]) -> bool:
        """Every corner is reached, and some corner has all its four edges left."""
        seen, todo = {0}, [0]
        while todo:
            corner = todo.pop()
            for d in self._open(corner, edges):
                other = self.neighbour(corner, d)
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        some = any(len(self._open(c, edges)) == 4 for c in seen)
        return len(seen) == self.side**2 and some
