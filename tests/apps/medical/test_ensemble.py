"""Combining predictions: means, votes, and predictions that do not belong together."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from apps.medical.ensemble import ensemble
from apps.medical.predict import predict
from core.errors import DataError, UsageError


def write(folder: Path, case: str, labels: np.ndarray, affine=None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4) if affine is None else affine
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), folder / f"{case}.nii.gz")


def read(folder: Path, case: str) -> np.ndarray:
    return np.asarray(nib.load(folder / case / "seg.nii.gz").dataobj)


def test_majority_vote(tmp_path) -> None:
    a = np.array([[[1, 1, 0, 2]]])
    b = np.array([[[1, 2, 1, 0]]])
    c = np.array([[[0, 2, 2, 1]]])
    for name, labels in zip("abc", (a, b, c)):
        write(tmp_path / name, "x", labels)
    folders = [tmp_path / name for name in "abc"]
    report = ensemble(folders, tmp_path / "out")
    assert report["cases"] == {"x": "vote"}
    # The last two voxels are ties of three: the first folder decides.
    assert read(tmp_path / "out", "x").tolist() == [[[1, 2, 0, 2]]]
    ensemble(folders, tmp_path / "heavy", weights=[1, 1, 3])
    assert read(tmp_path / "heavy", "x").tolist() == c.tolist()
    two = ensemble(folders[:2], tmp_path / "two")
    assert read(tmp_path / "two", "x").tolist() == a.tolist()
    assert [str(folders[0]) in warning for warning in two["warnings"]] == [True]
    assert not report["warnings"]
    assert not ensemble(folders, tmp_path / "w", weights=[1, 2, 1])["warnings"]
    assert ensemble(folders, tmp_path / "v", weights=[1, 1, 3])["warnings"]
    manifest = json.loads((tmp_path / "out" / "x" / "manifest.json").read_text())
    assert [member["weight"] for member in manifest["members"]] == [1, 1, 1]


def test_mean_of_probabilities_is_the_ensemble_of_the_models(
    tmp_path, save_small, make_plan, write_volume
) -> None:
    """Without resampling, averaging files and averaging window by window agree."""
    path = write_volume(shape=(14, 14, 14), affine=np.eye(4))
    for fold in range(2):
        folder = save_small(tmp_path / "m" / f"fold_{fold}", make_plan(), seed=fold)
        predict(path, folder, tmp_path / f"p{fold}", save_probabilities=True)
    report = ensemble([tmp_path / "p0", tmp_path / "p1"], tmp_path / "out", save_probabilities=True)
    assert report["cases"] == {"case": "mean"}
    together = predict(path, tmp_path / "m")[0].labels
    labels = read(tmp_path / "out", "case")
    assert (labels == together).mean() > 0.995  # float16 on disk decides near ties
    assert set(np.unique(labels)) <= {0, 2, 5}
    names = {file.name for file in (tmp_path / "out" / "case").iterdir()}
    # The image is still there, so there is a picture and there are mean intensities and a report.
    assert names == {
        "seg.nii.gz", "stats.json", "overlay.png", "manifest.json", "probabilities.npz",
        "uncertainty.nii.gz", "report.html", "report.pdf",
    }  # fmt: skip
    page = (tmp_path / "out" / "case" / "report.html").read_text()
    assert "ensemble of 2" in page
    assert "2 segmentations combined: probabilities averaged" in page
    assert "does not hold for their combination" in page
    doubt = np.asarray(nib.load(tmp_path / "out" / "case" / "uncertainty.nii.gz").dataobj)
    alone = np.asarray(nib.load(tmp_path / "p0" / "case" / "uncertainty.nii.gz").dataobj)
    assert doubt.shape == labels.shape
    assert np.abs(doubt - alone).max() > 0.01  # the combination's own
    stats = json.loads((tmp_path / "out" / "case" / "stats.json").read_text())
    assert any(entry["mean_intensity"] for entry in stats["labels"].values())
    vote = ensemble([tmp_path / "p0", tmp_path / "p1"], tmp_path / "v", method="vote", report=False)
    assert vote["cases"] == {"case": "vote"}
    names = {file.name for file in (tmp_path / "v" / "case").iterdir()}
    assert names == {"seg.nii.gz", "stats.json", "overlay.png", "manifest.json"}  # votes: no doubt


def test_objects_need_probabilities(tmp_path) -> None:
    for name in "ab":
        write(tmp_path / name / "x", "seg", np.eye(4))
        (tmp_path / name / "x" / "manifest.json").write_text('{"target": "instances"}')
    with pytest.raises(DataError, match=r"cannot be voted on.*--save-probabilities"):
        ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_predictions_that_do_not_belong_together(tmp_path) -> None:
    labels = np.ones((3, 3, 3))
    write(tmp_path / "a", "x", labels)
    write(tmp_path / "b", "y", labels)
    with pytest.raises(DataError, match=r"case x is missing in .*b"):
        ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    write(tmp_path / "c", "x", labels, np.diag([2.0, 1, 1, 1]))
    with pytest.raises(DataError, match=r"case x.*affines differ"):
        ensemble([tmp_path / "a", tmp_path / "c"], tmp_path / "out")
    with pytest.raises(DataError, match="the mean needs probabilities"):
        ensemble([tmp_path / "a", tmp_path / "a"], tmp_path / "out", method="mean")
    with pytest.raises(UsageError, match="at least two"):
        ensemble([tmp_path / "a"], tmp_path / "out")
    with pytest.raises(UsageError, match="2 positive numbers"):
        ensemble([tmp_path / "a", tmp_path / "a"], tmp_path / "out", weights=[1, 0])
    ensemble([tmp_path / "a", tmp_path / "a"], tmp_path / "out")
    with pytest.raises(UsageError, match="--force"):
        ensemble([tmp_path / "a", tmp_path / "a"], tmp_path / "out")


def test_poisoned_probabilities_are_refused(tmp_path) -> None:
    for name in "ab":
        write(tmp_path / name / "x", "seg", np.ones((2, 2, 2)))
        poison = np.array([{"a": 1}], dtype=object)
        np.savez(tmp_path / name / "x" / "probabilities.npz", probabilities=poison, classes=poison)
    with pytest.raises(DataError, match="cannot be read"):
        ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
