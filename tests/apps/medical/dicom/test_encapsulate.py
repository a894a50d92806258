"""Reports as DICOM: the PDF's own bytes, in the patient's study, beside the images."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from apps.medical.data.volume import Volume
from apps.medical.dicom import encapsulate
from apps.medical.dicom.deidentify import Deidentifier
from apps.medical.dicom.encapsulate import write_pdf
from apps.medical.dicom.series import list_series
from apps.medical.dicom.volume import read_series
from core.errors import DataError, UsageError

TITLE = "Report of a phantom"


@pytest.fixture
def volume(tmp_path: Path, series: Callable[..., Any]) -> Volume:
    series(tmp_path / "in", shape=(8, 9, 4))
    (info,) = list_series(tmp_path / "in")
    return read_series(info)


@pytest.fixture(params=[0, 1], ids=["as made", "a byte longer"])
def pdf(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A real PDF, of an even and of an odd number of bytes."""
    from reportlab.pdfgen import canvas

    page = canvas.Canvas(str(tmp_path / "report.pdf"))
    page.drawString(100, 700, "3 mL")
    page.save()
    path = tmp_path / "report.pdf"
    path.write_bytes(path.read_bytes() + b"\n" * request.param)
    return path


def document(path: Path) -> tuple[Any, bytes]:
    dataset = pydicom.dcmread(path)
    return dataset, dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength]


def test_holds_the_bytes_in_the_patients_study(tmp_path, volume, pdf) -> None:
    import pypdf

    path = write_pdf(tmp_path / "report.dcm", pdf, volume, TITLE)
    made, data = document(path)
    assert data == pdf.read_bytes()
    (tmp_path / "back.pdf").write_bytes(data)
    assert "3 mL" in pypdf.PdfReader(tmp_path / "back.pdf").pages[0].extract_text()
    source = volume.store.read_headers()[0]
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate", "StudyID"):
        assert made[keyword].value == source[keyword].value
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert made.SOPClassUID.name == "Encapsulated PDF Storage"
    assert made.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert (made.DocumentTitle, made.BurnedInAnnotation) == (TITLE, "NO")
    uids = [str(item.ReferencedSOPInstanceUID) for item in made.SourceInstanceSequence]
    assert uids == list(volume.store.sop_uids)
    assert b"House of Nobody" not in path.read_bytes()


def test_from_headers_and_bytes(tmp_path, volume, pdf) -> None:
    headers = volume.store.read_headers()
    path = write_pdf(tmp_path / "r.dcm", pdf.read_bytes(), headers, TITLE, identified=True)
    made, data = document(path)
    assert data == pdf.read_bytes()
    assert made.BurnedInAnnotation == "YES"


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools' dciodvfy is missing")
@pytest.mark.parametrize("deidentify", [False, True])
def test_conforms_to_the_standard(tmp_path, volume, pdf, deidentify) -> None:
    path = write_pdf(tmp_path / "report.dcm", pdf, volume, TITLE, deidentify=deidentify)
    shown = subprocess.run(["dciodvfy", path], capture_output=True, text=True, timeout=60)
    assert "EncapsulatedPDF" in shown.stderr + shown.stdout
    assert "Error" not in shown.stderr + shown.stdout


def test_a_multi_frame_source_is_named_once(tmp_path, series, pdf) -> None:
    series(tmp_path / "multi", multiframe=True, shape=(8, 8, 5))
    (info,) = list_series(tmp_path / "multi")
    made, _ = document(write_pdf(tmp_path / "r.dcm", pdf, read_series(info), TITLE))
    assert len(made.SourceInstanceSequence) == 1


def test_deidentified(tmp_path, volume, pdf) -> None:
    cleaner = Deidentifier("key")
    path = write_pdf(tmp_path / "report.dcm", pdf, volume, TITLE, deidentify=cleaner)
    made, data = document(path)
    assert data == pdf.read_bytes()
    uids = [str(item.ReferencedSOPInstanceUID) for item in made.SourceInstanceSequence]
    assert uids == [cleaner.uid(uid) for uid in volume.store.sop_uids]
    content = path.read_bytes()
    for secret in ("Nobody", "Doctor", "A77", "20010203", volume.store.series.study_uid):
        assert secret.encode() not in content, secret
    with pytest.raises(DataError, match="names the patient"):
        write_pdf(tmp_path / "r.dcm", pdf, volume, TITLE, identified=True, deidentify=True)


def test_what_is_no_report(tmp_path, volume, monkeypatch) -> None:
    text = tmp_path / "report.txt"
    text.write_text("no PDF")
    path = tmp_path / "report.dcm"
    with pytest.raises(DataError, match=r"report\.txt: is not a PDF"):
        write_pdf(path, text, volume, TITLE)
    with pytest.raises(DataError, match=r"nothing\.pdf: cannot be read"):
        write_pdf(path, tmp_path / "nothing.pdf", volume, TITLE)
    with pytest.raises(DataError, match="no source images"):
        write_pdf(path, b"%PDF-1.4", [], TITLE)
    monkeypatch.setattr(encapsulate, "MAX_PDF", 4)
    with pytest.raises(DataError, match="shorter report"):
        write_pdf(path, b"%PDF-1.4", volume, TITLE)
    assert not path.exists()


def test_an_image_that_is_not_dicom(tmp_path) -> None:
    plain = Volume(
        array=np.zeros((2, 2, 2)), affine=np.eye(4), spacing=(1, 1, 1), rank=3, path=Path("a.nii")
    )
    with pytest.raises(DataError, match=r"a\.nii: an encapsulated PDF refers to a DICOM series"):
        write_pdf(tmp_path / "r.dcm", b"%PDF-1.4", plain, TITLE)


def test_a_source_without_a_study(tmp_path, volume) -> None:
    headers = volume.store.read_headers()
    del headers[0].StudyInstanceUID
    with pytest.raises(DataError, match="no Study Instance UID"):
        write_pdf(tmp_path / "r.dcm", b"%PDF-1.4", headers, TITLE)


def test_replaces_only_with_force(tmp_path, volume, pdf) -> None:
    path = write_pdf(tmp_path / "report.dcm", pdf, volume, TITLE)
    with pytest.raises(UsageError, match="--force"):
        write_pdf(path, pdf, volume, TITLE)
    write_pdf(path, pdf, volume, "Another", force=True)
    assert document(path)[0].DocumentTitle == "Another"
