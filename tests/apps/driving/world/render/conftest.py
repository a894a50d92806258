"""A small crossroads of our own, so that pictures do not depend on how towns are built."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes
from apps.driving.world.render import Scene
from apps.driving.world.tags import Tag
from apps.driving.world.townscape.ground import Ground, Material, tables


def chequered(size: float = 200.0, resolution: float = 0.5) -> Ground:
    """Asphalt and pavement in squares of 8 m about the origin, with white lines between."""
    n = int(size / resolution)
    metres = (np.arange(n) + 0.5) * resolution - size / 2
    square = np.floor(metres / 8).astype(int)
    odd = (square[:, None] + square) % 2 == 1
    line = np.abs(metres % 8 - 4) > 3.6
    material = np.where(odd, Material.PAVEMENT, Material.ASPHALT)
    material[line[:, None] | line] = Material.WHITE
    shade = np.random.default_rng(0).integers(0, 16, (n, n))
    cells = (16 * material + shade).astype(np.uint8)
    return Ground(cells, resolution, (-size / 2, -size / 2), *tables())


def boxes_of(rows: list[tuple[float, ...]]) -> Boxes:
    """x, y, z, half x, half y, half z, yaw (degrees), tag; coloured and numbered by row."""
    boxes = Boxes.empty(len(rows))
    table = np.array(rows, float).reshape(-1, 8)
    boxes.centre[:], boxes.half[:] = table[:, :3], table[:, 3:6]
    boxes.yaw[:], boxes.tag[:] = np.radians(table[:, 6]), table[:, 7]
    boxes.rgb[:] = np.random.default_rng(1).integers(60, 220, (len(rows), 3))
    boxes.instance[:] = np.arange(1, len(rows) + 1)
    return boxes


@pytest.fixture(scope="session")
def crossroads() -> Scene:
    """Houses, trees, poles, traffic lights; cars, a truck, a bus, two-wheelers and people."""
    rng = np.random.default_rng(3)
    fixed: list[tuple[float, ...]] = []
    for _ in range(60):
        x, y = rng.uniform(-90, 90, 2)
        kind = rng.integers(4)
        yaw = rng.uniform(0, 360)
        if kind == 0 and max(abs(x), abs(y)) > 14:
            high = rng.uniform(3, 12)
            fixed.append((x, y, high, rng.uniform(3, 7), rng.uniform(3, 7), high, yaw, 3))
        elif kind == 1:
            fixed.append((x, y, 1.2, 0.15, 0.15, 1.2, 0, Tag.VEGETATION))
            fixed.append((x, y, 3.8, 1.6, 1.4, 1.6, yaw, Tag.VEGETATION))
        else:
            fixed.append((x, y, 2.5, 0.1, 0.1, 2.5, 0, Tag.POLES))
            fixed.append((x, y, 4.4, 0.14, 0.24, 0.6, yaw, Tag.TRAFFIC_LIGHT))
    moving: list[tuple[float, ...]] = []
    for tag, half in (
        (Tag.CAR, (2.35, 0.95, 0.75)),
        (Tag.TRUCK, (4.0, 1.3, 1.7)),
        (Tag.BUS, (5.5, 1.3, 1.6)),
        (Tag.MOTORCYCLE, (1.1, 0.4, 0.8)),
        (Tag.BICYCLE, (0.9, 0.4, 0.8)),
        (Tag.PEDESTRIANS, (0.19, 0.25, 0.93)),
    ):
        for _ in range(4):
            x, y = rng.uniform(-40, 40, 2)
            moving.append((x, y, half[2], *half, rng.uniform(0, 360), tag))
    scenery = boxes_of(fixed)
    scenery.instance[:] += 60_000
    heads = np.flatnonzero(scenery.tag == Tag.TRAFFIC_LIGHT)
    lit = np.array([[255, 48, 32], [255, 190, 32], [48, 240, 120], [34, 36, 38]], np.uint8)
    cars = boxes_of(moving)
    ahead = np.stack([np.cos(cars.yaw), np.sin(cars.yaw)], 1) * 2.4
    return Scene(
        chequered(),
        scenery,
        cars,
        light_rows=heads,
        light_rgb=lit[np.arange(len(heads)) % 4],
        lamps=scenery.centre[heads] * [1, 1, 1.5],
        headlights=np.column_stack([cars.centre[:, :2] + ahead, np.full(len(cars), 0.7), cars.yaw]),
    )
