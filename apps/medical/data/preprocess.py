"""From files' grids to the network's grid, and labels back onto the files' grid.

Forward: stack channels -> orient to RAS (rank 3) -> crop to nonzero -> resample -> normalise.
Backward: resample labels -> put back into the full volume (0 outside) -> undo the orientation. The
backward way restores shape and axis order exactly; without resampling it is the exact inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nibabel import orientations

from apps.medical.data.resample import (
    linear,
    resample_image,
    resample_labels,
    resampled_affine,
    resampled_shape,
)
from apps.medical.data.volume import Volume, same_grid, smallest_unsigned
from core.errors import DataError

if TYPE_CHECKING:
    from apps.medical.data.datasets import Case, Dataset
    from apps.medical.data.plan import Plan


@dataclass(frozen=True, eq=False, kw_only=True)
class Canonical:
    """Channels (C, *S) in canonical axes, and what is needed to go back."""

    array: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, ...]
    orientation: str
    # nibabel orientation of the stored axes, None when the axes were left as stored
    axes: np.ndarray | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """Network input, image float32 (C, *S), and the way back to the input's grid.

    `affine` and `spacing` describe the network grid. `box` is the crop in canonical axes, `full`
    the canonical shape before it. `repaired` counts NaN or infinite voxels that were replaced.
    """

    image: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, ...]
    path: Path
    label_ids: tuple[int, ...] | None
    reference: Volume
    axes: np.ndarray | None
    full: tuple[int, ...]
    box: tuple[slice, ...]
    repaired: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of the network grid."""
        return self.image.shape[1:]

    @property
    def cropped(self) -> tuple[int, ...]:
        """Shape after the crop, before resampling."""
        return tuple(s.stop - s.start for s in self.box)


def prepare(volumes: Sequence[Volume], plan: Plan, *, repair: bool = False) -> Prepared:
    """Bring one case onto the network's grid.

    `volumes` are the plan's channels in order: one Volume each, or one Volume with all. NaN and
    infinite voxels raise DataError unless `repair`, which replaces them by the channel's lowest or
    highest finite value. A constant channel becomes zeros. Raises DataError if the volumes do not
    share a grid or do not fit the plan.
    """
    if not volumes:
        raise DataError("no image given; a case needs one file per channel")
    name = str(volumes[0].path)
    grid = to_canonical(volumes, plan.rank, name, orient=plan.orientation == "RAS")
    image = _match_channels(grid.array, plan, volumes)
    image, repaired = _finite(image.astype(np.float32), name, repair)
    whole = tuple(slice(0, n) for n in image.shape[1:])
    box = (nonzero_box(image) or whole) if plan.crop == "nonzero" else whole
    image = image[(slice(None), *box)]
    spacing = grid.spacing
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, : plan.rank] @ [s.start for s in box]
    if plan.spacing is not None and volumes[0].physical:
        target = resampled_shape(image.shape[1:], spacing, plan.spacing)
        if target != image.shape[1:]:
            affine = resampled_affine(affine, image.shape[1:], target)
            image = resample_image(image, target, spacing, plan.spacing)
            spacing = tuple(plan.spacing)
    image = np.stack(
        [
            _normalise(channel, rule, stats, zero_is_empty=plan.crop == "nonzero")
            for channel, rule, stats in zip(image, plan.normalisation, plan.intensity, strict=True)
        ]
    )
    return Prepared(
        image=image,
        affine=affine,
        spacing=spacing,
        path=volumes[0].path,
        label_ids=None if plan.target == "instances" else plan.label_ids,
        reference=volumes[0],
        axes=grid.axes,
        full=tuple(grid.array.shape[1:]),
        box=box,
        repaired=repaired,
    )


def prepare_label(label: Volume, prepared: Prepared) -> np.ndarray:
    """The label on the network's grid as class numbers 0..K-1 (or object numbers), shape (*S).

    Class k stands for the plan's `label_ids[k]`. Raises DataError if label and image do not share a
    grid or an id is not in the plan.
    """
    why = same_grid(prepared.reference, label)
    if why:
        raise DataError(f"{label.path}: not on the grid of {prepared.path}: {why}")
    array = label.array
    if prepared.axes is not None:
        array = orientations.apply_orientation(array, prepared.axes)
    array = _to_classes(array.reshape(prepared.full)[prepared.box], prepared.label_ids, label.path)
    return resample_labels(array, prepared.shape)


def restore(labels: np.ndarray, prepared: Prepared) -> np.ndarray:
    """Class numbers (*S) on the network's grid -> label ids on the input's own grid.

    Object numbers are kept as they are. Outside the crop the result is 0.
    """
    if tuple(labels.shape) != prepared.shape:
        raise DataError(
            f"{prepared.path}: labels of shape {tuple(labels.shape)} do not fit the network's grid"
            f" {prepared.shape}"
        )
    found = resample_labels(np.asarray(labels), prepared.cropped)
    if prepared.label_ids is not None:
        table = np.array(prepared.label_ids, dtype=smallest_unsigned(max(prepared.label_ids)))
        if found.size and int(found.max()) >= len(table):
            raise DataError(f"{prepared.path}: class {int(found.max())}, the plan has {len(table)}")
        found = table[found]
    whole = np.zeros(prepared.full, dtype=found.dtype)
    whole[prepared.box] = found
    return _to_stored(whole, prepared)


def restore_map(values: np.ndarray, prepared: Prepared, fill: float = 0.0) -> np.ndarray:
    """A float map (*S) on the network's grid -> the input's own grid, linearly; `fill` outside."""
    whole = np.full(prepared.full, fill, dtype=np.float32)
    whole[prepared.box] = linear(np.asarray(values, dtype=np.float32), prepared.cropped)
    return _to_stored(whole, prepared)


def load_sample(
    dataset: Dataset, case: Case, plan: Plan, *, repair: bool = False
) -> tuple[dict[str, np.ndarray], Prepared]:
    """Read and prepare one training case: {"image": float32 (C, *S), "label": (1, *S)}."""
    prepared = prepare(dataset.read_images(case), plan, repair=repair)
    label = prepare_label(dataset.read_label(case), prepared)
    return {"image": prepared.image, "label": label[None]}, prepared


def to_canonical(
    volumes: Sequence[Volume], rank: int, name: str, *, orient: bool = True
) -> Canonical:
    """Stack volumes of one grid as (C, *S); rank 3 in RAS, rank 2 without the slice axis."""
    first = volumes[0]
    for other in volumes[1:]:
        why = same_grid(first, other)
        if why:
            raise DataError(
                f"{other.path}: not on the grid of {first.path}: {why}; resample one onto the other"
            )
    array = np.concatenate([v.channel_first for v in volumes])
    if rank == 2 and first.rank == 3:
        thin = [a for a, n in enumerate(first.shape) if n == 1]
        if not thin:
            raise DataError(
                f"{name}: a volume of shape {first.shape} for a 2-D model; give one slice"
            )
        kept = [a for a in range(3) if a != thin[-1]]
        return Canonical(
            array=array.squeeze(1 + thin[-1]),
            affine=first.affine[:, [*kept, thin[-1], 3]],
            spacing=tuple(first.spacing[a] for a in kept),
            orientation="".join(orientations.aff2axcodes(first.affine)),
            axes=None,
        )
    if rank == 3 and first.rank == 2:
        raise DataError(f"{name}: a 2-D image for a 3-D model; give a volume")
    letters = "".join(str(c) for c in orientations.aff2axcodes(first.affine))
    if rank == 2 or not orient:
        return Canonical(
            array=array,
            affine=first.affine.copy(),
            spacing=first.spacing,
            orientation=letters if first.physical else "",
            axes=None,
        )
    axes = orientations.io_orientation(first.affine)
    if np.isnan(axes).any():
        raise DataError(f"{name}: the affine maps two axes to one direction; fix the header")
    turned = np.stack([orientations.apply_orientation(channel, axes) for channel in array])
    order = np.argsort(axes[:, 0])
    return Canonical(
        array=turned,
        affine=first.affine @ orientations.inv_ornt_aff(axes, first.shape),
        spacing=tuple(first.spacing[a] for a in order),
        orientation=letters,
        axes=axes,
    )


def nonzero_box(image: np.ndarray, margin: int = 0) -> tuple[slice, ...] | None:
    """Smallest box of (C, *S) outside which every channel is exactly 0; None if all is 0."""
    mask = (image != 0).any(axis=0)
    box = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if line.size == 0:
            return None
        box.append(
            slice(max(0, int(line[0]) - margin), min(mask.shape[axis], int(line[-1]) + 1 + margin))
        )
    return tuple(box)


def _to_stored(whole: np.ndarray, prepared: Prepared) -> np.ndarray:
    if prepared.axes is not None:
        canonical = np.array([[a, 1] for a in range(3)])
        whole = orientations.apply_orientation(
            whole, orientations.ornt_transform(canonical, prepared.axes)
        )
    return np.ascontiguousarray(whole).reshape(prepared.reference.shape)


def _to_classes(array: np.ndarray, ids: tuple[int, ...] | None, path: Path) -> np.ndarray:
    if ids is None:
        return array
    present = np.unique(array)
    unknown = sorted(set(present.tolist()) - set(ids))
    if unknown:
        raise DataError(
            f"{path}: label {unknown[0]} is not in the plan ({', '.join(map(str, ids))});"
            " correct the label or the plan"
        )
    if ids == tuple(range(len(ids))):
        return array
    table = np.zeros(int(present.max()) + 1, dtype=smallest_unsigned(len(ids)))
    for number, label in enumerate(ids):
        if label < len(table):
            table[label] = number
    return table[array]


def _match_channels(array: np.ndarray, plan: Plan, volumes: Sequence[Volume]) -> np.ndarray:
    wanted, given = len(plan.channels), array.shape[0]
    if given == wanted:
        return array
    picture = not volumes[0].physical
    if picture and given == 1 and wanted == 3:
        return np.repeat(array, 3, axis=0)  # grey shown in colour
    if picture and given == 3 and wanted == 1 and (array == array[:1]).all():
        return array[:1]  # grey saved as colour
    raise DataError(
        f"{volumes[0].path}: {given} channel(s), the model wants {wanted}:"
        f" {', '.join(plan.channels)}"
    )


def _finite(image: np.ndarray, name: str, repair: bool) -> tuple[np.ndarray, int]:
    good = np.isfinite(image)
    bad = int(image.size - np.count_nonzero(good))
    if bad == 0:
        return image, 0
    if not repair:
        raise DataError(
            f"{name}: {bad} NaN or infinite voxels; clean the image or allow repair (--repair)"
        )
    for channel, ok in zip(image, good, strict=True):
        low, high = (channel[ok].min(), channel[ok].max()) if ok.any() else (0.0, 0.0)
        np.nan_to_num(channel, copy=False, nan=low, neginf=low, posinf=high)
    return image, bad


def _normalise(channel: np.ndarray, rule: str, stats: object, *, zero_is_empty: bool) -> np.ndarray:
    if rule == "none":
        return channel
    if rule == "rescale":
        low, high = float(channel.min()), float(channel.max())
        return (channel - low) / (high - low) if high > low else np.zeros_like(channel)
    if rule == "ct":
        low, high, mean, std = (getattr(stats, k) for k in ("low", "high", "mean", "std"))
        return (np.clip(channel, low, high) - mean) / max(std, 1e-8)
    # How much empty margin a scan has must not shift its contrast; in a picture 0 is just dark.
    values = channel[channel != 0] if zero_is_empty else channel
    if values.size == 0:
        return np.zeros_like(channel)
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if std <= 1e-6 * max(1.0, abs(mean)):
        return np.zeros_like(channel)
    return (channel - mean) / np.float32(std)
