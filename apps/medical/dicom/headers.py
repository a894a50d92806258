"""What one DICOM file's header says, without its pixels, checked as far as a header can be.

One file is an ``Instance``; its images are ``Frame``s: one in a classic file, many in an enhanced
multi-frame one, where each frame's place comes from the functional groups (PS3.3 C.7.6.16). Where an
instance cannot be segmented, ``refusal`` says why in words; a file that cannot be parsed at all
raises DataError. Values are untrusted: a malformed one counts as absent.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from core.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_FRAMES = 100_000
MAX_INFLATED = 2**30
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
NATIVE = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    DEFLATED: "Deflated Explicit VR Little Endian",
}
DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR, under whatever name
# Storage classes that hold pixels, or none, but are no images to segment (PS3.4 B.5).
NOT_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation (DICOM-SEG)",
    "1.2.840.10008.5.1.4.1.1.66.7": "a label map segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "an RT dose",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.104.1": "an encapsulated PDF",
}
_MODALITY_NOT_IMAGES = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "DOC", "REG"}

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

HEADLESS = "is cut off in its header; copy it again"
Vector = tuple[float, ...]


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


@contextmanager
def quiet_reading() -> Iterator[None]:
    """No complaints about values that break the standard: many scanners' do, and we check ours."""
    from pydicom import config

    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def read_instance(file: Path) -> Instance:
    """The header of ``file``. Raises DataError where it cannot be parsed as DICOM."""
    import pydicom

    try:
        with quiet_reading(), file.open("rb") as stream:
            _check_deflated(stream)
            header = pydicom.dcmread(
                stream, stop_before_pixels=True, force=True, specific_tags=_TAGS
            )
            # The parser inflates a deflated file in memory; of the stream nothing is left to look at.
            pixels = None if _syntax(header) == DEFLATED else _pixels_ahead(stream)
            return _instance(file, header, pixels)
    except DataError:
        raise
    except Exception as error:  # whatever a hostile or damaged file makes the parser raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"{file}: a damaged DICOM header ({reason}); copy it again") from error


def transfer_syntax_name(uid: str) -> str:
    """The standard's name of a transfer syntax, or the UID itself where it is private."""
    from pydicom.uid import UID

    with quiet_reading():
        return NATIVE.get(uid) or str(UID(uid).name)


@dataclass(frozen=True)
class _Pixels:
    """What follows the header: whether pixels, the length they declare, the bytes that are left."""

    present: bool
    declared: int
    left: int


def _instance(file: Path, header: Dataset, pixels: _Pixels | None) -> Instance:
    allocated = _int(header, "BitsAllocated") or 0
    stored = _int(header, "BitsStored") or allocated
    signed = _int(header, "PixelRepresentation") == 1
    high = _int(header, "HighBit")
    patient_id = _text(header, "PatientID")
    frames, trouble = _frames(file, header)
    modality = _text(header, "Modality")
    instance = Instance(
        file=file,
        frames=frames,
        sop_uid=_text(header, "SOPInstanceUID"),
        sop_class=_text(header, "SOPClassUID") or _meta(header, "MediaStorageSOPClassUID"),
        series_uid=_text(header, "SeriesInstanceUID"),
        study_uid=_text(header, "StudyInstanceUID"),
        frame_of_reference_uid=_text(header, "FrameOfReferenceUID"),
        patient=(patient_id, "" if patient_id else _text(header, "PatientName")),
        modality=modality,
        description=_text(header, "SeriesDescription"),
        number=_int(header, "SeriesNumber"),
        instance_number=_int(header, "InstanceNumber"),
        body_part=_text(header, "BodyPartExamined"),
        rows=_int(header, "Rows") or 0,
        columns=_int(header, "Columns") or 0,
        photometric=_text(header, "PhotometricInterpretation"),
        bits=(allocated, stored, stored - 1 if high is None else high, signed),
        padding=_padding(header, signed, allocated),
        transfer_syntax=_syntax(header),
        lossy=_text(header, "LossyImageCompression") == "01",
        slice_spacing=_float(header.get("SpacingBetweenSlices")),
    )
    refusal = _refusal(instance, header, pixels) or trouble or _cut_short(instance, pixels)
    return replace(instance, refusal=refusal)


def _refusal(instance: Instance, header: Dataset, pixels: _Pixels | None) -> str:
    """Why the images of this instance cannot be segmented, by what its header says, or ""."""
    from pydicom.uid import UID

    kind = NOT_IMAGES.get(instance.sop_class)
    if kind:
        return f"is {kind}, not an image; give the series it was made from"
    name = UID(instance.sop_class).name if instance.sop_class else "an unknown kind of object"
    if instance.rows <= 0 or instance.columns <= 0 or instance.modality in _MODALITY_NOT_IMAGES:
        if pixels is not None and not pixels.present and name.endswith("Image Storage"):
            return HEADLESS
        return f"holds no image to segment ({name})"
    if pixels is not None and not pixels.present:
        return "has no pixel data: the file is truncated or was stripped; copy it again"
    image_type = [str(v).upper() for v in _many(header, "ImageType")]
    if "LOCALIZER" in image_type:
        return "is a localizer (scout), not a volume"
    if "MOSAIC" in image_type or (_private_int(header, 0x0019100A, "SIEMENS MR HEADER") or 0) > 1:
        return (
            "is a Siemens mosaic (a volume's slices tiled in one image); unpack it first,"
            " for example with dcm2niix"
        )
    if (_int(header, "SamplesPerPixel") or 1) != 1:
        return f"is in colour ({instance.photometric or 'RGB'}), not grey values of a scanner"
    if instance.photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return f"has photometric interpretation '{instance.photometric}'; MONOCHROME is needed"
    allocated, stored, high, _ = instance.bits
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1:
        return f"has {allocated} bits allocated, {stored} stored, high bit {high}; not supported"
    if header.get("ModalityLUTSequence") and header.get("RescaleSlope") is None:
        return "maps its values by a Modality LUT table; convert it to a linear rescale first"
    if header.get("ConcatenationUID"):
        return "is split into a concatenation of several files; join it first"
    return _syntax_refusal(instance.transfer_syntax, stored)


def _cut_short(instance: Instance, pixels: _Pixels | None) -> str:
    if pixels is None or instance.transfer_syntax not in NATIVE:
        return ""
    values = instance.rows * instance.columns * len(instance.frames)
    expected, found = values * instance.bits[0] // 8, min(pixels.left, pixels.declared)
    if found >= expected:
        return ""
    return f"is truncated: {found} of {expected} bytes of pixel data are there; copy it again"


def _syntax_refusal(uid: str, stored: int) -> str:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    if uid in NATIVE:
        return ""
    syntax = UID(uid)
    again = "; export it again as Explicit VR Little Endian"
    if uid == JPEG_EXTENDED and stored > 8:  # no decoder at hand reads 12-bit samples
        return f"is compressed as JPEG Extended with {stored} bits, which cannot be decoded{again}"
    if syntax.is_private:
        return f"has the private transfer syntax {uid}{again}"
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    return "" if available else f"is compressed as {syntax.name}, which cannot be decoded{again}"


def _frames(file: Path, header: Dataset) -> tuple[tuple[Frame, ...], str]:
    """The images of one file and, where they have no place, why."""
    uid = _text(header, "SOPInstanceUID")
    count = _int(header, "NumberOfFrames") or 1
    shared = _items(header, "SharedFunctionalGroupsSequence")[:1]
    groups = _items(header, "PerFrameFunctionalGroupsSequence")
    if not groups and count == 1:
        frame = Frame(
            file=file,
            number=0,
            sop_uid=uid,
            position=_vector(header.get("ImagePositionPatient"), 3),
            orientation=_vector(header.get("ImageOrientationPatient"), 6),
            spacing=_vector(header.get("PixelSpacing"), 2),
            slope=_scale(header.get("RescaleSlope"), 1.0),
            intercept=_scale(header.get("RescaleIntercept"), 0.0),
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
                position=_vector(_in_group(levels, "PlanePosition", "ImagePositionPatient"), 3),
                orientation=_vector(
                    _in_group(levels, "PlaneOrientation", "ImageOrientationPatient"), 6
                ),
                spacing=_vector(_in_group(levels, "PixelMeasures", "PixelSpacing"), 2),
                slope=_scale(_in_group(levels, "PixelValueTransformation", "RescaleSlope"), 1.0),
                intercept=_scale(
                    _in_group(levels, "PixelValueTransformation", "RescaleIntercept"), 0.0
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
    facts = {}
    b = _b_value(header)
    if b is not None:
        facts["b"] = f"{b:g}"
    for name, keyword in _CLASSIC_FACTS.items():
        facts[name] = _shown(header.get(keyword))
    return {name: value for name, value in facts.items() if value}


def _group_facts(levels: Sequence[Dataset]) -> dict[str, str]:
    facts = {name: _shown(_in_group(levels, *where)) for name, where in _ENHANCED_FACTS.items()}
    return {name: value for name, value in facts.items() if value}


def _b_value(header: Dataset) -> float | None:
    """The b-value in s/mm2: the standard's element, or Siemens', GE's or Philips' private one."""
    for tag, creator in (
        ("DiffusionBValue", ""),
        (0x0019100C, "SIEMENS MR HEADER"),
        (0x00431039, "GEMS_PARM_01"),
        (0x20011003, "Philips Imaging DD 001"),
    ):
        value = _private_value(header, tag, creator) if creator else header.get(tag)
        many: Any = value if _is_multi(value) else [value]
        values = list(many)
        number = _float(values[0]) if values else None
        if number is not None and tag == 0x00431039:
            number %= 100_000  # GE adds 1e9 to say that the other values are set
        if number is not None:
            return number
    return None


def _private_value(header: Dataset, tag: Any, creator: str) -> Any:
    """A private element's value, where its block's first reserver is ``creator``."""
    reserved = header.get((tag >> 16, 0x0010))
    if reserved is None or str(reserved.value).strip() != creator:
        return None
    element = header.get((tag >> 16, tag & 0xFFFF))
    value = None if element is None else element.value
    if isinstance(value, bytes):  # implicit VR knows no private types; these are text numbers
        return value.decode("ascii", "ignore").strip("\0 ").split("\\")
    return value


def _private_int(header: Dataset, tag: int, creator: str) -> int | None:
    value = _private_value(header, tag, creator)
    number = _float(value[0] if isinstance(value, list) and value else value)
    return None if number is None else int(number)


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
    number = _float(value)
    if number is None or number != int(number):
        return None
    wide = int(number) & ((1 << max(allocated, 1)) - 1)  # some write -2000 as 63536, or the reverse
    return wide - (1 << allocated) if signed and allocated and wide >> (allocated - 1) else wide


def _pixels_ahead(stream: BinaryIO) -> _Pixels:
    """Whether the element the parser stopped at is pixel data, and how much of it there is."""
    start = stream.tell()
    head = stream.read(12)
    stream.seek(0, 2)
    size = stream.tell()
    for order in ("little", "big"):
        group = int.from_bytes(head[0:2], order)
        element = int.from_bytes(head[2:4], order)
        if len(head) >= 8 and group == 0x7FE0 and element == 0x0010:
            explicit = head[4:6] in (b"OB", b"OW", b"UN")
            length = int.from_bytes(head[8:12] if explicit else head[4:8], order)
            begins = start + (12 if explicit else 8)
            undefined = length == 0xFFFFFFFF
            left = max(0, size - begins)
            return _Pixels(True, left if undefined else length, left)
    return _Pixels(False, 0, 0)


def _check_deflated(stream: BinaryIO) -> None:
    """Refuse a deflated file that would inflate beyond bounds: the parser inflates all at once."""
    from pydicom.filereader import read_dataset

    head = stream.read(132)
    start = 132 if head[128:132] == b"DICM" else 0
    stream.seek(start)
    meta = read_dataset(
        stream,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag.group != 2,
    )
    if str(meta.get("TransferSyntaxUID", "")) == DEFLATED:
        inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while chunk := stream.read(2**16):
            while chunk:
                total += len(inflate.decompress(chunk, 2**22))
                chunk = inflate.unconsumed_tail
                if total > MAX_INFLATED:
                    raise DataError(
                        f"{stream.name}: inflates to more than {MAX_INFLATED >> 20} MiB; "
                        "refused as a decompression bomb"
                    )
    stream.seek(0)


def _syntax(header: Dataset) -> str:
    """The transfer syntax; where the file does not say, the one the parser found by trying."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    uid = _meta(header, "TransferSyntaxUID")
    if uid:
        return uid
    implicit, little = header.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little is not False else ExplicitVRBigEndian)


def _meta(header: Dataset, keyword: str) -> str:
    return _shown(getattr(header, "file_meta", {}).get(keyword))[:64]


def _in_group(levels: Sequence[Dataset], macro: str, keyword: str) -> Any:
    """A functional group's attribute: the frame's own, else the shared one."""
    for level in levels:
        items = _items(level, f"{macro}Sequence")
        if items and items[0].get(keyword) is not None:
            return items[0].get(keyword)
    return None


def _items(header: Dataset, keyword: str) -> list[Dataset]:
    value = header.get(keyword)
    return list(value) if value is not None and not isinstance(value, bytes | str) else []


def _many(header: Dataset, keyword: str) -> list[Any]:
    value = header.get(keyword)
    if value is None:
        return []
    return list(value) if _is_multi(value) else [value]


def _is_multi(value: Any) -> bool:
    from pydicom.multival import MultiValue

    return isinstance(value, MultiValue | list | tuple)


def _text(header: Dataset, keyword: str) -> str:
    """A value as one printable line, at most 64 characters as the standard's LO and UI."""
    try:
        value = header.get(keyword)
    except Exception:  # an unknown character set, for one
        return ""
    return _shown(value)[:64]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = "\\".join(str(v) for v in value) if _is_multi(value) else str(value)
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _int(header: Dataset, keyword: str) -> int | None:
    try:
        value = header.get(keyword)
    except Exception:
        return None
    number = _float(value)
    return None if number is None else int(number)


def _float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _scale(value: Any, default: float) -> float:
    """A slope or intercept: ``default`` where there is none, NaN where it is there but no number."""
    if value is None or value == "":
        return default
    number = _float(value)
    return math.nan if number is None else number


def _vector(value: Any, length: int) -> Vector | None:
    if not _is_multi(value) or len(value) != length:
        return None
    numbers = [_float(v) for v in value]
    return None if any(n is None for n in numbers) else tuple(numbers)  # type: ignore[arg-type]
