"""One image or label file in memory: its values, where they lie in the world, how to write back.

Axis order. A medical file (.nii .nii.gz .mha .mhd .nrrd) gives arrays in (x, y, z) order, the order
of the affine's columns; SimpleITK's (z, y, x) arrays are transposed on the way in. A picture
(.png .jpg .tif .bmp) gives (row, column). Channels, where there are several, come first.

World. `affine` maps voxel indices to RAS+ millimetres (NIfTI's convention); ITK's LPS geometry is
converted by negating x and y. A picture has no physical grid: identity affine, `physical` False.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError, TriptychError
from core.files import atomic_path

NIFTI = (".nii.gz", ".nii")
ITK = (".mha", ".mhd", ".nrrd")
RASTER = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SUFFIXES = NIFTI + ITK + RASTER
DICOM = (".dcm", ".dicom", ".ima")
DICOM_HINT = "; convert DICOM to NIfTI first, for example with dcm2niix"
# A declared size above this is refused before anything is decoded: 2^30 float32 voxels are 4 GiB.
MAX_VOXELS = 2**30
# A float label within this distance of an integer was an integer before some tool converted it.
ROUNDING = 1e-3


@dataclass(frozen=True, eq=False, kw_only=True)
class Volume:
    """An image, array (*S) or (C, *S), or a label map, array (*S), on its own grid.

    `spacing` is the length of each voxel edge in mm (norms of the affine's columns, so that oblique
    grids are right), 1.0 where the file has no physical grid. `notes` holds what the reader had to
    decide, by code, for the audit to show. `store` is the reader's own record for writing back.
    """

    array: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, ...]
    rank: int
    path: Path
    physical: bool = True
    notes: dict[str, str] = field(default_factory=dict)
    store: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape S."""
        return tuple(self.array.shape[self.array.ndim - self.rank :])

    @property
    def channels(self) -> int:
        return self.array.shape[0] if self.array.ndim > self.rank else 1

    @property
    def channel_first(self) -> np.ndarray:
        """The array as (C, *S), a view."""
        return self.array if self.array.ndim > self.rank else self.array[None]


@dataclass(frozen=True)
class Peek:
    """What a file's header says, without decoding the voxels: spatial shape S and channel count C.

    For a medical file of more than three axes, C counts the last axis.
    """

    shape: tuple[int, ...]
    channels: int


def suffix_of(path: Path) -> str:
    """The recognised suffix in lower case, or "": `my.case v1.2.nii.gz` gives `.nii.gz`."""
    name = path.name.lower()
    return next((s for s in SUFFIXES if name.endswith(s) and len(name) > len(s)), "")


def case_name(path: Path) -> str:
    """The file name without its recognised suffix; dots and spaces inside the name are kept."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def is_volume_file(path: Path) -> bool:
    """Whether a directory entry is a readable format; hidden files such as .DS_Store are not."""
    return not path.name.startswith(".") and suffix_of(path) != "" and path.is_file()


def read_image(path: Path | str, *, channels_last_axis: bool = False) -> Volume:
    """Read an image. Intensities are the stored ones with scl_slope and scl_inter applied.

    A medical file with a fourth axis is refused unless `channels_last_axis` says that this axis
    holds channels: an axis of time or of diffusion directions is not one. Raises DataError.
    """
    path = Path(path)
    with _reading(path):
        return _reader(path).read(path, channels_last_axis=channels_last_axis, as_label=False)


def read_label(path: Path | str, *, threshold: float | None = None) -> Volume:
    """Read a label map as the smallest unsigned integers that hold it, values as stored.

    Float labels within 1e-3 of integers are rounded. A JPEG mask with more than two values carries
    compression noise and is refused unless `threshold` is given: values above it become 1.
    Raises DataError for negative, fractional, non-finite, colour-coded or multi-channel labels.
    """
    path = Path(path)
    with _reading(path):
        volume = _reader(path).read(path, channels_last_axis=False, as_label=True)
    array = volume.array
    if threshold is not None:
        array = (array > threshold).astype(np.uint8)
    elif suffix_of(path) in (".jpg", ".jpeg") and len(np.unique(array)) > 2:
        raise DataError(
            f"{path}: a JPEG mask with {len(np.unique(array))} grey values (compression noise);"
            " save masks as PNG, or pass a threshold"
        )
    notes = volume.notes
    if array.dtype.kind == "f":
        notes = notes | {"dtype": f"integer labels stored as {array.dtype}"}
    return replace(volume, array=_as_integers(array, path), notes=notes)


def peek(path: Path | str) -> Peek:
    """Shape and channels from the header alone. Raises DataError."""
    path = Path(path)
    with _reading(path):
        return _reader(path).peek(path)


def write_label_like(
    reference: Volume, labels: np.ndarray, path: Path | str, force: bool = False
) -> Path:
    """Write `labels` (*S, integers) on the grid of `reference`; the suffix chooses the format.

    Same format in and out: geometry is bit-identical (NIfTI keeps sform, qform and their codes;
    MetaImage keeps origin, spacing and direction; NRRD too, but for the last bit of the spacing,
    which its own encoding does not keep). The data type is the smallest of uint8, uint16 and
    uint32 that holds the ids, slope 1, intercept 0, display range cleared. The write is atomic.
    Raises DataError if the shape or type does not fit, UsageError if `path` exists without `force`.
    """
    path = Path(path)
    labels = np.asarray(labels)
    if labels.shape != reference.shape:
        raise DataError(
            f"{path}: labels of shape {labels.shape} do not fit the grid {reference.shape}"
            f" of {reference.path}; restore them to the input's grid first"
        )
    if labels.dtype.kind not in "iub":
        raise DataError(
            f"{path}: labels must be integers, got {labels.dtype}; take the argmax first"
        )
    writer = _reader(path)
    with atomic_path(path, force=force) as temporary:
        writer.write_label(reference, _as_integers(labels, path), temporary)
    return path


def same_grid(a: Volume, b: Volume, tolerance: float = 1e-2) -> str:
    """Why two volumes do not share a grid, or "" if they do.

    `tolerance` is in voxels: the farthest a corner voxel's centre may lie from its counterpart.
    """
    if a.shape != b.shape:
        return f"shape {a.shape} against {b.shape}"
    if not (a.physical and b.physical):
        return ""
    shift = corner_shift(a.affine, b.affine, a.shape)
    if shift > tolerance * min(a.spacing):
        return f"the corners lie {shift:.3g} mm apart (affines differ)"
    return ""


def corner_shift(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance between the world positions two affines give to the corner voxels."""
    rank = len(shape)
    grid = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(rank, -1)
    corners = np.zeros((4, grid.shape[1]))
    corners[:rank] = grid
    corners[3] = 1
    return float(np.linalg.norm(((a - b) @ corners)[:3], axis=0).max())


def smallest_unsigned(largest: int) -> type[np.unsignedinteger[Any]]:
    """uint8, uint16 or uint32, whichever first holds `largest`."""
    return np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.uint32


def check_voxels(path: Path, shape: tuple[int, ...], limit: int = MAX_VOXELS) -> None:
    """Refuse a declared size that would exhaust memory: a bad header or a decompression bomb."""
    count = 1
    for n in shape:
        count *= int(n)
    if count <= 0 or any(int(n) <= 0 for n in shape):
        raise DataError(f"{path}: empty grid {tuple(shape)}; the header or the export is wrong")
    if count > limit:
        raise DataError(
            f"{path}: declares {count:.3g} voxels, more than the limit of {limit:.3g};"
            " crop or split it first"
        )


def _as_integers(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise DataError(f"{path}: labels contain NaN or infinity; export them again")
        rounded = np.rint(array)
        worst = float(np.abs(array - rounded).max(initial=0))
        if worst > ROUNDING:
            raise DataError(
                f"{path}: labels are not integers (off by up to {worst:.3g}); this looks like a"
                " probability map or an interpolated mask: threshold it or resample by nearest"
            )
        array = rounded
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0:
        raise DataError(f"{path}: negative label {low}; labels start at 0 (background)")
    if high >= 2**32:
        raise DataError(f"{path}: label {high} does not fit 32 bits; renumber the labels")
    return np.ascontiguousarray(array, dtype=smallest_unsigned(high))


def _reader(path: Path) -> Any:
    """The module that reads and writes this suffix; imported only when such a file turns up."""
    suffix = suffix_of(path)
    if suffix in NIFTI:
        from apps.medical.data import nifti

        return nifti
    if suffix in ITK:
        from apps.medical.data import itk

        return itk
    if suffix in RASTER:
        from apps.medical.data import raster

        return raster
    raise DataError(
        f"{path}: unknown file type; supported are {' '.join(SUFFIXES)}"
        + (DICOM_HINT if path.suffix.lower() in DICOM else "")
    )


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not an image file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; copy or export it again")
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: a Git LFS pointer, not the image; run `git lfs pull`")
    gzipped = head.startswith(b"\x1f\x8b")
    if path.name.lower().endswith(".nii.gz") and not gzipped:
        raise DataError(f"{path}: named .nii.gz but not compressed; rename it to .nii")
    if path.name.lower().endswith(".nii") and gzipped:
        raise DataError(f"{path}: named .nii but gzip-compressed; rename it to .nii.gz")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a damaged file into one line that names the file."""
    try:
        _check_file(path)
        yield
    except TriptychError:
        raise
    except PermissionError as error:
        raise DataError(f"{path}: not readable (permission denied); check its mode") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: truncated or damaged ({error}); copy it again") from error
    except MemoryError as error:
        raise DataError(f"{path}: too large for this machine's memory; crop it first") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason}); is it damaged?") from error
