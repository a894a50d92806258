from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import get_track_meta

from apps.medical.data.augment import (
    Augmentation,
    locate_classes,
    training_transform,
    validation_transform,
)
from apps.medical.data.plan import Plan
from apps.medical.data.targets import instances_to_classes

STILL = {
    "affine": 0.0,
    "flip": 0.0,
    "noise": 0.0,
    "blur": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "gamma": 0.0,
}


def plan(rank: int, channels: int = 1, **changes) -> Plan:
    values = {
        "dataset": "d",
        "fingerprint": "0",
        "rank": rank,
        "channels": [f"c{i}" for i in range(channels)],
        "labels": {0: "background", 1: "a", 2: "b"},
        "normalisation": ["zscore"] * channels,
        "intensity": [None] * channels,
        "median_shape": [16] * rank,
        "patch": [16, 24, 8][:rank],
        "batch": 2,
        "strides": [[1] * rank],
        "flip": [True] * rank,
    }
    return Plan(**(values | changes))


@pytest.fixture
def sample(blob):
    def make(shape: tuple[int, ...], channels: int = 1) -> dict[str, np.ndarray]:
        image, label = blob(shape)
        image = (image - image.mean()) / image.std()
        return {"image": np.stack([image] * channels), "label": label[None]}

    return make


@pytest.mark.parametrize(
    ("rank", "channels", "shape"),
    [(3, 1, (20, 30, 20)), (3, 2, (9, 11, 5)), (2, 3, (50, 40)), (2, 1, (10, 12))],
)
def test_patch_shape_type_and_labels_for_larger_and_smaller_volumes(
    sample, rank: int, channels: int, shape
) -> None:
    spec = plan(rank, channels)
    transform = training_transform(spec)
    for seed in range(12):
        out = transform(sample(shape, channels), seed)
        assert out["image"].shape == (channels, *spec.patch)
        assert out["label"].shape == (1, *spec.patch)
        assert (out["image"].dtype, out["label"].dtype) == (torch.float32, torch.int64)
        assert type(out["image"]) is torch.Tensor
        assert set(out["label"].unique().tolist()) <= {0, 1, 2}
        assert torch.isfinite(out["image"]).all()


def test_the_seed_alone_decides_and_global_state_is_left_alone(sample) -> None:
    transform = training_transform(plan(3))
    data = sample((30, 30, 30))
    before = (np.random.get_state()[1].copy(), torch.get_rng_state(), get_track_meta())
    first = [transform(data, seed) for seed in range(8)]
    again = [training_transform(plan(3))(data, seed) for seed in reversed(range(8))][::-1]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["label"], b["label"])
    assert len({float(a["image"].sum()) for a in first}) == 8
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert get_track_meta() == before[2]


def test_the_sample_itself_is_not_changed(sample) -> None:
    data = sample((20, 30, 20))
    copy = {k: v.copy() for k, v in data.items()}
    for seed in range(6):
        training_transform(plan(3))(data, seed)
    for key in data:
        np.testing.assert_array_equal(data[key], copy[key])


def test_without_augmentation_a_patch_is_a_piece_of_the_volume(sample) -> None:
    data = sample((40, 50, 30))
    out = training_transform(plan(3), Augmentation(**STILL))(data, 3)
    windows = np.lib.stride_tricks.sliding_window_view(data["image"][0], (16, 24, 8))
    hits = np.argwhere(windows[..., 0, 0, 0] == out["image"][0, 0, 0, 0].item())
    assert any(np.array_equal(windows[tuple(h)], out["image"][0].numpy()) for h in hits)
    place = next(h for h in hits if np.array_equal(windows[tuple(h)], out["image"][0].numpy()))
    piece = tuple(slice(s, s + n) for s, n in zip(place, (16, 24, 8), strict=True))
    np.testing.assert_array_equal(out["label"][0], data["label"][0][piece])


def test_image_and_label_move_together(sample) -> None:
    # The image is its own label: after rotation, scaling and flips both must still agree.
    data = sample((40, 50, 30))
    data["image"] = data["label"].astype(np.float32)
    settings = Augmentation(**(STILL | {"affine": 1.0, "flip": 0.5, "foreground": 1.0}))
    transform = training_transform(plan(3), settings)
    for seed in range(8):
        out = transform(data, seed)
        agree = (out["image"].round() == out["label"]).float().mean()
        assert agree > 0.97  # linear against nearest differ along surfaces only
        assert out["label"].any()


def test_foreground_crops_find_a_tiny_structure() -> None:
    label = np.zeros((1, 80, 80, 80), np.uint8)
    label[0, 70, 3, 41] = 1
    data = {"image": label.astype(np.float32), "label": label}
    always = training_transform(plan(3), Augmentation(**(STILL | {"foreground": 1.0})))
    never = training_transform(plan(3), Augmentation(**(STILL | {"foreground": 0.0})))
    assert all(always(data, seed)["label"].any() for seed in range(10))
    assert sum(bool(never(data, seed)["label"].any()) for seed in range(20)) < 4
    with_cache = {**data, "locations": locate_classes(label[0])}
    assert torch.equal(always(with_cache, 5)["image"], always(data, 5)["image"])


def test_small_volumes_land_anywhere_in_the_patch_padded_by_zero() -> None:
    data = {"image": np.ones((1, 4, 4, 4), np.float32), "label": np.ones((1, 4, 4, 4), np.uint8)}
    transform = training_transform(plan(3), Augmentation(**STILL))
    corners = set()
    for seed in range(20):
        out = transform(data, seed)
        assert out["image"].sum() == 64  # all of it is in, the rest is 0
        corners.add(tuple(torch.nonzero(out["label"][0])[0].tolist()))
    assert len(corners) > 10


def test_axes_that_may_not_be_mirrored_are_not(sample) -> None:
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32)[:, None, None], (16, 24, 8))
    data = {"image": ramp[None].copy(), "label": np.zeros((1, 16, 24, 8), np.uint8)}
    for allowed in (True, False):
        spec = plan(3, flip=[allowed, True, True])
        transform = training_transform(spec, Augmentation(**(STILL | {"flip": 0.5})))
        mirrored = [bool(transform(data, s)["image"][0, 0, 0, 0] > 0) for s in range(16)]
        assert any(mirrored) == allowed


def test_anisotropic_volumes_turn_in_plane_only(sample) -> None:
    spec = plan(3, spacing=[0.5, 0.5, 3.0])
    settings = Augmentation(**(STILL | {"affine": 1.0}))
    label = np.zeros((1, 40, 50, 8), np.uint8)
    label[..., 4] = 1  # one slice: any turn out of the plane would smear it over others
    out = training_transform(spec, settings)({"image": label.astype(np.float32), "label": label}, 1)
    assert len(torch.nonzero(out["label"][0].amax(dim=(0, 1)))) == 1


def test_instances_become_three_classes_after_the_geometry() -> None:
    ids = np.zeros((1, 40, 40), np.uint16)
    ids[0, 10:20, 10:20], ids[0, 10:20, 20:30] = 1, 300
    data = {"image": ids.astype(np.float32), "label": ids}
    spec = plan(2, target="instances")
    out = training_transform(spec, Augmentation(foreground=1.0))(data, 0)
    assert out["label"].unique().tolist() == [0, 1, 2]
    whole = validation_transform(spec)(data)
    np.testing.assert_array_equal(whole["label"][0], instances_to_classes(ids[0]))
    assert whole["image"].shape == (1, 40, 40)


def test_more_than_255_objects_survive_every_transform() -> None:
    ids = np.arange(40 * 40, dtype=np.uint16).reshape(1, 40, 40) // 4
    data = {"image": ids.astype(np.float32), "label": ids}
    always = Augmentation(affine=0.0, flip=1.0, foreground=1.0)
    for settings in (always, Augmentation(affine=1.0)):
        for seed in range(4):
            out = training_transform(plan(2, target="instances"), settings)(data, seed)
            assert out["label"].dtype == torch.int64
            assert int(out["label"].max()) == 2


def test_locations_are_bounded_and_right() -> None:
    label = np.random.default_rng(0).integers(0, 3, (40, 40, 40))
    found = locate_classes(label, per_class=100)
    assert sorted(found) == [1, 2]
    for number, places in found.items():
        assert 100 <= len(places) < 220
        assert (label[tuple(places.T)] == number).all()
