"""Room for an actor, against rectangles cut by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes
from apps.driving.world.simulation.footprints import SLACK, Footprints, meets


def boxes(*rows: tuple[float, ...]) -> Boxes:
    """Rows of x, y, z, half length, width, height, yaw (radians)."""
    found = Boxes.empty(len(rows))
    table = np.array(rows, float).reshape(-1, 7)
    found.centre[:], found.half[:], found.yaw[:] = table[:, :3], table[:, 3:6], table[:, 6]
    found.instance[:] = np.arange(1, len(rows) + 1)
    return found


def covered(box: Boxes, row: int, points: np.ndarray) -> np.ndarray:
    """(n) bool: points of the plane inside a box, shrunk by nothing."""
    away = points - box.centre[row, :2]
    c, s = np.cos(box.yaw[row]), np.sin(box.yaw[row])
    local = np.column_stack([c * away[:, 0] + s * away[:, 1], c * away[:, 1] - s * away[:, 0]])
    return (np.abs(local) < box.half[row, :2]).all(1)


def test_agrees_with_points_of_a_fine_grid() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (*rng.uniform(-4, 4, 2), 0, *rng.uniform(0.5, 3, 2), 1, rng.uniform(-4, 4))
        for _ in range(60)
    ]
    others, mine = boxes(*rows[1:]), boxes(rows[0])
    grid = np.stack(np.meshgrid(*[np.arange(-8, 8, 0.05)] * 2), -1).reshape(-1, 2)
    inside = grid[covered(mine, 0, grid)]
    found = meets(mine, others)
    for row in range(len(others)):
        share = covered(others, row, inside).sum()
        if share > 20:  # more than a corner of 0.05 m^2
            assert found[row]
        if found[row]:
            grown = boxes(rows[row + 1])
            grown.half[:] += 0.1
            assert covered(grown, 0, inside).any()
    assert 5 < found.sum() < 55


@pytest.mark.parametrize(("z", "met"), [(0.0, True), (1.9, True), (2.1, False), (-2.1, False)])
def test_one_above_the_other_is_no_collision(z: float, met: bool) -> None:
    assert meets(boxes((0, 0, 0, 1, 1, 1, 0)), boxes((0, 0, z, 1, 1, 1, 0.3)))[0] == met


def test_touching_is_no_collision() -> None:
    mine = boxes((0, 0, 0, 1, 1, 1, 0))
    assert not meets(mine, boxes((2 - SLACK / 2, 0, 0, 1, 1, 1, 0)))[0]
    assert meets(mine, boxes((2 - 2 * SLACK, 0, 0, 1, 1, 1, 0)))[0]


def test_nothing_meets_nothing() -> None:
    assert len(meets(boxes((0, 0, 0, 1, 1, 1, 0)), Boxes.empty())) == 0


def test_boxes_come_and_go() -> None:
    prints = Footprints(Boxes.empty())
    for i in range(40):
        box = boxes((10.0 * i, 0, 0, 1, 1, 1, 0))
        box.instance[0] = i
        assert not prints.meets(box)
        prints.add(box)
    spot = boxes((70.0, 0, 0, 1, 1, 1, 0))
    assert prints.meets(spot)
    prints.remove(7)
    assert not prints.meets(spot)
    assert prints.meets(boxes((80.0, 0, 0, 1, 1, 1, 0)))
