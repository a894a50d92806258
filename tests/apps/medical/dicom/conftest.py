"""Synthetic DICOM series of any orientation, and a phantom that tells right from left.

Axes. Arrays are (column, row, slice); `affine` takes their indices to RAS+ mm. DICOM's own patient
coordinates are LPS (PS3.3 C.7.6.2.1.1): +x left, +y posterior, +z superior. Everything is invented:
names, identifiers and dates belong to nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT_UID = "1.2.826.0.1.3680043.8.498.77"  # below pydicom's own root; nothing else uses .77
# Direction cosines of the image row (towards higher columns) and of the image column, LPS.
PLANES: dict[str, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.93629336, 0.27509585, -0.21835066, -0.20791169, 0.93358043, 0.29199336),
}
CLASSES = {"MR": "1.2.840.10008.5.1.4.1.1.4", "CT": "1.2.840.10008.5.1.4.1.1.2",
           "PT": "1.2.840.10008.5.1.4.1.1.128"}  # fmt: skip
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
EXPLICIT = "1.2.840.10008.1.2.1"
# Balls of the phantom: label, centre in RAS+ mm, radius in mm. No mirroring maps it onto itself.
BALLS = ((1, (15.0, 5.0, 8.0), 8.0), (2, (-13.0, -9.0, -6.0), 5.0))
NAMES = {0: "background", 1: "right ball", 2: "left ball"}


@dataclass(frozen=True, eq=False)
class Series:
    """What was written: files along the last axis of `array` (column, row, slice), its grid."""

    folder: Path
    files: tuple[Path, ...]
    array: np.ndarray
    affine: np.ndarray
    study: str
    uid: str


def cosines(plane: str | Sequence[float]) -> np.ndarray:
    """(2, 3): directions of the image's rows and columns, orthonormal."""
    given = np.array(PLANES[plane] if isinstance(plane, str) else plane, float).reshape(2, 3)
    row = given[0] / np.linalg.norm(given[0])
    column = given[1] - row * (given[1] @ row)
    return np.stack([row, column / np.linalg.norm(column)])


def grid(
    shape: Sequence[int],
    plane: str | Sequence[float] = "axial",
    spacing: Sequence[float] = (1.0, 1.25, 2.5),
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    reverse: bool = False,
) -> np.ndarray:
    """The affine (column, row, slice) -> LPS mm of a grid around `centre` (LPS mm).

    `spacing` is the step along columns, rows and slices; `reverse` stacks against the normal.
    """
    row, column = cosines(plane)
    normal = np.cross(row, column) * (-1 if reverse else 1)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row, column, normal], axis=1) * np.asarray(spacing, float)
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def to_ras(lps: np.ndarray) -> np.ndarray:
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def balls(shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """Label ids (column, row, slice) of the phantom on a grid that `affine` takes to RAS+ mm."""
    index = np.indices(tuple(shape)).reshape(3, -1)
    world = affine[:3, :3] @ index + affine[:3, 3:]
    labels = np.zeros(index.shape[1], np.uint8)
    for label, place, radius in BALLS:
        labels[np.linalg.norm(world - np.array(place)[:, None], axis=0) <= radius] = label
    return labels.reshape(tuple(shape))


def write_series(
    folder: Path,
    shape: Sequence[int] = (40, 36, 20),
    *,
    plane: str | Sequence[float] = "axial",
    spacing: Sequence[float] = (1.0, 1.25, 2.5),
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    reverse: bool = False,
    array: np.ndarray | None = None,
    modality: str = "MR",
    number: int = 1,
    description: str = "synthetic",
    patient: str = "77",
    study: int = 1,
    slope: float | Sequence[float] = 1.0,
    intercept: float = 0.0,
    edit: Callable[[Any, int], None] | None = None,
    multiframe: bool = False,
    prefix: str = "IM",
) -> Series:
    """Write a series and return what it is.

    Stored values are `array` (column, row, slice; uint16), or the phantom in noise. File names are
    in no order. `edit(dataset, slice)` may change each header before it is written (with
    `multiframe`, the one file's, slice 0). `slope` may be one number per slice: then
    `Series.array` is stored * slope + intercept, as float.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = grid(shape, plane, spacing, centre, reverse)
    if array is None:
        noise = np.random.default_rng(number).integers(0, 60, tuple(shape))
        array = (noise + np.uint16(400) * balls(shape, to_ras(lps))).astype(np.uint16)
    stored = np.asarray(array, np.uint16)
    study_uid, uid = f"{ROOT_UID}.{study}", f"{ROOT_UID}.{study}.{number}"
    slices = stored.shape[2]
    slopes = np.broadcast_to(np.asarray(slope, float), (slices,))
    common = _header(modality, number, description, patient, study_uid, uid, study)
    common.PixelSpacing = [float(spacing[1]), float(spacing[0])]  # between rows, between columns
    common.SliceThickness = float(spacing[2])
    common.ImageOrientationPatient = [round(float(v), 8) for v in cosines(plane).ravel()]
    places = [(lps @ [0, 0, k, 1])[:3].round(6).tolist() for k in range(slices)]
    if multiframe:
        dataset = _enhanced(common, stored, places, slopes, intercept)
        if edit is not None:
            edit(dataset, 0)
        files = [folder / f"{prefix}0000.dcm"]
        _save(dataset, files[0])
    else:
        order = np.random.default_rng(3).permutation(slices)
        files = [folder / f"{prefix}{place:04d}.dcm" for place in order]
        for k, file in enumerate(files):
            dataset = _slice(common, stored[:, :, k], places[k], slopes[k], intercept, k)
            if edit is not None:
                edit(dataset, k)
            _save(dataset, file)
    values: np.ndarray = stored
    if intercept or (slopes != 1).any():
        values = stored * slopes + intercept
    return Series(folder, tuple(files), values, to_ras(lps), study_uid, uid)


def _header(
    modality: str, number: int, description: str, patient: str, study: str, uid: str, place: int
) -> Any:
    from pydicom.dataset import Dataset

    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPClassUID = CLASSES[modality]
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
    header.StudyDate = header.SeriesDate = header.ContentDate = header.AcquisitionDate = "20010203"
    header.StudyTime = header.SeriesTime = header.ContentTime = header.AcquisitionTime = "040506"
    header.AccessionNumber = "A77"
    header.Modality = modality
    header.Manufacturer = "Phantoms"
    header.InstitutionName = "House of Nobody"
    header.ReferringPhysicianName = "Doctor^Invented"
    header.StudyDescription = "Study of Nobody"
    header.SeriesDescription = description
    header.PatientName = "Nobody^Invented"
    header.PatientID = patient
    header.PatientBirthDate = "19700101"
    header.PatientSex = "O"
    header.PatientAge = "031Y"
    header.PatientWeight = 70.5
    header.BodyPartExamined = "BRAIN"
    header.PatientPosition = "HFS"
    header.StudyInstanceUID = study
    header.SeriesInstanceUID = uid
    header.StudyID = f"S{place}"
    header.SeriesNumber = number
    header.FrameOfReferenceUID = f"{study}.999"
    header.PositionReferenceIndicator = ""
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation = 0
    if modality == "CT":
        header.KVP = 120
        header.AcquisitionNumber = 1
    else:
        header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "SE", "NONE", ""
        header.MRAcquisitionType, header.EchoTime, header.EchoTrainLength = "2D", 90, 1
        header.RepetitionTime = 4000
    return header


def _slice(common: Any, values: np.ndarray, place: list, slope: float, inter: float, k: int) -> Any:
    from copy import deepcopy

    dataset = deepcopy(common)
    dataset.SOPInstanceUID = f"{common.SeriesInstanceUID}.{k + 1}"
    dataset.InstanceNumber = k + 1
    dataset.ImagePositionPatient = place
    dataset.Rows, dataset.Columns = values.shape[1], values.shape[0]
    if common.Modality != "MR" or slope != 1 or inter != 0:
        dataset.RescaleSlope, dataset.RescaleIntercept = round(float(slope), 8), float(inter)
        dataset.RescaleType = "US"
    dataset.PixelData = np.ascontiguousarray(values.T).astype("<u2").tobytes()
    return dataset


def _enhanced(
    common: Any, stored: np.ndarray, places: list, slopes: np.ndarray, intercept: float
) -> Any:
    """One Enhanced MR file (PS3.3 A.36.2) with its frames in reverse order of position."""
    from copy import deepcopy

    from pydicom.dataset import Dataset

    dataset = deepcopy(common)
    dataset.SOPClassUID = ENHANCED_MR
    dataset.SOPInstanceUID = f"{common.SeriesInstanceUID}.1"
    dataset.InstanceNumber = 1
    dataset.NumberOfFrames = stored.shape[2]
    dataset.Rows, dataset.Columns = stored.shape[1], stored.shape[0]
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = dataset.PixelSpacing, dataset.SliceThickness
    orientation.ImageOrientationPatient = dataset.ImageOrientationPatient
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    for keyword in ("PixelSpacing", "SliceThickness", "ImageOrientationPatient"):
        delattr(dataset, keyword)
    frames = []
    for number, k in enumerate(reversed(range(stored.shape[2])), 1):
        content, position, rescale, item = Dataset(), Dataset(), Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber = "1", number
        content.DimensionIndexValues = [1, number]
        position.ImagePositionPatient = places[k]
        rescale.RescaleSlope, rescale.RescaleIntercept = round(float(slopes[k]), 8), intercept
        rescale.RescaleType = "US"
        item.FrameContentSequence, item.PlanePositionSequence = [content], [position]
        item.PixelValueTransformationSequence = [rescale]
        frames.append(item)
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = np.ascontiguousarray(stored.T[::-1]).astype("<u2").tobytes()
    return dataset


def _save(dataset: Any, file: Path) -> None:
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = EXPLICIT
    dataset.file_meta = meta
    dataset.save_as(file, enforce_file_format=True)


@pytest.fixture(scope="session")
def series() -> Callable[..., Series]:
    """`write_series`: write a synthetic series into a folder."""
    return write_series


@pytest.fixture(scope="session")
def phantom() -> Callable[..., np.ndarray]:
    """`balls(shape, affine to RAS+)`: the phantom's labels on any grid."""
    return balls


@pytest.fixture(scope="session")
def names() -> dict[int, str]:
    """The phantom's labels: 1 lies in the patient's right side, 2 in the left."""
    return dict(NAMES)


@pytest.fixture(scope="session")
def dicom_data() -> Path:
    """A folder with brain-study/ and prostate-study/, named by TRIPTYCH_DICOM_DATA; else skips."""
    place = os.environ.get("TRIPTYCH_DICOM_DATA")
    if not place or not Path(place).is_dir():
        pytest.skip("TRIPTYCH_DICOM_DATA names no folder of real DICOM studies")
    return Path(place)
