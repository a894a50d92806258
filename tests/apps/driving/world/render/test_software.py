"""Depth against closed forms at any pose; tags, instances and colours; the same picture twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.render import FAR, Lens, Scene, open_renderer
from apps.driving.world.render.scene import NEAR
from apps.driving.world.render.software import FEW
from apps.driving.world.tags import Tag
from apps.driving.world.weather import Weather

POSES = [
    Transform(0.3, -0.2, 2.3),
    Transform(1.0, 2.0, 3.0, -20.0, 75.0, 0.0),
    Transform(-6.0, 4.0, 9.0, 15.0, -160.0, 30.0),
    Transform(2.0, -9.0, 30.0, -89.0, 10.0, 5.0),
    Transform(0.0, 0.0, 1.5, 10.0, 200.0, 180.0),
]
LENS = Lens(64, 48, 75.0)


def rays(pose: Transform, lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    """The eye (3) and a ray of depth 1 (H, W, 3) for each pixel, from the matrix of the pose."""
    column, row = np.meshgrid(np.arange(lens.width), np.arange(lens.height))
    slope = 2 * np.tan(np.radians(lens.fov) / 2) / lens.width
    local = np.stack(
        [
            np.ones(column.shape),
            (column + 0.5 - lens.width / 2) * slope,
            (lens.height / 2 - row - 0.5) * slope,
        ],
        axis=2,
    )
    return np.array(pose[:3]), local @ pose.matrix()[:3, :3].T


def slabs(eye: np.ndarray, ray: np.ndarray, boxes: Boxes, k: int) -> np.ndarray:
    """Depths (H, W) at which rays enter box k, inf where they do not: slab by slab, in float64."""
    c, s = np.cos(float(boxes.yaw[k])), np.sin(float(boxes.yaw[k]))
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    start, way = turn @ (eye - boxes.centre[k].astype(float)), ray @ turn.T
    half = boxes.half[k].astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (-half - start) / way, (half - start) / way
    enter = np.minimum(a, b).max(axis=2)
    leave = np.maximum(a, b).min(axis=2)
    return np.where((enter <= leave) & (enter > NEAR), enter, np.inf)


@pytest.mark.parametrize("pose", POSES)
def test_depth_of_the_ground_is_height_over_slope(pose: Transform, crossroads: Scene) -> None:
    scene = Scene(crossroads.ground, Boxes.empty(), Boxes.empty())
    picture = open_renderer("numpy").render(scene, pose, LENS)
    eye, ray = rays(pose, LENS)
    with np.errstate(divide="ignore"):
        depth = np.where(ray[..., 2] < 0, -eye[2] / ray[..., 2], np.inf)
    expected = np.where(depth < FAR, depth, FAR)
    np.testing.assert_allclose(picture.depth, expected, rtol=2e-5)
    assert ((picture.tags == Tag.SKY) == (expected == FAR)).all()
    assert not picture.instance.any()

    on_ground = expected < FAR
    xy = (eye + ray * expected[..., None])[on_ground]
    tags = scene.ground.tag[scene.ground.index(xy)]
    assert (picture.tags[on_ground] == tags).mean() > 0.995  # texels' edges: rounding


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("count", [1, 30])
def test_depth_of_boxes_is_the_slabs_entry(pose: Transform, count: int, crossroads: Scene) -> None:
    rng = np.random.default_rng(count)
    boxes = Boxes.empty(count)
    boxes.centre[:] = np.array(pose[:3]) + pose.matrix()[:3, 0] * 12 + rng.normal(0, 4, (count, 3))
    boxes.half[:] = rng.uniform(0.1, 3, (count, 3))
    boxes.yaw[:] = rng.uniform(-4, 4, count)
    boxes.tag[:] = Tag.FENCES
    boxes.instance[:] = np.arange(count) + 1
    scene = Scene(crossroads.ground, boxes, Boxes.empty())
    picture = open_renderer("numpy").render(scene, pose, LENS, rgb=False)
    eye, ray = rays(pose, LENS)
    each = np.stack([slabs(eye, ray, boxes, k) for k in range(count)])
    with np.errstate(divide="ignore"):
        ground = np.where(ray[..., 2] < 0, -eye[2] / ray[..., 2], np.inf)
    expected = np.minimum(np.minimum(each.min(0), ground), FAR)
    same = np.isclose(picture.depth, expected, rtol=1e-4)
    assert (each.min(0) < ground).mean() > 0.02  # the boxes are on the picture
    assert same.mean() > 0.999  # rounding decides a pixel on an edge
    hit = picture.instance > 0
    np.testing.assert_array_equal(
        picture.instance[hit & same],
        (each.argmin(0) + 1)[hit & same],
    )
    assert (picture.tags[hit] == Tag.FENCES).all()
    assert picture.rgb is None


def test_small_boxes_look_the_same_drawn_together_or_alone(
    crossroads: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apps.driving.world.render import software

    pose = Transform(-60.0, 1.0, 12.0, -9.0, 10.0, 4.0)
    together = open_renderer("numpy").render(crossroads, pose, Lens(160, 120, 70.0))
    monkeypatch.setattr(software, "FEW", 0)
    alone = open_renderer("numpy").render(crossroads, pose, Lens(160, 120, 70.0))
    assert FEW > 0
    np.testing.assert_array_equal(together.depth, alone.depth)
    np.testing.assert_array_equal(together.instance, alone.instance)


def test_a_box_around_the_camera_is_not_seen(crossroads: Scene) -> None:
    box = crossroads.moving.take(np.arange(1))
    box = replace(box, centre=np.zeros((1, 3), np.float32), half=np.full((1, 3), 3, np.float32))
    box = replace(box, tag=np.array([Tag.FENCES], np.uint8))
    scene = Scene(crossroads.ground, Boxes.empty(), box)
    picture = open_renderer("numpy").render(scene, Transform(z=1.0, pitch=5.0), LENS)
    assert not picture.instance.any()


def test_the_same_picture_twice(crossroads: Scene) -> None:
    for pose in POSES:
        a = open_renderer("numpy").render(crossroads, pose, LENS)
        b = open_renderer("numpy").render(replace(crossroads), pose, LENS)
        for name in ("depth", "tags", "instance", "rgb"):
            assert getattr(a, name).tobytes() == getattr(b, name).tobytes()


def test_a_lens_of_one_pixel_and_a_wide_one(crossroads: Scene) -> None:
    renderer = open_renderer("numpy")
    one = renderer.render(crossroads, Transform(z=5.0, pitch=-90.0), Lens(1, 1, 90.0))
    assert one.depth[0, 0] == pytest.approx(5.0, rel=1e-5)
    wide = renderer.render(crossroads, Transform(z=5.0), Lens(31, 17, 170.0))
    assert np.isfinite(wide.depth).all()
    renderer.close()


def luminance(scene: Scene, weather: Weather) -> float:
    picture = open_renderer("numpy").render(
        replace(scene, weather=weather), Transform(0.0, 0.0, 2.5, -5.0, 20.0, 0.0), LENS
    )
    assert picture.rgb is not None
    return float(picture.rgb.mean())


def test_weather_changes_colours_and_nothing_else(crossroads: Scene) -> None:
    noon, night = Weather(), Weather(sun_altitude_angle=-80.0)
    assert luminance(crossroads, night) < 0.4 * luminance(crossroads, noon)
    renderer, pose = open_renderer("numpy"), Transform(0.0, 0.0, 2.5, -5.0, 20.0, 0.0)
    plain = renderer.render(crossroads, pose, LENS)
    for weather in (
        night,
        Weather(fog_density=100.0),
        Weather(wetness=100.0, precipitation_deposits=80.0, precipitation=60.0, cloudiness=90.0),
        Weather(sun_altitude_angle=3.0),
        Weather(dust_storm=100.0),
    ):
        other = renderer.render(replace(crossroads, weather=weather), pose, LENS)
        assert not np.array_equal(plain.rgb, other.rgb)
        np.testing.assert_array_equal(plain.depth, other.depth)
        np.testing.assert_array_equal(plain.tags, other.tags)


def test_fog_hides_what_is_far(crossroads: Scene) -> None:
    renderer, pose = open_renderer("numpy"), Transform(-95.0, 0.0, 2.5)
    thick = replace(crossroads, weather=Weather(fog_density=100.0))
    picture = renderer.render(thick, pose, LENS)
    assert picture.rgb is not None
    far = (picture.depth > 120) & (picture.depth < FAR)
    assert far.any()
    spread = np.abs(picture.rgb[far].astype(float) - thick.weather.fog).max()
    assert spread < 12


def test_heads_show_the_lamp_that_is_lit(crossroads: Scene) -> None:
    head = Boxes.empty(1)
    head.centre[:], head.half[:], head.tag[:] = (10, 0, 3), (0.14, 0.24, 0.6), Tag.TRAFFIC_LIGHT
    rows = np.zeros(1, np.int64)
    for lamp, rgb in enumerate(((255, 48, 32), (255, 190, 32), (48, 240, 120))):
        scene = replace(
            crossroads,
            fixed=head,
            moving=Boxes.empty(),
            light_rows=rows,
            light_rgb=np.array([rgb], np.uint8),
        )
        picture = open_renderer("numpy").render(scene, Transform(z=3.0), Lens(61, 61, 10.0))
        assert picture.rgb is not None
        assert (picture.tags[30] == Tag.TRAFFIC_LIGHT).any()
        bright = picture.rgb.max(axis=2).astype(float)
        centre_row = 30 + (lamp - 1) * 0.384 / 9.86 / (2 * np.tan(np.radians(5)) / 61)
        shown = picture.rgb[round(centre_row), 30]
        assert np.abs(shown.astype(int) - rgb).max() < 40, (lamp, shown)
        assert bright[30, 30] < 120 or lamp == 1


@pytest.mark.parametrize("lens", [Lens(33, 40, 0.001), Lens(40, 20, 179.9), Lens(1, 1, 60.0)])
def test_far_out_poses_and_lenses_stay_in_range(crossroads: Scene, lens: Lens) -> None:
    stormy = replace(crossroads, weather=Weather(*[100.0] * 14))
    renderer = open_renderer("numpy")
    with np.errstate(all="raise", under="ignore"):
        for pose in (
            Transform(),
            Transform(z=-3.0, pitch=40.0),
            Transform(z=0.05, pitch=-90.0),
            Transform(z=2000.0, pitch=-45.0),
            Transform(-1e7, 1e6, 3.0),
            Transform(5.0, 5.0, 2.0, 90.0, 0.0, 170.0),
        ):
            depth = renderer.render(stormy, pose, lens).depth
            assert depth.min() > NEAR * 0.999
            assert depth.max() <= FAR
