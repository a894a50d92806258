"""OpenGL's pictures against the reference renderer's."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.render import (
    Lens,
    Picture,
    Renderer,
    Scene,
    encode_depth,
    encode_instance,
    encode_rgb,
    encode_semantic,
    open_renderer,
)
from apps.driving.world.render.gpu import LENSES
from apps.driving.world.weather import Weather
from core.errors import ResourceError, UsageError

LENS = Lens(160, 120, 70.0)
POSES = [
    Transform(0.3, -0.2, 2.3),
    Transform(-70.0, 12.0, 3.0, -8.0, 35.0, 0.0),
    Transform(30.0, -40.0, 8.0, -25.0, 130.0, 12.0),
    Transform(0.0, 0.0, 60.0, -85.0, 10.0, 0.0),
]
WEATHERS = [
    Weather(),
    Weather(sun_altitude_angle=-60.0),
    Weather(wetness=90.0, precipitation_deposits=70.0, precipitation=40.0, cloudiness=60.0),
    Weather(sun_altitude_angle=4.0, fog_density=40.0, wetness=30.0),
]


@pytest.fixture(scope="module")
def egl() -> Iterator[Renderer]:
    pytest.importorskip("moderngl", reason="OpenGL: the extra 'egl' is not installed")
    try:
        renderer = open_renderer("egl")
    except ResourceError as error:
        pytest.skip(str(error))
    yield renderer
    renderer.close()


def edges(values: np.ndarray) -> np.ndarray:
    """(H, W) bool: a pixel or one of its eight neighbours has another value."""
    padded = np.pad(values, 1, mode="edge")
    height, width = values.shape
    shifted = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    found: np.ndarray = np.logical_or.reduce([other != values for other in shifted])
    return found


@pytest.mark.parametrize("pose", POSES)
def test_meets_what_the_reference_meets(egl: Renderer, crossroads: Scene, pose: Transform) -> None:
    ours = egl.render(crossroads, pose, LENS)
    truth = open_renderer("numpy").render(crossroads, pose, LENS)
    assert len(np.unique(truth.tags)) > 2
    for name in ("tags", "instance"):
        a, b = getattr(ours, name), getattr(truth, name)
        assert a.dtype == b.dtype
        assert ((a == b) | edges(a) | edges(b)).all()
        assert (a == b).mean() > 0.999
    same = ours.instance == truth.instance
    np.testing.assert_allclose(ours.depth[same], truth.depth[same], rtol=5e-4)


@pytest.mark.parametrize("weather", WEATHERS)
def test_looks_like_the_reference(egl: Renderer, crossroads: Scene, weather: Weather) -> None:
    scene = replace(crossroads, weather=weather)
    ours, truth = (r.render(scene, POSES[1], LENS).rgb for r in (egl, open_renderer("numpy")))
    assert ours is not None
    assert truth is not None
    apart = np.abs(ours.astype(int) - truth)
    assert apart.mean() < 0.5
    assert (apart > 3).mean() < 0.01


@pytest.mark.parametrize(
    "pose",
    [
        Transform(z=0.05, pitch=-90.0),
        Transform(z=-3.0, pitch=40.0),
        Transform(z=1500.0, pitch=-80.0),
        Transform(z=3.0, pitch=90.0),
        Transform(1e5, 0.0, 2.0),
    ],
)
def test_agrees_at_far_out_poses(egl: Renderer, crossroads: Scene, pose: Transform) -> None:
    for lens in (Lens(41, 30, 90.0), Lens(50, 20, 179.0), Lens(30, 50, 0.01)):
        ours = egl.render(crossroads, pose, lens)
        truth = open_renderer("numpy").render(crossroads, pose, lens)
        assert (ours.tags == truth.tags).mean() > 0.99


def test_encodings_take_its_pictures(egl: Renderer, crossroads: Scene) -> None:
    ours = egl.render(crossroads, POSES[1], LENS)
    whole = Picture(*(np.ascontiguousarray(part) for part in vars(ours).values()))
    for encode in (encode_rgb, encode_depth, encode_semantic, encode_instance):
        assert encode(ours) == encode(whole)
        assert len(encode(ours)) == 4 * LENS.width * LENS.height


def test_more_lenses_than_are_kept(egl: Renderer, crossroads: Scene) -> None:
    first = egl.render(crossroads, POSES[0], LENS)
    for width in range(8, 8 + LENSES + 2):
        assert egl.render(crossroads, POSES[0], Lens(width, 9)).tags.shape == (9, width)
    assert same(first, egl.render(crossroads, POSES[0], LENS))


def same(a: Picture, b: Picture) -> bool:
    names = ("depth", "tags", "instance", "rgb")
    return all(getattr(a, n).tobytes() == getattr(b, n).tobytes() for n in names)


def test_the_same_picture_twice(egl: Renderer, crossroads: Scene) -> None:
    first = egl.render(crossroads, POSES[1], LENS)
    egl.render(crossroads, POSES[2], Lens(31, 17, 100.0))
    assert same(first, egl.render(crossroads, POSES[1], LENS))
    other = open_renderer("egl")
    assert same(first, other.render(crossroads, POSES[1], LENS))
    other.close()


def test_any_thread_may_ask(egl: Renderer, crossroads: Scene) -> None:
    here = egl.render(crossroads, POSES[0], LENS)
    there: list[Picture] = []
    thread = threading.Thread(target=lambda: there.append(egl.render(crossroads, POSES[0], LENS)))
    thread.start()
    thread.join()
    assert same(here, there[0])


def test_an_empty_world_and_another_ground(egl: Renderer, crossroads: Scene) -> None:
    pose = Transform(1.0, 1.0, 2.0, -20.0)
    empty = Scene(crossroads.ground, Boxes.empty(), Boxes.empty())
    assert not egl.render(empty, pose, LENS).instance.any()
    cells = np.zeros_like(crossroads.ground.cells)
    bare = replace(empty, ground=replace(crossroads.ground, cells=cells))
    tags = egl.render(bare, pose, LENS, rgb=False).tags
    np.testing.assert_array_equal(
        tags, open_renderer("numpy").render(bare, pose, LENS, rgb=False).tags
    )


def test_a_town_longer_than_textures_are_wide(egl: Renderer, crossroads: Scene) -> None:
    cells = np.random.default_rng(0).integers(0, 14, (3, 90_001)).astype(np.uint8) * 16
    ground = replace(crossroads.ground, cells=cells, resolution=0.5, origin=(0.0, 0.0))
    night = Weather(sun_altitude_angle=-40.0)
    scene = Scene(ground, Boxes.empty(), Boxes.empty(), night, lamps=np.array([[8195.0, 1, 6]]))
    for x in (0.0, 8190.0, 44_990.0):
        pose = Transform(x, 0.7, 20.0, -80.0)
        ours, truth = (r.render(scene, pose, LENS) for r in (egl, open_renderer("numpy")))
        assert (ours.tags == truth.tags).mean() > 0.99
        assert len(np.unique(truth.tags)) > 4
        assert ours.rgb is not None
        assert truth.rgb is not None
        assert np.abs(ours.rgb.astype(int) - truth.rgb).mean() < 0.5


def test_thousands_of_boxes_fit(egl: Renderer, crossroads: Scene) -> None:
    n = 3000
    rng = np.random.default_rng(0)
    boxes = Boxes.empty(n)
    boxes.centre[:] = rng.uniform((5, -40, 0), (90, 40, 20), (n, 3))
    boxes.half[:], boxes.tag[:], boxes.instance[:] = 0.4, 5, np.arange(1, n + 1)
    scene = Scene(crossroads.ground, boxes, crossroads.moving)
    ours = egl.render(scene, Transform(z=5.0), LENS, rgb=False).instance
    truth = open_renderer("numpy").render(scene, Transform(z=5.0), LENS, rgb=False).instance
    assert (ours == truth).mean() > 0.995


def test_without_a_context_the_error_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    moderngl = pytest.importorskip("moderngl", reason="OpenGL: the extra 'egl' is not installed")

    def absent(**_: object) -> None:
        raise ImportError("libEGL.so: cannot open shared object file")

    monkeypatch.setattr(moderngl, "create_context", absent)
    with pytest.raises(ResourceError, match="libegl1, libgl1 and libgl1-mesa-dri"):
        open_renderer("egl")


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moderngl", None)
    with pytest.raises(UsageError, match=r"\[egl\]"):
        open_renderer("egl")


def test_an_unknown_renderer_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'numpy'"):
        open_renderer("nunpy")
