"""What every DICOM object made from a series shares: its patient and study, its own identifiers.

A derived object (a segmentation, a report) belongs into its source's study, so it repeats the
Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2) and nothing else of the source:
no private elements, no operators, no institution. A value that its own type does not allow, as old
archives hold them, is left out instead of spoiling the new file.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from core.errors import DataError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from apps.medical.data.volume import Volume

MANUFACTURER = "Triptych"
# Type 2: present, empty where nothing is known. Type 3: present where something is known.
REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
OPTIONAL = (
    "IssuerOfPatientID", "StudyDescription", "PatientAge", "PatientSize", "PatientWeight",
)  # fmt: skip
SEXES = ("", "M", "F", "O")  # PS3.3 C.7.1.1; archives hold others


def dicom_store(volume: Volume, what: str) -> Any:
    """The volume's ``DicomStore``; DataError where the volume was not read from DICOM."""
    store = volume.store
    if not hasattr(store, "read_headers"):
        raise DataError(
            f"{volume.path}: {what} refers to a DICOM series, and this image was not read from one"
        )
    return store


def study_header(header: Dataset) -> Dataset:
    """A new data set, UTF-8, with the Patient and Study modules of ``header`` and no more.

    Raises DataError where ``header`` has no Study Instance UID.
    """
    from pydicom.dataset import Dataset

    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    if not header.get("StudyInstanceUID"):
        raise DataError(
            f"{getattr(header, 'filename', None) or 'the series'}: no Study Instance UID, so "
            "nothing can be put into its study; export it again"
        )
    made.StudyInstanceUID = str(header.StudyInstanceUID)
    with quiet():
        for keyword in (*REQUIRED, *OPTIONAL):
            value = _valid(header, keyword)
            if value is not None or keyword in REQUIRED:
                setattr(made, keyword, value)
    if str(made.PatientSex or "") not in SEXES:
        made.PatientSex = ""
    return made


def series_number(header: Dataset, offset: int) -> int:
    """A number for a new series that sorts behind the source's: ``offset`` plus the source's."""
    try:
        number = int(header.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return offset + (number if 0 <= number < 2**30 else 0)


def new_uid() -> str:
    """An identifier made from a random UUID, 2.25.<number> (PS3.5 section B.2)."""
    from pydicom.uid import generate_uid

    return str(generate_uid(prefix=None))


def line(text: str, otherwise: str = "", limit: int = 64) -> str:
    """``text`` as a value of one line (LO): no backslash, which separates values, no control.

    At most ``limit`` bytes; the standard counts characters, some programs bytes.
    """
    kept = "".join(c if c.isprintable() and c != "\\" else " " for c in text)
    short = " ".join(kept.split()).encode()[:limit].decode(errors="ignore")
    return short.strip() or otherwise


@contextmanager
def quiet() -> Iterator[None]:
    """Without other libraries' warnings, which quote values: a patient's name among them."""
    import logging

    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def _valid(header: Dataset, keyword: str) -> Any:
    """The value of an element as text or number, or None where it is absent, empty or malformed."""
    from pydicom.config import RAISE
    from pydicom.datadict import dictionary_VR
    from pydicom.valuerep import validate_value

    try:
        value = header.get(keyword)
    except Exception:  # a value that pydicom cannot even convert
        return None
    if value is None or value == "":
        return None
    text = str(value)
    try:
        validate_value(dictionary_VR(keyword), text, RAISE)
    except ValueError:
        return None
    return text
