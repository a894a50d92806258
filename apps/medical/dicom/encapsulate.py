"""A PDF report as a DICOM object, so that an archive keeps it beside the images it is about.

Encapsulated PDF Storage (PS3.3 A.45.1, module C.24.2): the file's bytes in one element, the
patient and study of the source series, a series of its own, and references to the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from apps.medical.data.volume import Volume
from apps.medical.dicom.derived import (
    MANUFACTURER,
    dicom_store,
    line,
    new_uid,
    quiet,
    series_number,
    study_header,
)
from core import __version__
from core.errors import DataError
from core.files import atomic_path, require_absent

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from apps.medical.dicom.deidentify import Deidentifier

ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
MAX_PDF = 256 * 2**20


def write_pdf(
    path: Path | str,
    pdf: bytes | Path,
    source: Volume | Sequence[Dataset],
    title: str,
    *,
    identified: bool = False,
    deidentify: bool | Deidentifier = False,
    force: bool = False,
) -> Path:
    """Write ``pdf`` as a DICOM object in the study of ``source``.

    ``source`` is a volume read from DICOM, or the headers of the instances that the report is
    about. ``identified`` says that the pages themselves name the patient (Burned In Annotation).
    ``deidentify`` as in ``write_seg``; it cannot clean the pages. The file appears when it is
    complete. Raises DataError where ``pdf`` is no PDF or too large or ``source`` was not read from
    DICOM; UsageError when ``path`` exists without ``force``; ResourceError when the disk is full.
    """
    from apps.medical.dicom.deidentify import Deidentifier

    path = Path(path)
    require_absent(path, force)
    data = _pdf(pdf)
    headers = source
    if isinstance(source, Volume):
        headers = dicom_store(source, "an encapsulated PDF").read_headers()
    assert not isinstance(headers, Volume)
    if not headers:
        raise DataError(f"{path}: no source images to refer to")
    cleaner = deidentify if isinstance(deidentify, Deidentifier) else None
    if deidentify is True:
        cleaner = Deidentifier()
    if cleaner is not None and identified:
        raise DataError(f"{path}: the report names the patient, so it cannot be de-identified")
    with quiet():
        made = _build(headers, data, title, identified, cleaner)
        with atomic_path(path, force=force) as temporary:
            made.save_as(temporary, enforce_file_format=True)
    return path


def _pdf(pdf: bytes | Path) -> bytes:
    name = "the report" if isinstance(pdf, bytes) else str(pdf)
    if not isinstance(pdf, bytes):
        try:
            if Path(pdf).stat().st_size > MAX_PDF:
                raise DataError(f"{name}: larger than {MAX_PDF >> 20} MiB; make a shorter report")
            pdf = Path(pdf).read_bytes()
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror or error})") from error
    if not pdf.startswith(b"%PDF-"):
        raise DataError(f"{name}: is not a PDF")
    if len(pdf) > MAX_PDF:
        raise DataError(f"{name}: larger than {MAX_PDF >> 20} MiB; make a shorter report")
    return pdf


def _build(
    headers: Sequence[Dataset],
    pdf: bytes,
    title: str,
    identified: bool,
    cleaner: Deidentifier | None,
) -> Dataset:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    first = headers[0]
    made = study_header(first)
    if cleaner is not None:
        made = cleaner.dataset(made)
    now = datetime.now()
    made.SOPClassUID, made.SOPInstanceUID = ENCAPSULATED_PDF, new_uid()
    made.InstanceCreationDate, made.InstanceCreationTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    made.Modality = "DOC"
    made.SeriesInstanceUID = new_uid()
    made.SeriesNumber = series_number(first, 9500)
    made.SeriesDescription = line(title, "Report")
    made.InstanceNumber = 1
    made.Manufacturer = MANUFACTURER
    made.ManufacturerModelName = MANUFACTURER
    made.SoftwareVersions = __version__
    made.ConversionType = "WSD"  # made by a workstation
    made.ContentDate, made.ContentTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    made.AcquisitionDateTime = ""
    made.BurnedInAnnotation = "YES" if identified else "NO"
    made.SourceInstanceSequence = _references(headers, cleaner)
    made.DocumentTitle = line(title, limit=1024)
    made.ConceptNameCodeSequence = []
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocumentLength = len(pdf)
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    made["EncapsulatedDocument"].VR = "OB"
    if cleaner is not None:
        cleaner.mark(made)
        made.AcquisitionDateTime = ""
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def _references(headers: Sequence[Dataset], cleaner: Deidentifier | None) -> list[Dataset]:
    """One item per source instance; a multi-frame file gives its header once per frame."""
    from pydicom.dataset import Dataset

    found = {}
    for header in headers:
        if not header.get("SOPClassUID") or not header.get("SOPInstanceUID"):
            continue
        item = Dataset()
        uid = str(header.SOPInstanceUID)
        item.ReferencedSOPClassUID = str(header.SOPClassUID)
        item.ReferencedSOPInstanceUID = cleaner.uid(uid) if cleaner is not None else uid
        found[uid] = item
    return list(found.values())
