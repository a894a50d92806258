"""What there is to segment: files, folders and images in memory, as named cases.

A case's name is its file's name without the image suffix, dots and spaces kept. It becomes a folder,
so two inputs of one name are an error before any work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.data.layouts import LABEL_FOLDERS
from apps.medical.data.volume import (
    DICOM,
    DICOM_HINT,
    SUFFIXES,
    Volume,
    case_name,
    is_volume_file,
)
from core.errors import DataError, UsageError

if TYPE_CHECKING:
    from apps.medical.data.plan import Plan


@dataclass(frozen=True, kw_only=True)
class CaseInput:
    """One case to segment: a file per channel, or one file or array with all of them."""

    name: str
    files: tuple[Path, ...] = ()
    volumes: tuple[Volume, ...] = ()


def files_per_case(plan: Plan) -> int:
    """How many files make a case: colours and a fourth axis hold their channels in one."""
    joined = plan.channels_last_axis or plan.channels == ["red", "green", "blue"]
    return 1 if joined else len(plan.channels)


def find_cases(inputs: Any, per_case: int = 1) -> list[CaseInput]:
    """The cases that ``inputs`` (paths, Volumes, nibabel images; one or several) name, in order.

    ``per_case`` is how many files make one, see ``files_per_case``. Raises UsageError when there is
    none, or when two would share a name (also on a disk that does not tell upper from lower case),
    and DataError for a folder without images.
    """
    single = isinstance(inputs, str | os.PathLike | Volume) or hasattr(inputs, "dataobj")
    found: list[CaseInput] = []
    files: list[Path] = []
    for entry in [inputs] if single else inputs:
        if isinstance(entry, str | os.PathLike):
            path = Path(entry)
            files += _files_in(path) if path.is_dir() else [path]
        else:
            volume = entry if isinstance(entry, Volume) else _volume_of(entry)
            found.append(CaseInput(name=case_name(volume.path), volumes=(volume,)))
    found += _group(files, per_case)
    if not found:
        raise UsageError("no input: give image files or folders of them")
    names: dict[str, CaseInput] = {}
    for case in found:
        other = names.setdefault(case.name.casefold(), case)
        if other is not case:
            first, second = (c.files[0] if c.files else c.name for c in (other, case))
            raise UsageError(
                f"{first} and {second} are both case '{case.name}' and would share one output "
                "folder; rename one or predict them into different folders"
            )
    return found


def _files_in(folder: Path) -> list[Path]:
    """Image files of a folder and of its sub-folders, labels' folders and hidden ones left out."""
    places = [folder] + sorted(
        sub
        for sub in folder.iterdir()
        if sub.is_dir() and not sub.name.startswith(".") and sub.name not in LABEL_FOLDERS
        # A case that was predicted into the same folder is a result, not an image.
        if not (sub / "manifest.json").exists()
    )
    files = [file for place in places for file in sorted(place.iterdir()) if is_volume_file(file)]
    if not files:
        dicom = any(file.suffix.lower() in DICOM for file in folder.rglob("*"))
        raise DataError(
            f"{folder}: no image in it; supported are {' '.join(SUFFIXES)}"
            + (DICOM_HINT if dicom else "")
        )
    return files


def _group(files: Sequence[Path], per_case: int) -> list[CaseInput]:
    """One case per file, or per CASE_0000, CASE_0001, ... where each channel has its own."""
    if per_case == 1:
        return [CaseInput(name=case_name(file), files=(file,)) for file in files]
    groups: dict[Path, dict[int, Path]] = {}
    for file in files:
        match = re.fullmatch(r"(.+)_(\d{4})", case_name(file))
        name, number = (match[1], int(match[2])) if match else (case_name(file), -1)
        other = groups.setdefault(file.parent / name, {}).setdefault(number, file)
        if other is not file:
            raise UsageError(f"{other} and {file} are the same channel of one case; remove one")
    return [
        CaseInput(name=stem.name, files=tuple(by_number[n] for n in sorted(by_number)))
        for stem, by_number in groups.items()
    ]


def _volume_of(image: Any) -> Volume:
    """A nibabel image in memory as a Volume."""
    import nibabel as nib

    if not hasattr(image, "dataobj") or not hasattr(image, "affine"):
        raise UsageError(
            f"cannot segment a {type(image).__name__}; give a path, a Volume or a nibabel image"
        )
    name = Path(image.get_filename() or "image.nii.gz")
    array = np.asanyarray(image.dataobj)
    if array.ndim not in (2, 3):
        raise DataError(f"{name}: shape {array.shape}; give one 3-D volume, split it first")
    affine = np.array(image.affine, dtype=np.float64)
    spacing = tuple(float(edge) for edge in nib.affines.voxel_sizes(affine)[: array.ndim])
    return Volume(array=array, affine=affine, spacing=spacing, rank=array.ndim, path=name)
