"""Overlaps against a slow reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes
from apps.driving.world.motion.overlaps import FixedIndex, contacts
from apps.driving.world.tags import Tag


def rectangles(n: int, seed: int, span: float = 30.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.uniform(-span, span, (n, 2)),
        rng.uniform(-np.pi, np.pi, n),
        rng.uniform(0.2, 5.0, (n, 2)),
    )


def corners(place: np.ndarray, yaw: float, half: np.ndarray) -> np.ndarray:
    c, s = math.cos(yaw), math.sin(yaw)
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * half
    return place + signs @ np.array([[c, s], [-s, c]])


def slow_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest overlap of two convex outlines over all edge directions; 0 or less: apart."""
    least = math.inf
    for outline in (a, b):
        for p, q in zip(outline, np.roll(outline, -1, 0), strict=True):
            way = np.array([-(q - p)[1], (q - p)[0]]) / np.linalg.norm(q - p)
            one, two = a @ way, b @ way
            least = min(least, one.max() - two.min(), two.max() - one.min())
    return least


def as_boxes(place: np.ndarray, yaw: np.ndarray, half: np.ndarray, z: float = 1.0) -> Boxes:
    boxes = Boxes.empty(len(yaw))
    boxes.centre[:, :2], boxes.centre[:, 2] = place, z
    boxes.half[:, :2], boxes.half[:, 2] = half, 1.0
    boxes.yaw[:] = yaw
    boxes.tag[:] = Tag.BUILDINGS
    return boxes


@pytest.mark.parametrize("seed", range(6))
def test_contacts_are_those_of_the_slow_way(seed: int) -> None:
    place, yaw, half = rectangles(40, seed)
    outlines = [corners(*row) for row in zip(place, yaw, half, strict=True)]
    found = contacts(place, yaw, half)
    expected = {
        (i, j): slow_overlap(outlines[i], outlines[j]) for i in range(40) for j in range(i + 1, 40)
    }
    expected = {pair: depth for pair, depth in expected.items() if depth > 0}
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs == sorted(expected)
    assert found.depth.tolist() == pytest.approx([expected[p] for p in pairs])
    assert np.hypot(*found.normal.T) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(6))
def test_moving_the_second_by_the_depth_parts_them(seed: int) -> None:
    place, yaw, half = rectangles(30, seed)
    found = contacts(place, yaw, half)
    for i, j, normal, depth in zip(*found[:4], strict=True):
        a = corners(place[i], yaw[i], half[i])
        b = corners(place[j], yaw[j], half[j])
        assert slow_overlap(a, b + normal * (depth + 1e-6)) <= 0
        assert slow_overlap(a, b + normal * (depth - 1e-6)) > 0


@pytest.mark.parametrize("seed", range(4))
def test_the_index_finds_what_all_pairs_find(seed: int) -> None:
    place, yaw, half = rectangles(25, seed)
    walls, turn, size = rectangles(200, seed + 100, span=60.0)
    boxes = as_boxes(walls, turn, size)
    found = FixedIndex(boxes).contacts(place, yaw, half)
    together = contacts(
        np.concatenate([place, boxes.centre[:, :2]]),
        np.concatenate([yaw, boxes.yaw]),
        np.concatenate([half, boxes.half[:, :2]]),
    )
    mixed = (together.first < 25) & (together.second >= 25)
    assert found.first.tolist() == together.first[mixed].tolist()
    assert (found.second + 25).tolist() == together.second[mixed].tolist()
    assert found.depth == pytest.approx(together.depth[mixed])


def test_what_is_above_or_flat_is_no_obstacle() -> None:
    place, yaw, half = np.zeros((3, 2)), np.zeros(3), np.ones((3, 2))
    boxes = as_boxes(place, yaw, half)
    boxes.centre[:, 2] = 4.0, 1.0, 0.0
    boxes.half[:, 2] = 1.0, 1.0, 0.1
    index = FixedIndex(boxes)
    assert index.rows.tolist() == [1]
    assert len(FixedIndex(Boxes.empty())) == 0
    assert not len(FixedIndex(Boxes.empty()).contacts(place, yaw, half).first)


def test_contact_points_lie_in_the_overlap() -> None:
    found = contacts(np.array([[0.0, 0.0], [1.8, 0.5]]), np.zeros(2), np.ones((2, 2)))
    assert found.normal.tolist() == [[1.0, 0.0]]
    assert found.depth == pytest.approx(0.2)
    assert found.point[0] == pytest.approx((0.9, 0.25))
