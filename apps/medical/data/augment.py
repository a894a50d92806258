"""Random crops and augmentation for training, through MONAI's dictionary transforms.

A sample is {"image": (C, *S), "label": (1, *S)} as `preprocess.load_sample` gives it; out come float32
(C, *patch) and int64 (1, *patch) tensors. The result depends on the sample and the seed alone, so a
resumed run sees the same patches whatever the number of workers.

Geometry comes first and in one interpolation: the crop around a foreground voxel is taken larger than
the patch, and rotation and scaling sample it, so real tissue rather than padding enters at the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)

from apps.medical.data.plan import Plan
from apps.medical.data.resample import ANISOTROPY
from apps.medical.data.targets import instances_to_classes
from core.config import StrictModel

Sample = Mapping[str, Any]
LOCATIONS_PER_CLASS = 10_000


class Augmentation(StrictModel):
    """Probabilities and ranges. Angles in degrees; `foreground` is the share of centred crops."""

    foreground: float = 0.5
    affine: float = 0.4
    rotation: float = 20.0
    scale: float = 0.2
    flip: float = 0.5
    noise: float = 0.15
    blur: float = 0.1
    brightness: float = 0.3
    contrast: float = 0.3
    gamma: float = 0.2


class TrainingTransform:
    """Callable: (sample, seed) -> augmented patch."""

    def __init__(self, plan: Plan, settings: Augmentation | None = None) -> None:
        self.plan = plan
        self.settings = settings or Augmentation()
        self.margin = _margin(plan, self.settings)
        self.affine = RandAffined(
            ("image", "label"),
            prob=1.0,
            spatial_size=plan.patch,
            rotate_range=_rotations(plan, self.settings),
            scale_range=_scales(plan, self.settings),
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        )
        self.rest = _rest(plan, self.settings)

    def __call__(self, sample: Sample, seed: int) -> dict[str, torch.Tensor]:
        # The legacy generator is what MONAI's transforms take; one stream seeds them all.
        random = np.random.RandomState(seed % 2**32)
        turned = random.rand() < self.settings.affine
        size = self.margin if turned else self.plan.patch
        centre = self._centre(sample, random)
        patch: Any = {
            k: _crop(sample[k], centre, self.plan.patch, size) for k in ("image", "label")
        }
        with _plain_tensors():
            if turned:
                self.affine.set_random_state(_draw(random))
                patch = self.affine(patch)
            self.rest.set_random_state(_draw(random))
            patch = self.rest(patch)
        return _finish(patch, self.plan)

    def _centre(self, sample: Sample, random: np.random.RandomState) -> list[int]:
        """Middle of the patch: at a voxel of a random class, or anywhere the patch fits."""
        shape = sample["image"].shape[1:]
        wanted = None
        if random.rand() < self.settings.foreground:
            where = sample.get("locations") or locate_classes(sample["label"][0])
            if where:
                voxels = where[sorted(where)[random.randint(len(where))]]
                wanted = voxels[random.randint(len(voxels))]
        centre = []
        for axis, (n, p) in enumerate(zip(shape, self.plan.patch, strict=True)):
            low, high = sorted((0, n - p))  # starts; a small volume lands anywhere in the patch
            if wanted is None or n <= p:
                start = int(random.randint(low, high + 1))
            else:
                # Jittered, so that the wanted voxel is not always in the very middle.
                jitter = int(random.randint(-(p // 4), p // 4 + 1))
                start = int(np.clip(wanted[axis] - p // 2 + jitter, low, high))
            centre.append(start + p // 2)
        return centre


def training_transform(plan: Plan, settings: Augmentation | None = None) -> TrainingTransform:
    """The random transform for `plan`: call it with a sample and a seed."""
    return TrainingTransform(plan, settings)


def validation_transform(plan: Plan) -> Callable[[Sample], dict[str, torch.Tensor]]:
    """Whole sample as tensors, labels as the network's classes; nothing random."""

    def apply(sample: Sample) -> dict[str, torch.Tensor]:
        return _finish({k: torch.as_tensor(sample[k]) for k in ("image", "label")}, plan)

    return apply


def locate_classes(
    label: np.ndarray, per_class: int = LOCATIONS_PER_CLASS
) -> dict[int, np.ndarray]:
    """Voxel positions (n, rank) of each class above 0, at most `per_class`, evenly picked.

    Put the result into a sample as "locations" to spare large volumes the search at every crop.
    Object numbers count as one class.
    """
    label = np.asarray(label)
    ids = np.unique(label)
    ids = ids[ids > 0]
    masks = {1: label > 0} if len(ids) > 64 else {int(i): label == i for i in ids}
    found = {}
    for number, mask in masks.items():
        flat = np.flatnonzero(mask)
        flat = flat[:: max(1, len(flat) // per_class)]
        found[number] = np.stack(np.unravel_index(flat, label.shape), axis=1)
    return found


def _draw(random: np.random.RandomState) -> int:
    return int(random.randint(2**32, dtype=np.uint32))


def _rest(plan: Plan, s: Augmentation) -> Compose:
    """Flips, then intensity. Noise and blur are drawn rarely: they cost most after the affine."""
    image = ["image"]
    colour = len(plan.channels) > 1
    sigma = (0.25, 1.0)
    flips = [
        RandFlipd(("image", "label"), prob=s.flip, spatial_axis=axis)
        for axis, allowed in enumerate(plan.flip)
        if allowed
    ]
    return Compose(
        [
            *flips,
            RandScaleIntensityd(image, factors=0.25, prob=s.contrast, channel_wise=colour),
            RandShiftIntensityd(image, offsets=0.25, prob=s.brightness, channel_wise=colour),
            RandAdjustContrastd(image, prob=s.gamma, gamma=(0.7, 1.5), retain_stats=True),
            RandGaussianSmoothd(image, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma, prob=s.blur),
            RandGaussianNoised(image, prob=s.noise, std=0.1),
        ]
    )


def _coarse(plan: Plan) -> int | None:
    if plan.rank == 3 and plan.spacing and max(plan.spacing) > ANISOTROPY * min(plan.spacing):
        return int(np.argmax(plan.spacing))
    return None


def _rotations(plan: Plan, s: Augmentation) -> list[float]:
    """Per rotation axis in radians; an anisotropic volume turns about its coarse axis only."""
    angle = float(np.deg2rad(s.rotation))
    if plan.rank == 2:
        return [2 * angle]
    coarse = _coarse(plan)
    return [angle if coarse is None or a == coarse else 0.0 for a in range(3)]


def _scales(plan: Plan, s: Augmentation) -> list[float]:
    coarse = _coarse(plan)
    return [0.0 if a == coarse else s.scale for a in range(plan.rank)]


def _margin(plan: Plan, s: Augmentation) -> list[int]:
    """A crop from which rotated and scaled patches mostly still sample data; at most half more."""
    angle = np.deg2rad(s.rotation * (2 if plan.rank == 2 else 1))
    grow = min(1.5, (1 + s.scale) * (np.cos(angle) + np.sin(angle)))
    coarse = _coarse(plan)
    return [p if a == coarse else int(np.ceil(p * grow / 2)) * 2 for a, p in enumerate(plan.patch)]


def _crop(array: Any, centre: list[int], patch: list[int], size: list[int]) -> torch.Tensor:
    """(C, *S) -> (C, *size) with the middle of the patch in the middle; 0 outside the volume."""
    source = torch.as_tensor(array)
    # torch cannot flip or resample unsigned types beyond 8 bits, which pictures of > 255 objects have.
    wide = source.dtype in (torch.uint16, torch.uint32)
    out = torch.zeros((source.shape[0], *size), dtype=torch.int32 if wide else source.dtype)
    take, put = [slice(None)], [slice(None)]
    for n, c, p, m in zip(source.shape[1:], centre, patch, size, strict=True):
        start = c - p // 2 - (m - p) // 2
        low, high = max(start, 0), min(start + m, n)
        take.append(slice(low, max(low, high)))
        put.append(slice(low - start, max(low, high) - start))
    out[tuple(put)] = source[tuple(take)]
    return out


def _finish(patch: Mapping[str, Any], plan: Plan) -> dict[str, torch.Tensor]:
    label = torch.as_tensor(patch["label"])
    if plan.target == "instances":
        label = torch.from_numpy(instances_to_classes(label[0].numpy()))[None]
    image = torch.as_tensor(patch["image"]).to(torch.float32).contiguous()
    return {"image": image, "label": label.to(torch.int64).contiguous()}


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """MONAI without its metadata tensors: tracking an affine nobody reads doubles the time."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)
