"""What one DICOM file's header says, without its pixels, checked as far as a header can be.

One file is an ``Instance``; its images are ``Frame``s: one in a classic file, many in an enhanced
multi-frame one, where each frame's place comes from the functional groups (PS3.3 C.7.6.16). Where an
instance cannot be segmented, ``refusal`` says why in words; a file that cannot be parsed at all
raises DataError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.medical.dicom.refusals import cut_short, why_not
from apps.medical.dicom.stream import DEFLATED, Pixels, check_deflated, pixels_ahead
from apps.medical.dicom.values import (
    Vector,
    in_group,
    is_multi,
    meta,
    printable,
    private_value,
    quiet_reading,
    syntax_of,
    to_float,
    to_int,
    to_items,
    to_scale,
    to_text,
    to_vector,
)
from core.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_FRAMES = 100_000
_TAGS: list[Any] = [
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "AcquisitionTime",
    "ContentTime", "Modality", "SeriesDescription", "PatientID", "PatientName", "BodyPartExamined",
    "SequenceName", "SliceThickness", "EchoTime", "InversionTime", "EchoNumbers", "TriggerTime",
    "SpacingBetweenSlices", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber",
    "AcquisitionNumber", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient",
    "FrameOfReferenceUID", "TemporalPositionIdentifier", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "LossyImageCompression",
    "ModalityLUTSequence", "DiffusionBValue", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "ConcatenationUID", "ImagerPixelSpacing",
    # Siemens' number of tiles in a mosaic and b-value, GE's and Philips' b-values
    0x0019100A, 0x0019100C, 0x00431039, 0x20011003, 0x00190010, 0x00430010, 0x20010010,
]  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """One image: where it lies (PS3.3 C.7.6.2) and what sets it apart from others at its place.

    ``position`` (x, y, z) in mm, LPS+, of the first voxel's centre; ``orientation`` the direction
    cosines of a row and of a column; ``spacing`` (between rows, between columns) in mm. ``facts``
    are values by which stacks at the same places are told apart. ``number`` counts from 0.
    """

    file: Path
    number: int
    sop_uid: str
    position: Vector | None
    orientation: Vector | None
    spacing: Vector | None
    slope: float = 1.0
    intercept: float = 0.0
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One file. ``refusal`` is why its images cannot be segmented, or ""."""

    file: Path
    frames: tuple[Frame, ...]
    sop_uid: str
    sop_class: str
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    patient: tuple[str, str]  # ID and, where that is empty, name: to tell patients apart, no more
    modality: str
    description: str
    number: int | None
    instance_number: int | None
    body_part: str
    rows: int
    columns: int
    photometric: str
    bits: tuple[int, int, int, bool]  # allocated, stored, high bit, signed
    padding: tuple[int, int] | None
    transfer_syntax: str
    lossy: bool
    slice_spacing: float | None  # Spacing Between Slices: compared, never used
    refusal: str = ""


def read_instance(file: Path) -> Instance:
    """The header of ``file``. Raises DataError where it cannot be parsed as DICOM."""
    import pydicom

    try:
        with quiet_reading(), file.open("rb") as stream:
            check_deflated(stream)
            header = pydicom.dcmread(
                stream, stop_before_pixels=True, force=True, specific_tags=_TAGS
            )
            # The parser inflates a deflated file in memory; of the stream nothing is left to look at.
            pixels = None if syntax_of(header) == DEFLATED else pixels_ahead(stream)
            return _instance(file, header, pixels)
    except DataError:
        raise
    except Exception as error:  # whatever a hostile or damaged file makes the parser raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"{file}: a damaged DICOM header ({reason}); copy it again") from error


def _instance(file: Path, header: Dataset, pixels: Pixels | None) -> Instance:
    allocated = to_int(header, "BitsAllocated") or 0
    stored = to_int(header, "BitsStored") or allocated
    signed = to_int(header, "PixelRepresentation") == 1
    high = to_int(header, "HighBit")
    patient_id = to_text(header, "PatientID")
    frames, trouble = _frames(file, header)
    modality = to_text(header, "Modality")
    instance = Instance(
        file=file,
        frames=frames,
        sop_uid=to_text(header, "SOPInstanceUID"),
        sop_class=to_text(header, "SOPClassUID") or meta(header, "MediaStorageSOPClassUID"),
        series_uid=to_text(header, "SeriesInstanceUID"),
        study_uid=to_text(header, "StudyInstanceUID"),
        frame_of_reference_uid=to_text(header, "FrameOfReferenceUID"),
        patient=(patient_id, "" if patient_id else to_text(header, "PatientName")),
        modality=modality,
        description=to_text(header, "SeriesDescription"),
        number=to_int(header, "SeriesNumber"),
        instance_number=to_int(header, "InstanceNumber"),
        body_part=to_text(header, "BodyPartExamined"),
        rows=to_int(header, "Rows") or 0,
        columns=to_int(header, "Columns") or 0,
        photometric=to_text(header, "PhotometricInterpretation"),
        bits=(allocated, stored, stored - 1 if high is None else high, signed),
        padding=_padding(header, signed, allocated),
        transfer_syntax=syntax_of(header),
        lossy=to_text(header, "LossyImageCompression") == "01",
        slice_spacing=to_float(header.get("SpacingBetweenSlices")),
    )
    refusal = why_not(instance, header, pixels) or trouble or cut_short(instance, pixels)
    return replace(instance, refusal=refusal)


def _frames(file: Path, header: Dataset) -> tuple[tuple[Frame, ...], str]:
    """The images of one file and, where they have no place, why."""
    uid = to_text(header, "SOPInstanceUID")
    count = to_int(header, "NumberOfFrames") or 1
    shared = to_items(header, "SharedFunctionalGroupsSequence")[:1]
    groups = to_items(header, "PerFrameFunctionalGroupsSequence")
    if not groups and count == 1:
        frame = Frame(
            file=file,
            number=0,
            sop_uid=uid,
            position=to_vector(header.get("ImagePositionPatient"), 3),
            orientation=to_vector(header.get("ImageOrientationPatient"), 6),
            spacing=to_vector(header.get("PixelSpacing"), 2),
            slope=to_scale(header.get("RescaleSlope"), 1.0),
            intercept=to_scale(header.get("RescaleIntercept"), 0.0),
            facts=_facts(header),
        )
        projection = frame.spacing is None and header.get("ImagerPixelSpacing") is not None
        return (frame,), "is a projection image (X-ray), not a slice" if projection else ""
    if not 1 <= count <= MAX_FRAMES:
        return (), f"declares {count} frames"
    if len(groups) != count:
        empty = Frame(
            file=file, number=0, sop_uid=uid, position=None, orientation=None, spacing=None
        )
        return (empty,) * count, (
            f"has {count} frames but says the place of {len(groups)}; its geometry is unknown"
        )
    frames = []
    for number, group in enumerate(groups):
        levels = [group, *shared]
        frames.append(
            Frame(
                file=file,
                number=number,
                sop_uid=uid,
                position=to_vector(in_group(levels, "PlanePosition", "ImagePositionPatient"), 3),
                orientation=to_vector(
                    in_group(levels, "PlaneOrientation", "ImageOrientationPatient"), 6
                ),
                spacing=to_vector(in_group(levels, "PixelMeasures", "PixelSpacing"), 2),
                slope=to_scale(in_group(levels, "PixelValueTransformation", "RescaleSlope"), 1.0),
                intercept=to_scale(
                    in_group(levels, "PixelValueTransformation", "RescaleIntercept"), 0.0
                ),
                facts=_group_facts(levels),
            )
        )
    return tuple(frames), ""


# In this order they are tried to tell volumes apart; the later ones may differ from slice to slice.
_CLASSIC_FACTS = {
    "echo time": "EchoTime",
    "image type": "ImageType",
    "time point": "TemporalPositionIdentifier",
    "inversion time": "InversionTime",
    "trigger time": "TriggerTime",
    "sequence": "SequenceName",
    "acquisition": "AcquisitionNumber",
    "acquisition time": "AcquisitionTime",
}
_ENHANCED_FACTS = {
    "b": ("MRDiffusion", "DiffusionBValue"),
    "echo time": ("MREcho", "EffectiveEchoTime"),
    "image type": ("MRImageFrameType", "FrameType"),
    "CT image type": ("CTImageFrameType", "FrameType"),
    "time point": ("FrameContent", "TemporalPositionIndex"),
    "stack": ("FrameContent", "StackID"),
    "cardiac phase": ("CardiacSynchronization", "NominalPercentageOfCardiacPhase"),
    "acquisition": ("FrameContent", "FrameAcquisitionNumber"),
}


def _facts(header: Dataset) -> dict[str, str]:
    b = _b_value(header)
    facts = {"b": "" if b is None else str(b)}
    facts |= {name: printable(header.get(keyword)) for name, keyword in _CLASSIC_FACTS.items()}
    return _told(facts)


def _group_facts(levels: Sequence[Dataset]) -> dict[str, str]:
    facts = {name: printable(in_group(levels, *where)) for name, where in _ENHANCED_FACTS.items()}
    return _told(facts)


def _told(facts: dict[str, str]) -> dict[str, str]:
    """Without what is not said; numbers in one way of writing, 800 and not 800.0."""
    for name in ("b", "echo time"):
        value = to_float(facts[name])
        facts[name] = facts[name] if value is None else f"{value:g}"
    return {name: value for name, value in facts.items() if value}


def _b_value(header: Dataset) -> float | None:
    """The b-value in s/mm2: the standard's element, or Siemens', GE's or Philips' private one."""
    for tag, creator in (
        ("DiffusionBValue", ""),
        (0x0019100C, "SIEMENS MR HEADER"),
        (0x00431039, "GEMS_PARM_01"),
        (0x20011003, "Philips Imaging DD 001"),
    ):
        value = private_value(header, tag, creator) if creator else header.get(tag)
        many: Any = value if is_multi(value) else [value]
        values = list(many)
        number = to_float(values[0]) if values else None
        if number is not None and tag == 0x00431039:
            number %= 100_000  # GE adds 1e9 to say that the other values are set
        if number is not None:
            return number
    return None


def _padding(header: Dataset, signed: bool, allocated: int) -> tuple[int, int] | None:
    """Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2), low and high, in stored values."""
    first = _padding_value(header, "PixelPaddingValue", signed, allocated)
    if first is None:
        return None
    second = _padding_value(header, "PixelPaddingRangeLimit", signed, allocated)
    second = first if second is None else second
    return min(first, second), max(first, second)


def _padding_value(header: Dataset, keyword: str, signed: bool, allocated: int) -> int | None:
    value = header.get(keyword)
    if isinstance(value, bytes):  # "US or SS", left undecided
        value = int.from_bytes(value[:2], "little") if len(value) >= 2 else None
    number = to_float(value)
    if number is None or number != int(number):
        return None
    wide = int(number) & ((1 << max(allocated, 1)) - 1)  # some write -2000 as 63536, or the reverse
    return wide - (1 << allocated) if signed and allocated and wide >> (allocated - 1) else wide
