"""A data set's fingerprint: shapes, spacings, orientations, intensities and label counts."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from apps.medical.data.datasets import Case, Dataset
from apps.medical.data.preprocess import nonzero_box, to_canonical
from core.config import StrictModel
from core.errors import DataError
from core.progress import Progress, SilentProgress

SAMPLES_PER_CASE = 10_000


class Intensity(StrictModel):
    """Foreground statistics of one channel over the data set."""

    mean: float
    std: float
    low: float  # 0.5th percentile
    high: float  # 99.5th percentile


class CaseFacts(StrictModel):
    """One case as measured: canonical axes, `cropped` after removing the empty margin."""

    id: str
    shape: list[int]
    cropped: list[int]
    spacing: list[float]
    orientation: str
    voxels: dict[int, int]  # label id -> count; for instances {1: foreground}
    objects: int


class Fingerprint(StrictModel):
    """A data set as measured. `problems` names cases left out and why."""

    dataset: str
    rank: int
    physical: bool
    cases: list[CaseFacts]
    intensity: list[Intensity]
    problems: list[str]

    @property
    def digest(self) -> str:
        """SHA-256 of the measurements; two plans with the same digest saw the same data."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(dataset: Dataset, progress: Progress | None = None) -> Fingerprint:
    """Read every case once and measure it. Unreadable and unusable cases go to `problems`.

    Of a case without label all voxels count as foreground.
    Raises DataError if no case is usable.
    """
    facts: list[CaseFacts] = []
    problems = [f"{p.case}: {p.what}" for p in dataset.problems]
    samples: list[list[np.ndarray]] = [[] for _ in dataset.channels]
    physical = True
    with (progress or SilentProgress()).task("fingerprint", total=len(dataset.cases)) as task:
        for case in dataset.cases:
            try:
                fact, values, physical = _measure(dataset, case)
            except DataError as error:
                problems.append(f"{case.id}: {error}")
            else:
                facts.append(fact)
                for channel, found in zip(samples, values, strict=True):
                    channel.append(found)
            task.advance(note=case.id)
    if not facts:
        raise DataError(f"{dataset.root}: no usable case; first problem: {problems[0]}")
    return Fingerprint(
        dataset=dataset.name,
        rank=dataset.rank,
        physical=physical,
        cases=facts,
        intensity=[_statistics(channel) for channel in samples],
        problems=problems,
    )


def _measure(dataset: Dataset, case: Case) -> tuple[CaseFacts, list[np.ndarray], bool]:
    images = dataset.read_images(case)
    grid = to_canonical(images, dataset.rank, f"case {case.id}")
    if grid.array.shape[0] != len(dataset.channels):
        raise DataError(
            f"{case.images[0]}: {grid.array.shape[0]} channels, the data set has"
            f" {len(dataset.channels)} ({', '.join(dataset.channels)})"
        )
    mask = np.ones(grid.array.shape[1:], dtype=np.uint8)
    if case.label is not None:
        label = dataset.read_label(case)
        mask = to_canonical([label], dataset.rank, f"label of {case.id}").array[0]
        if mask.shape != grid.array.shape[1:]:
            raise DataError(
                f"{case.label}: shape {label.shape}, its image has {images[0].shape}; "
                "are they a pair?"
            )
    unfinite = int(np.size(grid.array) - np.isfinite(grid.array).sum())
    if unfinite:
        raise DataError(f"{case.images[0]}: {unfinite} NaN or infinite voxels")
    for name, channel in zip(dataset.channels, grid.array, strict=True):
        if channel.min() == channel.max():
            raise DataError(f"{case.images[0]}: channel {name} is constant ({channel.flat[0]})")
    ids, counts = np.unique(mask if case.label is not None else mask[:0], return_counts=True)
    if dataset.kind == "instances":
        voxels = {1: int(counts[ids > 0].sum())}
    else:
        voxels = {int(i): int(n) for i, n in zip(ids, counts, strict=True)}
        unknown = sorted(set(voxels) - set(dataset.labels))
        if unknown:
            raise DataError(
                f"{case.label}: label {unknown[0]} is not among {sorted(dataset.labels)}"
            )
    box = nonzero_box(grid.array) if images[0].physical else None
    cropped = [s.stop - s.start for s in box] if box else list(mask.shape)
    where = np.flatnonzero(mask > 0)
    if where.size == 0:
        where = np.arange(mask.size)
    where = where[:: max(1, where.size // SAMPLES_PER_CASE)]
    values = [channel.reshape(-1)[where].astype(np.float32) for channel in grid.array]
    fact = CaseFacts(
        id=case.id,
        shape=list(mask.shape),
        cropped=cropped,
        spacing=list(grid.spacing),
        orientation=grid.orientation,
        voxels=voxels,
        objects=int((ids > 0).sum()),
    )
    return fact, values, images[0].physical


def _statistics(samples: list[np.ndarray]) -> Intensity:
    values = np.concatenate(samples).astype(np.float64)
    low, high = np.percentile(values, (0.5, 99.5))
    return Intensity(
        mean=float(values.mean()), std=float(values.std()), low=float(low), high=float(high)
    )
