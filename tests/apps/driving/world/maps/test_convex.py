"""Overlapping convex polygons become pieces that cover the same ground once and share edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apps.driving.world.maps import convex
from apps.driving.world.maps.convex import Polygon

SQUARE: Polygon = [(0.0, 0.0), (0.0, 4.0), (4.0, 4.0), (4.0, 0.0)]


def moved(polygon: Polygon, x: float, y: float, turn: float = 0.0) -> Polygon:
    c, s = math.cos(turn), math.sin(turn)
    return [(c * a - s * b + x, s * a + c * b + y) for a, b in polygon]


def random_polygons(seed: int, n: int) -> list[Polygon]:
    """Convex polygons of 3 to 6 corners on circles, in a square of 30 m."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        count = int(draw.integers(3, 7))
        angles = -(np.arange(count) + draw.uniform(0, 0.6, count)) * 2 * np.pi / count
        x, y = draw.uniform(0, 30, 2)
        r = draw.uniform(1, 6)
        found.append([(float(x + r * np.cos(a)), float(y + r * np.sin(a))) for a in angles])
    return found


def depth(polygon: Polygon, points: np.ndarray) -> np.ndarray:
    """(n) metres that points (n, 2) lie inside a polygon, negative outside."""
    corners = np.array(polygon)
    ahead = np.roll(corners, -1, axis=0) - corners
    offset = points[:, None] - corners
    aside = ahead[:, 0] * offset[..., 1] - ahead[:, 1] * offset[..., 0]
    return (-aside / np.hypot(*ahead.T)).min(1)


def pieces_of(polygons: list[Polygon]) -> tuple[list[Polygon], list[int], np.ndarray]:
    corners, rings, origin, beyond = convex.conform(polygons, 6)
    return [[tuple(corners[v]) for v in ring] for ring in rings], origin, beyond


@pytest.mark.parametrize("seed", range(8))
def test_ground_is_covered_once_by_the_first_that_claims_it(seed: int) -> None:
    polygons = random_polygons(seed, 25)
    pieces, origin, _ = pieces_of(polygons)
    points = np.random.default_rng(seed).uniform(0, 30, (4000, 2))
    given = np.array([depth(p, points) for p in polygons])
    made = np.array([depth(p, points) for p in pieces])
    # Near a border rounding decides: pieces narrower than 5 cm go, corners move by up to 5 cm.
    clear = (np.abs(given) > 0.15).all(0)
    inside = (given > 0).any(0)
    assert ((made > 0.06).sum(0) <= 1).all()
    hit = (made > -0.06).any(0)
    assert hit[clear & inside].mean() > 0.999
    assert not hit[clear & ~inside].any()
    first = np.argmax(given > 0, 0)
    owner = np.array(origin)[np.argmax(made, 0)]
    sure = clear & inside & (made.max(0) > 0.06)
    assert (owner == first)[sure].mean() > 0.999


@pytest.mark.parametrize("seed", range(8))
def test_pieces_are_small_convex_rings_with_mutual_neighbours(seed: int) -> None:
    pieces, _, beyond = pieces_of(random_polygons(seed, 25))
    for k, piece in enumerate(pieces):
        assert 3 <= len(piece) <= 6
        assert convex.area(piece) < 0
        a = np.array(piece)
        ahead = np.roll(a, -1, axis=0) - a
        nxt = np.roll(ahead, -1, axis=0)
        # How far a corner lies inside the line between the corners beside it.
        dent = (ahead[:, 0] * nxt[:, 1] - ahead[:, 1] * nxt[:, 0]) / np.hypot(*(ahead + nxt).T)
        assert dent.max() < 2 * convex.WELD
        for edge, other in enumerate(beyond[k].tolist()):
            if edge >= len(piece):
                assert other == -1
            elif other >= 0:
                theirs, back = pieces[other], (piece[(edge + 1) % len(piece)], piece[edge])
                ends = [
                    (theirs[i], theirs[(i + 1) % len(theirs)])
                    for i in range(len(theirs))
                    if beyond[other, i] == k
                ]
                assert back in ends


def test_what_touches_along_a_line_is_neighbours() -> None:
    """A long edge with nine squares on it: nine ways across, from polygons of six corners."""
    long: Polygon = [(0.0, -3.0), (0.0, 0.0), (36.0, 0.0), (36.0, -3.0)]
    pieces, origin, beyond = pieces_of([long, *(moved(SQUARE, 4.0 * k, 0.0) for k in range(9))])
    number = np.array(origin)
    for k in range(1, 10):
        (row,) = np.flatnonzero(number == k)
        assert (number[beyond[row][beyond[row] >= 0]] == 0).sum() == 1
    area = sum(-convex.area(p) for p, o in zip(pieces, origin, strict=True) if o == 0)
    assert area == pytest.approx(108.0)


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gap", [-0.04, 0.0, 0.04])
def test_small_gaps_and_overlaps_are_welded(gap: float, turn: float) -> None:
    pair = [moved(p, 0.0, 0.0, turn) for p in (SQUARE, moved(SQUARE, 4.0 + gap, 1.0))]
    _, origin, beyond = pieces_of(pair)
    across = [(origin[k], origin[m]) for k, row in enumerate(beyond) for m in row if m >= 0]
    assert (0, 1) in across
    assert (1, 0) in across


def test_a_wide_gap_stays() -> None:
    _, _, beyond = pieces_of([SQUARE, moved(SQUARE, 4.2, 0.0)])
    assert (beyond == -1).all()


def test_a_covered_polygon_goes() -> None:
    pieces, origin, _ = pieces_of(
        [SQUARE, SQUARE, moved([(1.0, 1.0), (1.0, 3.0), (3.0, 1.0)], 0, 0)]
    )
    assert origin == [0]
    assert len(pieces) == 1


def test_a_hole_is_walked_around() -> None:
    """A square cut out of the middle leaves a closed ring of pieces."""
    inner = [(1.0, 1.0), (1.0, 3.0), (3.0, 3.0), (3.0, 1.0)]
    rest = convex.subtract(SQUARE, inner)
    assert sum(-convex.area(p) for p in rest) == pytest.approx(12.0)
    _, _, beyond = pieces_of(rest)
    assert ((beyond >= 0).sum(1) == 2).all()


def test_specks_go_and_nothing_gives_nothing() -> None:
    speck = [(50.0, 50.0), (50.0, 50.5), (50.5, 50.5), (50.5, 50.0)]
    _, origin, _ = pieces_of([speck, SQUARE])
    assert origin == [1]
    corners, rings, origin, beyond = convex.conform([speck], 6)
    assert (len(corners), rings, origin, beyond.shape) == (0, [], [], (0, 6))


def test_a_ring_of_many_corners_is_split() -> None:
    corners = np.array([(math.cos(-a), math.sin(-a)) for a in np.linspace(0, 2 * np.pi, 31)[:-1]])
    parts = convex.split(corners, tuple(range(30)), 6)
    assert max(map(len, parts)) <= 6
    whole = -convex.area([tuple(c) for c in corners])
    assert sum(-convex.area([tuple(corners[v]) for v in p]) for p in parts) == pytest.approx(whole)
