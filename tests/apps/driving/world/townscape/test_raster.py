"""Polygons in cells: held against the definition, cell by cell, and against each other."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.world.townscape import raster
from apps.driving.world.townscape.raster import fill, ramp, spans


def inside(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool by the definition: the centre is on the same side of every edge."""
    x, y = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    a, b = polygon, np.roll(polygon, -1, 0)
    side = [
        (q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in zip(a, b, strict=True)
    ]
    return (np.array(side) > 0).all(0) | (np.array(side) < 0).all(0)


def ellipse(rng: np.random.Generator, corners: int) -> np.ndarray:
    """A convex polygon, of either turn, that may lie partly or wholly outside a 40 x 60 grid."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))[:: rng.choice([-1, 1])]
    size = rng.uniform(0.2, 25, 2)
    return rng.uniform([-10, -10], [70, 50]) + np.stack([np.cos(angle), np.sin(angle)], 1) * size


@pytest.mark.parametrize("corners", [3, 4, 7])
def test_a_polygon_covers_the_cells_whose_centre_it_holds(corners: int) -> None:
    rng = np.random.default_rng(corners)
    for _ in range(60):
        polygon, cells = ellipse(rng, corners), np.zeros((40, 60), np.uint8)
        fill(cells, polygon[None], 1)
        assert np.array_equal(cells == 1, inside(polygon, cells.shape))


def test_polygons_that_share_edges_cover_every_cell_once() -> None:
    rng = np.random.default_rng(0)
    n = 9
    grid = np.stack(np.meshgrid(np.linspace(-2, 62, n), np.linspace(-2, 42, n)), -1)
    grid[1:-1, 1:-1] += rng.uniform(-1.5, 1.5, (n - 2, n - 2, 2))
    quads = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], 2)
    count = np.zeros((40, 60), int)
    for row, start, stop in zip(*spans(quads.reshape(-1, 4, 2), count.shape)[1:], strict=True):
        count[row, start:stop] += 1
    assert (count == 1).all()


def test_corners_on_centres_of_cells_are_covered_once_too() -> None:
    steps = [(0.5, 3.5), (3.5, 6.5)]
    quads = [[(a, c), (b, c), (b, d), (a, d)] for a, b in steps for c, d in steps]
    count = np.zeros((8, 8), int)
    for row, start, stop in zip(*spans(np.array(quads), count.shape)[1:], strict=True):
        count[row, start:stop] += 1
    assert (count[:6, :6] == 1).all()
    assert count.sum() == 36


def test_the_last_polygon_lies_on_top() -> None:
    cells = np.zeros((4, 4), np.uint8)
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], float)
    fill(cells, np.stack([square, square / 2]), np.array([7, 9]))
    assert cells.tolist() == [[9, 9, 7, 7], [9, 9, 7, 7], [7, 7, 7, 7], [7, 7, 7, 7]]


def test_kept_bits_stay() -> None:
    cells = np.arange(16, dtype=np.uint8).reshape(4, 4) | 0x30
    fill(cells, np.array([[[0, 0], [4, 0], [4, 2], [0, 2]]], float), 0x50, keep=15)
    assert (cells & 15).ravel().tolist() == list(range(16))
    assert (cells >> 4)[:2].min() == 5
    assert (cells >> 4)[2:].max() == 3


def test_small_chunks_paint_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    polygons, values = np.stack([ellipse(rng, 5) for _ in range(50)]), np.arange(50)
    whole, pieces = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    fill(whole, polygons, values)
    monkeypatch.setattr(raster, "CHUNK", 11)
    monkeypatch.setattr(raster, "BATCH", 3)
    fill(pieces, polygons, values)
    assert np.array_equal(whole, pieces)
    assert len(np.unique(whole)) > 10


def test_nothing_to_fill_is_no_error() -> None:
    cells = np.zeros((4, 4), np.uint8)
    fill(cells, np.zeros((0, 4, 2)), 3)
    fill(cells, np.full((1, 4, 2), 2.0), 3)
    assert not cells.any()


def test_a_copy_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        fill(np.zeros((4, 8), np.uint8)[:, :3], np.zeros((1, 4, 2)), 1)


def test_ramp_counts_up_within_each_group() -> None:
    assert ramp(np.array([3, 0, 2])).tolist() == [0, 1, 2, 0, 1]
    assert ramp(np.zeros(0, int)).tolist() == []
