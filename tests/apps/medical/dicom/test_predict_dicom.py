"""From a scanner's folder or zip to a case folder, through the command line."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from apps.medical.cases import find_cases, provenance, read_again
from apps.medical.data.volume import same_grid
from core.errors import UsageError

SHAPE = (20, 18, 10)


@pytest.fixture
def study(tmp_path, series) -> Path:
    """Two series of one grid, T1 and T2, of a patient."""
    folder = tmp_path / "study"
    for number, name in ((1, "T1 axial"), (2, "T2 axial")):
        series(folder / name, SHAPE, number=number, description=name, plane="oblique")
    return folder


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*.dcm"):
            archive.write(file, file.relative_to(folder))
    return path


def test_folder_and_zip_give_the_same(command, study, tmp_path, model_3d) -> None:
    archive = zipped(study, tmp_path / "from scanner.zip")
    line = ("--model", model_3d, "--series", "T2", "--no-report", "--out", tmp_path / "out")
    code, report, _ = command("predict", study, archive, *line)
    assert code == 0, report
    assert [case["case"] for case in report["cases"]] == ["study", "from scanner"]
    one, two = (
        nib.load(tmp_path / "out" / name / "seg.nii.gz") for name in ("study", "from scanner")
    )
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(two.dataobj))
    np.testing.assert_array_equal(one.affine, two.affine)
    (volume,) = (case.series[0] for case in find_cases(study / "T2 axial", dicom=True))
    assert volume.stack is not None
    assert one.shape == SHAPE
    np.testing.assert_allclose(one.affine, volume.stack.affine, atol=1e-5)
    written = (tmp_path / "out" / "study" / "manifest.json").read_text()
    (origin,) = json.loads(written)["inputs"]
    assert (origin["path"], origin["files"]) == (str(study), 10)
    assert "Nobody" not in written  # no patient's name in what is not DICOM


def test_several_series_of_a_source_are_several_cases(command, study, tmp_path, model_3d) -> None:
    line = ("--model", model_3d, "--no-report", "--out", tmp_path / "out")
    code, report, _ = command("predict", study, "--series", "T1", "--series", "2", *line)
    assert code == 0
    assert [case["case"] for case in report["cases"]] == ["study_1", "study_2"]
    code, _, errors = command("predict", study, *line)
    assert code == 2
    assert "several series fit; choose with --series: 1 'T1 axial'" in errors
    code, _, errors = command("predict", study, "--series", "T1", "--series", "1", *line)
    assert code == 2
    assert "chosen twice" in errors


def test_a_study_that_cannot_be_segmented_fails_alone(command, study, tmp_path, model_3d) -> None:
    bad = shutil.copytree(study / "T1 axial", tmp_path / "bad")
    file = next(bad.iterdir())
    file.write_bytes(file.read_bytes()[:-10])
    good = study / "T2 axial"
    line = ("--model", model_3d, "--no-report", "--out", tmp_path / "out")
    code, report, _ = command("predict", bad, good, *line)
    assert code == 3
    assert [case["status"] for case in report["cases"]] == ["failed", "done"]
    assert "is truncated: 710 of 720 bytes" in report["cases"][0]["error"]
    assert not (tmp_path / "out" / "bad").exists()
    empty = tmp_path / "empty.zip"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("a.txt", "x")
    code, report, _ = command("predict", empty, *line)
    assert code == 3
    assert "no DICOM in it" in report["cases"][0]["error"]
    code, report, _ = command("predict", tmp_path / "absent.zip", *line)
    assert code == 3
    assert "no such file" in report["cases"][0]["error"]


def test_a_model_of_two_channels_takes_two_series(
    command, study, tmp_path, make_plan, save_small
) -> None:
    plan = make_plan(channels=2).model_copy(update={"channels": ["T2 MR", "T1 MR"]})
    (case,) = find_cases(study, 2, dicom=True, plan=plan)
    assert [info.number for info in case.series] == [2, 1]
    (case,) = find_cases(study, 2, dicom=True, plan=plan, series=["T1", "T2"])
    assert [info.number for info in case.series] == [1, 2]
    with pytest.raises(UsageError, match="1 given, the model wants 2"):
        find_cases(study, 2, dicom=True, plan=plan, series=["T1"])
    model = save_small(tmp_path / "model", plan)
    code, report, _ = command(
        "predict", study, "--model", model, "--no-report", "--out", tmp_path / "out"
    )
    assert code == 0, report
    manifest = json.loads((tmp_path / "out" / "study" / "manifest.json").read_text())
    assert len(manifest["inputs"]) == 2


def test_images_win_over_dicom_unless_a_series_is_asked_for(study, write_volume, tmp_path) -> None:
    image = write_volume("scan.nii.gz")
    shutil.move(image, study / "scan.nii.gz")
    assert [case.name for case in find_cases(study, dicom=True)] == ["scan"]
    (case,) = find_cases(study, dicom=True, series=["T1"])
    assert case.series[0].number == 1
    with pytest.raises(UsageError, match="--series chooses from DICOM"):
        find_cases(study / "scan.nii.gz", dicom=True, series=["T1"])


def test_a_choice_by_rule_is_said(command, study, tmp_path, make_plan, save_small) -> None:
    model = save_small(
        tmp_path / "model", make_plan(channels=1).model_copy(update={"channels": ["T2"]})
    )
    line = ("predict", study, "--model", model, "--no-report", "--out", tmp_path / "out")
    code, report, _ = command(*line)
    assert code == 0
    (case,) = report["cases"]
    assert "of 2 series 'T2 axial' was taken by rule; --series chooses another" in case["warnings"]
    (case,) = command(*line, "--series", "T2", "--force")[1]["cases"]
    assert not [text for text in case["warnings"] if "by rule" in text]


def test_a_derived_result_shows_the_series_again(command, study, tmp_path, model_3d) -> None:
    """postprocess finds the image by the manifest, as long as it has not changed."""
    out = tmp_path / "out"
    line = ("predict", study, "--model", model_3d, "--series", "T1", "--no-report", "--out", out)
    assert command(*line)[0] == 0
    clean = ("postprocess", out, "--keep-largest", "--out")
    assert command(*clean, tmp_path / "one")[0] == 0
    assert (tmp_path / "one" / "study" / "overlay.png").is_file()
    next((study / "T1 axial").iterdir()).unlink()
    assert command(*clean, tmp_path / "two")[0] == 0
    assert not (tmp_path / "two" / "study" / "overlay.png").exists()


def test_a_deidentified_manifest_leads_back_to_nobody(study) -> None:
    (case,) = find_cases(study, dicom=True, series=["T1"])
    (entry,) = provenance(case, deidentify=True)
    assert set(entry) == {"files", "sha256"}
    (full,) = provenance(case)
    assert full["sha256"] == entry["sha256"]
    assert read_again(full).shape == SHAPE
    with pytest.raises(KeyError):
        read_again(entry)


def test_previews_on_a_studys_disk_are_no_images(study, make_plan) -> None:
    (study / "IHE_PDI").mkdir()
    for name in ("logo.png", "IHE_PDI/preview.jpg"):
        (study / name).write_bytes(b"x")
    (case,) = find_cases(study / "T1 axial", dicom=True, plan=make_plan())
    assert case.series[0].number == 1
    (case,) = find_cases(study, dicom=True, plan=make_plan(), series=["T2"])
    assert case.series[0].number == 2
    flat = find_cases(study, dicom=True, plan=make_plan(rank=2))
    assert [case.name for case in flat] == ["logo", "preview"]
    (study / "T2 axial").rename(study.parent / "elsewhere")
    assert find_cases(study, dicom=True, plan=make_plan())[0].series[0].number == 1


@pytest.mark.parametrize(
    ("name", "case"),
    [("a b", "a b"), ("v1.2", "v1.2"), ("x.zip", "x.zip"), (" .hidden. ", "hidden")],
)
def test_case_names_come_from_the_source_alone(study, tmp_path, name, case) -> None:
    folder = shutil.copytree(study / "T1 axial", tmp_path / "cases" / name)
    (found,) = find_cases(folder, dicom=True)
    assert found.name == case


def test_a_case_named_by_a_dot_or_a_file(study, monkeypatch) -> None:
    monkeypatch.chdir(study / "T1 axial")
    assert find_cases(".", dicom=True)[0].name == "T1 axial"
    file = next(Path().glob("*.dcm"))
    (case,) = find_cases(file, dicom=True)
    assert case.name == file.stem
    assert "one slice only" in case.error


def test_the_segmentation_lies_where_the_image_does(command, tmp_path, series, model_3d) -> None:
    """Through orientation, crop and resampling, on a grid whose slices run against the normal."""
    from apps.medical.data.volume import read_image
    from apps.medical.dicom.series import list_series
    from apps.medical.dicom.volume import read_series

    for plane in ("sagittal", "oblique"):
        made = series(tmp_path / plane, SHAPE, plane=plane, reverse=True)
        out = tmp_path / f"out {plane}"
        code, report, _ = command(
            "predict", made.folder, "--model", model_3d, "--no-report", "--out", out
        )
        assert code == 0, report
        written = read_image(out / plane / "seg.nii.gz")
        assert same_grid(written, read_series(list_series(made.folder)[0])) == ""


def test_the_shipped_model_on_a_real_study(command, dicom_data, tmp_path) -> None:
    line = ("--model", "hippocampus", "--no-report", "--out", tmp_path / "out")
    code, report, _ = command("predict", dicom_data / "brain-study", "--series", "hippo", *line)
    assert code == 0, report
    volumes = {k: v["mL"] for k, v in report["cases"][0]["stats"]["labels"].items()}
    assert 0.5 < volumes["anterior"] < 4
    assert 0.5 < volumes["posterior"] < 4
    code, _, errors = command("predict", dicom_data / "brain-study", *line)
    assert code == 2
    assert "series of 2 patients" in errors
    code, report, _ = command("predict", dicom_data / "prostate-study", *line)
    assert code == 3
    assert "the model takes 'T1w MR'" in report["cases"][0]["error"]
