"""What a data set asks of preprocessing and of the network: measured once, an editable YAML file.

The rules follow nnU-Net (Isensee et al., Nature Methods 2021) where they fit a CPU: median spacing,
the 10th percentile on a coarse axis when anisotropy exceeds 3, pooling held back on coarse axes, CT
clipped and scaled by foreground statistics. Deviates from nnU-Net: the patch is bounded by a voxel
budget, not by GPU memory; z-score statistics come from nonzero voxels.

Axes: for rank 3 all lists are in RAS order, for rank 2 in (row, column) order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from apps.medical.data.datasets import Dataset
from apps.medical.data.measure import Fingerprint, Intensity, fingerprint
from apps.medical.data.resample import ANISOTROPY
from core.config import StrictModel, change, dump_config, load_config
from core.progress import Progress

__all__ = [
    "Fingerprint",
    "Intensity",
    "NetworkDefaults",
    "Plan",
    "fingerprint",
    "make_plan",
    "network_strides",
    "plan_dataset",
    "read_plan",
    "write_plan",
]

Normalisation = Literal["zscore", "ct", "rescale", "none"]

PATCH_VOXELS = {2: 256**2, 3: 96**3}
# Voxels in one batch; a CPU training step of a small 3-D network on this many takes about a second.
BATCH_VOXELS = {2: 8 * 256**2, 3: 400_000}
MIN_EDGE = 4
MAX_LEVELS = 6


class NetworkDefaults(StrictModel):
    """The network to train when none is named, and its options."""

    name: str = "dynunet"
    options: dict[str, object] = Field(default_factory=dict)


class Plan(StrictModel):
    """How images become network input. Every field may be edited; see the module's docstring."""

    format: Literal[1] = 1
    dataset: str
    fingerprint: str
    rank: Literal[2, 3]
    channels: list[str]
    labels: dict[int, str]
    target: Literal["labels", "instances"] = "labels"
    orientation: Literal["RAS", "stored"] = "RAS"
    channels_last_axis: bool = False
    crop: Literal["nonzero", "none"] = "nonzero"
    spacing: list[float] | None = None
    normalisation: list[Normalisation]
    intensity: list[Intensity | None]
    median_shape: list[int]
    patch: list[int]
    batch: int
    strides: list[list[int]]
    flip: list[bool]
    network: NetworkDefaults = NetworkDefaults()

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        channels = len(self.channels)
        wanted = {
            "normalisation": (len(self.normalisation), channels),
            "intensity": (len(self.intensity), channels),
            "patch": (len(self.patch), self.rank),
            "flip": (len(self.flip), self.rank),
            "median_shape": (len(self.median_shape), self.rank),
            "spacing": (self.rank if self.spacing is None else len(self.spacing), self.rank),
        }
        for name, (given, needed) in wanted.items():
            if given != needed:
                raise ValueError(f"{name} needs {needed} entries, got {given}")
        if any(len(level) != self.rank for level in self.strides):
            raise ValueError(f"strides needs {self.rank} numbers per level")
        if 0 not in self.labels or len(self.labels) < 2:
            raise ValueError("labels needs 0 (background) and at least one more")
        if min(self.patch) < 1 or self.batch < 1:
            raise ValueError("patch and batch must be positive")
        if self.spacing is not None and min(self.spacing) <= 0:
            raise ValueError("spacing must be positive")
        for rule, stats in zip(self.normalisation, self.intensity, strict=True):
            if rule == "ct" and stats is None:
                raise ValueError("normalisation ct needs intensity statistics for its channel")
        return self

    @property
    def label_ids(self) -> tuple[int, ...]:
        """Stored label id of each network class, ascending; class k is `label_ids[k]`."""
        return tuple(sorted(self.labels))

    @property
    def out_channels(self) -> int:
        """Network outputs: classes, or background, interior and border for instances."""
        return 3 if self.target == "instances" else len(self.labels)


def make_plan(
    dataset: Dataset,
    measured: Fingerprint,
    *,
    patch_voxels: int | None = None,
    batch_voxels: int | None = None,
    network: NetworkDefaults | None = None,
) -> Plan:
    """Derive the plan from the measurements. Pure: the same fingerprint gives the same plan."""
    rank = measured.rank
    spacing = _target_spacing(measured) if measured.physical else None
    shapes = [
        [
            n * s / (spacing[a] if spacing else s)
            for a, (n, s) in enumerate(zip(c.cropped, c.spacing, strict=True))
        ]
        for c in measured.cases
    ]
    median = [max(1, round(float(np.median([s[a] for s in shapes])))) for a in range(rank)]
    unit = spacing or [1.0] * rank
    patch, strides = _fit(median, unit, patch_voxels or PATCH_VOXELS[rank])
    batch = round((batch_voxels or BATCH_VOXELS[rank]) / int(np.prod(patch)))
    rules = [_normalisation(name) for name in dataset.channels]
    return Plan(
        dataset=dataset.name,
        fingerprint=measured.digest,
        rank=2 if rank == 2 else 3,
        channels=list(dataset.channels),
        labels=dataset.labels,
        target=dataset.kind,
        orientation="RAS" if rank == 3 else "stored",
        channels_last_axis=dataset.channels_last_axis,
        crop="nonzero" if measured.physical else "none",
        spacing=spacing,
        normalisation=rules,
        intensity=list(measured.intensity),
        median_shape=median,
        patch=patch,
        batch=min(max(batch, 2), 16),
        strides=strides,
        flip=_flips(dataset, rank),
        network=network or NetworkDefaults(),
    )


def plan_dataset(
    dataset: Dataset, path: Path, overrides: Sequence[str] = (), progress: Progress | None = None
) -> Plan:
    """Measure `dataset`, apply `a.b=c` overrides and write the plan to `path`, replacing it.

    Raises UsageError naming the nearest known key for an override that fits no field.
    """
    plan = make_plan(dataset, fingerprint(dataset, progress))
    if overrides:
        plan = change(plan, overrides, f"plan of {dataset.root}")
    write_plan(plan, path, force=True)
    return plan


def write_plan(plan: Plan, path: Path, force: bool = False) -> None:
    """Write as YAML, atomically. Raises UsageError if `path` exists without `force`."""
    dump_config(plan, path, force)


def read_plan(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a plan, with `a.b=c` overrides. Raises UsageError naming the nearest known key."""
    return load_config(Plan, path, list(overrides))


def network_strides(
    patch: Sequence[int], spacing: Sequence[float], max_levels: int = MAX_LEVELS
) -> list[list[int]]:
    """Down-sampling per level and axis, the first level at full resolution.

    An axis is halved unless its feature map would fall below 4 or its (current) spacing is more
    than twice the finest one still being halved.
    """
    size = list(patch)
    step = list(spacing)
    strides = [[1] * len(size)]
    while len(strides) < max_levels:
        candidates = [a for a in range(len(size)) if size[a] >= 2 * MIN_EDGE]
        if not candidates:
            break
        finest = min(step[a] for a in candidates)
        level = [2 if a in candidates and step[a] <= 2 * finest else 1 for a in range(len(size))]
        size = [-(-n // s) for n, s in zip(size, level, strict=True)]
        step = [d * s for d, s in zip(step, level, strict=True)]
        strides.append(level)
    return strides


def _target_spacing(measured: Fingerprint) -> list[float]:
    """Median per axis; a coarse axis (> 3x the next) takes its 10th percentile, stays coarsest."""
    spacings = np.array([c.spacing for c in measured.cases])
    target = np.median(spacings, axis=0)
    worst = int(np.argmax(target))
    others = np.delete(target, worst)
    if target[worst] > ANISOTROPY * others.max():
        target[worst] = max(np.percentile(spacings[:, worst], 10), others.max())
    return [float(f"{s:.6g}") for s in target]


def _fit(median: list[int], spacing: list[float], budget: int) -> tuple[list[int], list[list[int]]]:
    """A patch within the budget that its own strides divide, and these strides."""
    patch = _patch(median, spacing, budget)
    while True:
        strides = network_strides(patch, spacing)
        total = np.prod(strides, axis=0)
        whole = [int(-(-n // t) * t) for n, t in zip(patch, total, strict=True)]
        step = [max(8, int(t)) for t in total]
        free = [a for a in range(len(whole)) if whole[a] > step[a]]
        if np.prod(whole) <= budget or not free:
            return whole, strides
        longest = max(free, key=lambda a: whole[a] * spacing[a])
        patch = [n - step[a] if a == longest else n for a, n in enumerate(whole)]


def _patch(median: list[int], spacing: list[float], budget: int) -> list[int]:
    """The median volume if it fits the budget, else the largest box of equal mm edges in it."""
    if np.prod([_round_up(n) for n in median]) <= budget:
        return [_round_up(n) for n in median]
    low, high = 0.0, max(n * s for n, s in zip(median, spacing, strict=True))
    for _ in range(60):
        edge = (low + high) / 2
        box = [min(n, edge / s) for n, s in zip(median, spacing, strict=True)]
        low, high = (edge, high) if np.prod(box) <= budget else (low, edge)
    return [
        _round_up(n) if n * s <= low + 1e-6 else max(8, round(low / s / 8) * 8)
        for n, s in zip(median, spacing, strict=True)
    ]


def _round_up(n: int) -> int:
    """To a multiple of 8, or of 4 for a thin axis, where 8 would mostly be padding."""
    unit = 8 if n > 16 else 4
    return -(-n // unit) * unit


def _normalisation(channel: str) -> Normalisation:
    """By the channel's declared name, as nnU-Net does: CT has absolute units, nothing else has."""
    name = channel.strip().lower()
    if name in ("ct", "hu", "cta", "ct scan"):
        return "ct"
    return "none" if name == "nonorm" else "rescale" if name == "rescale_to_0_1" else "zscore"


def _flips(dataset: Dataset, rank: int) -> list[bool]:
    """Mirror every axis, except left-right where label names tell left from right."""
    words = [
        set(name.lower().replace("_", " ").replace("-", " ").split())
        for name in dataset.labels.values()
    ]
    lateral = any(word & {"left", "right", "l", "r", "lh", "rh"} for word in words)
    flips = [True] * rank
    if lateral:  # axis 0 is right-left in RAS; a 2-D picture is mirrored along its columns
        flips[0 if rank == 3 else 1] = False
    return flips
