"""What stands beside a segmentation made from others, and what is said where it cannot."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pydicom
import pytest

from apps.medical.data.volume import read_image
from apps.medical.derived import Making
from apps.medical.ensemble import ensemble
from apps.medical.postprocess import Steps, postprocess
from apps.medical.predict import predict
from apps.medical.uncertainty import entropy
from core.errors import UsageError


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_cleaning_a_series_keeps_its_dicom(model_3d, dicom_series, tmp_path) -> None:
    """seg.dcm holds the cleaned labels, of the same study, made by no person."""
    from apps.medical.data.volume import read_label
    from apps.medical.dicom.segmentation import read_seg

    predict([dicom_series], model_3d, tmp_path / "p")
    report = postprocess(tmp_path / "p", tmp_path / "out", Steps(keep_largest=True))
    (case,) = report["voxels_changed"]
    assert report["voxels_changed"][case] > 0
    before, folder = tmp_path / "p" / case, tmp_path / "out" / case
    assert {file.name for file in folder.iterdir()} == {file.name for file in before.iterdir()}
    labels = read_label(folder / "seg.nii.gz")
    read = read_seg(folder / "seg.dcm").volume
    for pair in zip(np.unique(labels.array)[1:], np.unique(read.array)[1:], strict=True):
        at = [
            np.argwhere(v.array == label) @ v.affine[:3, :3].T + v.affine[:3, 3]
            for v, label in zip((labels, read), pair, strict=True)
        ]  # segments are numbered from 1
        np.testing.assert_allclose(at[0].mean(0), at[1].mean(0), atol=1e-3)
        assert len(at[0]) == len(at[1])
    segments = pydicom.dcmread(folder / "seg.dcm").SegmentSequence
    assert {item.SegmentAlgorithmType for item in segments} == {"AUTOMATIC"}
    assert "cleaned by rules" in segments[0].SegmentationAlgorithmIdentificationSequence[0].get(
        "AlgorithmParameters", ""
    )
    source = pydicom.dcmread(next(dicom_series.iterdir()))
    for name in ("seg.dcm", "report.dcm"):
        assert pydicom.dcmread(folder / name).StudyInstanceUID == source.StudyInstanceUID
    assert (folder / "uncertainty.nii.gz").read_bytes() == (
        before / "uncertainty.nii.gz"
    ).read_bytes()
    assert "cleaned by rules" in (folder / "report.html").read_text()


def test_a_source_without_its_patient_stays_so(model_3d, dicom_series, tmp_path) -> None:
    """Such a manifest does not say where the images are: no DICOM is made that could name anyone."""
    predict([dicom_series], model_3d, tmp_path / "p", deidentify=True)
    postprocess(tmp_path / "p", tmp_path / "out", Steps(keep_largest=True))
    (folder,) = (tmp_path / "out").iterdir()
    assert not list(folder.glob("*.dcm"))
    assert any("no report" in warning for warning in manifest_of(folder)["warnings"])


def test_without_the_model_the_labels_are_written_all_the_same(
    model_3d, write_volume, tmp_path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_3d, model)
    predict(write_volume(), model, tmp_path / "p")
    shutil.rmtree(model)
    postprocess(tmp_path / "p", tmp_path / "out", Steps(keep_largest=True))
    folder = tmp_path / "out" / "case"
    assert {"seg.nii.gz", "overlay.png", "stats.json"} <= {f.name for f in folder.iterdir()}
    assert not (folder / "report.html").exists()
    (said,) = (w for w in manifest_of(folder)["warnings"] if "no report" in w)
    assert "model is not where it was" in said


def test_uncertainty_needs_no_image(model_3d, write_volume, tmp_path) -> None:
    image = write_volume()
    for name in "ab":
        predict(image, model_3d, tmp_path / name, save_probabilities=True)
    image.unlink()
    postprocess(tmp_path / "a", tmp_path / "cleaned", Steps(keep_largest=True))
    ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "mean")
    maps = {}
    for name in ("a", "cleaned", "mean"):
        folder = tmp_path / name / "case"
        assert "uncertainty.nii.gz" in manifest_of(folder)["outputs"]
        maps[name] = read_image(folder / "uncertainty.nii.gz")
    for name in ("cleaned", "mean"):
        assert not list((tmp_path / name).glob("case/report.*"))
        np.testing.assert_allclose(maps[name].affine, maps["a"].affine)
    assert np.array_equal(maps["cleaned"].array, maps["a"].array)
    with np.load(tmp_path / "a" / "case" / "probabilities.npz") as stored:
        p = stored["probabilities"].astype(np.float32)  # of a mean with itself, too
    np.testing.assert_allclose(maps["mean"].array, entropy(p / p.sum(0)), atol=1e-4)


def test_reports_can_be_left_out(model_3d, write_volume, tmp_path) -> None:
    predict(write_volume(), model_3d, tmp_path / "p", report=False)
    postprocess(tmp_path / "p", tmp_path / "out", Steps(keep_largest=True), report=False)
    folder = tmp_path / "out" / "case"
    assert not list(folder.glob("report.*"))
    assert manifest_of(folder).get("warnings", []) == manifest_of(tmp_path / "p" / "case").get(
        "warnings", []
    )


def test_the_models_of_an_ensemble_are_named(model_3d, dicom_series, tmp_path) -> None:
    for name in "ab":
        predict([dicom_series], model_3d, tmp_path / name)
    ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "out", weights=[2, 1])
    (folder,) = (tmp_path / "out").iterdir()
    page = (folder / "report.html").read_text()
    assert "one vote a folder, weighted 2, 1" in page
    assert "Combined with" in page
    assert not (folder / "uncertainty.nii.gz").exists()  # the members' are not the vote's
    assert (folder / "seg.dcm").is_file()
    assert Making(suffix="x", run="y").members == ()
    with pytest.raises(UsageError, match="--force"):
        ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
