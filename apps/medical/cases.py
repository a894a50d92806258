"""What there is to segment: files, folders, DICOM studies and images in memory, as named cases.

A case's name is its file's name without the image suffix, dots and spaces kept; of a DICOM source
the name of the folder or zip, never anything from the headers, which may name the patient. It
becomes a folder, so two inputs of one name are an error before any work.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.data.layouts import LABEL_FOLDERS
from apps.medical.data.volume import (
    DICOM,
    DICOM_HINT,
    RASTER,
    SUFFIXES,
    Volume,
    case_name,
    is_volume_file,
    read_image,
    read_label,
    same_grid,
    suffix_of,
)
from core.errors import DataError, UsageError
from core.files import sha256

if TYPE_CHECKING:
    from apps.medical.data.plan import Plan
    from apps.medical.dicom.series import SeriesInfo


@dataclass(frozen=True, kw_only=True)
class CaseInput:
    """One case to segment: a file or DICOM series per channel, or one file or array with all.

    ``error`` is what is wrong with a DICOM source, for the case to fail with while others are done;
    ``note`` is what a reader of the result must know of the choice of series.
    """

    name: str
    files: tuple[Path, ...] = ()
    volumes: tuple[Volume, ...] = ()
    series: tuple[SeriesInfo, ...] = ()
    error: str = ""
    note: str = ""


def files_per_case(plan: Plan) -> int:
    """How many files make a case: colours and a fourth axis hold their channels in one."""
    joined = plan.channels_last_axis or plan.channels == ["red", "green", "blue"]
    return 1 if joined else len(plan.channels)


def find_cases(
    inputs: Any,
    per_case: int = 1,
    *,
    dicom: bool = False,
    series: Sequence[str] = (),
    plan: Plan | None = None,
) -> list[CaseInput]:
    """The cases that ``inputs`` (paths, Volumes, nibabel images; one or several) name, in order.

    ``per_case`` is how many files make one, see ``files_per_case``. With ``dicom``, zips, DICOMDIRs,
    DICOM files and folders with DICOM but no images are sources of series: ``series`` names which,
    as ``choose_series`` takes it (one per channel, or several cases for a model of one channel), or
    else the rule there picks what fits ``plan``. With ``series`` a folder's images are passed over,
    and with a ``plan`` of rank 3 pictures (PNG, JPEG) beside DICOM are.

    Raises UsageError when there is none, when a choice of series is open, or when two would share a
    name (also on a disk that does not tell upper from lower case), DataError for a folder without
    images.
    """
    single = isinstance(inputs, str | os.PathLike | Volume) or hasattr(inputs, "dataobj")
    found: list[CaseInput] = []
    files: list[Path] = []
    for entry in [inputs] if single else inputs:
        if isinstance(entry, str | os.PathLike):
            path = Path(entry)
            images = _files_in(path) if path.is_dir() and not (dicom and series) else []
            if dicom and plan is not None and plan.rank == 3:
                images = _without_thumbnails(path, images)
            if dicom and not images and _is_dicom(path):
                found += _dicom_cases(path, per_case, series, plan)
            elif path.is_dir():
                files += images or _nothing_in(path)
            else:
                files.append(path)
        else:
            volume = entry if isinstance(entry, Volume) else _volume_of(entry)
            found.append(CaseInput(name=case_name(volume.path), volumes=(volume,)))
    found += _group(files, per_case)
    if not found:
        raise UsageError("no input: give image files or folders of them")
    if series and not any(case.series or case.error for case in found):
        raise UsageError("--series chooses from DICOM; the input is none")
    names: dict[str, CaseInput] = {}
    for case in found:
        other = names.setdefault(case.name.casefold(), case)
        if other is not case:
            first, second = (_origin(c) for c in (other, case))
            raise UsageError(
                f"{first} and {second} are both case '{case.name}' and would share one output "
                "folder; rename one or predict them into different folders"
            )
    return found


def read(path: str | Path, *, series: str = "") -> Volume:
    """One image, however it comes: an image file, or a series of a DICOM folder, zip or DICOMDIR.

    ``series`` (UID, number or part of the description) chooses among several. Raises UsageError
    where the choice is open or ``path`` holds several images, DataError for what cannot be read.
    """
    found = find_cases(path, dicom=True, series=[series] if series else ())
    if len(found) > 1:
        raise UsageError(f"{path}: holds {len(found)} images; give the file of one")
    (case,) = found
    if case.error:
        raise DataError(case.error)
    if case.series:
        from apps.medical.dicom.volume import read_series

        return read_series(case.series[0])
    return read_image(case.files[0])


def read_labels(path: str | Path, *, like: Volume | None = None) -> Volume:
    """A label map, integers (*S), from an image file or a DICOM segmentation.

    ``like`` is the image it belongs to: a DICOM segmentation, which leaves empty slices out, is put
    on its grid, and another grid is a DataError. Raises DataError for what is no label map.
    """
    path = Path(path)
    if not suffix_of(path) and path.is_file():
        from apps.medical.dicom.read_segmentation import read_seg

        return read_seg(path, like=like).volume
    labels = read_label(path)
    difference = same_grid(labels, like) if like is not None else ""
    if difference:
        raise DataError(f"{path}: does not lie on the grid of its image ({difference})")
    return labels


def _origin(case: CaseInput) -> Path | str:
    if case.series:
        return case.series[0].source
    return case.files[0] if case.files else case.name


def provenance(case: CaseInput, *, deidentify: bool = False) -> list[dict[str, Any]]:
    """What the case was read from, for its manifest: paths and SHA-256.

    A DICOM series is its source, its UID and the digest of its files' digests in slice order; with
    ``deidentify`` the digest alone, for folders' names and UIDs lead back to the patient.
    """
    found: list[dict[str, Any]] = [
        {"path": str(file), "sha256": sha256(file)} for file in case.files
    ]
    for info in case.series:
        about: dict[str, Any] = {"files": len(info.files), "sha256": _series_digest(info)}
        if not deidentify:
            about = {"path": str(info.source), "series": info.uid, "part": info.part} | about
        found.append(about)
    return found


def read_again(entry: Mapping[str, Any], *, channels_last_axis: bool = False) -> Volume:
    """The image that an entry of ``provenance`` names. DataError where it moved or changed,
    KeyError where the entry does not say."""
    path, known = Path(entry["path"]), entry["sha256"]
    if "series" in entry:
        from apps.medical.dicom.series import list_series
        from apps.medical.dicom.volume import read_series

        for info in list_series(path):
            same = (info.uid, info.part) == (entry["series"], entry["part"])
            if same and not info.refusal and _series_digest(info) == known:
                return read_series(info)
    elif path.is_file() and sha256(path) == known:
        return read_image(path, channels_last_axis=channels_last_axis)
    raise DataError(f"{path}: moved or changed since it was segmented")


def _series_digest(info: SeriesInfo) -> str:
    return hashlib.sha256("".join(sha256(file) for file in info.files).encode()).hexdigest()


def _files_in(folder: Path) -> list[Path]:
    """Image files of a folder and of its sub-folders, labels' folders and hidden ones left out."""
    places = [folder] + sorted(
        sub
        for sub in folder.iterdir()
        if sub.is_dir() and not sub.name.startswith(".") and sub.name not in LABEL_FOLDERS
        # A case that was predicted into the same folder is a result, not an image.
        if not (sub / "manifest.json").exists()
    )
    return [file for place in places for file in sorted(place.iterdir()) if is_volume_file(file)]


def _nothing_in(folder: Path) -> list[Path]:
    dicom = any(file.suffix.lower() in DICOM for file in folder.rglob("*"))
    raise DataError(
        f"{folder}: no image in it; supported are {' '.join(SUFFIXES)}"
        + (DICOM_HINT if dicom else "")
    )


def _without_thumbnails(folder: Path, images: list[Path]) -> list[Path]:
    """No images where only pictures lie beside DICOM: a study's disk comes with logos and previews."""
    if images and all(suffix_of(file) in RASTER for file in images) and _is_dicom(folder):
        return []
    return images


def _is_dicom(path: Path) -> bool:
    """Whether a path without images is a source of DICOM series; an image's suffix says it is not."""
    from apps.medical.dicom.sources import has_dicom, is_source

    if path.is_dir():
        return has_dicom(path)
    return not suffix_of(path) and (path.suffix.lower() in (*DICOM, ".zip") or is_source(path))


def _dicom_cases(
    path: Path, per_case: int, wanted: Sequence[str], plan: Plan | None
) -> list[CaseInput]:
    """The cases of one DICOM source. What is wrong with it becomes the case's error."""
    from apps.medical.dicom.choose import choose_series
    from apps.medical.dicom.series import list_series

    name = _source_name(path)
    if per_case > 1 and wanted and len(wanted) != per_case:
        raise UsageError(f"--series: {len(wanted)} given, the model wants {per_case}, in order")
    if not path.exists():
        return [CaseInput(name=name, error=f"{path}: no such file")]
    try:
        found = list_series(path)
        choices = wanted or [None] * per_case  # type: ignore[list-item]
        if per_case == 1:
            chosen = [choose_series(found, choice, plan) for choice in choices]
        else:
            chosen = [choose_series(found, c, plan, channel) for channel, c in enumerate(choices)]
    except DataError as error:
        return [CaseInput(name=name, error=str(error))]
    distinct = {(info.uid, info.part) for info in chosen}
    if len(distinct) < len(chosen):
        raise UsageError(
            f"{path}: series {chosen[0].number or ''} was chosen twice; name one per "
            + ("channel with --series, in order" if per_case > 1 else "--series")
        )
    if per_case > 1 or len(chosen) == 1:
        note = ""
        if not wanted and sum(not info.refusal for info in found) > len(chosen):
            taken = ", ".join(f"'{info.title}'" for info in chosen)
            note = f"of {len(found)} series {taken} was taken by rule; --series chooses another"
        return [CaseInput(name=name, series=tuple(chosen), note=note)]
    numbers = [info.number for info in chosen]
    telling = len(set(numbers)) == len(numbers) and None not in numbers
    return [
        CaseInput(name=f"{name}_{info.number if telling else place}", series=(info,))
        for place, info in enumerate(chosen, 1)
    ]


def _source_name(path: Path) -> str:
    """A case's name from a source's: safe as a folder's, on every system."""
    whole = path.absolute()
    if whole.name.casefold() == "dicomdir":
        whole = whole.parent
    text = whole.resolve().name if path.name in ("", ".", "..") else whole.name
    if not whole.is_dir():
        text = re.sub(r"\.(zip|dcm|dicom|ima)$", "", text, flags=re.IGNORECASE)
    safe = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", text).strip(" .")
    return safe or "dicom"


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
