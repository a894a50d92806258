"""What predict writes for a DICOM series beside the mask: seg.dcm, report.dcm, and whose they are."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from apps.medical.data.volume import same_grid
from apps.medical.dicom.segmentation import read_seg

pydicom = pytest.importorskip("pydicom")

SHAPE = (20, 18, 10)


@pytest.fixture
def study(tmp_path, series) -> Path:
    def named(dataset, _) -> None:
        dataset.PatientName = "Mustermann^Erika"
        dataset.PatientID = "PAT-4711-X"

    series(tmp_path / "study", SHAPE, plane="oblique", edit=named)
    return tmp_path / "study"


def run(command, study, model, out, *options) -> Path:
    code, report, errors = command("predict", study, "--model", model, "--out", out, *options)
    assert code == 0, errors
    assert report["cases"][0]["status"] == "done"
    return out / "study"


def text_of(case: Path) -> str:
    """All that a person could read in what is not DICOM."""
    from pypdf import PdfReader

    said = [path.read_text() for path in (case / "manifest.json", case / "stats.json")]
    html = (case / "report.html").read_text()
    said.append("".join(part.partition('"')[2] for part in html.split("base64,")))
    said += [page.extract_text() for page in PdfReader(case / "report.pdf").pages]
    return " ".join(said)


def test_results_in_dicom_agree_with_the_others(command, study, model_3d, tmp_path) -> None:
    case = run(command, study, model_3d, tmp_path / "out")
    assert {path.name for path in case.iterdir()} == {
        "seg.nii.gz", "seg.dcm", "uncertainty.nii.gz", "stats.json", "overlay.png", "report.html",
        "report.pdf", "report.dcm", "manifest.json",
    }  # fmt: skip
    (code,) = (
        w for w in json.loads((case / "manifest.json").read_text())["warnings"] if "code" in w
    )
    assert "front, back" in code  # nobody's structures: only their names are known
    source = pydicom.dcmread(next(study.glob("*.dcm")))
    stored = read_seg(case / "seg.dcm")
    nifti = nib.load(case / "seg.nii.gz")
    # Voxel by voxel in the world: each labelled voxel's centre is a labelled voxel's centre.
    found = {}
    for name, array, affine in (
        ("dicom", stored.volume.array, stored.volume.affine),
        ("nifti", np.asarray(nifti.dataobj), nifti.affine),
    ):
        index = np.argwhere(array > 0)
        places = (index @ affine[:3, :3].T + affine[:3, 3]).round(2) + 0.0
        found[name] = sorted(map(tuple, places.tolist()))
    assert found["dicom"] == found["nifti"]
    assert len(found["dicom"]) > 10

    for name in ("seg.dcm", "report.dcm"):
        made = pydicom.dcmread(case / name)
        assert made.StudyInstanceUID == source.StudyInstanceUID
        assert str(made.PatientName) == "Mustermann^Erika"
    document = bytes(pydicom.dcmread(case / "report.dcm").EncapsulatedDocument)
    assert document.rstrip(b"\0") == (case / "report.pdf").read_bytes().rstrip(b"\0")
    outputs = json.loads((case / "manifest.json").read_text())["outputs"]
    assert {"seg.dcm", "report.dcm", "report.pdf", "uncertainty.nii.gz"} <= set(outputs)

    said = text_of(case)
    for secret in ("Mustermann", "Erika", "PAT-4711-X"):
        assert secret not in said


def test_uncertainty_lies_on_the_masks_grid(command, study, model_3d, tmp_path) -> None:
    case = run(command, study, model_3d, tmp_path / "out", "--no-report")
    from apps.medical.data.volume import read_image

    doubt, mask = read_image(case / "uncertainty.nii.gz"), read_image(case / "seg.nii.gz")
    assert same_grid(doubt, mask) == ""
    assert nib.load(case / "uncertainty.nii.gz").get_data_dtype() == np.float32
    assert 0 <= doubt.array.min() < doubt.array.max() <= 1
    assert not (case / "report.html").exists()
    assert not (case / "report.dcm").exists()


def test_the_patient_named_or_removed_on_request(command, study, model_3d, tmp_path) -> None:
    case = run(command, study, model_3d, tmp_path / "a", "--identify")
    assert "Mustermann" in text_of(case)
    case = run(command, study, model_3d, tmp_path / "b", "--deidentify")
    for name in ("seg.dcm", "report.dcm"):
        raw = (case / name).read_bytes()
        for secret in (b"Mustermann", b"PAT-4711-X"):
            assert secret not in raw
    one, two = (pydicom.dcmread(case / name) for name in ("seg.dcm", "report.dcm"))
    assert one.StudyInstanceUID == two.StudyInstanceUID
    code, _, errors = command(
        "predict", study, "--model", model_3d, "--identify", "--deidentify", "--out", tmp_path / "c"
    )
    assert code == 2
    assert "contradict" in errors
