"""What stands beside the roads: where it may, facing whom it must, and the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes
from apps.driving.world.tags import Tag
from apps.driving.world.town import Town, build_town
from apps.driving.world.townscape import scenery
from apps.driving.world.townscape.ground import Material
from apps.driving.world.townscape.painting import paint
from apps.driving.world.townscape.scenery import furnish

TOWN01 = Path(__file__).parents[5] / "samples" / "Town01.xodr"
TRUCK_M = 4.5  # CARLA's tallest vehicle is 4.2 m high
CARRIAGEWAY = [
    Material.ASPHALT, Material.TRACKS, Material.SHOULDER, Material.PARKING, Material.WHITE,
    Material.YELLOW,
]  # fmt: skip


@pytest.fixture(scope="module", params=[TOWN01, "procedural:0"], ids=["Town01", "procedural"])
def town(request: pytest.FixtureRequest) -> Town:
    return build_town(request.param, seed=2)


def footprint(boxes: Boxes, row: int, n: int = 9) -> np.ndarray:
    """Points (n * n, 2) over a box seen from above."""
    u, v = np.meshgrid(*(np.linspace(-1, 1, n) * boxes.half[row, k] for k in (0, 1)))
    c, s = np.cos(boxes.yaw[row]), np.sin(boxes.yaw[row])
    points = np.stack([u * c - v * s, u * s + v * c], -1).reshape(-1, 2)
    found: np.ndarray = points + boxes.centre[row, :2]
    return found


def underside(boxes: Boxes) -> np.ndarray:
    found: np.ndarray = boxes.centre[:, 2] - boxes.half[:, 2]
    return found


def test_nothing_stands_on_or_hangs_low_over_a_carriageway(town: Town) -> None:
    boxes = town.scenery.boxes
    for row in np.flatnonzero(underside(boxes) < TRUCK_M):
        under = town.ground.material(footprint(boxes, row))
        assert not np.isin(under, CARRIAGEWAY).any(), (row, Tag(boxes.tag[row]).name)


def test_only_street_furniture_stands_on_a_pavement(town: Town) -> None:
    boxes = town.scenery.boxes
    allowed = (Tag.POLES, Tag.TRAFFIC_LIGHT, Tag.TRAFFIC_SIGNS, Tag.STATIC)
    low = (underside(boxes) < 2.0) & ~np.isin(boxes.tag, allowed)
    for row in np.flatnonzero(low):
        under = town.ground.material(footprint(boxes, row))
        assert not np.isin(under, [Material.PAVEMENT, Material.SEAM, Material.KERB]).any(), row


def test_people_find_their_ways_free(town: Town) -> None:
    walks, boxes = town.network.sidewalk, town.scenery.boxes
    a, b = walks.nodes[walks.edges[:, 0]], walks.nodes[walks.edges[:, 1]]
    ways = np.concatenate([a + (b - a) * p for p in np.linspace(0, 1, 9)])[:, None]
    low = boxes.take(np.flatnonzero(underside(boxes) < 2.0))
    along = np.stack([np.cos(low.yaw), np.sin(low.yaw)], 1)
    blocked = 0
    for some in np.array_split(ways, 40):
        off = some - low.centre[:, :2]
        u = np.abs((off * along).sum(-1)) - low.half[:, 0]
        v = np.abs(off[..., 1] * along[:, 0] - off[..., 0] * along[:, 1]) - low.half[:, 1]
        blocked += int((np.maximum(u, v) < 0.2).sum())
    assert blocked == 0


def test_houses_do_not_stand_in_each_other(town: Town) -> None:
    boxes = town.scenery.boxes
    houses = boxes.take((boxes.tag == Tag.BUILDINGS) & (underside(boxes) < 0.1))
    assert len(houses) > 50
    for row in range(len(houses)):
        points = footprint(houses, row)
        for other in range(len(houses)):
            if other == row or np.hypot(*(houses.centre[row] - houses.centre[other])[:2]) > 30:
                continue
            off = points - houses.centre[other, :2]
            c, s = np.cos(houses.yaw[other]), np.sin(houses.yaw[other])
            u, v = off[:, 0] * c + off[:, 1] * s, off[:, 1] * c - off[:, 0] * s
            inside = (np.abs(u) < houses.half[other, 0]) & (np.abs(v) < houses.half[other, 1])
            assert not inside.any(), (row, other)


def test_every_light_shows_its_heads_to_its_traffic(town: Town) -> None:
    boxes, network = town.scenery.boxes, town.network
    assert set(town.scenery.light_heads) == {light.sign_id for light in network.lights}
    assert len(network.lights) > 10
    for light in network.lights:
        rows = town.scenery.light_heads[light.sign_id]
        assert (boxes.tag[rows] == Tag.TRAFFIC_LIGHT).all()
        travel = np.radians(light.heading)
        np.testing.assert_allclose(np.cos(boxes.yaw[rows] - travel), 1.0, atol=1e-6)
        if light.stop_nodes:
            stop = network.position[np.array(light.stop_nodes)].mean(0)
            ahead = (boxes.centre[rows, :2] - stop) @ [np.cos(travel), np.sin(travel)]
            assert ahead.max() > 6.0, light.sign_id  # who waits at the line still sees one


def test_rows_of_a_light_hold_its_heads_and_its_pole(town: Town) -> None:
    scenery, boxes = town.scenery, town.scenery.boxes
    owned: list[int] = []
    for sign, rows in scenery.rows_of.items():
        owned += rows.tolist()
        assert len(np.unique(boxes.instance[rows])) == 1
        assert Tag.POLES in boxes.tag[rows]
        assert set(scenery.light_heads.get(sign, [])) <= set(rows)
    assert len(owned) == len(set(owned))
    marked = np.isin(boxes.tag, (Tag.TRAFFIC_LIGHT, Tag.TRAFFIC_SIGNS))
    assert set(np.flatnonzero(marked)) <= set(owned)


def test_signs_face_their_traffic_beside_the_road(town: Town) -> None:
    boxes = town.scenery.boxes
    assert len(town.network.signs) > 10
    for sign in town.network.signs:
        rows = town.scenery.rows_of[sign.sign_id]
        plates = rows[boxes.tag[rows] == Tag.TRAFFIC_SIGNS]
        travel = np.radians(sign.heading)
        np.testing.assert_allclose(np.cos(boxes.yaw[plates] - travel), 1.0, atol=1e-6)
        nearest = (boxes.centre[plates, :2] @ [np.cos(travel), np.sin(travel)]).argmin()
        assert boxes.half[plates[nearest], 1] < boxes.half[plates].max()  # the face is in front


def test_bulbs_hang_over_the_street_under_their_arms(town: Town) -> None:
    lamps = town.scenery.lamps
    assert len(lamps) > 50
    assert lamps.shape == (len(lamps), 3)
    assert np.isin(town.ground.material(lamps[:, :2]), CARRIAGEWAY).mean() > 0.9
    assert (lamps[:, 2] > TRUCK_M).all()


def test_instances_are_one_an_object_and_apart_from_actors(town: Town) -> None:
    boxes = town.scenery.boxes
    assert boxes.instance.min() > 65_535 - len(boxes)
    assert boxes.instance.max() <= 65_535
    for number in np.unique(boxes.instance):
        same = boxes.take(boxes.instance == number)
        assert np.ptp(same.centre[:, :2], axis=0).max() < 70  # a light and its repeater at most


def test_boxes_are_sound_and_few_bytes(town: Town) -> None:
    boxes = town.scenery.boxes
    assert (boxes.half > 0).all()
    assert np.isfinite(boxes.centre).all()
    assert underside(boxes).min() > -0.01
    size = sum(
        getattr(boxes, f).nbytes for f in ("centre", "half", "yaw", "tag", "rgb", "instance")
    )
    assert town.ground.cells.nbytes + size < 64e6


def test_same_seed_same_scenery() -> None:
    town, again, other = (build_town(TOWN01, seed=seed) for seed in (2, 2, 3))
    for name in ("centre", "half", "yaw", "tag", "rgb", "instance"):
        mine = getattr(town.scenery.boxes, name)
        assert mine.tobytes() == getattr(again.scenery.boxes, name).tobytes()
    assert town.ground.cells.tobytes() == again.ground.cells.tobytes()
    assert town.scenery.boxes.centre.tobytes() != other.scenery.boxes.centre.tobytes()
    for sign, rows in town.scenery.rows_of.items():  # what the map lists does not move
        where = other.scenery.boxes.centre[other.scenery.rows_of[sign]]
        assert np.array_equal(where, town.scenery.boxes.centre[rows])


def test_yards_are_laid_on_grass_alone(town: Town) -> None:
    bare = paint(town.roads, town.network, seed=2)
    laid = (town.ground.cells >> 4) == Material.PLAZA
    assert laid.any()
    under = np.bincount((bare.cells >> 4)[laid], minlength=16) / laid.sum()
    assert under[Material.GRASS] > 0.9
    assert under[CARRIAGEWAY].sum() == 0.0
    furnish(town.network, town.roads, bare, seed=2)
    assert np.array_equal((bare.cells >> 4) == Material.PLAZA, laid)


def test_gates_stay_open(town: Town) -> None:
    boxes = town.scenery.boxes
    for row in np.flatnonzero(np.isin(boxes.tag, (Tag.WALLS, Tag.FENCES))):
        assert not (town.ground.material(footprint(boxes, row)) == Material.PLAZA).any()


def test_a_very_long_map_gets_sparser_scenery(monkeypatch: pytest.MonkeyPatch) -> None:
    town = build_town(TOWN01, resolution=0.5)
    monkeypatch.setattr(scenery, "LONGEST", 150.0)
    fewer = furnish(town.network, town.roads, paint(town.roads, resolution=0.5))
    invented = [
        np.isin(boxes.tag, (Tag.BUILDINGS, Tag.STATIC, Tag.FENCES, Tag.WALLS)).sum()
        for boxes in (fewer.boxes, town.scenery.boxes)
    ]
    assert 0 < invented[0] < invented[1] / 3
    assert set(fewer.light_heads) == set(town.scenery.light_heads)
