"""NIfTI-1 and NIfTI-2 files through nibabel. Internal to `volume`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from apps.medical.data.volume import Peek, Volume, check_voxels, corner_shift
from core.errors import DataError

_UNIT_MM = {"meter": 1000.0, "micron": 0.001}


@dataclass(frozen=True, eq=False)
class NiftiStore:
    """The header as read, and the stored shape without a channel axis (trailing ones kept)."""

    header: nib.Nifti1Header
    shape: tuple[int, ...]


def peek(path: Path) -> Peek:
    shape = _load(path).shape
    kept = shape[:3] + tuple(n for n in shape[3:] if n != 1)
    return Peek(tuple(kept[:3]), int(np.prod(kept[3:], dtype=int)))


def read(path: Path, *, channels_last_axis: bool, as_label: bool) -> Volume:
    image = _load(path)
    shape = image.shape
    check_voxels(path, shape)
    dtype = image.get_data_dtype()
    if dtype.names:
        raise DataError(
            f"{path}: RGB NIfTI (colour triples) is not supported; store each colour in a file"
        )
    if dtype.kind == "c":
        raise DataError(f"{path}: complex values; store the magnitude instead")
    if len(shape) < 2:
        raise DataError(f"{path}: {len(shape)} axis, an image needs 2 or 3")
    channel_axes = [axis for axis in range(3, len(shape)) if shape[axis] != 1]
    if len(channel_axes) > 1 or (channel_axes and as_label):
        raise DataError(f"{path}: shape {shape}; one 3-D volume per file is needed, split it first")
    if channel_axes and not channels_last_axis:
        raise DataError(
            f"{path}: 4-D of shape {shape}; a time or direction axis is not a channel, so split it"
            " into 3-D files (or name its channels in dataset.json)"
        )
    rank = min(len(shape), 3)
    array = _values(image)
    spatial = shape[:rank]
    if channel_axes:
        array = np.moveaxis(array.reshape(*spatial, shape[channel_axes[0]]), -1, 0)
        store_shape = spatial
    else:
        array = array.reshape(spatial)
        store_shape = shape
    affine = np.array(image.affine, dtype=np.float64)
    spacing, notes = _spacing(path, image.header, affine, rank)
    notes |= _transform_notes(image.header, spatial)
    return Volume(
        array=array,
        affine=affine,
        spacing=spacing,
        rank=rank,
        path=path,
        notes=notes,
        store=NiftiStore(image.header.copy(), tuple(store_shape)),
    )


def write_label(reference: Volume, labels: np.ndarray, path: Path) -> None:
    store = reference.store
    if isinstance(store, NiftiStore):
        # The header is copied whole, so sform, qform and their codes stay the bytes they were;
        # what described the intensities (slope, window, intent, extensions) does not apply to ids.
        header = (
            store.header.as_byteswapped("<") if store.header.endianness == ">" else store.header
        )
        header = header.copy()
        header.extensions.clear()
        header["cal_min"] = header["cal_max"] = 0
        header.set_intent("none")
        labels = labels.reshape(store.shape)
    else:
        header = nib.Nifti1Header()
        header.set_data_shape(labels.shape)
        header.set_sform(reference.affine, code=1)
        header.set_qform(reference.affine, code=1)
        header.set_xyzt_units("mm" if reference.physical else "unknown")
    header.set_data_dtype(labels.dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # Affine None keeps the header's own transforms untouched.
    nib.save(kind(labels, None, header), path)


def _load(path: Path) -> nib.Nifti1Pair:
    try:
        image = nib.load(path)
    except nib.filebasedimages.ImageFileError as error:
        raise DataError(f"{path}: truncated, or not a NIfTI file; copy it again") from error
    if not isinstance(image, nib.Nifti1Pair):
        raise DataError(f"{path}: a {type(image).__name__}, not a NIfTI volume; convert it first")
    return image


def _values(image: nib.Nifti1Pair) -> np.ndarray:
    """Stored values in their own type when unscaled; float32 once slope and intercept apply."""
    proxy: Any = image.dataobj
    if (proxy.slope, proxy.inter) == (1.0, 0.0):
        array = np.asanyarray(proxy)
        return np.array(array, dtype=array.dtype.newbyteorder("="))
    return image.get_fdata(dtype=np.float32, caching="unchanged")


def _spacing(
    path: Path, header: nib.Nifti1Header, affine: np.ndarray, rank: int
) -> tuple[tuple[float, ...], dict[str, str]]:
    notes = {}
    edges = np.linalg.norm(affine[:3, :rank], axis=0)
    if not np.isfinite(affine).all() or (edges <= 0).any() or abs(np.linalg.det(affine)) < 1e-12:
        raise DataError(
            f"{path}: the affine is singular (voxel edges {edges.tolist()}); fix the header"
        )
    unit = header.get_xyzt_units()[0]
    factor = _UNIT_MM.get(unit, 1.0)
    if factor != 1.0:
        scaled = edges * factor
        if scaled.max() > 100 or scaled.min() < 1e-4:
            notes["units"] = f"header says {unit} but {edges.round(4).tolist()} is read as mm"
        else:
            notes["units"] = f"voxel edges converted from {unit} to mm"
            edges = scaled
    return tuple(float(e) for e in edges), notes


def _transform_notes(header: nib.Nifti1Header, shape: tuple[int, ...]) -> dict[str, str]:
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        return {"orientation": "no sform and no qform: orientation is a guess (nibabel's default)"}
    if header["sform_code"] == 0 or header["qform_code"] == 0:
        return {}
    try:
        shift = corner_shift(header.get_sform(), header.get_qform(), shape)
    except (nib.spatialimages.HeaderDataError, ValueError):
        return {"transforms": "the qform is invalid; the sform is used"}
    if shift > 0.1 * min(np.linalg.norm(header.get_sform()[:3, : len(shape)], axis=0)):
        return {"transforms": f"sform and qform disagree by {shift:.3g} mm; the sform is used"}
    return {}
