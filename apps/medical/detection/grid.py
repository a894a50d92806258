"""One grid for three series: laid on the T2W image, filled from each series in world space.

The series of a prostate study lie on oblique grids of different voxels and extents.  Each is sampled
once, from its own grid straight to the network's: resampling to T2W first and to the network after
would blur twice.  All geometry is by affines (voxel to RAS+ mm), never by index.

The grid of the PI-CAI baselines is 20 x 256 x 256 voxels of 3.0 x 0.5 x 0.5 mm (z, y, x) around the
middle of the T2W image (DIAGNijmegen/picai_baseline); here, in (x, y, z), (256, 256, 20) at (0.5, 0.5,
3.0).  Deviates from picai_prep: there each series is resampled to these voxels and cropped around its
own middle, then resampled again onto the first; its voxel centres, not its edges, stay aligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel import orientations
from scipy import ndimage

from apps.medical.data.volume import Volume
from core.errors import DataError

SPACING = (0.5, 0.5, 3.0)
SHAPE = (256, 256, 20)
# A sample on the outer face of a voxel is inside, whatever the last bit of an affine says.
ROUNDING = 1e-4


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape (x, y, z) and affine, voxel indices to RAS+ mm."""

    affine: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, volume: Volume) -> Grid:
        return cls(volume.affine, volume.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        return tuple(float(edge) for edge in np.linalg.norm(self.affine[:3, :3], axis=0))


def detection_grid(
    t2w: Volume, spacing: Sequence[float] = SPACING, shape: Sequence[int] = SHAPE
) -> Grid:
    """``shape`` voxels of ``spacing`` mm around the middle of ``t2w``, along its own directions.

    The axes are in RAS order and sense, as closely as the image's obliqueness allows, so that the
    first runs to the patient's right.  Raises DataError for anything but a volume in space.
    """
    if t2w.rank != 3 or not t2w.physical:
        raise DataError(f"{t2w.path}: is not a volume in space; detection needs one")
    axes = orientations.io_orientation(t2w.affine)
    if np.isnan(axes).any():
        raise DataError(f"{t2w.path}: the affine maps two axes to one direction; fix the header")
    canonical = t2w.affine @ orientations.inv_ornt_aff(axes, t2w.shape)
    middle = t2w.affine[:3, :3] @ ((np.array(t2w.shape) - 1) / 2) + t2w.affine[:3, 3]
    affine = np.eye(4)
    columns = canonical[:3, :3]
    affine[:3, :3] = columns / np.linalg.norm(columns, axis=0) * np.asarray(spacing, float)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(affine, tuple(int(n) for n in shape))


def sample(volume: Volume, grid: Grid, *, order: int = 3, outside: float = 0.0) -> np.ndarray:
    """The volume's values at the grid's voxel centres, float32 (*grid.shape).

    ``order`` 3 is a cubic spline, kept within the volume's own range, since a spline overshoots and
    a diffusion coefficient is never negative; 1 is linear, 0 nearest.  Beyond the volume's outer
    voxel faces the value is ``outside``.  Raises DataError for several channels, NaN or infinity.
    """
    if volume.rank != 3 or volume.channels != 1:
        raise DataError(f"{volume.path}: want one volume of one channel in space")
    values = np.asarray(volume.channel_first[0], dtype=np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{volume.path}: NaN or infinite voxels; clean the image first")
    to_voxels = np.linalg.inv(volume.affine) @ grid.affine
    out = ndimage.affine_transform(
        values,
        to_voxels[:3, :3],
        to_voxels[:3, 3],
        output_shape=grid.shape,
        order=order,
        mode="nearest",
    )
    if order > 1:
        np.clip(out, values.min(), values.max(), out=out)
    out[~covered(volume, grid)] = outside
    return out


def covered(volume: Volume, grid: Grid) -> np.ndarray:
    """Which of the grid's voxel centres (*grid.shape) lie inside the volume."""
    to_voxels = np.linalg.inv(volume.affine) @ grid.affine
    inside = np.ones(grid.shape, dtype=bool)
    steps = [
        np.arange(n, dtype=np.float64).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, n in enumerate(grid.shape)
    ]
    for axis, size in enumerate(volume.shape):
        at = sum(to_voxels[axis, a] * steps[a] for a in range(3)) + to_voxels[axis, 3]
        inside &= (at >= -0.5 - ROUNDING) & (at <= size - 0.5 + ROUNDING)
    return inside
