from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from apps.medical.data.measure import Intensity
from apps.medical.data.plan import Plan
from apps.medical.data.preprocess import (
    nonzero_box,
    prepare,
    prepare_label,
    restore,
    restore_map,
)
from apps.medical.data.resample import resample_image, resample_labels, separate_axis
from apps.medical.data.volume import Volume, read_image, read_label, write_label_like
from core.errors import DataError


def plan(rank: int = 3, channels: int = 1, **changes) -> Plan:
    values = {
        "dataset": "d",
        "fingerprint": "0",
        "rank": rank,
        "channels": [f"c{i}" for i in range(channels)],
        "labels": {0: "background", 1: "a", 2: "b"},
        "orientation": "RAS" if rank == 3 else "stored",
        "normalisation": ["none"] * channels,
        "intensity": [None] * channels,
        "median_shape": [8] * rank,
        "patch": [8] * rank,
        "batch": 2,
        "strides": [[1] * rank],
        "flip": [True] * rank,
        "crop": "none",
    }
    return Plan(**(values | changes))


def volume(array: np.ndarray, affine: np.ndarray | None = None, rank: int = 3) -> Volume:
    affine = np.eye(4) if affine is None else affine
    spacing = tuple(np.linalg.norm(affine[:3, :rank], axis=0))
    return Volume(array=array, affine=affine, spacing=spacing, rank=rank, path=Path("a.nii"))


def signed_axes() -> list[np.ndarray]:
    """The 48 ways to lay voxel axes along world axes, with unequal spacing and an offset."""
    found = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = 0
        for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
            affine[row, column] = sign * (1.0, 1.5, 2.0)[column]
        affine[:3, 3] = (3, -4, 5)
        found.append(affine)
    return found


ROTATION = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, -0.15, 0.25), [1, 2, 3])


@pytest.mark.parametrize("oblique", [False, True])
def test_prepare_and_restore_are_inverse_for_all_48_orientations(oblique: bool) -> None:
    random = np.random.default_rng(0)
    stored = random.integers(0, 3, (4, 5, 6)).astype(np.uint8)
    for affine in signed_axes():
        grid = ROTATION @ affine if oblique else affine
        source = volume(stored, grid)
        prepared = prepare([source], plan())
        assert nib.aff2axcodes(prepared.affine) == ("R", "A", "S")
        np.testing.assert_array_equal(prepare_label(source, prepared), prepared.image[0])
        back = restore(prepared.image[0].astype(np.uint8), prepared)
        np.testing.assert_array_equal(back, stored)
        assert back.dtype == np.uint8
        # The voxel is found at the same place in the world as before.
        index = np.array([*np.unravel_index(17, prepared.shape), 1])
        world = prepared.affine @ index
        there = np.rint(np.linalg.inv(grid) @ world).astype(int)[:3]
        assert prepared.image[0][tuple(index[:3])] == stored[tuple(there)]
        np.testing.assert_allclose(
            np.linalg.norm(prepared.affine[:3, :3], axis=0), prepared.spacing, rtol=1e-12
        )


def test_file_to_file_keeps_the_affine_bit_for_bit(save_nifti, tmp_path: Path) -> None:
    affine = ROTATION @ signed_axes()[29]
    random = np.random.default_rng(0)
    path = save_nifti("a.nii.gz", random.integers(0, 3, (7, 8, 9)).astype(np.uint8), affine)
    image = read_image(path)
    wanted = plan(spacing=[1.0, 1.0, 1.0], crop="nonzero")
    prepared = prepare([image], wanted)
    labels = restore(np.ones(prepared.shape, np.uint8), prepared)
    seg = nib.load(write_label_like(image, labels, tmp_path / "seg.nii.gz"))
    assert seg.affine.tobytes() == nib.load(path).affine.tobytes()
    assert seg.shape == (7, 8, 9)


def test_crop_to_nonzero_and_zero_outside_on_the_way_back() -> None:
    array = np.zeros((2, 10, 11, 12), np.float32)
    array[0, 2:5, 3:9, 4:6] = 1
    array[1, 3:7, 3:4, 5:8] = 2
    assert nonzero_box(array) == (slice(2, 7), slice(3, 9), slice(4, 8))
    prepared = prepare([volume(array)], plan(channels=2, crop="nonzero"))
    assert prepared.shape == (5, 6, 4)
    np.testing.assert_allclose(prepared.affine[:3, 3], (2, 3, 4))
    back = restore(np.ones(prepared.shape, np.uint8), prepared)
    assert back.shape == (10, 11, 12)
    assert back.sum() == 5 * 6 * 4
    assert back[2:7, 3:9, 4:8].all()


def test_spacing_equal_within_a_thousandth_is_not_resampled() -> None:
    random = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    source = volume(random, np.diag([1.0005, 0.9995, 1.0, 1]))
    prepared = prepare([source], plan(spacing=[1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(prepared.image[0], random)


def test_resampling_a_linear_ramp_keeps_world_positions() -> None:
    x = np.arange(20, dtype=np.float32)
    ramp = np.broadcast_to((2 * x + 1)[:, None, None], (20, 10, 10)).copy()  # world x, edges at 0
    source = volume(ramp, np.diag([2.0, 1, 1, 1]))
    prepared = prepare([source], plan(spacing=[1.0, 1.0, 1.0]))
    assert prepared.shape == (40, 10, 10)
    world = prepared.affine[0, 0] * np.arange(40) + prepared.affine[0, 3]
    # The value at each voxel is the ramp at its own world position, borders apart.
    np.testing.assert_allclose(prepared.image[0][6:-6, 5, 5], (world + 1)[6:-6], atol=0.02)


def test_anisotropic_volumes_keep_their_slices_apart() -> None:
    assert separate_axis((0.5, 0.5, 3.0), (0.5, 0.5, 3.0)) == 2
    assert separate_axis((1, 1, 2.9), (1, 1, 1)) is None
    slices = np.zeros((1, 8, 8, 4), np.float32)
    slices[..., 2] = 100
    out = resample_image(slices, (16, 16, 6), (1, 1, 6), (0.5, 0.5, 4))
    assert out.shape == (1, 16, 16, 6)
    assert set(np.unique(out.round(3))) == {0.0, 100.0}  # no spline overshoot across slices
    smooth = resample_image(slices, (16, 16, 6), (1, 1, 1.5), (0.5, 0.5, 1))
    assert len(np.unique(smooth.round(3))) > 2


@pytest.mark.parametrize("shape", [(25, 23, 21), (7, 9, 11), (14, 16, 31)])
def test_labels_are_resampled_per_class_and_never_invented(shape) -> None:
    labels = np.zeros((14, 16, 12), np.uint8)
    labels[3:10, 3:10, 3:10] = 5
    labels[5:8, 5:8, 4:9] = 9  # 5 to 9: a spline would give 6, 7, 8 in between
    out = resample_labels(labels, shape)
    assert set(np.unique(out)) <= {0, 5, 9}
    scale = np.prod(shape) / labels.size
    assert (out > 0).sum() == pytest.approx((labels > 0).sum() * scale, rel=0.2)


def test_label_resampling_equals_argmax_of_torch_interpolation() -> None:
    import torch
    from torch.nn.functional import interpolate, one_hot

    labels = np.random.default_rng(0).integers(0, 4, (9, 10, 11))
    hot = one_hot(torch.from_numpy(labels), 4).permute(3, 0, 1, 2)[None].float()
    wanted = interpolate(hot, size=(17, 13, 20), mode="trilinear", align_corners=False)[0]
    ours = resample_labels(labels, (17, 13, 20))
    top = wanted.topk(2, dim=0).values
    clear = (top[0] - top[1] > 1e-5).numpy()
    np.testing.assert_array_equal(ours[clear], wanted.argmax(0).numpy()[clear])
    assert clear.mean() > 0.9


def test_slabs_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (9, 10, 11)).astype(np.uint8)
    whole = resample_labels(labels, (21, 13, 8))
    monkeypatch.setattr("apps.medical.data.resample.SLAB_VOXELS", 2 * 13 * 8)
    np.testing.assert_array_equal(resample_labels(labels, (21, 13, 8)), whole)


def test_many_object_numbers_are_resampled_by_nearest() -> None:
    ids = np.arange(100, dtype=np.uint16).reshape(10, 10)
    np.testing.assert_array_equal(resample_labels(ids, (20, 20)), ids.repeat(2, 0).repeat(2, 1))


def test_image_and_label_of_different_grids_are_refused(save_nifti) -> None:
    image = read_image(save_nifti("a.nii", np.ones((5, 6, 7), np.float32)))
    prepared = prepare([image], plan())
    with pytest.raises(DataError, match="shape"):
        prepare_label(read_label(save_nifti("b.nii", np.ones((5, 6, 8), np.uint8))), prepared)
    moved = np.eye(4)
    moved[0, 3] = 2
    label = read_label(save_nifti("c.nii", np.ones((5, 6, 7), np.uint8), moved))
    with pytest.raises(DataError, match=r"c\.nii.*2 mm apart"):
        prepare_label(label, prepared)
    other = read_image(save_nifti("d.nii", np.ones((5, 6, 7), np.float32), moved))
    with pytest.raises(DataError, match=r"d\.nii"):
        prepare([image, other], plan(channels=2))


def test_label_ids_with_gaps_become_classes_and_come_back() -> None:
    stored = np.array([0, 7, 300, 7], np.uint16).reshape(4, 1, 1)
    spec = plan(labels={0: "background", 7: "a", 300: "b"})
    prepared = prepare([volume(stored)], spec)
    classes = prepare_label(volume(stored), prepared)
    assert classes.ravel().tolist() == [0, 1, 2, 1]
    assert restore(classes, prepared).ravel().tolist() == [0, 7, 300, 7]
    stored[3] = 8
    with pytest.raises(DataError, match="label 8 is not in the plan"):
        prepare_label(volume(stored), prepared)


def test_nan_is_an_error_and_repair_counts_what_it_replaced(nibabel_file) -> None:
    image = read_image(nibabel_file("resampled_anat_moved.nii"))
    if np.isfinite(image.array).all():
        array = image.array.copy()
        array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
        image = volume(array)
    with pytest.raises(DataError, match="NaN or infinite"):
        prepare([image], plan(normalisation=["zscore"]))
    prepared = prepare([image], plan(normalisation=["zscore"]), repair=True)
    assert prepared.repaired == (~np.isfinite(image.array)).sum() > 0
    assert np.isfinite(prepared.image).all()


@pytest.mark.parametrize("rule", ["zscore", "rescale", "ct"])
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_image_divides_by_nothing(rule: str, value: float) -> None:
    stats = [Intensity(mean=value, std=0, low=value, high=value)]
    spec = plan(normalisation=[rule], intensity=stats, crop="nonzero")
    prepared = prepare([volume(np.full((5, 6, 7), value, np.float32))], spec)
    np.testing.assert_array_equal(prepared.image, 0)


def test_zscore_ignores_the_empty_margin_of_a_scan() -> None:
    random = np.random.default_rng(0).normal(100, 20, (10, 10, 10)).astype(np.float32)
    padded = np.pad(random, ((3, 0), (5, 5), (0, 9)))
    spec = plan(normalisation=["zscore"], crop="nonzero")
    bare = prepare([volume(random)], spec).image
    np.testing.assert_allclose(prepare([volume(padded)], spec).image, bare, atol=1e-5)
    assert abs(bare.mean()) < 1e-5
    assert bare.std() == pytest.approx(1, abs=1e-5)


def test_ct_is_clipped_and_scaled_by_the_plan() -> None:
    stats = [Intensity(mean=50, std=25, low=-100, high=200)]
    array = np.array([-1000, -100, 50, 75, 3000], np.int16).reshape(5, 1, 1)
    prepared = prepare([volume(array)], plan(normalisation=["ct"], intensity=stats))
    np.testing.assert_allclose(prepared.image.ravel(), [-6, -6, 0, 1, 6])


def test_single_slice_in_a_3d_file_through_a_2d_plan(save_nifti, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 3, (6, 7, 1)).astype(np.uint8)
    for name, turn in (("z.nii", (0, 1, 2)), ("y.nii", (0, 2, 1)), ("x.nii", (2, 0, 1))):
        path = save_nifti(name, stored.transpose(turn))
        prepared = prepare([read_image(path)], plan(rank=2))
        assert prepared.image.shape == (1, 6, 7)
        classes = prepare_label(read_label(path), prepared)
        np.testing.assert_array_equal(restore(classes, prepared), stored.transpose(turn))
    with pytest.raises(DataError, match="one slice"):
        prepare([read_image(save_nifti("b.nii", np.ones((4, 5, 6), np.uint8)))], plan(rank=2))


def test_grey_and_colour_pictures_meet_the_plans_channels(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (6, 7)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "same.png")
    Image.fromarray(np.dstack([grey, grey, 255 - grey])).save(tmp_path / "colour.png")
    three = prepare([read_image(tmp_path / "grey.png")], plan(rank=2, channels=3))
    np.testing.assert_array_equal(three.image, np.stack([grey] * 3))
    one = prepare([read_image(tmp_path / "same.png")], plan(rank=2))
    np.testing.assert_array_equal(one.image[0], grey)
    with pytest.raises(DataError, match="3 channel"):
        prepare([read_image(tmp_path / "colour.png")], plan(rank=2))


def test_wrong_rank_and_wrong_shape_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="2-D image for a 3-D model"):
        prepare([read_image(tmp_path / "a.png")], plan())
    prepared = prepare([volume(np.ones((4, 5, 6), np.float32))], plan())
    with pytest.raises(DataError, match="do not fit"):
        restore(np.zeros((4, 5, 7), np.uint8), prepared)


def test_float_maps_come_back_linearly() -> None:
    source = volume(np.ones((6, 7, 8), np.float32), signed_axes()[13])
    prepared = prepare([source], plan(spacing=[1.0, 1.0, 1.0]))
    back = restore_map(np.full(prepared.shape, 0.25, np.float32), prepared)
    assert back.shape == (6, 7, 8)
    np.testing.assert_allclose(back, 0.25, atol=1e-6)


def test_down_and_up_again_overlaps_with_the_original(blob) -> None:
    _, label = blob((40, 44, 36))
    source = volume(label, signed_axes()[5])
    prepared = prepare([source], plan(spacing=[2.0, 2.0, 2.0]))
    back = restore(prepare_label(source, prepared), prepared)
    for number in (1, 2):
        a, b = back == number, label == number
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.9
