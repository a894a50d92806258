"""The semantic depth cloud against points computed by hand and by another route."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from apps.driving.models.birdseye import CloudEncoder, DepthCloud, Points
from apps.driving.models.config import CloudConfig
from apps.driving.rig import LETFUSER, Camera, Rig

GRID = CloudConfig(ahead=(-2.0, 38.0), right=(-32.0, 32.0), cell=0.5, step=(1, 1))
FOCAL = 160 / math.tan(math.radians(30))  # 277.1 pixels
HEIGHT = 2.3


def cloud(width: int = 960, classes: int = 3, config: CloudConfig = GRID) -> DepthCloud:
    return DepthCloud(LETFUSER, width, classes, 4, config)


def no_depth(width: int = 960) -> torch.Tensor:
    return torch.zeros(1, 160, width)


def filled(grid: torch.Tensor) -> set[tuple[int, int, int]]:
    """(class, row, column) of the cells that are set in the first of a batch."""
    return {tuple(place) for place in grid[0].nonzero().tolist()}


@pytest.mark.parametrize(
    ("view", "column", "ahead", "right"),
    [
        # Front, left of the middle: 50.5 pixels left of the axis at 10 m are 1.822 m.
        (1, 109, 1.3 + 10.0, -1.822),
        # Left, turned by -60 degrees: 10 m along (1/2, -0.8660), 1.822 m along (-0.8660, -1/2).
        (0, 109, 1.3 + 5.0 - 1.578, -8.660 - 0.911),
        # Right, turned by +60 degrees: 10 m along (1/2, 0.8660), -1.822 m along (-0.8660, 1/2).
        (2, 109, 1.3 + 5.0 + 1.578, 8.660 - 0.911),
    ],
)
def test_a_pixel_of_each_view_lands_where_geometry_says(
    view: int, column: int, ahead: float, right: float
) -> None:
    row = 120  # 40.5 pixels below the axis: 1.461 m at 10 m, so 0.839 m above the road
    depth = no_depth()
    depth[0, row, 320 * view + column] = 10.0
    point = Points(LETFUSER, 960, (1, 1))(depth)[0, :, row, 320 * view + column]
    torch.testing.assert_close(
        point, torch.tensor([ahead, right, 2.3 - 1.461]), atol=1e-3, rtol=0.0
    )
    labels = torch.full((1, 40, 240), 2)
    cell = (2, int((38.0 - ahead) / 0.5), int((right + 32.0) / 0.5))
    assert filled(cloud()(labels, depth)) == {cell}


def test_depth_is_along_the_axis_and_not_along_the_ray() -> None:
    wall = torch.full((1, 160, 960), 10.0)
    x, y, _ = Points(LETFUSER, 960, (1, 1))(wall)[0][:, :, 320:640]
    torch.testing.assert_close(x, torch.full_like(x, 11.3))  # a plane, not a sphere
    assert float(y[0, -1]) == pytest.approx(159.5 / FOCAL * 10.0, rel=1e-5)


def test_the_road_is_at_height_zero_and_a_bridge_and_the_sky_are_left_out() -> None:
    rows = torch.arange(160).view(1, 160, 1).expand(1, 160, 960)
    below = rows + 0.5 - 80
    road = torch.where(below > 0, HEIGHT * FOCAL / below, 0.0)
    z = Points(LETFUSER, 960, (1, 1))(road)[0, 2, 81:]
    torch.testing.assert_close(z, torch.zeros_like(z), atol=1e-4, rtol=0.0)
    labels = torch.zeros(1, 40, 240, dtype=torch.int64)
    seen = cloud()(labels, road)[0, 0]
    assert seen[round((38 - 12) / 0.5), 32:96].all()  # 12 m ahead, 16 m to either side
    assert not seen[round((38 - 8) / 0.5), 64].any()  # the lowest row of pixels meets it at 9.3 m

    above = torch.where(below < 0, 2.7 * FOCAL / -below, 0.0)  # a ceiling at 5 m
    assert not cloud()(labels, above).any()
    assert not cloud()(labels, torch.full((1, 160, 960), 1000.0)).any()
    low = CloudConfig(**{**GRID.model_dump(), "height": (-0.5, 6.0)})
    assert cloud(config=low)(labels, above).any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -5.0])
def test_what_is_no_depth_makes_no_point(value: float) -> None:
    labels = torch.zeros(1, 40, 240, dtype=torch.int64)
    assert not cloud()(labels, torch.full((1, 160, 960), value)).any()


def test_a_cell_keeps_every_class_that_is_in_it() -> None:
    depth = no_depth()
    depth[0, 100:140, 480] = 12.0  # a post: one column, one place on the ground
    labels = torch.zeros(1, 40, 240, dtype=torch.int64)
    labels[0, 30:, :] = 1
    cells = filled(cloud()(labels, depth))
    assert {c for c, *_ in cells} == {0, 1}
    assert len({(row, column) for _, row, column in cells}) == 1


def test_cutting_the_panorama_removes_only_its_ends() -> None:
    depth = torch.rand(1, 160, 960, generator=torch.Generator().manual_seed(0)) * 30
    labels = torch.randint(0, 3, (1, 40, 240), generator=torch.Generator().manual_seed(1))
    ends = depth.clone()
    ends[:, :, 96:864] = 0.0
    whole, outer = cloud()(labels, depth), cloud()(labels, ends)
    inner = cloud(768)(labels[:, :, 24:216], depth[:, :, 96:864])
    torch.testing.assert_close(whole, torch.maximum(inner, outer))


def test_points_of_turned_and_tilted_cameras_agree_with_a_slow_reference() -> None:
    """Pixel by pixel in float64, by three elementary rotations one after another."""
    rig = Rig(
        (
            Camera("a", 25.0, 1.0, -0.3, 1.7, -8.0, 5.0, 32, 32, 70.0),
            Camera("b", -110.0, -0.5, 0.4, 2.1, 6.0, -12.0, 32, 32, 70.0),
        )
    )
    grid = CloudConfig(ahead=(-10, 10), right=(-10, 10), cell=1.0, height=(-1, 3), step=(2, 4))
    random = np.random.default_rng(3)
    depth = random.uniform(0.5, 12.0, (32, 64))
    labels = random.integers(0, 4, (16, 32))
    expected = np.zeros((4, 20, 20))
    for i in range(1, 32, 2):
        for j in range(2, 64, 4):
            camera, column = rig.cameras[j // 32], j % 32
            d = depth[i, j]
            f = 16 / math.tan(math.radians(35))
            p = np.array([d, (column + 0.5 - 16) / f * d, -(i + 0.5 - 16) / f * d])
            p = _turn(p, 1, 2, camera.roll)  # y towards z: clockwise seen from behind
            p = _turn(p, 0, 2, camera.pitch)  # x towards z: upwards
            p = _turn(p, 0, 1, camera.yaw)  # x towards y: to the right
            x, y, z = p + [camera.x, camera.y, camera.z]
            if abs(x) < 10 and abs(y) < 10 and -1 <= z < 3:
                expected[labels[i // 2, j // 2], math.floor(10 - x), math.floor(y + 10)] = 1
    network = DepthCloud(rig, 64, 4, 2, grid)
    result = network(torch.from_numpy(labels)[None], torch.from_numpy(depth)[None].float())[0]
    assert expected.sum() > 30
    np.testing.assert_array_equal(result.numpy(), expected)


def _turn(p: np.ndarray, a: int, b: int, degrees: float) -> np.ndarray:
    """Turn axis ``a`` towards axis ``b``, except roll, which CARLA counts from z towards y."""
    angle = math.radians(-degrees if (a, b) == (1, 2) else degrees)
    q = p.copy()
    q[a] = math.cos(angle) * p[a] - math.sin(angle) * p[b]
    q[b] = math.sin(angle) * p[a] + math.cos(angle) * p[b]
    return q


def test_each_of_a_batch_by_itself() -> None:
    random = torch.Generator().manual_seed(5)
    depth = torch.rand(3, 160, 960, generator=random) * 40
    labels = torch.randint(0, 3, (3, 40, 240), generator=random)
    together = cloud()(labels, depth)
    for i in range(3):
        torch.testing.assert_close(together[i], cloud()(labels[i : i + 1], depth[i : i + 1])[0])


def test_the_encoder_halves_once_a_level() -> None:
    encoder = CloudEncoder(5, (4, 6))
    assert encoder(torch.zeros(2, 5, 10, 14)).shape == (2, 6, 3, 4)
    assert encoder.stride == 4
