"""Label maps as DICOM Segmentation objects (PS3.3 A.51), and back.

Written is a BINARY segmentation by highdicom: one segment per label, one frame per label and slice,
empty frames left out, every frame with the position of its slice as the source file has it, and a
reference to that file. Read is what this program and others write: BINARY and LABELMAP.

Axes: labels are (column, row, slice), the order of ``apps.medical.dicom.volume``; the patient
coordinates of the file are LPS (PS3.3 C.7.6.2.1.1), those of ``Volume.affine`` RAS. Segments are
numbered 1, 2, ... (PS3.3 C.8.20.2.2) in the order of the label ids, which may be others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.data.volume import Volume, corner_shift
from apps.medical.dicom.codes import PRIVATE, PRIVATE_NAME, Code, LabelCode, codes_for
from apps.medical.dicom.derived import (
    MANUFACTURER,
    dicom_store,
    line,
    new_uid,
    quiet,
    series_number,
    study_header,
)
from apps.medical.dicom.read_segmentation import SegContent, read_seg
from apps.medical.shipped import DISCLAIMER
from core import __version__
from core.errors import DataError, UsageError
from core.files import atomic_path, require_absent

__all__ = ["Algorithm", "SegContent", "read_seg", "write_seg"]

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from apps.medical.dicom.deidentify import Deidentifier

# Of the source's in-plane voxel edge: how far labels may lie from the slices they are written for.
TOLERANCE = 0.01
# The class (MR Image) of the single-frame stand-ins that highdicom gets for each slice, be it a
# frame of a multi-frame image or an instance of a class that highdicom does not know.
_STAND_IN = "1.2.840.10008.5.1.4.1.1.4"
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What made the segmentation (PS3.3 10.16, Algorithm Identification Macro; each at most 64
    characters). ``parameters`` are the options that decide about its result; ``edited``: a person
    changed it afterwards, which makes it SEMIAUTOMATIC (PS3.3 C.8.20.2)."""

    name: str
    version: str
    source: str = MANUFACTURER
    parameters: Mapping[str, str] = field(default_factory=dict)
    edited: bool = False


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """One slice of the source: which frame of which file it is, and where it lies (LPS, mm)."""

    sop_class: str
    instance: str
    frame: int | None  # from 1; None in a single-frame file
    position: tuple[float, ...]  # centre of the first voxel
    orientation: tuple[float, ...]  # directions of the row and of the column
    spacing: tuple[float, ...]  # between rows, between columns
    thickness: float | None


def write_seg(
    path: Path | str,
    labels: np.ndarray,
    volume: Volume,
    names: Mapping[int, str],
    *,
    codes: Mapping[int, LabelCode] | None = None,
    algorithm: Algorithm,
    description: str = "",
    deidentify: bool | Deidentifier = False,
    force: bool = False,
) -> Path:
    """Write ``labels`` (column, row, slice; integers) as a segmentation of the series ``volume``.

    ``names`` maps ids to names; 0 is background, and every other id in ``labels`` needs a name.
    Labels that do not occur are described all the same: looked for and not found. ``codes`` are
    ``codes_for(names, algorithm.name)`` where not given. ``deidentify`` leaves out what identifies the patient and
    replaces identifiers, those of the referenced series too; pass the ``Deidentifier`` of the
    source's copy to keep the references right. The file appears when it is complete.

    Raises DataError when ``volume`` was not read from DICOM, the labels are not on its grid, an id
    has no name, or the series lacks what a segmentation must repeat; UsageError when ``path``
    exists without ``force``; ResourceError when it cannot be written.
    """
    from apps.medical.dicom.deidentify import Deidentifier

    path = Path(path)
    require_absent(path, force)
    labels, numbers = _segments(path, labels, volume, names)
    store = dicom_store(volume, "a DICOM segmentation")
    headers: Sequence[Dataset] = store.read_headers()
    cleaner = deidentify if isinstance(deidentify, Deidentifier) else None
    if deidentify is True:
        cleaner = Deidentifier()
    slices = _slices(headers, store.frames)
    _check_grid(path, slices, volume)
    with quiet():
        sources = _sources(headers, slices, volume, cleaner)
        made = _build(
            sources, labels, numbers, names, dict(codes or {}), algorithm, description, headers[0]
        )
        _refer(made, sources, slices, cleaner)
        if cleaner is not None:
            cleaner.mark(made)
        with atomic_path(path, force=force) as temporary:
            made.save_as(temporary, enforce_file_format=True)
    return path


def _segments(
    path: Path, labels: np.ndarray, volume: Volume, names: Mapping[int, str]
) -> tuple[np.ndarray, dict[int, int]]:
    """Labels as segment numbers, and label id -> segment number."""
    labels = np.asarray(labels)
    if labels.shape != volume.shape:
        raise DataError(
            f"{path}: labels of shape {labels.shape} do not fit the grid {volume.shape} of "
            f"{volume.path}; restore them to the series' grid first"
        )
    if labels.dtype.kind not in "iub":
        raise DataError(f"{path}: labels must be integers, got {labels.dtype}")
    wanted = sorted(label for label in names if label != 0)
    if not wanted:
        raise UsageError(f"{path}: no label but the background has a name; a segment needs one")
    present = set(np.unique(labels).tolist()) - {0}
    if not present <= set(wanted):
        raise DataError(
            f"{path}: label {min(present - set(wanted))} has no name; named are "
            f"{', '.join(map(str, wanted))}"
        )
    numbers = {label: number for number, label in enumerate(wanted, 1)}
    dtype = np.uint8 if len(wanted) < 2**8 else np.uint16
    segments = np.zeros(labels.shape, dtype)
    for label, number in numbers.items():
        segments[labels == label] = number
    return segments, numbers


def _slices(headers: Sequence[Dataset], frames: Sequence[int]) -> list[_Slice]:
    """Where each slice lies, from its own header: the values that the segmentation repeats."""
    found = []
    if len(headers) == 1:  # one multi-frame file
        headers = [headers[0]] * len(frames)
    for header, frame in zip(headers, frames, strict=True):
        multi = "PerFrameFunctionalGroupsSequence" in header
        groups = [header]
        if multi:
            groups = [
                header.PerFrameFunctionalGroupsSequence[frame],
                header.SharedFunctionalGroupsSequence[0],
            ]
        measures = ("PixelMeasuresSequence", "PixelSpacing", "SliceThickness")
        spacing = _numbers(groups, measures[0], measures[1], multi, 2)
        found.append(
            _Slice(
                sop_class=str(header.SOPClassUID),
                instance=str(header.SOPInstanceUID),
                frame=frame + 1 if multi else None,
                position=_numbers(
                    groups, "PlanePositionSequence", "ImagePositionPatient", multi, 3
                ),
                orientation=_numbers(
                    groups, "PlaneOrientationSequence", "ImageOrientationPatient", multi, 6
                ),
                spacing=spacing,
                thickness=_thickness(groups, multi),
            )
        )
    return found


def _numbers(
    groups: Sequence[Dataset], sequence: str, keyword: str, multi: bool, count: int
) -> tuple[float, ...]:
    """``count`` numbers of an element, in a multi-frame image inside its functional group."""
    for group in groups:
        items = group.get(sequence) if multi else [group]
        value = items[0].get(keyword) if items else None
        if value is not None and len(value) == count:
            return tuple(float(v) for v in value)
    raise DataError(f"the series has no {keyword}; a segmentation has to repeat it")


def _thickness(groups: Sequence[Dataset], multi: bool) -> float | None:
    for group in groups:
        items = group.get("PixelMeasuresSequence") if multi else [group]
        value = items[0].get("SliceThickness") if items else None
        if value not in (None, "") and float(value) > 0:
            return float(value)
    return None


def _check_grid(path: Path, slices: Sequence[_Slice], volume: Volume) -> None:
    """The headers must put the slices where the volume's affine says they are."""
    if len(slices) != volume.shape[2]:
        raise DataError(
            f"{path}: {volume.shape[2]} slices of labels, the series has {len(slices)}; restore "
            "them to the series' grid first"
        )
    first, last = slices[0], slices[-1]
    step = np.subtract(last.position, first.position) / max(len(slices) - 1, 1)
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(first.orientation[:3], first.spacing[1])
    affine[:3, 1] = np.multiply(first.orientation[3:], first.spacing[0])
    affine[:3, 2] = step if len(slices) > 1 else (_TO_LPS @ volume.affine)[:3, 2]
    affine[:3, 3] = first.position
    shift = corner_shift(_TO_LPS @ affine, volume.affine, volume.shape)
    if shift > max(TOLERANCE * min(volume.spacing), 1e-3):
        raise DataError(
            f"{path}: the labels' grid lies {shift:.3g} mm from the slices of {volume.path}; "
            "restore them to the series' grid first"
        )


def _sources(
    headers: Sequence[Dataset],
    slices: Sequence[_Slice],
    volume: Volume,
    cleaner: Deidentifier | None,
) -> list[Dataset]:
    """One small stand-in header per slice: what highdicom copies, and no more.

    The spacing between slices is the measured one: the element of that name is a gap in some
    archives and wrong in others.
    """
    from pydicom.valuerep import format_number_as_ds

    reference = headers[0]
    frame_of_reference = reference.get("FrameOfReferenceUID")
    if not frame_of_reference:
        raise DataError(
            f"{volume.path}: the series has no Frame of Reference UID, which a segmentation must "
            "repeat; use seg.nii.gz"
        )
    common = study_header(reference)
    common.SeriesInstanceUID = str(reference.SeriesInstanceUID)
    common.FrameOfReferenceUID = str(frame_of_reference)
    common.Modality = str(reference.get("Modality") or "OT")
    if cleaner is not None:
        common = cleaner.dataset(common)
    common.PositionReferenceIndicator = ""
    common.SpacingBetweenSlices = format_number_as_ds(float(volume.spacing[2]))
    common.Rows, common.Columns = volume.shape[1], volume.shape[0]
    if reference.get("LossyImageCompression") == "01":  # once lossy, always so (C.7.6.1.1.5)
        common.LossyImageCompression = "01"
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if reference.get(keyword):
                setattr(common, keyword, reference[keyword].value)
    made = []
    for place in slices:
        source = deepcopy(common)
        source.SOPClassUID, source.SOPInstanceUID = _STAND_IN, new_uid()
        source.ImagePositionPatient = _decimals(place.position)
        source.ImageOrientationPatient = _decimals(place.orientation)
        source.PixelSpacing = _decimals(place.spacing)
        thickness = place.thickness or float(volume.spacing[2])
        source.SliceThickness = format_number_as_ds(thickness)
        made.append(source)
    return made


def _decimals(values: Sequence[float]) -> list[str]:
    """Numbers as Decimal Strings of at most 16 characters (PS3.5 6.2), the closest there are."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value)) for value in values]


def _build(
    sources: list[Dataset],
    labels: np.ndarray,
    numbers: Mapping[int, int],
    names: Mapping[int, str],
    codes: dict[int, LabelCode],
    algorithm: Algorithm,
    description: str,
    header: Dataset,
) -> Dataset:
    """The segmentation object itself."""
    import highdicom as hd
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.uid import ExplicitVRLittleEndian

    about = {label: names[label] for label in numbers}
    codes = codes_for(about, algorithm.name) | {
        label: code for label, code in codes.items() if label in about
    }
    schemes = None
    if any(scheme == PRIVATE for code in codes.values() for scheme in _schemes(code)):
        schemes = [
            CodingSchemeIdentificationItem(
                PRIVATE, name=PRIVATE_NAME, responsible_organization=MANUFACTURER
            )
        ]
    try:
        made = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=np.ascontiguousarray(labels.transpose(2, 1, 0)),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_describe(numbers, about, codes, algorithm),
            series_instance_uid=new_uid(),
            series_number=series_number(header, 9000),
            sop_instance_uid=new_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=line(algorithm.name, MANUFACTURER),
            software_versions=__version__,
            device_serial_number="0",
            content_label="SEGMENTATION",
            content_description=line(description, "Segmentation, research use only"),
            series_description=line(description) or line(f"Segmentation: {algorithm.name}"),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            coding_schemes=schemes,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"this series cannot carry a segmentation ({reason})") from error
    made.SegmentSequence[0].SegmentDescription = DISCLAIMER
    return made


def _describe(
    numbers: Mapping[int, int],
    names: Mapping[int, str],
    codes: Mapping[int, LabelCode],
    algorithm: Algorithm,
) -> list[Any]:
    """Segment descriptions in the order of their numbers."""
    import highdicom as hd
    from pydicom.sr.codedict import codes as dictionary

    from apps.medical.overlay import colour_of

    identification = hd.AlgorithmIdentificationSequence(
        name=line(algorithm.name, MANUFACTURER),
        family=dictionary.DCM.ArtificialIntelligence,
        version=line(algorithm.version, "unknown"),
        source=line(algorithm.source, MANUFACTURER),
        parameters=dict(algorithm.parameters) or None,
    )
    kinds = hd.seg.SegmentAlgorithmTypeValues
    made = []
    for label, number in numbers.items():
        code = codes[label]
        segment = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=line(names[label], f"label {label}"),
            segmented_property_category=_concept(code.category),
            segmented_property_type=_concept(code.type),
            algorithm_type=kinds.SEMIAUTOMATIC if algorithm.edited else kinds.AUTOMATIC,
            algorithm_identification=identification,
            anatomic_regions=[_concept(code.region)] if code.region else None,
            display_color=hd.color.CIELabColor.from_string(code.colour or colour_of(label)),
        )
        if code.modifier is not None:
            kind = segment.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(code.modifier)]
        made.append(segment)
    return made


def _concept(code: Code) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _schemes(code: LabelCode) -> set[str]:
    parts = (code.category, code.type, code.modifier, code.region)
    return {part.scheme for part in parts if part is not None}


def _refer(
    made: Dataset,
    sources: Sequence[Dataset],
    slices: Sequence[_Slice],
    cleaner: Deidentifier | None,
) -> None:
    """Turn references to the stand-ins into references to the instances and frames themselves."""
    from pydicom.dataset import Dataset

    stand_ins = {str(source.SOPInstanceUID): place for source, place in zip(sources, slices)}

    def uid(place: _Slice) -> str:
        return place.instance if cleaner is None else cleaner.uid(place.instance)

    for group in made.PerFrameFunctionalGroupsSequence:
        for derivation in group.DerivationImageSequence:
            for item in derivation.SourceImageSequence:
                place = stand_ins.get(str(item.ReferencedSOPInstanceUID))
                if place is not None:  # else done: segments in one slice share the item
                    item.ReferencedSOPClassUID = place.sop_class
                    item.ReferencedSOPInstanceUID = uid(place)
                    if place.frame is not None:
                        item.ReferencedFrameNumber = place.frame
    files = {place.instance: place for place in slices}
    for holder, keyword in (
        (made, "SourceImageSequence"),
        (made.ReferencedSeriesSequence[0], "ReferencedInstanceSequence"),
    ):
        items = []
        for place in files.values():
            items.append(Dataset())
            items[-1].ReferencedSOPClassUID = place.sop_class
            items[-1].ReferencedSOPInstanceUID = uid(place)
        setattr(holder, keyword, items)
