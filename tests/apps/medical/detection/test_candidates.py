"""Lesion candidates: the rules by hand, and against the package that defined them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from apps.medical.detection.candidates import (
    CandidateRule,
    describe_candidates,
    extract_candidates,
)
from core.errors import DataError, UsageError


def blobs(seed: int, shape: tuple[int, ...] = (31, 29, 11)) -> np.ndarray:
    """A smooth random map in 0..1 with hills of many heights, float32."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 1.3 + (seed % 3) * 0.4)
    return (np.clip(smooth / smooth.max(), 0, 1) ** 2 * 0.95).astype(np.float32)


def hills(*tops: tuple[int, int, float], side: int = 4) -> np.ndarray:
    """Square plateaus of ``side``^2 x 4 voxels at (x, y), of a height."""
    p = np.zeros((40, 40, 8), np.float32)
    for x, y, height in tops:
        p[x : x + side, y : y + side, 2:6] = height
    return p


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        ({}, {"threshold": "dynamic-v2"}),
        ({"most": 2}, {"threshold": "dynamic-v2", "num_lesions_to_extract": 2}),
        ({"factor": 1.5, "min_voxels": 40}, {
            "threshold": "dynamic-v2", "dynamic_threshold_factor": 1.5, "min_voxels_detection": 40,
        }),
        ({"threshold": "dynamic-fast", "most": None}, {"threshold": "dynamic-fast"}),
        ({"threshold": 0.2, "most": None}, {"threshold": 0.2}),
    ],
)  # fmt: skip
def test_maps_equal_the_package_that_defined_the_rules(seed, rule, theirs) -> None:
    reference = pytest.importorskip("report_guided_annotation")
    p = blobs(seed)
    ours = extract_candidates(p, CandidateRule(**rule))
    wanted, confidences, _ = reference.extract_lesion_candidates(p, **theirs)
    assert np.array_equal(ours.map, wanted)
    assert sorted(ours.confidences) == sorted(float(c) for _, c in confidences)
    assert len(ours.confidences) > 0 or wanted.max() == 0


@pytest.mark.parametrize("seed", range(4))
def test_index_map_and_confidences_say_the_same(seed) -> None:
    found = extract_candidates(blobs(seed))
    assert list(found.confidences) == sorted(found.confidences, reverse=True)
    assert found.index.max() == len(found.confidences)
    for number, confidence in enumerate(found.confidences, start=1):
        assert set(found.map[found.index == number]) == {np.float32(confidence)}
        assert ndimage.label(found.index == number, np.ones((3, 3, 3)))[1] == 1
    assert not found.map[found.index == 0].any()
    # What picai_eval wants of a detection map: no two candidates touch.
    assert ndimage.label(found.map, np.ones((3, 3, 3)))[1] == len(found.confidences)


def test_each_lesion_has_its_own_threshold() -> None:
    """A faint lesion beside a bright one: dynamic keeps both, one threshold for all loses it."""
    p = hills((4, 4, 0.9), (20, 20, 0.2))
    assert extract_candidates(p).confidences == pytest.approx((0.9, 0.2))
    assert extract_candidates(p, CandidateRule(threshold="dynamic-fast")).confidences == (
        pytest.approx((0.9,))
    )
    assert extract_candidates(p, CandidateRule(threshold=0.5)).confidences == pytest.approx((0.9,))


def test_small_components_are_no_lesions_and_do_not_hide_others() -> None:
    p = hills((20, 20, 0.5))
    p[2, 2, 2:4] = 1.0  # two voxels
    assert extract_candidates(p).confidences == pytest.approx((0.5,))
    assert len(extract_candidates(p, CandidateRule(min_voxels=1)).confidences) == 2
    # min_voxels itself is still too small, one more is enough
    assert extract_candidates(hills((9, 9, 0.5)), CandidateRule(min_voxels=64)).confidences == ()
    assert (
        len(extract_candidates(hills((9, 9, 0.5)), CandidateRule(min_voxels=63)).confidences) == 1
    )


def test_the_rim_of_a_lesion_is_not_a_second_one() -> None:
    """What is left around a candidate touches it and is dropped."""
    p = hills((10, 10, 0.9))
    p[8:16, 8:16, 2:6] = np.maximum(p[8:16, 8:16, 2:6], 0.3)  # below 0.9 / 2.5
    assert len(extract_candidates(p).confidences) == 1


def test_corners_connect_and_ties_are_two_lesions() -> None:
    p = hills((4, 4, 0.7))
    p[8:12, 8:12, 6:8] = 0.7  # touches by a corner
    assert len(extract_candidates(p).confidences) == 1
    assert len(extract_candidates(hills((4, 4, 0.7), (20, 20, 0.7))).confidences) == 2


def test_most_and_floor_stop() -> None:
    p = hills(*[(x, y, 0.3 + x / 100 + y / 1000) for x in (0, 10, 20, 30) for y in (0, 10, 20)])
    assert len(extract_candidates(p).confidences) == 5
    assert len(extract_candidates(p, CandidateRule(most=None)).confidences) == 12
    assert extract_candidates(hills((4, 4, 0.009))).confidences == ()
    assert extract_candidates(np.zeros((5, 5, 5))).confidences == ()


def test_pictures_work_too() -> None:
    p = np.zeros((20, 20), np.float32)
    p[2:6, 2:6], p[10:14, 10:14] = 0.8, 0.6
    assert extract_candidates(p).confidences == pytest.approx((0.8, 0.6))


@pytest.mark.parametrize(
    "bad", [np.full((3, 3, 3), 2.0), np.full((3, 3, 3), np.nan), -np.ones((3, 3))]
)
def test_what_is_no_probability_is_refused(bad) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        extract_candidates(bad)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": "dynamik"}, "Did you mean 'dynamic'"),
        ({"threshold": 1.5}, "at most 1"),
        ({"factor": 1.0}, "factor > 1"),
        ({"most": 0}, "at least one"),
    ],
)
def test_settings_without_meaning_are_refused(settings, words) -> None:
    with pytest.raises(UsageError, match=words):
        CandidateRule(**settings)


def test_parse_reads_a_word_or_a_number() -> None:
    assert CandidateRule.parse("0.3").threshold == 0.3
    assert CandidateRule.parse("dynamic-fast", most=2).most == 2
    with pytest.raises(UsageError, match="at most 1"):
        CandidateRule.parse("3")


def test_description_is_in_millimetres_of_the_world() -> None:
    """A box of 4 x 4 x 4 voxels of 0.5 x 0.5 x 3 mm on an oblique, left-handed grid."""
    turn = 0.4
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[-1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
    ) * (0.5, 0.5, 3.0)
    affine[:3, 3] = 10, -20, 30
    found = extract_candidates(hills((4, 8, 0.9)))
    (row,) = describe_candidates(found, affine, (0.5, 0.5, 3.0))
    assert (row["lesion"], row["voxels"], row["slices"]) == (1, 64, [2, 5])
    assert row["confidence"] == pytest.approx(0.9)
    assert row["volume_ml"] == pytest.approx(64 * 0.75 / 1000)
    assert row["diameter_mm"] == pytest.approx(np.sqrt(1.5**2 + 1.5**2 + 9**2))
    assert row["centre_mm"] == pytest.approx(list(affine[:3, :3] @ [5.5, 9.5, 3.5] + affine[:3, 3]))
    assert found.index[tuple(row["centre_voxel"])] == 1


@pytest.mark.parametrize("flat", [False, True])
def test_the_length_of_a_large_lesion_is_that_of_its_farthest_voxels(flat) -> None:
    shape = (26, 23, 1 if flat else 9)
    p = np.zeros((40, 40, 12), np.float32)
    ball = sum(((g - (n - 1) / 2) / (n / 2)) ** 2 for g, n in zip(np.indices(shape), shape)) < 1
    p[3 : 3 + shape[0], 5 : 5 + shape[1], 1 : 1 + shape[2]][ball] = 0.9
    affine = np.diag([0.5, 0.5, 3, 1.0])
    affine[:3, :3] = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ affine[:3, :3]
    (row,) = describe_candidates(extract_candidates(p), affine, (0.5, 0.5, 3.0))
    points = np.argwhere(p > 0) @ affine[:3, :3].T
    assert len(points) > 200
    assert row["diameter_mm"] == pytest.approx(
        max(np.linalg.norm(points - point, axis=1).max() for point in points)
    )
