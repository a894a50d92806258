"""Distances to walls that stand where the test puts them: depth pictures by ray and plane."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apps.driving.agents.obstacles import AXLE_M, CURVATURE, Corridor, Gap, arc
from apps.driving.rig import LETFUSER, Camera, Rig

FRONT, SIDE = 2.4, 1.0


def scene(*walls: tuple[float, float, float, float, float], rig: Rig = LETFUSER) -> np.ndarray:
    """(V, H, W) metres: a flat road and walls across it (x, y from, y to, z from, z to)."""
    pictures = []
    for camera in rig.cameras:
        ray, at = camera.rays(), np.array([camera.x, camera.y, camera.z])
        with np.errstate(divide="ignore", invalid="ignore"):
            ground = -at[2] / ray[..., 2]
            depth = np.where(ground > 0, ground, 1000.0)
            for x, y0, y1, z0, z1 in walls:
                hit = (x - at[0]) / ray[..., 0]
                y, z = at[1] + hit * ray[..., 1], at[2] + hit * ray[..., 2]
                met = (hit > 0) & (y >= y0) & (y <= y1) & (z >= z0) & (z <= z1)
                depth = np.where(met & (hit < depth), hit, depth)
        pictures.append(depth)
    return np.stack(pictures).astype(np.float32)


@pytest.fixture(scope="module")
def corridor() -> Corridor:
    return Corridor(LETFUSER, FRONT, SIDE)


@pytest.mark.parametrize("x", [6.0, 12.0, 25.0])
def test_a_wall_ahead_is_as_far_as_it_is(corridor: Corridor, x: float) -> None:
    assert corridor.gap(scene((x, -1, 1, 0, 1.6)), 0.0) == pytest.approx(x - FRONT, abs=0.05)


@pytest.mark.parametrize(
    "wall",
    [
        (15.0, -1.0, 1.0, 0.0, 0.2),  # a kerb
        (15.0, -1.0, 1.0, 4.0, 6.0),  # a lamp over the road
        (15.0, 1.4, 3.0, 0.0, 2.0),  # a car on the next lane
        (60.0, -1.0, 1.0, 0.0, 2.0),  # too far to matter
    ],
)
def test_what_is_not_in_the_way_is_nothing(corridor: Corridor, wall: tuple[float, ...]) -> None:
    assert math.isinf(corridor.gap(scene(wall), 0.0))  # type: ignore[arg-type]


def test_empty_road_is_free_under_every_wheel(corridor: Corridor) -> None:
    road = scene()
    assert all(math.isinf(corridor.gap(road, steer)) for steer in np.linspace(-1, 1, 21))


def test_the_corridor_bends_with_the_wheel(corridor: Corridor) -> None:
    right = scene((12.0, 5.0, 8.0, 0, 2))  # off the road ahead, on a right bend of radius 18 m
    steer = 1 / 18 / CURVATURE
    assert math.isinf(corridor.gap(right, 0.0))
    assert math.isinf(corridor.gap(right, -steer))
    assert corridor.gap(right, steer) == pytest.approx(11.4, abs=1.5)


def test_left_is_the_mirror_of_right(corridor: Corridor) -> None:
    right, left = scene((10.0, 2.0, 6.0, 0, 2)), scene((10.0, -6.0, -2.0, 0, 2))
    for steer in (0.1, 0.3, 0.6):
        assert corridor.gap(right, steer) == pytest.approx(corridor.gap(left, -steer), abs=0.1)


def test_bad_pixels_are_nothing_and_hide_nothing(corridor: Corridor) -> None:
    depth = scene((10.0, -1, 1, 0, 1.6))
    spoiled = depth.copy()
    spoiled[:, ::2] = np.nan
    spoiled[0] = np.inf
    spoiled[2] = 0.0
    assert corridor.gap(spoiled, 0.0) == pytest.approx(10.0 - FRONT, abs=0.05)
    assert math.isinf(corridor.gap(np.full_like(depth, np.nan), 0.0))


def test_one_pixel_is_not_something(corridor: Corridor) -> None:
    depth = scene()
    depth[1, 81, 161] = 5.0  # on the grid of pixels that are looked at, 2.2 m high at most
    assert math.isinf(corridor.gap(depth, 0.0))
    depth[1, 79:91, 155:167] = 5.0
    assert corridor.gap(depth, 0.0) == pytest.approx(5.0 + 1.3 - FRONT, abs=0.1)


def test_tilted_cameras_see_the_same_wall() -> None:
    rig = Rig((Camera("front", pitch=-8.0, roll=3.0),))
    gap = Corridor(rig, FRONT, SIDE).gap(scene((12.0, -1, 1, 0, 1.6), rig=rig), 0.0)
    assert gap == pytest.approx(12.0 - FRONT, abs=0.1)


@pytest.mark.parametrize("curvature", [-0.2, -0.02, 0.0, 0.03, 0.25])
def test_arc_coordinates_of_points_on_the_arc(curvature: float) -> None:
    s = np.linspace(0.1, 5.0, 9)
    for across in (-1.0, 0.0, 1.5):
        if curvature == 0:
            x, y = s + AXLE_M, np.full_like(s, across)
        else:
            radius = 1 / curvature
            x = (radius - across) * np.sin(s / radius) + AXLE_M
            y = radius - (radius - across) * np.cos(s / radius)
        along, sideways = arc(x, y, curvature)
        np.testing.assert_allclose(along, s, atol=1e-9)
        np.testing.assert_allclose(sideways, across, atol=1e-9)


def test_closing_speed_is_that_of_the_gap() -> None:
    gap = Gap()
    for k in range(8):
        gap.step(20.0 - 0.3 * k, speed=8.0, time=0.1 * k)
    assert gap.closing == pytest.approx(3.0)
    gap.step(6.0, speed=8.0, time=0.8)  # something else, nearer: nothing is known of it yet
    assert gap.closing == 8.0


def test_what_was_near_is_remembered_for_a_while() -> None:
    gap = Gap()
    assert gap.step(3.0, 2.0, 0.0) == 3.0
    assert gap.step(math.inf, 2.0, 0.5) == pytest.approx(2.0)
    assert gap.step(math.inf, 0.0, 1.5) == pytest.approx(2.0)
    assert math.isinf(gap.step(math.inf, 0.0, 2.5))
    gap.step(20.0, 2.0, 3.0)
    assert math.isinf(gap.step(math.inf, 2.0, 3.1))  # it was in sight and went away
