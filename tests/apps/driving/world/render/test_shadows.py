"""A pixel of the ground is in the shadow where a ray from it to the sun meets a box."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.render import Lens, Scene, open_renderer
from apps.driving.world.render.scene import Camera
from apps.driving.world.render.shadows import casters, shaded
from apps.driving.world.sensors.raycast import cast
from apps.driving.world.weather import Weather

LENS = Lens(240, 180, 80.0)


@pytest.fixture
def yard(crossroads: Scene) -> Scene:
    rng = np.random.default_rng(4)
    boxes = Boxes.empty(12)
    boxes.centre[:] = rng.uniform((8, -20, 1), (38, 20, 6), (12, 3))
    boxes.half[:] = rng.uniform(1.1, 3, (12, 3))
    boxes.centre[:, 2] = boxes.half[:, 2] + rng.uniform(0, 1.5, 12)
    boxes.yaw[:] = rng.uniform(0, 6, 12)
    boxes.tag[:] = 4
    return Scene(crossroads.ground, boxes, Boxes.empty())


@pytest.mark.parametrize("sun", [(200.0, 35.0), (75.0, 60.0), (310.0, 12.0)])
@pytest.mark.parametrize("pose", [Transform(z=6.0, pitch=-15.0), Transform(3, 9, 25, -60, -40, 10)])
def test_equals_rays_to_the_sun(yard: Scene, pose: Transform, sun: tuple[float, float]) -> None:
    weather = Weather(sun_azimuth_angle=sun[0], sun_altitude_angle=sun[1])
    scene = replace(yard, weather=weather)
    camera = Camera.at(pose, LENS)
    assert len(casters(scene, camera)) == 12
    picture = open_renderer("numpy").render(scene, pose, LENS)
    u, v = (axis.astype(np.float32) for axis in LENS.axes())
    ground = (picture.instance == 0) & (picture.depth < 100) & (picture.tags != 4)
    shadow = shaded(scene, camera, ground, u, v)
    assert shadow is not None

    ray = np.stack([np.ones((180, 240)), *np.meshgrid(u, v)], axis=2) @ pose.matrix()[:3, :3].T
    place = (np.array(pose[:3]) + ray * picture.depth[..., None])[ground]
    place[:, 2] = 1e-6
    met = np.isfinite(cast(scene, place, np.broadcast_to(weather.sun, place.shape), 1e4).distance)
    assert 0.005 < met.mean() < 0.95
    assert (met == shadow[ground]).mean() > 0.998


def test_no_sun_no_shadow(yard: Scene) -> None:
    camera = Camera.at(Transform(z=6.0), LENS)
    for weather in (Weather(sun_altitude_angle=-20.0), Weather(cloudiness=100.0)):
        assert len(casters(replace(yard, weather=weather), camera)) == 0


def test_a_shadow_is_darker(yard: Scene) -> None:
    pose = Transform(z=6.0, pitch=-20.0)
    renderer = open_renderer("numpy")
    with_boxes = renderer.render(yard, pose, LENS)
    without = renderer.render(Scene(yard.ground, Boxes.empty(), Boxes.empty()), pose, LENS)
    assert with_boxes.rgb is not None
    assert without.rgb is not None
    ground = (with_boxes.depth == without.depth) & (without.depth < 100)
    brighter = with_boxes.rgb.astype(int)[ground] > without.rgb[ground]
    darker = with_boxes.rgb[ground].astype(int) < without.rgb[ground] - 10
    assert not brighter.any()
    assert darker.mean() > 0.02
