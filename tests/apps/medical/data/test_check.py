from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from apps.medical.data.check import audit, render
from apps.medical.data.datasets import open_dataset

SHAPE = (12, 14, 10)


def codes(report: dict, severity: str | None = None) -> dict[str, list[str]]:
    """{code: cases} of the findings."""
    found: dict[str, list[str]] = {}
    for f in report["findings"]:
        if severity in (None, f["severity"]):
            found.setdefault(f["code"], []).append(f["case"])
    return found


def test_sound_data_set_has_nothing_to_complain_about(dataset_folder) -> None:
    report = audit(open_dataset(dataset_folder(4)))
    assert report["ok"]
    assert report["findings"] == []
    assert report["cases"] == report["patients"] == 4
    assert report["summary"]["orientations"] == {"RAS": 4}
    assert set(report["summary"]["voxels"]) == {"0", "1", "2"}
    json.dumps(report)


def test_unreadable_files_are_findings_and_the_rest_is_checked(dataset_folder) -> None:
    root = dataset_folder(4)
    whole = (root / "images/case1.nii.gz").read_bytes()
    (root / "images/case1.nii.gz").write_bytes(whole[:200])
    (root / "labels/case2.nii.gz").write_bytes(b"")
    report = audit(open_dataset(root))
    assert not report["ok"]
    found = {f["case"]: f for f in report["findings"]}
    assert set(found) == {"case1", "case2"}
    assert found["case1"]["file"].endswith("images/case1.nii.gz")
    assert "truncated" in found["case1"]["what"]
    assert found["case1"]["fix"]
    assert "empty" in found["case2"]["what"]
    assert sum(report["summary"]["voxels"].values()) == 3 * np.prod(SHAPE)


def test_each_defect_is_found_by_case_and_code(dataset_folder, save_nifti, blob) -> None:
    root = dataset_folder(10)
    image, label = blob(SHAPE, 50)
    nan = image.copy()
    nan[0, 0, 0] = np.nan
    save_nifti("set/images/case0.nii.gz", nan)
    save_nifti("set/images/case1.nii.gz", np.full(SHAPE, 3, np.float32))
    save_nifti("set/labels/case2.nii.gz", np.zeros(SHAPE, np.uint8))
    moved = np.eye(4)
    moved[0, 3] = 9
    save_nifti("set/labels/case3.nii.gz", label, moved)
    save_nifti("set/labels/case4.nii.gz", label[:-1])
    coarse = np.diag([1, 1, 4.0, 1])
    save_nifti("set/images/case5.nii.gz", image, coarse)
    save_nifti("set/labels/case5.nii.gz", label, coarse)
    save_nifti("set/labels/case6.nii.gz", (label * 0.99995).astype(np.float32))
    left = np.diag([-1.0, 1, 1, 1])
    save_nifti("set/images/case7.nii.gz", image[::-1], left)
    save_nifti("set/labels/case7.nii.gz", label[::-1], left)
    save_nifti("set/images/case8.nii.gz", np.zeros((*SHAPE, 3), np.float32))
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1}}))
    (root / "labels/case9.nii.gz").unlink()
    report = audit(open_dataset(root))
    errors = codes(report, "error")
    assert errors["nonfinite"] == ["case0"]
    assert errors["constant"] == ["case1"]
    assert sorted(errors["grid"]) == ["case3", "case4"]
    assert errors["unreadable"] == ["case8"]
    assert errors["pair"] == ["case9"]
    assert "case0" in errors["label"]  # label 2 is not declared
    warnings = codes(report, "warning")
    assert warnings["empty"] == ["case2"]
    assert warnings["spacing"] == ["case5"]
    infos = codes(report, "info")
    assert infos["dtype"] == ["case6"]
    assert "orientation" in infos
    assert [f["severity"] for f in report["findings"]] == sorted(
        (f["severity"] for f in report["findings"]), key=["error", "warning", "info"].index
    )
    assert all(f["what"] and f["fix"] for f in report["findings"])


def test_duplicates_by_file_and_by_voxels(dataset_folder, save_nifti, blob) -> None:
    root = dataset_folder(5)
    (root / "images/case1.nii.gz").write_bytes((root / "images/case0.nii.gz").read_bytes())
    image = nib.load(root / "images/case2.nii.gz").get_fdata(dtype=np.float32)
    other = nib.Nifti1Image(image, np.eye(4))
    other.header["descrip"] = b"exported again"  # other bytes, same voxels
    nib.save(other, root / "images/case3.nii.gz")
    found = [f for f in audit(open_dataset(root))["findings"] if f["code"] == "duplicate"]
    assert [f["what"] for f in found] == [
        "identical files: case0, case1",
        "identical voxels: case2, case3",
    ]


def test_patients_across_folds(dataset_folder) -> None:
    root = dataset_folder(3)
    (root / "patients.json").write_text(json.dumps({"case0": "p", "case1": "p"}))
    stored = [{"train": ["case0"], "val": ["case1", "case7"]}]
    (root / "splits_final.json").write_text(json.dumps(stored))
    found = [f for f in audit(open_dataset(root))["findings"] if f["code"] == "folds"]
    assert "patient p is in training and validation" in found[0]["what"]
    assert "case7" in found[1]["what"]
    (root / "splits_final.json").write_text("no json")
    assert codes(audit(open_dataset(root)), "error")["folds"] == [""]


def test_absent_label_gaps_units_and_transforms(dataset_folder) -> None:
    root = dataset_folder(3)
    names = {"background": 0, "a": 1, "b": 2, "never": 9}
    (root / "dataset.json").write_text(json.dumps({"labels": names}))
    image = nib.load(root / "images/case0.nii.gz")
    moved = np.eye(4)
    moved[1, 3] = 30
    changed = nib.Nifti1Image(image.get_fdata(dtype=np.float32), np.eye(4))
    changed.set_sform(np.eye(4), code=1)
    changed.set_qform(moved, code=1)
    changed.header.set_xyzt_units("meter")
    nib.save(changed, root / "images/case0.nii.gz")
    found = codes(audit(open_dataset(root)))
    assert found["transforms"] == ["case0"]
    assert found["units"] == ["case0"]
    assert "absent" in found
    assert "gaps" in found


def test_rendering_shows_cases_and_markup_in_names_is_harmless(
    dataset_folder, capsys: pytest.CaptureFixture[str]
) -> None:
    root = dataset_folder(2)
    (root / "images/case1.nii.gz").write_bytes(b"")
    (root / "images/case1.nii.gz").rename(root / "images/[red]x.nii.gz")
    (root / "labels/case1.nii.gz").rename(root / "labels/[red]x.nii.gz")
    render(audit(open_dataset(root)))
    shown = capsys.readouterr().out
    assert "[red]x" in shown
    assert "errors to put right" in shown


def test_auditing_imports_neither_torch_nor_monai(tmp_path: Path) -> None:
    code = (
        "import sys; import apps.medical.data.check, apps.medical.data.plan;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'monai', 'lightning')))"
    )
    root = Path(__file__).parents[4]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
