"""De-identified copies of DICOM images, by the Basic Application Level Confidentiality Profile.

PS3.15 Annex E lists some 620 attributes with an action each. This module gets there by types of
value, which also covers attributes that later editions add and unknown ones:

- names, text, dates, times, ages, addresses and unlisted binary data are removed, or emptied where
  image classes want the element (Type 2), but for the few texts in ``KEPT``, which describe the
  machine or are codes;
- numbers and code strings stay, but for those of the patient in ``DROPPED``;
- sequences stay, item by item cleaned in the same way, but for those in ``DROPPED``;
- private elements, curves and overlays are removed;
- UIDs become others (``2.25.`` and a keyed hash), the same for the same, so that a series remains a
  series and references hold within one run; UIDs that the standard defines and classes stay;
- the patient's name and ID become a keyed hash, different for different patients.

The key is random and forgotten, so nobody can compute the replacements from an identifier.

Not done, so look for yourself: text burned into the pixels (files that say so, screen captures,
ultrasound and photographs are refused instead), a face that can be rendered from a head scan
(Clean Recognizable Visual Features), the options that keep dates or descriptions. Only images and
segmentations are copied; reports and other documents are full of names and are left out.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.medical.dicom.derived import quiet
from core.errors import DataError, TriptychError, UsageError
from core.files import require_absent, write_json
from core.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

METHOD = "Triptych: PS3.15 Basic Profile, pixels not inspected"  # LO, at most 64 characters
MANIFEST = "deidentified.json"
DUMMY_DATE, DUMMY_TIME = "20000101", "000000"
DEFLATED = "1.2.840.10008.1.2.1.99"
STANDARD_ROOT = "1.2.840.10008."

# Text and binary elements that stay: the machine, its settings, codes, what voxels mean.
KEPT = {
    # codes (PS3.3 section 8.8)
    "CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion",
    "CodeMeaning", "CodingSchemeName", "CodingSchemeResponsibleOrganization",
    # the machine and the acquisition
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "SequenceName",
    "PulseSequenceName", "ReceiveCoilName", "TransmitCoilName", "ImagedNucleus", "ResonantNucleus",
    "ConvolutionKernel", "FilterType", "StackID", "RescaleType", "ModalityLUTType",
    "ReconstructionMethod", "AttenuationCorrectionMethod", "ScatterCorrectionMethod",
    "RandomsCorrectionMethod", "Radiopharmaceutical", "DimensionDescriptionLabel",
    # segmentations: what a label is called and what made it
    "SegmentLabel", "SegmentAlgorithmName", "AlgorithmName", "AlgorithmVersion", "AlgorithmSource",
    # voxels and how to show them
    "PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData", "LUTData", "ICCProfile",
}  # fmt: skip
# Numbers, code strings and sequences that PS3.15 Table E.1-1 takes away (2024e, basic profile).
DROPPED = {
    "InstanceOriginStatus", "ModifyingDeviceID", "PatientSexNeutered", "SmokingStatus",
    "ReasonForTheAttributeModification", "PregnancyStatus", "PatientSize", "PatientWeight",
    "LensSpecification",
    "ActualHumanPerformersSequence", "AdmittingDiagnosesCodeSequence", "AuthorObserverSequence",
    "ConsultingPhysicianIdentificationSequence", "ContentCreatorIdentificationCodeSequence",
    "ContentSequence", "CustodialOrganizationSequence", "DigitalSignaturesSequence",
    "FlowIdentifierSequence", "GraphicAnnotationSequence", "IconImageSequence",
    "InstitutionalDepartmentTypeCodeSequence", "InstitutionCodeSequence",
    "IntendedRecipientsOfResultsIdentificationSequence", "InterpretationApproverSequence",
    "IssuerOfAdmissionIDSequence", "IssuerOfServiceEpisodeIDSequence",
    "IssuerOfTheContainerIdentifierSequence", "IssuerOfTheSpecimenIdentifierSequence",
    "ModifiedAttributesSequence", "NonconformingModifiedAttributesSequence",
    "OperatorIdentificationSequence", "OriginalAttributesSequence",
    "OtherClinicalTrialProtocolIDsSequence", "OtherPatientIDsSequence", "ParticipantSequence",
    "PatientInsurancePlanCodeSequence", "PatientPrimaryLanguageCodeSequence",
    "PatientPrimaryLanguageModifierCodeSequence", "PerformedStationGeographicLocationCodeSequence",
    "PerformedStationNameCodeSequence", "PerformingPhysicianIdentificationSequence",
    "PersonIdentificationCodeSequence", "PhysiciansOfRecordIdentificationSequence",
    "PhysiciansReadingStudyIdentificationSequence", "PrescriptionNotesSequence",
    "ReasonForRequestedProcedureCodeSequence", "ReasonForVisitCodeSequence",
    "ReferencedDigitalSignatureSequence", "ReferencedPatientAliasSequence",
    "ReferencedPatientPhotoSequence", "ReferencedPatientSequence",
    "ReferencedPerformedProcedureStepSequence", "ReferencedSOPInstanceMACSequence",
    "ReferencedStudySequence", "ReferringPhysicianIdentificationSequence",
    "RequestAttributesSequence", "ResultsDistributionListSequence", "ROICreatorSequence",
    "ROIInterpreterSequence", "ScheduledHumanPerformersSequence",
    "ScheduledPerformingPhysicianIdentificationSequence",
    "ScheduledStationGeographicLocationCodeSequence", "ScheduledStationNameCodeSequence",
    "SpecimenPreparationSequence", "TransducerIdentificationSequence", "UDISequence",
    "VerbalSourceIdentifierCodeSequenceTrial", "VerifyingObserverIdentificationCodeSequence",
    "VerifyingObserverSequence",
}  # fmt: skip
# Type 2 elements of the image and segmentation classes: empty, but there.
EMPTIED = {
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "PositionReferenceIndicator", "ContentCreatorName",
    "ContentDescription", "ContrastBolusAgent", "AcquisitionContextSequence",
}  # fmt: skip
NUMBERS = {"DS", "IS", "FD", "FL", "SS", "US", "SL", "UL", "SV", "UV", "AT", "CS", "US or SS"}
# UIDs that name a kind of thing and nobody's thing, also where a maker defined them.
CLASS_UIDS = {"SOPClassUID", "ReferencedSOPClassUID", "RelatedGeneralSOPClassUID"}
# Classes whose pixels often carry text: secondary capture, ultrasound, photographs.
TEXT_IN_PIXELS = (
    "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3",
    "1.2.840.10008.5.1.4.1.1.77",
)  # fmt: skip


class Deidentifier:
    """Cleans data sets with one key: equal identifiers get equal replacements.

    ``salt`` is the key; without it a random one, which dies with this object.
    """

    def __init__(self, salt: bytes | str | None = None) -> None:
        key = salt.encode() if isinstance(salt, str) else salt
        self._key = key or secrets.token_bytes(32)

    def uid(self, uid: str) -> str:
        """The replacement of a UID; one that the standard defines stays."""
        uid = str(uid).strip("\0 ")
        if not uid or uid.startswith(STANDARD_ROOT):
            return uid
        # PS3.5 section B.2: 2.25. and a number below 2^128, of which a UUID of version 4 fixes six
        # bits; a keyed hash has no better claim to be one, but must look like one.
        number = int.from_bytes(self._hash("uid", uid)[:16])
        number = number & ~(0xF << 76) | (0x4 << 76)
        number = number & ~(0x3 << 62) | (0x2 << 62)
        return f"2.25.{number}"

    def patient(self, header: Dataset) -> str:
        """The replacement of a patient's name and ID, from what tells the patient apart."""
        issuer = str(header.get("IssuerOfPatientID") or "")
        known = str(header.get("PatientID") or "") or str(header.get("PatientName") or "")
        known = known or str(header.get("StudyInstanceUID") or "")
        return f"ANON-{self._hash('patient', f'{issuer}|{known}').hex()[:12].upper()}"

    def dataset(self, header: Dataset) -> Dataset:
        """A cleaned copy; pixel data are shared with ``header``, not copied."""
        pseudonym = self.patient(header)
        made = self._clean(header)
        _copy_encoding(header, made)
        if "PatientName" in header:
            made.PatientName = pseudonym.replace("-", "^")
        if "PatientID" in header:
            made.PatientID = pseudonym
        self.mark(made)
        return made

    def mark(self, made: Dataset) -> None:
        """Say what was done (PS3.3 C.12.1.1.2), and take away the dates of the making."""
        from pydicom.dataset import Dataset

        for element in list(made):
            if element.VR in ("DA", "TM", "DT") and element.keyword not in EMPTIED:
                del made[element.tag]
        if made.get("SOPClassUID"):
            made.ContentDate, made.ContentTime = DUMMY_DATE, DUMMY_TIME
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
        code.CodeMeaning = "Basic Application Confidentiality Profile"
        made.PatientIdentityRemoved = "YES"
        made.DeidentificationMethod = METHOD
        made.DeidentificationMethodCodeSequence = [code]
        made.LongitudinalTemporalInformationModified = "REMOVED"

    def _clean(self, header: Dataset) -> Dataset:
        from pydicom.dataset import Dataset

        made = Dataset()
        for tag in sorted(header.keys()):
            if tag.is_private or tag.group & 0xFF00 in (0x5000, 0x6000) or tag.group <= 2:
                continue
            try:
                kept = self._element(header[tag])
            except Exception:  # a value that cannot be read cannot be judged
                kept = None
            if kept is not None:
                made.add(kept)
        return made

    def _element(self, element: DataElement) -> DataElement | None:
        """The element to write instead, or None."""
        from pydicom.dataelem import DataElement

        keyword, vr = element.keyword, element.VR
        if not keyword or keyword in DROPPED or keyword.startswith("GPS"):
            return None
        if keyword in EMPTIED:
            return DataElement(element.tag, vr, [] if vr == "SQ" else "")
        if vr == "SQ":
            items = [self._clean(item) for item in element.value or ()]
            return DataElement(element.tag, vr, items)
        if vr == "UI":
            if keyword in CLASS_UIDS:
                return element
            value = element.value
            if value is None or isinstance(value, str):
                return DataElement(element.tag, vr, self.uid(value or ""))
            return DataElement(element.tag, vr, [self.uid(one) for one in value])
        if keyword in KEPT or vr in NUMBERS:
            return element
        return None

    def _hash(self, kind: str, text: str) -> bytes:
        return hmac.new(self._key, f"{kind}:{text}".encode(), hashlib.sha256).digest()


def _copy_encoding(header: Dataset, made: Dataset) -> None:
    """A file's data set keeps its transfer syntax, with new file meta information (PS3.10 7.1)."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = header.original_encoding
    if implicit is None:  # made in memory
        return
    made.set_original_encoding(implicit, little, header.original_character_set)
    syntax = getattr(header, "file_meta", {}).get("TransferSyntaxUID")
    if not syntax:
        little_syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        syntax = little_syntax if little else ExplicitVRBigEndian
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.get("SOPClassUID")
    made.file_meta.MediaStorageSOPInstanceUID = made.get("SOPInstanceUID")


def deidentify_dataset(header: Dataset, *, salt: bytes | str | None = None) -> Dataset:
    """A cleaned copy of one data set; ``header`` stays as it is. See the module for what is done.

    Files of one study need one ``salt`` (or one ``Deidentifier``) for their references to hold.
    """
    with quiet():
        return Deidentifier(salt).dataset(header)


def deidentify_folder(
    source: Path | str,
    out: Path | str,
    *,
    salt: bytes | str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write cleaned copies of the images in a folder, zip, DICOMDIR or file below ``out``.

    They lie in ``out/PATIENT/STUDY/SERIES/000001.dcm`` under names of our own. ``out`` appears when
    all is done. Returns written, patients, studies, series and skipped: a list of file and reason.

    Raises DataError where nothing can be written; UsageError when ``out`` exists without ``force``,
    is something else than an earlier copy, or lies inside ``source``; ResourceError when the disk is
    full.
    """
    from apps.medical.dicom.sources import open_source
    from apps.medical.results import case_folder

    source, out = Path(source), Path(out)
    _check_out(source, out, force)
    progress = progress or SilentProgress()
    found = open_source(source)
    cleaner, names = Deidentifier(salt), _Names()
    skipped: list[dict[str, str]] = []
    written = 0
    with case_folder(out, force) as folder:
        with progress.task("de-identify", total=len(found.files)) as task, quiet():
            for file in found.files:
                try:
                    made = cleaner.dataset(_readable(file))
                    _save(made, folder / names.of(made))
                    written += 1
                except DataError as error:
                    reason = str(error).removeprefix(f"{file}: ")
                    skipped.append({"file": found.name_of(file), "reason": reason})
                task.advance()
        report = {"written": written, **names.counts(), "method": METHOD}
        if not written:
            reason = skipped[0]["reason"] if skipped else "no images"
            raise DataError(f"{source}: nothing could be de-identified ({reason})")
        write_json(folder / MANIFEST, report)
    return {"out": str(out), **report, "skipped": skipped}


def _check_out(source: Path, out: Path, force: bool) -> None:
    require_absent(out, force)
    if out.exists() and not (out / MANIFEST).is_file():
        raise UsageError(
            f"{out}: is no earlier de-identified copy, so --force does not replace it; choose "
            "another --out"
        )
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out}: lies inside {source}; choose an --out beside it")


class _Names:
    """Folders and files of the copy, numbered in the order in which they come."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str], int] = {}
        self._studies: dict[tuple[str, str], int] = {}
        self._patients: set[str] = set()
        self._files: dict[int, int] = {}

    def of(self, made: Dataset) -> Path:
        """PATIENT/study_1/series_01/000001.dcm for the next file of this series."""
        patient = str(made.get("PatientID") or "ANON")
        study = (patient, str(made.get("StudyInstanceUID", "")))
        series = (*study, str(made.get("SeriesInstanceUID", "")))
        self._patients.add(patient)
        study_number = self._studies.setdefault(study, len(self._studies) + 1)
        number = self._series.setdefault(series, len(self._series) + 1)
        self._files[number] = self._files.get(number, 0) + 1
        place = Path(patient, f"study_{study_number}", f"series_{number:02d}")
        return place / f"{self._files[number]:06d}.dcm"

    def counts(self) -> dict[str, int]:
        return {
            "patients": len(self._patients),
            "studies": len(self._studies),
            "series": len(self._series),
        }


def _readable(file: Path) -> Dataset:
    """The data set of an image or segmentation; DataError with the reason where it is another."""
    import pydicom
    from pydicom.filereader import read_file_meta_info

    try:
        syntax = str(read_file_meta_info(file).get("TransferSyntaxUID", ""))
        if syntax == DEFLATED:
            raise DataError(f"{file}: deflated, so its size is unknown; store it uncompressed")
        header = pydicom.dcmread(file, force=True)
        refusal = _refusal(header)
    except TriptychError:
        raise
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{file}: is damaged ({reason})") from error
    if refusal:
        raise DataError(f"{file}: {refusal}")
    return header


def _refusal(header: Dataset) -> str:
    """Why this object is not copied, or ""."""
    pixels = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    if not any(keyword in header for keyword in pixels):
        return "holds no image; documents and reports cannot be cleaned"
    if not header.get("SOPClassUID") or not header.get("SOPInstanceUID"):
        return "does not say what it is (no SOP class or instance UID)"
    burned = str(header.get("BurnedInAnnotation") or "").upper()
    if burned == "YES":
        return "its pixels hold burned-in text, which stays; clean the picture itself first"
    uid, kind = str(header.SOPClassUID), str(header.get("ImageType") or "").upper()
    risky = any(uid == root or uid.startswith(f"{root}.") for root in TEXT_IN_PIXELS)
    if burned != "NO" and (risky or "SCREEN" in kind):
        return (
            "a screen capture, ultrasound image or photograph, whose pixels may hold names; copy "
            "it only after looking at it"
        )
    return ""


def _save(made: Dataset, place: Path) -> None:
    """Write in the source's own transfer syntax: the pixels are the bytes they were."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.save_as(place, enforce_file_format=True)
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        place.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"its elements cannot be written again ({reason})") from error
