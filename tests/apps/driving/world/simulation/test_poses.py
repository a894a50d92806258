"""Places of attached actors against the same composed one by one."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.world.geometry import Transform
from apps.driving.world.simulation.actors import Actor, Attachment
from apps.driving.world.simulation.poses import Poses, from_matrices, matrices


def some(n: int, seed: int) -> list[Transform]:
    rng = np.random.default_rng(seed)
    return [Transform(*row) for row in rng.uniform(-80, 80, (n, 6))]


def actor(number: int, place: Transform, parent: int = 0, arm: int = 0) -> Actor:
    return Actor(
        number,
        "sensor.other.imu",
        1,
        "sensor",
        {},
        place,
        parent=parent,
        attachment=Attachment(arm),
    )


def test_matrices_are_those_of_transforms() -> None:
    places = some(50, 0)
    many = matrices(np.array(places))
    assert np.allclose(many, [t.matrix() for t in places], atol=1e-12)
    back = from_matrices(many)
    assert np.allclose(matrices(back), many, atol=1e-9)


def test_straight_up_has_a_rotation_too() -> None:
    upright = matrices(np.array([[0, 0, 0, 90.0, 30.0, 0.0], [0, 0, 0, -90.0, 10.0, 20.0]]))
    assert np.allclose(matrices(from_matrices(upright)), upright, atol=1e-6)


def test_a_chain_follows_whatever_the_order_of_ids() -> None:
    root, a, b, c = some(4, 1)
    actors = {
        1: actor(1, c, parent=2),  # older than its parent
        2: actor(2, b, parent=3),
        3: actor(3, a, parent=4),
        4: actor(4, root),
    }
    poses = Poses(actors)
    poses.follow()
    whole = root.then(a).then(b).then(c)
    assert np.allclose(poses.at(0).matrix(), whole.matrix(), atol=1e-9)
    assert np.allclose(poses.at(2).matrix(), root.then(a).matrix(), atol=1e-9)


def test_a_spring_arm_keeps_out_pitch_and_roll() -> None:
    parent, child = Transform(5, 6, 1, 10, 40, 20), Transform(-6, 0, 3, -15, 0, 0)
    poses = Poses({1: actor(1, parent), 2: actor(2, child, parent=1, arm=1)})
    poses.follow()
    level = Transform(5, 6, 1, 0, 40, 0).then(child)
    assert poses.at(1) == pytest.approx(level)


def test_no_negative_zero_goes_out() -> None:
    poses = Poses({1: actor(1, Transform(yaw=30)), 2: actor(2, Transform(), parent=1)})
    poses.follow()
    assert not np.signbit(poses.pose[1, [3, 5]]).any()
