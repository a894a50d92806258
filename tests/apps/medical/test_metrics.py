"""Overlap, distance and object metrics against hand-computed cubes and MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from apps.medical.metrics import instance_metrics, mask_metrics, surface_distances


def blobs(shape: tuple[int, ...], seed: int, level: float = 0.0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2) > level


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((24, 31), (1.0, 1.0)), ((24, 31), (0.5, 2.0)), ((17, 21, 13), (0.8, 0.8, 3.0))],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_hd95_and_nsd_equal_monais(shape, spacing, seed) -> None:
    p, r = blobs(shape, seed, 0.02), blobs(shape, seed + 10, 0.03)
    ours = mask_metrics(p, r, spacing, 1.5)
    masks = [torch.from_numpy(np.stack([~m, m])[None].astype(np.float32)) for m in (p, r)]
    hd95 = compute_hausdorff_distance(*masks, percentile=95, spacing=list(spacing))
    nsd = compute_surface_dice(*masks, class_thresholds=[1.5], spacing=list(spacing))
    assert ours["hd95"] == pytest.approx(float(hd95), abs=1e-5)
    assert ours["nsd"] == pytest.approx(float(nsd), abs=1e-6)


def test_hd95_is_in_millimetres_along_each_axis() -> None:
    """A cube moved two voxels along one axis: every distance follows from that axis's spacing."""
    spacing = (0.5, 1.0, 3.0)
    r = np.zeros((20, 20, 20), bool)
    r[5:10, 5:10, 5:10] = True
    for axis, edge in enumerate(spacing):
        p = np.roll(r, 2, axis)
        # The face two voxels ahead is more than 5 % of the surface, so HD95 is its distance.
        assert mask_metrics(p, r, spacing, 1.0)["hd95"] == pytest.approx(2 * edge)
    assert mask_metrics(r, r, spacing, 1.0) == {"dice": 1, "iou": 1, "hd95": 0, "nsd": 1}


def test_two_points_by_hand() -> None:
    p, r = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    p[1, 1] = r[4, 5] = True
    row = mask_metrics(p, r, (1.0, 1.0), 5.0)
    assert row == {"dice": 0, "iou": 0, "hd95": 5, "nsd": 1}  # 3-4-5, and at the tolerance counts
    assert mask_metrics(p, r, (1.0, 1.0), 4.999)["nsd"] == 0


def test_hd95_is_the_larger_direction_not_the_pooled_percentile() -> None:
    r = np.zeros((1, 200), bool)
    r[0, :100] = True
    p = r.copy()
    p[0, 100:110] = True  # 10 of 110 predicted voxels lie 1 to 10 from the reference
    from_p, from_r = surface_distances(p, r, (1.0, 1.0))
    expected = np.percentile(from_p, 95)
    assert from_r.max() == 0
    assert np.percentile(np.concatenate([from_p, from_r]), 95) < expected
    assert mask_metrics(p, r, (1.0, 1.0), 1.0)["hd95"] == pytest.approx(expected)


def test_empty_masks_follow_the_stated_rules() -> None:
    none, some = np.zeros((8, 8), bool), np.eye(8, dtype=bool)
    both = mask_metrics(none, none, (1, 1), 1.0)
    assert all(math.isnan(value) for value in both.values())
    for p, r in ((none, some), (some, none)):
        row = mask_metrics(p, r, (1, 1), 1.0)
        assert (row["dice"], row["iou"], row["nsd"]) == (0, 0, 0)
        assert math.isnan(row["hd95"])


def test_objects_by_hand() -> None:
    r = np.zeros((10, 30), int)
    r[0:4, 0:5], r[0:4, 10:15], r[6:10, 0:5] = 1, 2, 3  # 20 voxels each
    p = np.zeros_like(r)
    p[0:4, 0:5] = 7  # IoU 1 with object 1
    p[0:4, 11:16] = 9  # 16 of 24: IoU 2/3 with object 2
    p[6:10, 20:25] = 4  # matches nothing
    row = instance_metrics(p, r)
    assert (row["objects_pred"], row["objects_ref"]) == (3, 3)
    assert row["ap_50"] == pytest.approx(2 / 4)
    assert row["ap_75"] == pytest.approx(1 / 5)
    # 0.5 .. 0.65 have two matches, 0.7 .. 0.95 one
    assert row["ap_mean"] == pytest.approx((4 * 2 / 4 + 6 * 1 / 5) / 10)
    assert row["f1_50"] == row["rq"] == pytest.approx(4 / 6)
    assert row["sq"] == pytest.approx((1 + 2 / 3) / 2)
    assert row["pq"] == pytest.approx(row["sq"] * row["rq"])
    assert row["aji"] == pytest.approx((20 + 16) / (20 + 24 + 20 + 20))


def test_objects_missing_on_one_or_both_sides() -> None:
    none, some = np.zeros((6, 6), int), np.eye(6, dtype=int)
    assert instance_metrics(none, some)["pq"] == 0
    assert instance_metrics(some, none)["aji"] == 0
    assert math.isnan(instance_metrics(none, none)["ap_50"])
    perfect = instance_metrics(some * 300, some)
    assert perfect["aji"] == perfect["pq"] == perfect["ap_mean"] == 1
