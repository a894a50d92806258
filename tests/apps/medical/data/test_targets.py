from __future__ import annotations

import numpy as np
import pytest

from apps.medical.data.targets import (
    BORDER,
    INTERIOR,
    instances_from_classes,
    instances_from_probabilities,
    instances_to_classes,
)


def discs(rank: int = 2) -> np.ndarray:
    """Discs of radius 7, two of which touch along a line, with numbers that have gaps."""
    shape = (40, 48) if rank == 2 else (20, 40, 48)
    axes = np.indices(shape)
    ids = np.zeros(shape, np.uint16)
    for number, centre in ((3, (14, 12)), (700, (14, 25)), (9, (30, 35))):
        full = centre if rank == 2 else (10, *centre)
        inside = sum((a - c) ** 2 for a, c in zip(axes, full, strict=True)) <= 49
        ids[inside & (ids == 0)] = number
    return ids


def overlap(a: np.ndarray, b: np.ndarray) -> list[float]:
    """IoU of each object of `a` with the object of `b` it shares most voxels with."""
    found = []
    for number in np.unique(a)[1:]:
        mask = a == number
        other = b == np.bincount(b[mask]).argmax()
        found.append((mask & other).sum() / (mask | other).sum())
    return found


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("border", [1, 2])
def test_touching_discs_survive_the_round_trip(rank: int, border: int) -> None:
    ids = discs(rank)
    classes = instances_to_classes(ids, border)
    assert set(np.unique(classes)) == {0, INTERIOR, BORDER}
    np.testing.assert_array_equal(classes > 0, ids > 0)
    back = instances_from_classes(classes)
    assert back.max() == 3
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back > 0, ids > 0)
    assert min(overlap(ids, back)) > 0.9


def test_rim_lies_between_touching_objects_but_not_along_the_image_edge() -> None:
    ids = np.zeros((6, 10), np.uint8)
    ids[:, :5], ids[:, 5:] = 1, 2
    classes = instances_to_classes(ids)
    assert (classes[:, 4:6] == BORDER).all()
    assert (classes[:, :4] == INTERIOR).all()
    assert (classes[:, 6:] == INTERIOR).all()


def test_soft_probabilities_split_a_pair_that_a_plain_threshold_joins() -> None:
    ids = discs()
    classes = instances_to_classes(ids, 2)
    noise = np.random.default_rng(0).uniform(0, 0.2, ids.shape)
    interior = np.where(classes == INTERIOR, 0.9 - noise, noise / 2)
    border = np.where(classes == BORDER, 0.85 - noise, noise / 2)
    back = instances_from_probabilities(interior, border)
    assert back.max() == 3
    assert min(overlap(ids, back)) > 0.9


def test_thin_objects_without_interior_are_kept_and_specks_dropped() -> None:
    ids = np.zeros((20, 20), np.uint8)
    ids[4:6, 2:14] = 1  # all rim
    ids[15, 15] = 2  # a speck
    classes = instances_to_classes(ids)
    assert not (classes == INTERIOR).any()
    back = instances_from_classes(classes, min_size=4)
    np.testing.assert_array_equal(back == 1, ids == 1)
    assert back.max() == 1


def test_nothing_in_nothing_out() -> None:
    empty = np.zeros((8, 9), np.float32)
    assert instances_to_classes(empty.astype(np.uint8)).max() == 0
    assert instances_from_probabilities(empty, empty).max() == 0


def test_more_than_255_objects_get_a_wider_type() -> None:
    ids = np.kron(np.arange(1, 401, dtype=np.uint16).reshape(20, 20), np.ones((6, 6), np.uint16))
    back = instances_from_classes(instances_to_classes(ids))
    assert back.dtype == np.uint16
    assert back.max() == 400
