"""Changing voxel size with voxel edges aligned (not centres), so that the field of view stays.

Images are resampled by cubic splines; where one spacing exceeds the finest by more than 3 the
coarse axis is resampled by nearest neighbour on its own (nnU-Net's separate-z). Labels never see a
spline: each class's indicator is interpolated linearly and the largest wins, background on ties.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ANISOTROPY = 3.0
SAME_SPACING = 1e-3
# More distinct ids than this are object numbers: interpolating each indicator would take minutes.
MAX_CLASSES = 64
# Output voxels interpolated at a time; bounds the float buffers to a few times 64 MiB.
SLAB_VOXELS = 2**24


def resampled_shape(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]
) -> tuple[int, ...]:
    """Voxel counts at the target spacing; an axis that agrees within 1e-3 keeps its own."""
    return tuple(
        n if abs(old / new - 1) <= SAME_SPACING else max(1, round(n * old / new))
        for n, old, new in zip(shape, spacing, target, strict=True)
    )


def resample_image(
    image: np.ndarray,
    shape: Sequence[int],
    spacing: Sequence[float],
    target: Sequence[float],
) -> np.ndarray:
    """(C, *S) -> (C, *shape), voxel edges aligned: cubic, the coarse axis by nearest."""
    from scipy import ndimage

    coarse = separate_axis(spacing, target)
    planes = []
    for channel in image:
        factors = [n / m for n, m in zip(shape, channel.shape, strict=True)]
        if coarse is not None and factors[coarse] != 1:
            index = _nearest_index(channel.shape[coarse], shape[coarse])
            channel = np.take(channel, index, axis=coarse)
            factors[coarse] = 1.0
        # Axes that keep their length are looped over rather than splined: exact, and cheaper.
        moving = [a for a, f in enumerate(factors) if f != 1]
        if moving:
            front = [a for a in range(channel.ndim) if a not in moving]
            moved = channel.transpose(*front, *moving)
            flat = moved.reshape(-1, *moved.shape[len(front) :])
            zoom = [factors[a] for a in moving]
            done = np.stack(
                [ndimage.zoom(f, zoom, order=3, mode="nearest", grid_mode=True) for f in flat]
            )
            done = done.reshape(*moved.shape[: len(front)], *done.shape[1:])
            channel = done.transpose(*np.argsort([*front, *moving]))
        planes.append(channel)
    return np.ascontiguousarray(np.stack(planes), dtype=np.float32)


def separate_axis(spacing: Sequence[float], target: Sequence[float]) -> int | None:
    """The axis to resample on its own: the coarsest where anisotropy exceeds 3, else None."""
    for candidate in (spacing, target):
        if len(candidate) == 3 and max(candidate) > ANISOTROPY * min(candidate):
            return int(np.argmax(candidate))
    return None


def resample_labels(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Integer labels (*S) -> (*shape): per class linear, largest wins. Equal shapes: unchanged."""
    shape = tuple(int(n) for n in shape)
    if labels.shape == shape:
        return labels
    ids = np.unique(labels)
    if len(ids) > MAX_CLASSES:
        grid = [_nearest_index(n, m) for n, m in zip(labels.shape, shape, strict=True)]
        return labels[np.ix_(*grid)]
    out = np.empty(shape, dtype=labels.dtype)
    rows = max(1, SLAB_VOXELS // int(np.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        stop = min(start + rows, shape[0])
        slab = np.full((stop - start, *shape[1:]), ids[0], dtype=labels.dtype)
        best: np.ndarray | None = None
        for label in ids:
            weight = linear(labels == label, shape, start, stop)
            if best is None:
                best = weight
            else:
                # The margin makes ties, up to rounding, go to the smaller id: reproducible.
                wins = weight > best + 1e-6
                slab[wins] = label
                np.copyto(best, weight, where=wins)
        out[start:stop] = slab
    return out


def linear(
    values: np.ndarray, shape: Sequence[int], start: int = 0, stop: int | None = None
) -> np.ndarray:
    """Linear, voxel edges aligned; computes rows [start, stop) of the first output axis."""
    import torch
    from torch.nn.functional import interpolate

    stop = shape[0] if stop is None else stop
    size = values.shape[0]
    position = (np.arange(start, stop) + 0.5) * (size / shape[0]) - 0.5
    position = np.clip(position, 0, size - 1)
    low = np.floor(position).astype(int)
    part = (position - low).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    below = values[low].astype(np.float32)
    below += part * (values[np.minimum(low + 1, size - 1)].astype(np.float32) - below)
    if values.shape[1:] == tuple(shape[1:]):
        return below
    mode = {1: "linear", 2: "bilinear"}[values.ndim - 1]
    rows = torch.from_numpy(below).unsqueeze(1)
    return interpolate(rows, size=tuple(shape[1:]), mode=mode, align_corners=False)[:, 0].numpy()


def _nearest_index(old: int, new: int) -> np.ndarray:
    return np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(int), old - 1)


def resampled_affine(affine: np.ndarray, old: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """The affine after resampling with aligned voxel edges (not centres)."""
    rank = len(old)
    scale = np.array([n / m for n, m in zip(old, new, strict=True)])
    out = affine.copy()
    out[:3, 3] += affine[:3, :rank] @ (0.5 * scale - 0.5)
    out[:3, :rank] = affine[:3, :rank] * scale
    return out
