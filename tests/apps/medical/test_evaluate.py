"""Folders of predictions against folders of references."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from apps.medical.data.volume import read_image, write_label_like
from apps.medical.evaluate import bootstrap, evaluate, print_summary
from core.errors import DataError, UsageError

AFFINE = np.diag([0.5, 1.0, 2.0, 1.0])


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.uint8), affine), path)
    return path


def labels(shift: int = 0) -> np.ndarray:
    array = np.zeros((12, 12, 12), np.uint8)
    array[2:6, 3:8, 3:8] = 1
    array[6:9, 3:8, 3:8] = 2
    return np.roll(array, shift, axis=1)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three cases: perfect, shifted, and one in the layout OUT/<case>.nii.gz."""
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    for case, shift in (("a.b c", 0), ("two", 1)):
        write(pred / case / "seg.nii.gz", labels(shift))
        write(ref / f"{case}.nii.gz", labels())
    write(pred / "three.nii.gz", labels(2))
    write(ref / "three.nii.gz", labels())
    return pred, ref


def test_per_case_and_means(folders, tmp_path) -> None:
    pred, ref = folders
    out = tmp_path / "metrics.json"
    result = evaluate(pred, ref, out)
    assert sorted(result["cases"]) == ["a.b c", "three", "two"]
    assert result["cases"]["a.b c"]["1"]["dice"] == 1
    assert result["cases"]["two"]["1"]["dice"] == pytest.approx(0.8)
    assert result["cases"]["two"]["1"]["hd95"] == pytest.approx(1.0)  # one voxel of 1 mm
    assert result["cases"]["three"]["2"]["hd95"] == pytest.approx(2.0)
    assert result["cases"]["two"]["1"]["volume_ref_mL"] == pytest.approx(100 * 1.0 / 1000)
    summary = result["labels"]["1"]["dice"]
    assert summary["mean"] == pytest.approx((1 + 0.8 + 0.6) / 3)
    assert summary["n"] == 3
    low, high = summary["ci95"]
    assert low <= summary["mean"] <= high
    assert json.loads(out.read_text())["rules"]["both_empty"]
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert len(rows) == 6
    assert {row["case"] for row in rows} == {"a.b c", "two", "three"}


def test_spacing_changes_hd95_but_not_dice(tmp_path) -> None:
    results = []
    for name, edge in (("fine", 1.0), ("coarse", 3.0)):
        affine = np.diag([1.0, edge, 1.0, 1.0])
        write(tmp_path / name / "pred" / "x.nii.gz", labels(1), affine)
        write(tmp_path / name / "ref" / "x.nii.gz", labels(), affine)
        results.append(evaluate(tmp_path / name / "pred", tmp_path / name / "ref")["cases"]["x"])
    fine, coarse = results
    assert fine["1"]["dice"] == coarse["1"]["dice"]
    assert coarse["1"]["hd95"] == 3 * fine["1"]["hd95"]


def test_empty_masks_are_counted_not_averaged(tmp_path) -> None:
    """One case without label 2 on either side, one where only the reference has it."""
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    only_one = np.where(labels() == 1, 1, 0)
    write(pred / "both.nii.gz", only_one)
    write(ref / "both.nii.gz", only_one)
    write(pred / "missed.nii.gz", only_one)
    write(ref / "missed.nii.gz", labels())
    write(pred / "good.nii.gz", labels())
    write(ref / "good.nii.gz", labels())
    result = evaluate(pred, ref, tmp_path / "m.json")
    two = result["labels"]["2"]
    assert two["dice"] | {"ci95": 0, "median": 0} == {
        "mean": 0.5, "n": 2, "undefined": 1, "ci95": 0, "median": 0
    }  # fmt: skip
    assert two["hd95"]["n"] == 1
    assert two["hd95"]["undefined"] == 2
    assert two["hd95"]["mean"] == 0
    assert two["hd95"]["ci95"] is None
    assert result["cases"]["both"]["2"]["dice"] is None
    assert result["cases"]["missed"]["2"]["volume_error_percent"] == -100
    assert result["cases"]["both"]["2"]["volume_error_mL"] == 0
    assert "NaN" not in (tmp_path / "m.json").read_text()
    # The mean of labels uses the labels that are defined in each case.
    assert result["labels"]["mean of labels"]["dice"]["mean"] == pytest.approx((1 + 0.5 + 1) / 3)


def test_grid_mismatch_names_the_case(folders) -> None:
    pred, ref = folders
    write(ref / "two.nii.gz", labels(), np.diag([0.5, 1.0, 2.5, 1.0]))
    with pytest.raises(DataError, match=r"case two.*affines differ"):
        evaluate(pred, ref)
    write(ref / "two.nii.gz", labels()[:-1])
    with pytest.raises(DataError, match=r"case two.*shape"):
        evaluate(pred, ref)


def test_missing_predictions_are_an_error_unless_allowed(folders) -> None:
    pred, ref = folders
    write(ref / "four.nii.gz", labels())
    write(pred / "five.nii.gz", labels())
    with pytest.raises(DataError, match=r"no prediction for 1 of 4 .*four.*--allow-missing"):
        evaluate(pred, ref)
    result = evaluate(pred, ref, allow_missing=True)
    assert result["missing"] == ["four"]
    assert result["without_reference"] == ["five"]
    assert result["n_cases"] == 3


def test_label_names_come_from_the_manifest_and_bound_the_ids(folders) -> None:
    pred, ref = folders
    manifest = {"labels": {"0": "background", "1": "anterior", "2": "posterior"}}
    (pred / "a.b c" / "manifest.json").write_text(json.dumps(manifest))
    result = evaluate(pred, ref)
    assert list(result["labels"]) == ["anterior", "posterior", "mean of labels"]
    odd = labels()
    odd[0, 0, 0] = 9
    write(ref / "two.nii.gz", odd)
    with pytest.raises(DataError, match=r"case two: label 9 is not among 0, 1, 2"):
        evaluate(pred, ref)


def test_instances_are_recognised_and_scored(tmp_path) -> None:
    objects = np.zeros((60, 60), np.uint16)
    for i in range(36):
        row, column = divmod(i, 6)
        objects[row * 10 : row * 10 + 6, column * 10 : column * 10 + 6] = i + 1
    for name, array in (("pred", objects[::, ::]), ("ref", objects)):
        (tmp_path / name).mkdir()
        Image.fromarray(array).save(tmp_path / name / "x.png")
    result = evaluate(tmp_path / "pred", tmp_path / "ref")
    assert result["instances"] is True
    assert result["unit"] == "px"
    row = result["cases"]["x"]["objects"]
    assert row["objects_ref"] == 36
    assert row["pq"] == row["aji"] == row["dice"] == 1
    assert row["volume_ref_px"] == 36 * 36

    # A binary prediction is split into its components.
    binary = (objects > 0).astype(np.uint8)
    Image.fromarray(binary).save(tmp_path / "pred" / "x.png")
    assert evaluate(tmp_path / "pred", tmp_path / "ref")["cases"]["x"]["objects"]["pq"] == 1
    assert evaluate(tmp_path / "pred", tmp_path / "pred")["instances"] is False


def test_outputs_are_not_replaced_without_force(folders, tmp_path) -> None:
    pred, ref = folders
    out = tmp_path / "metrics.json"
    evaluate(pred, ref, out)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="--force"):
        evaluate(pred, ref, out)
    assert out.read_bytes() == before
    evaluate(pred, ref, out, force=True)


def test_folders_that_are_not_there_or_do_not_match(folders, tmp_path) -> None:
    pred, ref = folders
    with pytest.raises(DataError, match="no such folder"):
        evaluate(tmp_path / "nowhere", ref)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no label file"):
        evaluate(pred, tmp_path / "empty")
    with pytest.raises(DataError, match="has the name of a reference"):
        evaluate(tmp_path / "empty", ref, allow_missing=True)
    with pytest.raises(UsageError, match="positive"):
        evaluate(pred, ref, nsd_tolerance=0)


def test_truncated_gzip_is_one_line_that_names_the_file(folders) -> None:
    pred, ref = folders
    file = ref / "two.nii.gz"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=r"two\.nii\.gz"):
        evaluate(pred, ref)


def test_bootstrap_is_seeded_and_respects_patients() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.8, 0.05, 40)
    single = [str(i) for i in range(40)]
    interval = bootstrap(values, single, seed=3)
    assert interval == bootstrap(values, single, seed=3)
    assert interval != bootstrap(values, single, seed=4)
    # About 1.96 standard errors on either side.
    error = values.std() / np.sqrt(40)
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * error, rel=0.15)
    # Ten patients with four copies of one value each: as wide as ten cases, not as forty.
    copies = np.repeat(values[:10], 4)
    grouped = bootstrap(copies, [str(i // 4) for i in range(40)])
    naive = bootstrap(copies, single)
    assert grouped[1] - grouped[0] > 1.5 * (naive[1] - naive[0])
    assert bootstrap(np.array([0.5, np.nan]), ["a", "b"]) is None


def test_patients_are_read_from_beside_the_references(folders) -> None:
    """All three cases of one person: nothing to resample, and the result says so."""
    pred, ref = folders
    assert evaluate(pred, ref)["n_patients"] == 3
    rows = "".join(f"{case},p\n" for case in ("a.b c", "two", "three"))
    (ref.parent / "patients.csv").write_text("case,patient\n" + rows)
    result = evaluate(pred, ref)
    assert result["n_patients"] == 1
    assert result["labels"]["1"]["dice"]["ci95"] is None


def test_summary_prints_intervals_and_what_is_undefined(folders, capsys) -> None:
    pred, ref = folders
    print_summary(evaluate(pred, ref))
    text = capsys.readouterr().out
    assert "Dice" in text
    row = next(line.split() for line in text.splitlines() if " Dice " in line)
    assert row == ["1", "Dice", "0.800", "0.600", "to", "1.000", "3", "0"]


def test_arrays_are_measured_as_files_are(tmp_path, samples) -> None:
    from apps.medical.evaluate import compare, read_reference

    image = read_image(samples / "hippocampus" / "imagesTr" / "hippocampus_003.nii.gz")
    path = samples / "hippocampus" / "labelsTr" / "hippocampus_003.nii.gz"
    reference = read_reference(path, image)
    names = {0: "background", 1: "anterior", 2: "posterior"}
    moved = np.roll(reference.array, 1, axis=0)
    rows = compare(moved, reference, names)
    (tmp_path / "pred").mkdir()
    write_label_like(reference, moved, tmp_path / "pred" / path.name)
    whole = evaluate(tmp_path / "pred", path.parent, labels=names, allow_missing=True)
    assert whole["cases"]["hippocampus_003"] == rows
    assert 0.5 < rows["anterior"]["dice"] < 1
    with pytest.raises(DataError, match="label 2 is not among 0, 1"):
        compare(moved, reference, {0: "background", 1: "anterior"})
    with pytest.raises(DataError, match="labels of shape"):
        compare(moved[1:], reference, names)
    other = samples / "hippocampus" / "labelsTr" / "hippocampus_004.nii.gz"
    with pytest.raises(DataError, match="is it of this image"):
        read_reference(other, image)


def test_a_reference_of_0_and_255_is_one_label(tmp_path) -> None:
    from apps.medical.evaluate import read_reference

    mask = np.zeros((5, 6), np.uint8)
    mask[1:3, 2:5] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask).save(tmp_path / "image.png")
    reference = read_reference(tmp_path / "mask.png", read_image(tmp_path / "image.png"))
    np.testing.assert_array_equal(reference.array, mask // 255)
