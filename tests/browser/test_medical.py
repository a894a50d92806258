"""The medical page in a real browser: from an image to the files that a person takes away."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pypdf import PdfReader

from apps.medical.overlay import colour_of
from apps.medical.shipped import DISCLAIMER

if TYPE_CHECKING:
    from playwright.sync_api import Page

expect = pytest.importorskip("playwright.sync_api", reason="no Playwright").expect

FIRST = 120_000  # ms: the first segmentation imports torch, perhaps on a busy machine


def segment(page: Page, settle: Any) -> None:
    page.get_by_role("button", name="Segment", exact=True).click()
    expect(page.get_by_role("heading", name="The result")).to_be_visible(timeout=FIRST)
    settle(page, seconds=60)


def show(page: Page, settle: Any, view: str) -> None:
    page.get_by_role("radio", name=view, exact=True).click()
    settle(page)


def plane(page: Page, name: str = "axial") -> Any:
    """The picture of one plane of the viewer."""
    picture = page.locator(f'.frame[data-plane="{name}"] img')
    expect(picture).to_be_visible()
    return picture


def coloured(picture: np.ndarray, label: int) -> float:
    """The share of pixels with the hue of a label's colour, however light the wash over the grey."""
    text = colour_of(label)
    wanted = np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)], float)
    wanted -= wanted.mean()
    given = picture.astype(float) - picture.mean(-1, keepdims=True)
    size = np.linalg.norm(given, axis=-1)
    alike = given @ wanted / np.maximum(size, 1e-9) / np.linalg.norm(wanted)
    return float(((alike > 0.9) & (size > 25)).mean())


@pytest.fixture(scope="session")
def study(
    tmp_path_factory: pytest.TempPathFactory, samples: Path, write_dicom_series: Callable
) -> Path:
    """A zip of a study with the sample hippocampus as a DICOM series; the patient is nobody."""
    image = nib.load(samples / "hippocampus" / "imagesTr" / "hippocampus_003.nii.gz")
    array = np.asarray(image.dataobj)[::-1, ::-1].astype(np.uint16)  # RAS to LPS
    folder = tmp_path_factory.mktemp("study")
    write_dicom_series(
        folder, array.shape, array=array, spacing=(1, 1, 1), description="T1 hippocampus"
    )
    with zipfile.ZipFile(folder / "study.zip", "w") as archive:
        for file in sorted(folder.glob("*.dcm")):
            archive.write(file, file.name)
    return folder / "study.zip"


def test_one_click_from_the_sample_to_the_files(
    page, visit, settle, shoot, pixels, download, samples
):
    visit(page, "medical")
    expect(page.get_by_text(DISCLAIMER)).to_be_visible()
    expect(page.get_by_text("34 × 52 × 35 voxels")).to_be_visible()
    bare = pixels(plane(page))
    assert coloured(bare, 1) < 0.01
    shoot(page, "1-image")
    segment(page, settle)
    expect(page.get_by_text("reference: anterior")).to_be_visible()
    marked = pixels(plane(page))
    assert coloured(marked, 1) > 0.04  # the mask is really there
    assert coloured(marked, 2) > 0.01
    shoot(page, "2-result")

    show(page, settle, "Before and after")
    picture = page.get_by_role("img", name="The image, the segmentation, reference")
    expect(picture).to_be_visible()
    assert coloured(pixels(picture), 1) > 0.01
    shoot(page, "3-before-and-after")
    show(page, settle, "Volumes")
    expect(page.get_by_text("Against the reference")).to_be_visible()
    shoot(page, "4-volumes")

    show(page, settle, "Export")
    expect(page.get_by_role("button", name="Report (PDF)")).to_be_visible()
    shoot(page, "5-export")
    mask = nib.load(download(page, "Mask (NIfTI)"))
    image = nib.load(samples / "hippocampus" / "imagesTr" / "hippocampus_003.nii.gz")
    assert mask.shape == image.shape
    np.testing.assert_array_equal(mask.affine, image.affine)
    assert mask.get_data_dtype() == np.uint8
    labels = np.asarray(mask.dataobj)
    table = pd.read_csv(download(page, "Volumes (CSV)"))
    assert table["voxels"].tolist() == [(labels == label).sum() for label in (1, 2)]
    pages = PdfReader(download(page, "Report (PDF)")).pages
    text = "".join(one.extract_text() for one in pages)
    assert "hippocampus_003" in text
    assert "Not a medical device" in text
    report = download(page, "Report (HTML)").read_text(encoding="utf-8")
    assert "anterior" in report
    assert "<script" not in report
    with zipfile.ZipFile(download(page, "Everything (ZIP)")) as archive:
        names = {Path(name).name for name in archive.namelist()}
        assert archive.testzip() is None
        (manifest,) = [name for name in archive.namelist() if name.endswith("manifest.json")]
        assert json.loads(archive.read(manifest))["model"]["name"] == "hippocampus"
    assert {"seg.nii.gz", "uncertainty.nii.gz", "stats.json", "volumes.csv"} <= names


def test_a_study_of_ones_own_becomes_a_dicom_segmentation(
    page, visit, settle, shoot, upload, download, study
):
    import pydicom

    visit(page, "medical")
    page.get_by_text("Your own", exact=True).click()
    settle(page)
    upload(page, study)
    expect(page.get_by_text("34 × 52 × 35 voxels")).to_be_visible()
    expect(page.get_by_text("Modality", exact=True)).to_be_visible()
    settle(page)
    shoot(page, "1-study")
    segment(page, settle)
    assert "Nobody" not in page.locator("body").inner_text()
    show(page, settle, "Export")
    seg = pydicom.dcmread(download(page, "Mask (DICOM-SEG)"))
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["anterior", "posterior"]
    assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"AUTOMATIC"}
    shoot(page, "2-export")


def test_a_bad_upload_is_a_sentence_and_the_next_image_works(
    page, visit, settle, shoot, upload, samples, tmp_path
):
    bad = tmp_path / "scan.nii.gz"
    bad.write_bytes(b"this is no scan")
    visit(page, "medical")
    page.get_by_text("Your own", exact=True).click()
    settle(page)
    upload(page, bad)
    expect(page.get_by_role("alert").filter(has_text="not compressed")).to_be_visible()
    assert page.get_by_role("button", name="Segment", exact=True).count() == 0
    shoot(page, "1-refused")
    page.get_by_role("button", name="Remove scan.nii.gz").click()
    settle(page)
    upload(page, samples / "nuclei" / "images" / "0e4c2e2780de7ec4.png")
    expect(page.get_by_text("nuclei: objects in red, green, blue (2-D)")).to_be_visible()
    assert page.get_by_role("alert").filter(has_text="not compressed").count() == 0
    segment(page, settle)
    show(page, settle, "Before and after")
    page.get_by_role("img", name="The image, the segmentation").wait_for()
    shoot(page, "2-objects")


def test_compare_and_correct_on_a_telephone(narrow, visit, settle, shoot, pixels):
    page = narrow
    visit(page, "medical")
    page.get_by_text("Options and models of your own").click()
    page.get_by_text("Mirrored", exact=True).click()
    settle(page)
    segment(page, settle)
    page.get_by_text("Standard", exact=True).click()
    settle(page)
    page.get_by_role("button", name="Segment", exact=True).click()
    expect(page.get_by_role("radio", name="hippocampus, mirrored")).to_be_visible(timeout=FIRST)
    settle(page)
    show(page, settle, "Compare")
    page.get_by_role("img", name="The image, the segmentation, hippocampus, mirrored").wait_for()
    shoot(page, "1-compare")

    show(page, settle, "Correct")
    before = coloured(pixels(plane(page)), 1)
    page.get_by_role("button", name="Remove the part under the crosshair (anterior)").click()
    expect(page.get_by_text("anterior: component at voxel")).to_be_visible()
    settle(page)
    page.wait_for_timeout(500)
    assert coloured(pixels(plane(page)), 1) < before / 4
    shoot(page, "2-correct")
    width = page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= 390  # nothing sticks out to the side
    page.get_by_role("button", name="Undo the last").click()
    settle(page)
    page.wait_for_timeout(500)
    assert coloured(pixels(plane(page)), 1) > before / 2
    show(page, settle, "View")
    shoot(page, "3-view")
