"""The report on lesion candidates: what it says, which side it shows, and whom it names."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from apps.medical.detection.candidates import CandidateRule
from apps.medical.detection.detect import detect
from apps.medical.detection.report import candidate_pictures, gather
from apps.medical.overlay import colour_of
from apps.medical.report import page, pdf

HALF = CandidateRule(threshold=0.5)  # the scene's own hills stay below


@pytest.fixture(scope="module")
def found(painted, detector):
    return detect(painted[0], detector, rule=HALF)


def coloured(picture, label: int) -> np.ndarray:
    """(n, 2): row and column, as shares of the picture, of the pixels in the colour of a label."""
    pixels = np.asarray(Image.open(BytesIO(picture.png)).convert("RGB")).astype(int)
    wanted = [int(colour_of(label)[i : i + 2], 16) for i in (1, 3, 5)]
    near = np.abs(pixels - wanted).max(-1) < 40
    return np.argwhere(near) / near.shape


def test_every_candidate_is_told_with_its_place(painted, found, detector) -> None:
    contents = gather(painted[0], found, detector, HALF.describe(), "windows")
    for row, said in zip(found.lesions, contents.findings.rows, strict=True):
        assert said[1:3] == [f"{row['confidence']:.2f}", f"{row['volume_ml']:.2f}"]
    places = {said[0]: said[4] for said in contents.findings.rows}
    right = max(found.lesions, key=lambda row: row["centre_mm"][0])["lesion"]
    left = 3 - right
    assert places[f"candidate {right}"] == "19 R, 2 A, 19 S"
    assert [word[-1] for word in places[f"candidate {left}"].split(", ")] == ["L", "P", "S"]
    html = page.render(contents)
    for words in (
        "Automatic lesion detection by painted", "lesions.json", "not calibrated", "ADC map",
        "44 × 48 × 22 voxels of 2 × 2 × 3 mm",
    ):  # fmt: skip
        assert words in html
    assert "segmentation" not in html
    assert html.count("<img") == 1 + len(found.lesions)
    assert pdf.render(contents).startswith(b"%PDF-")


def test_candidates_lie_on_their_side_of_all_three_series(painted, found) -> None:
    pictures = candidate_pictures(painted[0], found.candidates.index, found.lesions)
    for row, picture in zip(found.lesions, pictures, strict=True):
        at = coloured(picture, row["lesion"])
        for panel in range(3):
            columns = at[at[:, 1] // (1 / 3) == panel, 1] * 3 - panel
            assert len(columns) > 20
            # Radiological: the patient's right is on the left.  The scene's middle is at x = 4.
            assert (columns.mean() < 0.5) == (row["centre_mm"][0] > 4)
        assert f"confidence {row['confidence']:.2f}" in picture.caption


def test_the_other_series_are_shown_at_the_same_place(painted, found) -> None:
    """A lesion is dark on the ADC map and bright at high b: inside its outline, both are."""
    study = painted[0]
    blank = replace(study, adc=replace(study.adc, array=np.full_like(study.adc.array, 1000.0)))
    dark = blank.adc.array
    dark[:22] = 10.0  # one half of the ADC map alone
    (changed, _), (plain, _) = (
        [np.asarray(Image.open(BytesIO(p.png)).convert("L")).astype(int) for p in pictures]
        for pictures in (
            candidate_pictures(blank, found.candidates.index, found.lesions),
            candidate_pictures(study, found.candidates.index, found.lesions),
        )
    )
    moved = np.abs(changed - plain) > 25
    width = moved.shape[1]
    assert moved[:, width // 3 : 2 * width // 3].mean() > 0.1
    assert moved[:, : width // 3 - 5].sum() == moved[:, 2 * width // 3 + 5 :].sum() == 0


def test_without_a_candidate_the_report_says_so(painted, detector) -> None:
    none = detect(painted[0], detector, rule=CandidateRule(min_voxels=10**6))
    contents = gather(painted[0], none, detector, CandidateRule().describe())
    assert contents.findings.rows == [["none", "–", "–", "–", "–"]]
    assert len(contents.pictures) == 1
    html = page.render(contents)
    assert "no lesion candidate" in html
    assert "at most 5" in html


def test_the_patient_is_named_only_on_request(dicom_study, detector, tmp_path) -> None:
    import pydicom

    secrets = ("Nobody", "Invented", "19700101")
    plain = detect(dicom_study, detector, tmp_path / "plain", rule=HALF).folder
    named = detect(dicom_study, detector, tmp_path / "named", rule=HALF, identify=True).folder
    clean = detect(dicom_study, detector, tmp_path / "clean", rule=HALF, deidentify=True).folder
    for folder in (plain, clean):
        html = (folder / "report.html").read_text()
        assert not [word for word in secrets if word in html]
    assert "Nobody^Invented" in (named / "report.html").read_text()
    source = pydicom.dcmread(next((dicom_study / "t2w").iterdir()))
    for name in ("seg.dcm", "report.dcm"):
        assert pydicom.dcmread(plain / name).PatientID == source.PatientID
        made = pydicom.dcmread(clean / name)
        assert made.PatientID != source.PatientID
        assert made.StudyInstanceUID != source.StudyInstanceUID
    uids = {pydicom.dcmread(clean / n).StudyInstanceUID for n in ("seg.dcm", "report.dcm")}
    assert len(uids) == 1  # they still belong together
    manifest = json.loads((clean / "manifest.json").read_text())
    assert source.SeriesInstanceUID not in json.dumps(manifest)
    assert all("path" not in entry for entry in manifest["inputs"])
