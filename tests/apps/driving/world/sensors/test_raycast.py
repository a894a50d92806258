"""Rays against closed forms, against every box one by one, and against the depth picture."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.render import FAR, Lens, Scene, open_renderer
from apps.driving.world.sensors import raycast
from apps.driving.world.sensors.raycast import Hits, cast
from apps.driving.world.tags import Tag
from apps.driving.world.townscape.ground import Ground, Material, tables


@pytest.fixture(scope="module")
def scene() -> Scene:
    """60 boxes of all kinds about the origin on asphalt that ends at 60 m."""
    rng = np.random.default_rng(0)
    boxes = Boxes.empty(60)
    boxes.centre[:] = rng.uniform((-40, -40, 0.5), (40, 40, 4), (60, 3))
    boxes.half[:] = rng.uniform(0.1, 2.5, (60, 3))
    boxes.yaw[:] = rng.uniform(-7, 7, 60)
    boxes.tag[:] = rng.choice([Tag.CAR, Tag.BUILDINGS, Tag.POLES, Tag.PEDESTRIANS], 60)
    boxes.instance[:] = np.arange(1, 61)
    cells = np.full((240, 240), 16 * Material.ASPHALT, np.uint8)
    ground = Ground(cells, 0.5, (-60.0, -60.0), *tables())
    return Scene(ground, boxes.take(np.arange(40)), boxes.take(np.arange(40, 60)))


def directions(n: int, seed: int = 0) -> np.ndarray:
    ways = np.random.default_rng(seed).normal(size=(n, 3))
    return ways / np.linalg.norm(ways, axis=1, keepdims=True)


def one_by_one(scene: Scene, starts: np.ndarray, ways: np.ndarray, reach: float) -> Hits:
    """Every ray against every solid and the ground, as the formulas stand."""
    solids, n = scene.solids, len(ways)
    best, tag, instance = np.full(n, np.inf), np.zeros(n, np.uint8), np.zeros(n, np.int32)
    cosine = np.zeros(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        down = np.where(ways[:, 2] * starts[:, 2] < 0, -starts[:, 2] / ways[:, 2], np.inf)
        best = np.where(down <= reach, down, np.inf)
        place = starts + ways * best[:, None]
        tag = np.where(np.isfinite(best), scene.ground.tag[scene.ground.index(place)], 0)
        cosine = np.where(np.isfinite(best), np.abs(ways[:, 2]), 0)
        for k in range(len(solids)):
            c, s = solids.turn[k]
            turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
            start, way = (starts - solids.centre[k]) @ turn.T, ways @ turn.T
            a, b = (-solids.half[k] - start) / way, (solids.half[k] - start) / way
            low = np.minimum(a, b)
            enter, leave = low.max(1), np.maximum(a, b).min(1)
            hit = (enter <= leave) & (enter > 0) & (enter < best) & (enter <= reach)
            best[hit], tag[hit], instance[hit] = enter[hit], solids.tag[k], solids.instance[k]
            cosine[hit] = np.abs(way[np.arange(n), low.argmax(1)])[hit]
    return Hits(best.astype(np.float32), tag.astype(np.uint8), instance, cosine.astype(np.float32))


def equal(a: Hits, b: Hits) -> None:
    np.testing.assert_array_equal(np.isfinite(a.distance), np.isfinite(b.distance))
    met = np.isfinite(b.distance)
    np.testing.assert_allclose(a.distance[met], b.distance[met], rtol=1e-5)
    np.testing.assert_array_equal(a.tag, b.tag)
    np.testing.assert_array_equal(a.instance, b.instance)
    np.testing.assert_allclose(a.cosine, b.cosine, atol=1e-6)


@pytest.mark.parametrize("origin", [(0.0, 0.0, 2.4), (30.0, -41.0, 0.3), (0.0, 0.0, 20.0)])
@pytest.mark.parametrize("reach", [15.0, 200.0])
def test_one_origin(scene: Scene, origin: tuple[float, ...], reach: float) -> None:
    ways = directions(4001)
    hits = cast(scene, np.array(origin), ways, reach)
    truth = one_by_one(scene, np.tile(origin, (4001, 1)), ways, reach)
    assert (truth.instance > 0).any()
    equal(hits, truth)
    assert [a.dtype for a in hits] == [np.float32, np.uint8, np.int32, np.float32]


@pytest.mark.parametrize("origins", [3, raycast.GROUPS + 1, 500])
def test_many_origins(scene: Scene, origins: int) -> None:
    rng = np.random.default_rng(1)
    starts = rng.uniform((-30, -30, 0.2), (30, 30, 6), (origins, 3))[rng.integers(0, origins, 1500)]
    ways = directions(1500, 2)
    equal(cast(scene, starts, ways, 60.0), one_by_one(scene, starts, ways, 60.0))


def test_pairs_in_pieces(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    ways, origin = directions(900), np.array([1.0, 2.0, 1.5])
    whole = cast(scene, origin, ways, 80.0)
    monkeypatch.setattr(raycast, "PAIRS", 7)
    for a, b in zip(whole, cast(scene, origin, ways, 80.0), strict=True):
        assert a.tobytes() == b.tobytes()


def test_equals_the_depth_picture(scene: Scene) -> None:
    lens, pose = Lens(90, 70, 80.0), Transform(-20.0, 3.0, 4.0, -10.0, 30.0, 8.0)
    picture = open_renderer("numpy").render(scene, pose, lens, rgb=False)
    u, v = lens.axes()
    ray = np.stack([np.ones((70, 90)), *np.meshgrid(u, v)], axis=2)
    hits = cast(scene, np.array(pose[:3]), ray.reshape(-1, 3) @ pose.matrix()[:3, :3].T, 5000.0)
    depth = hits.distance.reshape(70, 90) / np.linalg.norm(ray, axis=2)
    expected = np.minimum(depth, FAR)
    assert np.isclose(picture.depth, expected, rtol=1e-4).mean() > 0.999
    assert (picture.instance == hits.instance.reshape(70, 90)).mean() > 0.999


def test_straight_down_and_along_the_axes(scene: Scene) -> None:
    empty = Scene(scene.ground, Boxes.empty(), Boxes.empty())
    ways = np.array([[0, 0, -2.0], [0, 0, 1], [1, 0, 0], [0.6, 0, -0.8]])
    hits = cast(empty, np.array([0, 0, 4.0]), ways, 100.0)
    np.testing.assert_allclose(hits.distance, [4, np.inf, np.inf, 5], rtol=1e-6)
    assert hits.tag.tolist() == [Tag.ROADS, Tag.NONE, Tag.NONE, Tag.ROADS]
    np.testing.assert_allclose(hits.cosine, [1, 0, 0, 0.8], rtol=1e-6)

    wall = Boxes.empty(1)
    wall.centre[:], wall.half[:], wall.tag[:], wall.instance[:] = (9, 0, 2), (1, 3, 2), 4, 5
    hit = cast(Scene(scene.ground, wall, Boxes.empty()), np.array([0, 0, 2.0]), ways[2:3], 8.01)
    assert (hit.distance[0], hit.tag[0], hit.instance[0], hit.cosine[0]) == (8.0, 4, 5, 1.0)
    short = cast(Scene(scene.ground, wall, Boxes.empty()), np.array([0, 0, 2.0]), ways[2:3], 7.99)
    assert np.isinf(short.distance[0])


def test_no_rays_and_rays_that_are_none(scene: Scene) -> None:
    assert len(cast(scene, np.zeros(3), np.zeros((0, 3)), 10.0).distance) == 0
    hits = cast(scene, np.array([0, 0, 2.0]), np.array([[0, 0, 0], [np.nan, 0, 1]]), 50.0)
    assert np.isinf(hits.distance).all()


def test_from_inside_a_box_it_is_not_met(scene: Scene) -> None:
    box = Boxes.empty(1)
    box.centre[:], box.half[:], box.tag[:] = (0, 0, 5), 2.0, Tag.WALLS
    hits = cast(Scene(scene.ground, box, Boxes.empty()), np.array([0, 0, 5.0]), directions(50), 4.9)
    assert np.isinf(hits.distance).all()
