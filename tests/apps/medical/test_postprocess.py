"""Cleaning steps on hand-made masks, and rules that must prove themselves."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from apps.medical.postprocess import Rules, Steps, apply, determine, postprocess, read_rules
from core.errors import DataError, UsageError


def two_blobs() -> np.ndarray:
    """Label 1: a box of 64 voxels with a hole of one, and an island of 2; label 2 beside it."""
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[1:5, 1:5, 1:5] = 1
    labels[2, 2, 2] = 0
    labels[9, 9, 9:11] = 1
    labels[6:8, 6:8, 6:8] = 2
    return labels


def write(folder: Path, case: str, labels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / f"{case}.nii.gz")


def read(folder: Path, case: str) -> np.ndarray:
    return np.asarray(nib.load(folder / case / "seg.nii.gz").dataobj)


def test_steps_by_hand() -> None:
    labels = two_blobs()
    largest = apply(labels, {1: Steps(keep_largest=True)}, 0.001)
    assert (largest == 1).sum() == 63
    assert (largest == 2).sum() == 8
    filled = apply(labels, {1: Steps(fill_holes=True)}, 0.001)
    assert (filled == 1).sum() == 66
    small = apply(labels, {1: Steps(min_size=0.003), 2: Steps(min_size=0.02)}, 0.001)
    assert (small == 1).sum() == 63
    assert not (small == 2).any()
    at_limit = apply(labels, {1: Steps(min_size=0.002)}, 0.001)
    assert (at_limit == 1).sum() == 65
    np.testing.assert_array_equal(
        apply(labels, {1: Steps(), 7: Steps(keep_largest=True)}, 1), labels
    )


def test_a_hole_with_another_label_inside_is_not_taken() -> None:
    labels = two_blobs()
    labels[2, 2, 2] = 2
    filled = apply(labels, {1: Steps(fill_holes=True)}, 1)
    assert filled[2, 2, 2] == 2


def test_diagonal_neighbours_are_one_component() -> None:
    labels = np.eye(5, dtype=np.uint8)[None].repeat(1, 0)
    np.testing.assert_array_equal(apply(labels, {1: Steps(keep_largest=True)}, 1), labels)


def test_new_folder_and_in_place_only_with_force(tmp_path) -> None:
    pred, out = tmp_path / "pred", tmp_path / "out"
    write(pred / "x", "seg", two_blobs())
    (pred / "x" / "manifest.json").write_text(
        json.dumps({"labels": {"0": "background", "1": "a", "2": "b"}, "seconds": 3})
    )
    report = postprocess(pred, out, Steps(keep_largest=True))
    assert report["voxels_changed"] == {"x": 2}
    np.testing.assert_array_equal(read(pred, "x"), two_blobs())
    assert (read(out, "x") == 1).sum() == 63
    manifest = json.loads((out / "x" / "manifest.json").read_text())
    assert manifest["labels"]["1"] == "a"
    assert manifest["rules"]["keep_largest"] is True
    assert "seconds" not in manifest
    stats = json.loads((out / "x" / "stats.json").read_text())
    assert stats["labels"]["a"]["mL"] == pytest.approx(0.063)

    for target in (out, pred):
        with pytest.raises(UsageError, match="--force"):
            postprocess(pred, target, Steps(fill_holes=True))
    postprocess(pred, pred, Steps(fill_holes=True), force=True)
    assert (read(pred, "x") == 1).sum() == 66


def test_determine_takes_what_helps_and_leaves_what_does_not(tmp_path) -> None:
    """Label 1 has false islands, label 2 truly comes in two parts."""
    rng = np.random.default_rng(0)
    for i in range(12):
        truth = np.zeros((16, 16, 16), np.uint8)
        truth[2:8, 2:8, 2:8] = 1
        truth[10:12, 2:6, 2:6] = 2
        truth[10:12, 10:14, 10 : 12 + i % 3] = 2
        guess = truth.copy()
        x, y = rng.integers(1, 5, 2)
        guess[x, y, 13:15] = 1
        write(tmp_path / "ref", f"c{i}", truth)
        write(tmp_path / "pred", f"c{i}", guess)
    file = tmp_path / "rules.json"
    rules = determine(tmp_path / "pred", tmp_path / "ref", file, min_sizes=[0.005])
    assert rules.labels[1].keep_largest or rules.labels[1].min_size
    assert rules.labels[2].idle
    about = rules.evidence["labels"]
    assert about["1"]["held_out_gain"] > 0
    assert about["1"]["held_out_gain_ci95"][0] > 0
    assert about["2"]["held_out_gain"] == 0
    assert read_rules(file).labels == rules.labels
    postprocess(tmp_path / "pred", tmp_path / "out", read_rules(file))
    for i in range(12):
        truth = np.asarray(nib.load(tmp_path / "ref" / f"c{i}.nii.gz").dataobj)
        np.testing.assert_array_equal(read(tmp_path / "out", f"c{i}"), truth)
    with pytest.raises(UsageError, match="--force"):
        determine(tmp_path / "pred", tmp_path / "ref", file)


def test_too_few_cases_to_choose(tmp_path) -> None:
    for name in ("pred", "ref"):
        write(tmp_path / name, "x", two_blobs())
    with pytest.raises(UsageError, match="at least 10"):
        determine(tmp_path / "pred", tmp_path / "ref")


def test_wrong_inputs(tmp_path) -> None:
    (tmp_path / "rules.json").write_text('{"labels": {"1": {"keep_larges": true}}}')
    with pytest.raises(DataError, match="keep_largest"):
        read_rules(tmp_path / "rules.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no predictions"):
        postprocess(tmp_path / "empty", tmp_path / "out", Rules(labels={}))
    write(tmp_path / "p" / "x", "seg", two_blobs())
    (tmp_path / "p" / "x" / "manifest.json").write_text('{"target": "instances"}')
    with pytest.raises(DataError, match="numbers objects"):
        postprocess(tmp_path / "p", tmp_path / "out", Steps(fill_holes=True))
