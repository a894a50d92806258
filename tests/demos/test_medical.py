"""The medical page without a browser: every path through it, and what nonsense does to it."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from apps.medical.shipped import DISCLAIMER

pytest.importorskip("streamlit", reason="needs the extra 'demos'")

ROOT = Path(__file__).resolve().parents[2]
NAME, ID = "Nobody^Invented", "PATIENT-77"


@pytest.fixture
def app(open_page) -> Any:
    return open_page("medical")


@pytest.fixture(scope="session")
def study(
    tmp_path_factory: pytest.TempPathFactory, samples: Path, write_dicom_series: Callable
) -> Path:
    """A zip of a study: the sample hippocampus as a DICOM series, and a localizer of one slice."""
    image = nib.load(samples / "hippocampus" / "imagesTr" / "hippocampus_003.nii.gz")
    array = np.asarray(image.dataobj)[::-1, ::-1].astype(np.uint16)  # RAS to LPS
    folder = tmp_path_factory.mktemp("study")
    write_dicom_series(
        folder / "t1", array.shape, array=array, spacing=(1, 1, 1), patient=ID, number=4,
        description="T1 hippocampus",
    )  # fmt: skip
    write_dicom_series(
        folder / "scout", (20, 20, 1), spacing=(1, 1, 5), patient=ID, number=1, description="scout"
    )
    archive = folder / "study.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        for file in sorted(folder.rglob("*.dcm")):
            writer.write(file, file.relative_to(folder))
    return archive


def button(app: Any, label: str) -> Any:
    (found,) = [one for one in app.button if one.label == label]
    return found


def segment(app: Any, settle: Any) -> Any:
    button(app, "Segment").click().run()
    settle(app)
    assert "The result" in [element.value for element in app.subheader], texts(app)
    return app


def show(app: Any, view: str) -> Any:
    app.segmented_control(key="view").set_value(view).run()
    assert not app.exception
    return app


def own(app: Any, *files: tuple[str, bytes]) -> Any:
    """Upload files as the image."""
    if app.radio(key="image source").value != "Your own":
        app.radio(key="image source").set_value("Your own").run()
    given = [(name, data, "application/octet-stream") for name, data in files]
    app.file_uploader(key="image upload").set_value(given).run()
    assert not app.exception
    return app


def sample(app: Any, title: str) -> Any:
    """Choose a sample by a part of its title."""
    box = app.selectbox(key="sample")
    (option,) = [one for one in box.options if title in one]
    box.select(option).run()
    assert not app.exception
    return app


def texts(app: Any) -> str:
    """Everything the page says."""
    kinds = ("title", "subheader", "markdown", "caption", "warning", "error", "info")
    said = [str(element.value) for kind in kinds for element in app.get(kind)]
    return "\n".join(said + [element.proto.body for element in app.get("html")])


def newest() -> Any:
    """The result of the segmentation that ended last."""
    return [job.result for job in _done() if job.label.startswith("Segmenting")][-1]


def _done() -> list[Any]:
    from demos.shared import jobs

    return [job for job in jobs._jobs.values() if job.state == "done"]


def test_one_click_segments_a_sample_as_the_command_does(app, settle, samples) -> None:
    from apps.medical import predict

    assert DISCLAIMER in texts(app)
    assert "34 × 52 × 35 voxels" in texts(app)
    assert "nothing in this image is unlike" in texts(app)
    segment(app, settle)
    assert DISCLAIMER in texts(app)
    path = samples / "hippocampus" / "imagesTr" / "hippocampus_003.nii.gz"
    (direct,) = predict([path], "hippocampus")
    written = np.asarray(nib.load(newest().folder / "seg.nii.gz").dataobj)
    np.testing.assert_array_equal(written, direct.labels)
    show(app, "Volumes")
    sizes, against = (frame.value for frame in app.dataframe)
    assert sizes["structure"].tolist() == ["anterior", "posterior"]
    assert sizes["voxels"].tolist() == [(direct.labels == label).sum() for label in (1, 2)]
    assert sizes["mL"].tolist() == pytest.approx([n / 1000 for n in sizes["voxels"]])
    assert against["Dice"].between(0.8, 1).all()
    show(app, "Export")
    names = [one.proto.label for one in app.get("download_button")]
    assert {"Mask (NIfTI)", "Report (PDF)", "Report (HTML)", "Volumes (CSV)"} <= set(names)
    assert "Mask (DICOM-SEG)" not in names


def test_another_image_never_shows_the_last_ones_result(app, settle) -> None:
    segment(app, settle)
    sample(app, "case 004")
    assert "The result" not in texts(app)
    assert "36 × 52 × 38 voxels" in texts(app)
    segment(app, settle)
    sample(app, "case 003")  # back: known, nothing is computed again
    assert "The result" in texts(app)
    assert "34 × 52 × 35 voxels" in texts(app)


def test_objects_are_counted_and_measured(app, settle) -> None:
    sample(app, "picture 1")
    assert app.multiselect[0].value == ["nuclei"]
    segment(app, settle)
    show(app, "Volumes")
    row, against = (frame.value.iloc[0] for frame in app.dataframe)
    assert row["count"] > 10
    assert against["F1 at IoU 0.5"] > 0.6
    before = int(row["count"])
    show(app, "Correct")
    assert "a threshold does not apply" in texts(app)
    (parts,) = [one for one in app.multiselect if one.label == "Parts to remove"]
    assert len(parts.options) == before
    parts.set_value([parts.options[0], parts.options[3]]).run()
    button(app, "Remove these").click().run()
    show(app, "Volumes")
    assert app.dataframe[0].value.iloc[0]["count"] == before - 2
    show(app, "Export")
    settle(app)
    assert "Mask (PNG)" in [one.proto.label for one in app.get("download_button")]


def test_a_model_that_does_not_know_such_images_says_so(app) -> None:
    sample(app, "CT angiogram")
    assert "was not trained on such images" in texts(app)
    assert "field of view" in texts(app)
    assert "about 378 windows" in texts(app)
    app.multiselect[0].set_value(["nuclei"]).run()
    assert "for a 2-D model; give one slice" in texts(app)
    assert button(app, "Segment").disabled


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.txt", b"hello", "this page does not read such files"),
        ("scan.nii.gz", b"not a scan at all", "not compressed"),
        ("scan.nii", b"\0" * 400, "scan.nii"),
        ("scan.nii", b"", "empty"),
        ("picture.png", b"\x89PNG\r\n\x1a\nbroken", "cannot be read"),
        ("study.zip", b"PK\3\4broken", "damaged zip"),
        ("../../etc/passwd.nii", b"root", "passwd.nii"),
        ("slice.dcm", b"\0" * 128 + b"DICM" + b"\0" * 50, "slice.dcm"),
    ],
)
def test_nonsense_is_told_in_a_sentence(app, name, content, said) -> None:
    own(app, (name, content))
    errors = [element.value for element in app.error]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in errors[0]
    assert "/" not in errors[0].split(":")[0], "a folder that nobody knows"
    assert "Segment" not in [one.label for one in app.button]


def nifti(array: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    return nib.Nifti1Image(array, np.eye(4) if affine is None else affine).to_bytes()


def test_a_zip_of_anything_else_is_refused(app) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("readme.txt", "no images here")
    own(app, ("holiday.zip", made.getvalue()))
    assert "no DICOM in it" in app.error[0].value


def test_voxels_that_are_not_numbers_are_replaced_on_request_only(app, settle) -> None:
    values = np.random.default_rng(0).normal(300, 80, (30, 40, 30)).clip(1).astype(np.float32)
    values[3, 4, 5] = np.nan
    own(app, ("holes.nii", nifti(values)))
    assert "1 NaN or infinite voxels" in app.error[0].value
    assert "1 voxels are NaN or infinite" in texts(app)
    assert button(app, "Segment").disabled
    app.toggle(key="repair").set_value(True).run()
    assert not app.error
    segment(app, settle)
    assert any("were replaced" in element.value for element in app.warning)


def test_an_empty_image_is_refused_before_it_is_segmented(app) -> None:
    own(app, ("empty.nii", nifti(np.zeros((20, 20, 20), np.int16))))
    assert "every voxel is 0" in app.error[0].value
    assert button(app, "Segment").disabled


def test_ones_own_image_and_reference(app, settle, samples) -> None:
    image = samples / "hippocampus" / "imagesTr" / "hippocampus_006.nii.gz"
    own(app, ("mine.nii.gz", image.read_bytes()))
    wrong = samples / "hippocampus" / "labelsTr" / "hippocampus_003.nii.gz"
    (field,) = [one for one in app.file_uploader if "Reference" in one.label]
    field.set_value((wrong.name, wrong.read_bytes(), "application/gzip")).run()
    assert "is it of this image?" in app.error[0].value
    right = wrong.with_name(image.name)
    (field,) = [one for one in app.file_uploader if "Reference" in one.label]
    field.set_value((right.name, right.read_bytes(), "application/gzip")).run()
    assert not app.error
    segment(app, settle)
    show(app, "Volumes")
    assert app.dataframe[1].value["Dice"].between(0.8, 1).all()
    # The same bytes as the sample's under another name are another image: nothing is mixed up.
    assert "mine.nii.gz" in texts(app)


def test_two_ways_are_compared(app, settle) -> None:
    segment(app, settle)
    app.radio(key="way").set_value("Mirrored").run()
    segment(app, settle)
    assert app.radio(key="result").options == ["hippocampus", "hippocampus, mirrored"]
    assert app.radio(key="result").value == "hippocampus, mirrored"  # what was asked for last
    show(app, "Compare")
    table = app.dataframe[0].value
    assert table["result"].unique().tolist() == ["hippocampus, mirrored", "hippocampus"]
    agreement = table[table["result"] == "hippocampus"]["Dice with the first"]
    assert agreement.between(0.8, 0.9999).all()
    assert table["Dice"].between(0.8, 1).all()
    app.radio(key="result").set_value("hippocampus").run()
    assert app.dataframe[0].value["result"].tolist()[0] == "hippocampus"


def test_corrections_are_steps_that_can_be_undone(app, settle) -> None:
    sample(app, "case 006")
    segment(app, settle)

    def voxels() -> list[int]:
        show(app, "Volumes")
        found = app.dataframe[0].value["voxels"].tolist()
        show(app, "Correct")
        return found

    first = voxels()
    app.toggle(key=own_key(app, "own threshold-")).set_value(True).run()
    app.slider(key=own_key(app, "threshold-")).set_value(0.9).run()
    sure = voxels()
    assert all(a < b for a, b in zip(sure, first))
    (remove,) = [one for one in app.button if one.label.startswith("Remove the part under")]
    assert not remove.disabled
    remove.click().run()
    less = voxels()
    assert sum(less) < sum(sure)
    assert "component at voxel" in texts(app)
    show(app, "Volumes")
    assert "confidence" not in app.dataframe[0].value
    show(app, "Export")
    settle(app)
    assert "they say that a person took part" in texts(app)
    written = _done()[-1].result
    labels = np.asarray(nib.load(written / "seg.nii.gz").dataobj)
    assert [(labels == label).sum() for label in (1, 2)] == less
    show(app, "Correct")
    button(app, "Undo the last").click().run()
    assert voxels() == sure
    button(app, "Start over").click().run()
    assert voxels() == first
    assert "Nothing is corrected yet" in texts(app)


def own_key(app: Any, start: str) -> str:
    elements = [*app.toggle, *app.slider]
    (key,) = [one.key for one in elements if one.key and one.key.startswith(start)]
    return key


def test_cleaning_needs_a_choice(app, settle) -> None:
    segment(app, settle)
    show(app, "Correct")
    button(app, "Clean").click().run()
    assert "Choose what to clean first" in texts(app)
    (box,) = [one for one in app.checkbox if one.label == "Keep only the largest part"]
    box.check()  # what is in a form counts when it is sent
    button(app, "Clean").click().run()
    assert "all but the largest component removed" in texts(app)
    button(app, "Start over").click().run()


def test_a_study_becomes_a_dicom_segmentation_without_the_patients_name(
    app, settle, study, samples
) -> None:
    import pydicom

    own(app, ("study.zip", study.read_bytes()))
    assert not app.error
    assert "MR" in texts(app)
    segment(app, settle)
    show(app, "Export")
    names = [one.proto.label for one in app.get("download_button")]
    assert {"Mask (DICOM-SEG)", "Report (DICOM)"} <= set(names)
    assert NAME not in texts(app)
    assert ID not in texts(app)
    folder = newest().folder
    seg = pydicom.dcmread(folder / "seg.dcm")
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["anterior", "posterior"]
    assert NAME not in (folder / "report.html").read_text()
    # The same voxels as the NIfTI sample, from another format, give the same segmentation.
    sample_path = samples / "hippocampus" / "imagesTr" / "hippocampus_003.nii.gz"
    from apps.medical import predict

    (direct,) = predict([sample_path], "hippocampus")
    turned = np.asarray(nib.as_closest_canonical(nib.load(folder / "seg.nii.gz")).dataobj)
    assert (turned == direct.labels).mean() > 0.999
    app.radio(key="patient").set_value("Removed").run()
    segment(app, settle)
    anonymous = pydicom.dcmread(newest().folder / "seg.dcm")
    assert str(anonymous.get("PatientName", "")) != NAME
    assert anonymous.StudyInstanceUID != seg.StudyInstanceUID


def test_loose_slices_are_one_series(app, study) -> None:
    with zipfile.ZipFile(study) as archive:
        files = [
            (Path(name).name, archive.read(name)) for name in archive.namelist() if "t1" in name
        ]
    own(app, *files)
    assert not app.error
    assert "34 × 52 × 35 voxels" in texts(app)
    bare = [(f"IM{place}", data) for place, (_, data) in enumerate(files * 2)][: len(files)]
    own(app, *bare)  # scanners' files often have no suffix
    assert not app.error
    assert "34 × 52 × 35 voxels" in texts(app)
    own(app, *files[:-1])
    assert "lacks 1 slice" in app.error[0].value
    own(app, bare[0], ("notes.txt", b"hello"))
    assert "this page does not read such files" in app.error[0].value
    own(app, bare[0], ("b/IM0", bare[1][1]))
    assert "two files of this name" in app.error[0].value


def test_a_long_series_pushes_no_other_result_out(app, settle, study) -> None:
    from demos.shared.workspace import LIMIT_FOLDERS, root

    segment(app, settle)
    with zipfile.ZipFile(study) as archive:
        slices = [archive.read(name) for name in archive.namelist() if "t1" in name]
    before = {folder.name for folder in root().iterdir()}
    own(app, *[(f"{copy}-{n}", data) for copy in range(2) for n, data in enumerate(slices)])
    assert 2 * len(slices) > LIMIT_FOLDERS
    assert before <= {folder.name for folder in root().iterdir()}
    assert "34 × 52 × 35 voxels" in texts(app)
    assert "copies of others" in texts(app)


def test_a_header_and_its_data_belong_together_and_of_images_one_is_chosen(app, tmp_path) -> None:
    import SimpleITK as sitk

    made = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 900, (9, 10, 11), np.int16))
    sitk.WriteImage(made, tmp_path / "one.mhd")
    files = [(file.name, file.read_bytes()) for file in sorted(tmp_path.iterdir())]
    assert [Path(name).suffix for name, _ in files] == [".mhd", ".raw"]
    own(app, *files)
    assert not app.error
    assert "11 × 10 × 9 voxels" in texts(app)
    other = nifti(np.random.default_rng(1).normal(9, 2, (12, 8, 7)).astype(np.float32))
    own(app, *files, ("two.nii", other))
    (which,) = [one for one in app.selectbox if one.label == "Which of the images"]
    assert which.options == ["one.mhd", "two.nii"]
    which.select("two.nii").run()
    assert "12 × 8 × 7 voxels" in texts(app)


def test_an_axis_of_time_is_not_guessed_at(app) -> None:
    own(app, ("fmri.nii", nifti(np.random.default_rng(0).normal(9, 2, (8, 8, 8, 5)))))
    assert len(app.error) == 1
    assert "fmri.nii" in app.error[0].value


def test_of_several_series_a_person_chooses(app, study, tmp_path) -> None:
    from apps.medical.dicom.series import list_series

    with zipfile.ZipFile(study) as archive, zipfile.ZipFile(tmp_path / "two.zip", "w") as more:
        for name in archive.namelist():
            more.writestr(name, archive.read(name))
            if "t1" in name:
                again = _as_series(archive.read(name), 9, "T1 repeated")
                more.writestr(name.replace("t1", "t9"), again)
    titles = {info.title for info in list_series(tmp_path / "two.zip") if not info.refusal}
    assert {"T1 hippocampus", "T1 repeated"} <= titles
    own(app, ("two.zip", (tmp_path / "two.zip").read_bytes()))
    (box,) = [one for one in app.selectbox if one.label == "Series"]
    (second,) = [one for one in box.options if "T1 repeated" in one]
    box.select(second).run()
    assert not app.error
    assert "T1 repeated" in texts(app)
    box = next(one for one in app.selectbox if one.label == "Series")
    (first,) = [one for one in box.options if "T1 hippocampus" in one]
    box.select(first).run()
    assert "T1 hippocampus" in texts(app)
    assert "T1 repeated" not in texts(app)


def _as_series(data: bytes, number: int, description: str) -> bytes:
    """A slice as another series of the same study."""
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.SeriesInstanceUID += f".{number}"
    dataset.SOPInstanceUID += f".{number}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesNumber, dataset.SeriesDescription = number, description
    made = io.BytesIO()
    dataset.save_as(made, enforce_file_format=True)
    return made.getvalue()


def test_a_model_of_ones_own(app, settle, tmp_path) -> None:
    field = app.text_input(key="own model")
    field.set_value(str(tmp_path / "nowhere")).run()
    assert "no such model folder" in app.error[0].value
    copy = tmp_path / "mine"
    copy.mkdir()
    for file in (ROOT / "weights" / "hippocampus").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    app.multiselect[0].set_value([]).run()
    app.text_input(key="own model").set_value(str(copy)).run()
    assert not app.error
    segment(app, settle)
    assert "mine, " in texts(app)


def test_waiting_work_is_cancelled_and_tried_again(app, settle) -> None:
    from demos.shared import jobs

    sample(app, "picture 6")
    go = threading.Event()
    jobs.submit("block", "Blocking", lambda progress: go.wait(60))
    try:
        button(app, "Segment").click().run()
        assert "The result" not in texts(app)
        button(app, "Cancel").click().run()
    finally:
        go.set()
    settle(app)
    assert "was cancelled; nothing was kept" in texts(app)
    button(app, "Try again").click().run()
    settle(app)
    assert "The result" in texts(app)
