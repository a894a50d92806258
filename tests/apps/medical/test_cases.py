"""Which files make which cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.medical.cases import files_per_case, find_cases
from core.errors import DataError, UsageError


def test_folders_hidden_files_and_label_folders(tmp_path, write_volume) -> None:
    write_volume("a.nii.gz")
    write_volume("deep/b.nii.gz")
    write_volume("labelsTr/c.nii.gz")
    write_volume(".hidden/d.nii.gz")
    write_volume("._e.nii.gz")
    write_volume("done/seg.nii.gz").with_name("manifest.json").write_text("{}")
    (tmp_path / "in" / ".DS_Store").write_text("x")
    (tmp_path / "in" / "notes.txt").write_text("x")
    assert [case.name for case in find_cases(tmp_path / "in")] == ["a", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no image in it; supported are .*\.bmp$"):
        find_cases(tmp_path / "empty")
    (tmp_path / "empty" / "series").mkdir()
    (tmp_path / "empty" / "series" / "1.DCM").write_bytes(b"x")
    with pytest.raises(DataError, match="convert DICOM"):
        find_cases(tmp_path / "empty")
    with pytest.raises(UsageError, match="no input"):
        find_cases([])


@pytest.mark.parametrize(
    ("file", "case"),
    [
        ("a.b c.nii.gz", "a.b c"),
        ("v1.2.nii", "v1.2"),
        ("x.tar.mha", "x.tar"),
        ("Fall 3.PNG", "Fall 3"),
        ("ünï.nii.gz", "ünï"),
    ],
)
def test_spaces_and_dots_in_names(file, case) -> None:
    assert find_cases(file)[0].name == case


def test_channels_are_grouped_where_each_has_its_file() -> None:
    names = ["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"]
    cases = find_cases([f"x/{name}" for name in names], 2)
    assert [case.name for case in cases] == ["a", "b"]
    assert [file.name for file in cases[0].files] == names[:2]
    assert [case.name for case in find_cases(names[:1], 1)] == ["a_0000"]
    with pytest.raises(UsageError, match="same channel of one case"):
        find_cases(["a_0000.nii.gz", "a_0000.mha"], 2)


def test_colours_and_a_fourth_axis_are_one_file(make_plan) -> None:
    plan = make_plan(channels=3)
    assert files_per_case(plan) == 3
    assert files_per_case(plan.model_copy(update={"channels_last_axis": True})) == 1
    assert files_per_case(plan.model_copy(update={"channels": ["red", "green", "blue"]})) == 1


def test_names_that_differ_only_in_case_would_share_a_folder_on_some_disks() -> None:
    with pytest.raises(UsageError, match="both case"):
        find_cases([Path("x/scan.nii.gz"), Path("y/Scan.nii")])


def test_images_in_memory() -> None:
    import nibabel as nib

    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.diag([2.0, 1, 1, 1]))
    (case,) = find_cases(image)
    assert case.name == "image"
    assert case.volumes[0].spacing == (2, 1, 1)
    with pytest.raises(DataError, match="split"):
        find_cases(nib.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), np.eye(4)))
    with pytest.raises(UsageError, match="cannot segment"):
        find_cases([3])
