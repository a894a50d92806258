"""Transforms equal carla's; boxes join and part."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes, Transform, from_matrix
from apps.driving.world.tags import Tag

PLACES = [
    Transform(),
    Transform(1.0, -2.0, 3.0, 10.0, 20.0, 30.0),
    Transform(-5.0, 0.5, 0.0, -80.0, 170.0, -100.0),
    Transform(yaw=-179.0),
]


@pytest.mark.parametrize("place", PLACES)
def test_matrix_is_carlas(place: Transform) -> None:
    carla = pytest.importorskip("carla")
    theirs = carla.Transform(carla.Location(*place[:3]), carla.Rotation(*place[3:]))
    np.testing.assert_allclose(place.matrix(), theirs.get_matrix(), atol=1e-5)
    point = theirs.transform(carla.Location(1.0, 2.0, 3.0))
    np.testing.assert_allclose(
        place.apply(np.array([1.0, 2.0, 3.0])), [point.x, point.y, point.z], atol=1e-5
    )


@pytest.mark.parametrize("place", PLACES)
def test_there_and_back(place: Transform) -> None:
    points = np.random.default_rng(0).normal(size=(4, 5, 3))
    np.testing.assert_allclose(place.inverse_apply(place.apply(points)), points, atol=1e-12)
    np.testing.assert_allclose(from_matrix(place.matrix()), place, atol=1e-9)


def test_a_child_moves_with_its_parent() -> None:
    parent, child = PLACES[1], PLACES[2]
    points = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(
        parent.then(child).apply(points), parent.apply(child.apply(points)), atol=1e-9
    )


@pytest.mark.parametrize("pitch", [90.0, -90.0])
def test_straight_up_and_down(pitch: float) -> None:
    place = Transform(pitch=pitch, yaw=30.0, roll=10.0)
    np.testing.assert_allclose(from_matrix(place.matrix()).matrix(), place.matrix(), atol=1e-9)


def test_boxes_join_and_part() -> None:
    a, b = Boxes.empty(2), Boxes.empty(3)
    b.centre[:] = np.arange(9).reshape(3, 3)
    both = Boxes.joined([a, b])
    assert len(both) == 5
    assert both.tag.dtype == np.uint8
    np.testing.assert_array_equal(both.take(np.array([4])).centre, b.centre[2:])
    assert len(Boxes.joined([])) == 0


def test_tags_are_carlas() -> None:
    carla = pytest.importorskip("carla")
    theirs = {name.lower(): int(value) for name, value in carla.CityObjectLabel.names.items()}
    ours = {tag.name.lower().replace("_", ""): int(tag) for tag in Tag}
    assert ours == {name: value for name, value in theirs.items() if name != "any"}
