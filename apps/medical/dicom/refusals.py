"""Why one file's images cannot be segmented, by what its header says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.medical.dicom.stream import DEFLATED, Pixels
from apps.medical.dicom.values import private_int, quiet_reading, to_int, to_list

if TYPE_CHECKING:
    from pydicom import Dataset

    from apps.medical.dicom.headers import Instance

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
HEADLESS = "is cut off in its header; copy it again"


def why_not(instance: Instance, header: Dataset, pixels: Pixels | None) -> str:
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
    image_type = [str(v).upper() for v in to_list(header, "ImageType")]
    if "LOCALIZER" in image_type:
        return "is a localizer (scout), not a volume"
    if "MOSAIC" in image_type or (private_int(header, 0x0019100A, "SIEMENS MR HEADER") or 0) > 1:
        return (
            "is a Siemens mosaic (a volume's slices tiled in one image); unpack it first,"
            " for example with dcm2niix"
        )
    if (to_int(header, "SamplesPerPixel") or 1) != 1:
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


def cut_short(instance: Instance, pixels: Pixels | None) -> str:
    """Why uncompressed pixels cannot be all there, or "": their length is known before they are read."""
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


def transfer_syntax_name(uid: str) -> str:
    """The standard's name of a transfer syntax, or the UID itself where it is private."""
    from pydicom.uid import UID

    with quiet_reading():
        return NATIVE.get(uid) or str(UID(uid).name)
