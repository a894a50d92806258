"""MetaImage and NRRD files through SimpleITK. Internal to `volume`.

ITK describes a grid by origin o, spacing s and direction D in LPS coordinates: p = o + D diag(s) i.
RAS+ negates the first two world axes. ITK's arrays are (z, y, x); ours are (x, y, z).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from apps.medical.data.volume import Peek, Volume, check_voxels
from core.errors import DataError, ResourceError

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class ItkStore:
    """Geometry exactly as ITK gave it."""

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]


def _open(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be read ({_last_line(error)}); is it damaged?") from error
    return reader


def peek(path: Path) -> Peek:
    reader = _open(path)
    size = reader.GetSize()
    return Peek(tuple(size[:3]), int(np.prod(size[3:], dtype=int)) * reader.GetNumberOfComponents())


def read(path: Path, *, channels_last_axis: bool, as_label: bool) -> Volume:
    reader = _open(path)
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    check_voxels(path, (*size, components))
    extra = [n for n in (*size[3:], components) if n != 1]
    colour = len(size) == 2 and components in (3, 4) and not as_label
    if len(extra) > 1 or (extra and not colour and (as_label or not channels_last_axis)):
        raise DataError(
            f"{path}: 4-D of shape {tuple(size)} x {components}; a time or direction axis is not a"
            " channel, so split it into 3-D files (or name its channels in dataset.json)"
        )
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be read ({_last_line(error)}); is it damaged?") from error
    array = sitk.GetArrayFromImage(image)  # (..., z, y, x[, component])
    rank = min(len(size), 3)
    if components > 1:
        array = np.moveaxis(array, -1, 0)
        array = array.reshape(components, *reversed(size[:rank]))
    else:
        array = array.reshape(*extra, *reversed(size[:rank]))
    first = array.ndim - rank
    array = array.transpose(*range(first), *reversed(range(first, array.ndim)))
    if colour:
        array = array[:3]
    dimension = len(size)
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:rank, :rank]
    matrix = np.eye(4)
    matrix[:rank, :rank] = direction * np.array(image.GetSpacing()[:rank])
    matrix[:rank, 3] = image.GetOrigin()[:rank]
    if abs(np.linalg.det(matrix)) < 1e-12:
        raise DataError(f"{path}: the direction matrix is singular; fix the header")
    return Volume(
        array=np.ascontiguousarray(array),
        affine=_LPS_TO_RAS @ matrix,
        spacing=tuple(float(s) for s in np.linalg.norm(matrix[:3, :rank], axis=0)),
        rank=rank,
        path=path,
        store=ItkStore(
            tuple(image.GetOrigin()[:rank]),
            tuple(image.GetSpacing()[:rank]),
            tuple(direction.ravel().tolist()),
        ),
    )


def write_label(reference: Volume, labels: np.ndarray, path: Path) -> None:
    if path.suffix.lower() == ".mhd":
        raise DataError(f"{path}: .mhd puts its voxels into a second file; write .mha")
    image = sitk.GetImageFromArray(np.ascontiguousarray(labels.T))
    store = reference.store
    if not isinstance(store, ItkStore):
        store = _geometry(reference, path)
    image.SetOrigin(store.origin)
    image.SetSpacing(store.spacing)
    image.SetDirection(store.direction)
    try:
        sitk.WriteImage(image, str(path), True)
    except RuntimeError as error:
        raise ResourceError(f"{path}: cannot be written ({_last_line(error)})") from error


def _geometry(reference: Volume, path: Path) -> ItkStore:
    rank = reference.rank
    matrix = (_LPS_TO_RAS @ reference.affine)[:rank, [*range(rank), 3]]
    spacing = np.linalg.norm(matrix[:, :rank], axis=0)
    direction = matrix[:, :rank] / spacing
    if np.abs(direction.T @ direction - np.eye(rank)).max() > 1e-3:
        raise DataError(
            f"{path}: this format cannot hold the sheared grid of {reference.path}; use .nii.gz"
        )
    return ItkStore(tuple(matrix[:, rank]), tuple(spacing), tuple(direction.ravel()))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
