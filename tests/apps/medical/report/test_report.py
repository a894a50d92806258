"""The report as its reader gets it: a page that asks for nothing, a PDF, pictures the right way up."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from apps.medical.data.volume import Volume
from apps.medical.report import page, pdf
from apps.medical.report.contents import figure_text, gather
from apps.medical.report.figures import plane_pictures, slice_pictures
from apps.medical.results import statistics
from apps.medical.shipped import DISCLAIMER
from apps.medical.store import Model, ModelSpec, NetworkSpec
from apps.medical.uncertainty import Figure

NASTY = '<script>alert(1)</script><img src="http://x.test/a.png">'
NAMES = {0: "background", 2: "front", 5: "back"}


def volume(shape=(20, 24, 16), store=None) -> Volume:
    array = np.random.default_rng(0).normal(100, 9, shape).astype(np.float32)
    return Volume(
        array=array, affine=np.diag([1.0, 1.5, 2.5, 1]), spacing=(1.0, 1.5, 2.5), rank=3,
        path=Path("x.nii.gz"), store=store,
    )  # fmt: skip


def labels(shape=(20, 24, 16)) -> np.ndarray:
    found = np.zeros(shape, np.uint8)
    found[12:17, 5:12, 4:10], found[12:17, 12:18, 4:10] = 2, 5
    return found


@pytest.fixture
def report(make_plan, calibration):
    """Make the contents of a report; ``calibrated`` as a model on its own held-out cases."""

    def make(case="case", calibrated=True, warnings=(), image=None, identify=False, unlike=False):
        spec = ModelSpec(
            name="small", network=NetworkSpec(name="unet", rank=3, in_channels=1, out_channels=3),
            plan=make_plan(), labels=NAMES, metrics={"front": {"dice": 0.7531, "hd95": 2.0}},
            calibration=calibration() if calibrated else None,
        )  # fmt: skip
        model = Model((), spec, Path("small"), (), {"model.safetensors": "abcdef0123456789"})
        image = image if image is not None else volume()
        stats = statistics(labels(), image, NAMES, images=[image], case=case)
        for entry in stats["labels"].values():
            entry |= {"confidence": 0.913, "expected_dice": 0.852}
            if calibrated:
                entry |= {"dice_at_least": 0.741, "extent_mL": 3.21, "range_mL": [0.412, 0.934]}
        stats["uncertainty"] = {"mean_inside": 0.2, "calibrated": calibrated, "note": "a note"}
        stats["uncertainty"]["unlike_training"] = unlike
        doubt = np.full(labels().shape, 0.1, np.float32)
        return gather(
            case, [image], labels(), doubt, stats, model, warnings, "overlap 0.5", identify=identify
        )

    return make


class Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text += data + "\n"


def test_the_page_asks_for_nothing_and_runs_nothing(report) -> None:
    html = page.render(report(case=NASTY, warnings=[NASTY, "'; --"]))
    parsed = Page(html)
    assert {tag for tag, _ in parsed.tags}.isdisjoint(
        {"script", "link", "iframe", "object", "embed", "form", "base", "video", "a"}
    )
    for tag, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action", "data"):
                assert str(value).startswith("data:image/png;base64,")
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for _, a in parsed.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert NASTY in parsed.text  # told as it is, not run


def test_the_page_says_what_a_reader_needs(report) -> None:
    text = Page(page.render(report(warnings=["voxels of 9 mm"]))).text
    for words in (
        DISCLAIMER, "voxels of 9 mm", "Read this first", "front", "0.787", "0.412–0.934", "3.21",
        "0.91", "0.85 (0.74)", "0.876", "(0.851–0.912)", "20 cases (19 patients)", "synthetic",
        "1 × 1.5 × 2.5 mm", "small (unet, 3-D)", "abcdef012345", "radiological convention",
    ):  # fmt: skip
        assert words.lower() in text.lower(), words
    assert "may be worth nothing" not in text
    assert len([t for t, _ in Page(page.render(report())).tags if t == "img"]) == 3


def test_an_image_unlike_the_held_out_ones_voids_the_promises(report) -> None:
    assert "may be worth nothing" in Page(page.render(report(unlike=True))).text
    assert "may be worth nothing" in " ".join(pages(pdf.render(report(unlike=True))))


def test_without_calibration_nothing_pretends_to_be_calibrated(report) -> None:
    text = Page(page.render(report(calibrated=False))).text
    assert "A note." in text
    assert "Neither was calibrated" in text
    assert "No interval recorded" in text
    assert "0.753" in text
    assert "range" not in text.lower().replace("arrange", "")
    assert "Nothing unusual" in text


def pages(data: bytes) -> list[str]:
    from pypdf import PdfReader

    reader = PdfReader(BytesIO(data))
    assert "/JavaScript" not in str(reader.trailer["/Root"])
    return [" ".join(part.extract_text().split()) for part in reader.pages]


def test_the_pdf_says_the_same_on_a4(report) -> None:
    found = pages(pdf.render(report(case="Fälle & <b>7", warnings=["voxels of 9 mm"])))
    assert 2 <= len(found) <= 3
    for number, text in enumerate(found, 1):
        assert DISCLAIMER in text
        assert f"page {number}" in text
    whole = " ".join(found)
    for words in ("Fälle & <b>7", "voxels of 9 mm", "0.412–0.934", "0.85 (0.74)", "0.876"):
        assert words in whole


def test_a_long_name_many_labels_and_many_warnings_still_print(report) -> None:
    contents = report(case="x" * 300, warnings=[f"warning {n} " * 30 for n in range(60)])
    rows = [[f"structure {n}", *["1"] * 6] for n in range(120)]
    object.__setattr__(contents.findings, "rows", rows)
    object.__setattr__(contents.findings, "colours", ["#E69F00"] * 120)
    found = pages(pdf.render(contents))
    assert "structure 119" in " ".join(found)
    assert "warning 59" in " ".join(found)
    assert all(DISCLAIMER in text for text in found)


def test_the_same_contents_give_the_same_bytes(report) -> None:
    contents = report()
    assert pdf.render(contents) == pdf.render(contents)
    assert page.render(contents) == page.render(contents)


def test_the_patient_is_named_only_on_request(report) -> None:
    header = {
        "PatientName": "Mustermann^Erika",
        "PatientID": "PAT-4711-X",
        "SeriesDescription": "T1 of Erika",
    }
    series = SimpleNamespace(modality="MR", body_part="HEAD", number=7, orientation="axial",
                             description="T1 of Erika", patient_id="PAT-4711-X", uid="1.2")  # fmt: skip
    store = SimpleNamespace(series=series, read_headers=lambda: [header])
    image = volume(store=store)
    for render in (page.render, lambda c: " ".join(pages(pdf.render(c)))):
        anonymous = render(report(image=image))
        for secret in ("Mustermann", "Erika", "PAT-4711-X"):
            assert secret not in anonymous
        named = render(report(image=image, identify=True))
        for told in ("Mustermann^Erika", "PAT-4711-X"):
            assert told in named
    text = Page(page.render(report(image=image))).text
    assert "MR" in text
    assert "head" in text


def test_the_heat_lies_where_the_uncertainty_is() -> None:
    """The patient's right is left in the picture; the other rows of planes stay as they are."""
    image, places = volume(), []

    def drawn(doubt: np.ndarray) -> np.ndarray:
        png = plane_pictures(image, labels(), {}, doubt).png
        return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)

    bare = drawn(np.zeros(labels().shape))
    for right in (True, False):  # in RAS+, x grows to the right
        doubt = np.zeros(labels().shape)
        doubt[14 : 18 if right else None] = 1.0 if right else 0.0
        doubt[2:6] = 0.0 if right else 1.0
        changed = np.abs(drawn(doubt) - bare).sum(2) > 60
        assert np.flatnonzero(changed.any(1)).min() > bare.shape[0] * 0.55
        coronal_and_axial = changed[:, : bare.shape[1] // 2]
        places.append(np.flatnonzero(coronal_and_axial.any(0)).min())
    assert places[0] < places[1]


def test_slices_follow_the_coarse_axis_and_cover_the_structure() -> None:
    found = slice_pictures(volume(), labels())
    assert "every slice" in found.caption
    assert "axial" in found.caption
    assert slice_pictures(volume(), np.zeros(labels().shape, np.uint8)) is None
    tall = slice_pictures(volume((20, 24, 60)), np.ones((20, 24, 60), np.uint8))
    assert "12 slices" in tall.caption


def test_pictures_fit_the_page() -> None:
    for shape in ((20, 24, 16), (6, 200, 8), (200, 6, 8), (5, 5, 90)):
        image, all_of_it = volume(shape), np.ones(shape, np.uint8)
        for found in (
            plane_pictures(image, all_of_it, {1: "x"}, np.zeros(shape)),
            slice_pictures(image, all_of_it),
        ):
            assert found.width <= 7.2
            assert found.height <= 7.0
            width, height = Image.open(BytesIO(found.png)).size
            assert width / height == pytest.approx(found.width / found.height, rel=0.02)


def test_a_flat_picture_and_objects(make_plan) -> None:
    array = np.random.default_rng(0).integers(0, 255, (3, 40, 60)).astype(np.uint8)
    image = Volume(array=array, affine=np.eye(4), spacing=(1.0, 1.0), rank=2, path=Path("x.png"),
                   physical=False)  # fmt: skip
    objects = np.zeros((40, 60), np.uint16)
    objects[5:9, 5:9], objects[20:30, 20:30] = 1, 2
    spec = ModelSpec(
        name="cells", network=NetworkSpec(name="unet", rank=2, in_channels=3, out_channels=3),
        plan=make_plan(rank=2, target="instances"), labels={0: "background", 1: "object"},
    )  # fmt: skip
    stats = statistics(objects, image, spec.labels, images=[image], instances=True)
    contents = gather("c", [image], objects, objects / 2, stats, Model((), spec, Path()))
    text = Page(page.render(contents)).text
    assert "Number of objects" in text
    assert "right is on the left" not in text  # a picture has no sides
    assert len(pages(pdf.render(contents))) >= 1


def test_figures_as_text() -> None:
    assert figure_text(Figure(mean=0.5, ci95=(0.25, 0.75), n=3), 2) == "0.50 (0.25 to 0.75)"
    assert figure_text(Figure(mean=0.5, ci95=None, n=1), 1) == "0.5"
    assert figure_text(Figure(mean=None, ci95=None, n=0)) == figure_text(None) == "–"


def test_a_reference_is_a_row_of_its_own() -> None:
    image, found = volume(), labels()
    alone = plane_pictures(image, found, {})
    beside = plane_pictures(image, found, {}, others={"reference": np.full_like(found, 2)})
    assert "the segmentation, reference, in the planes" in beside.caption
    assert beside.height <= 7.0

    def coloured(picture) -> int:
        pixels = np.asarray(Image.open(BytesIO(picture.png)).convert("RGB")).astype(int)
        return int((np.ptp(pixels, axis=2) > 60).sum())

    assert coloured(beside) > 1.3 * coloured(alone)
