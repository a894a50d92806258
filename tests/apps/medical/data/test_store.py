"""Prepared cases on disk: made once, read by pages, never stale, never half."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from apps.medical.data import store
from apps.medical.data.datasets import open_dataset
from apps.medical.data.plan import Plan, fingerprint, make_plan
from apps.medical.data.preprocess import load_sample
from apps.medical.data.store import PreparedCases
from core.errors import DataError, ResourceError


@pytest.fixture
def opened(dataset_folder):
    data = open_dataset(dataset_folder(cases=3))
    return data, make_plan(data, fingerprint(data))


def prepared(opened, folder: Path, **changes: object) -> PreparedCases:
    data, plan = opened
    cases = PreparedCases(data, Plan.model_validate(plan.model_dump() | changes), folder)
    cases.prepare([case.id for case in data.cases])
    return cases


def arrays(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}


def test_what_is_stored_is_what_preparing_gives(opened, tmp_path) -> None:
    data, plan = opened
    cases = prepared(opened, tmp_path / "cache")
    for case in data.cases:
        wanted, _ = load_sample(data, case, plan)
        found = cases[case.id]
        np.testing.assert_array_equal(found["image"], wanted["image"])
        np.testing.assert_array_equal(found["label"], wanted["label"])
        assert found["image"].dtype == np.float32
        for label, voxels in found["locations"].items():
            assert all(wanted["label"][0][tuple(v)] == label for v in voxels)


def test_arrays_are_read_by_pages_and_not_changed_by_use(opened, tmp_path) -> None:
    cases = prepared(opened, tmp_path / "cache")
    sample = cases["case0"]
    assert isinstance(sample["image"], np.memmap)
    before = sample["image"].copy()
    sample["image"][:] = 7
    np.testing.assert_array_equal(cases["case0"]["image"], before)


def test_prepared_once(opened, tmp_path, monkeypatch) -> None:
    prepared(opened, tmp_path / "cache")
    made = arrays(tmp_path)
    assert len(made) == 6
    monkeypatch.setattr(store, "load_sample", lambda *a, **k: pytest.fail("prepared again"))
    prepared(opened, tmp_path / "cache")
    assert arrays(tmp_path) == made


def test_what_is_missing_is_made(opened, tmp_path) -> None:
    prepared(opened, tmp_path / "cache")
    made = arrays(tmp_path)
    lost = next(path for path in made if path.name.startswith("case1"))
    lost.unlink()
    prepared(opened, tmp_path / "cache")
    again = arrays(tmp_path)
    assert again.keys() == made.keys()
    changed = {path.name.split(".")[0] for path in made if again[path] != made[path]}
    assert changed == {"case1"}


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"batch": 5}, False),
        ({"network": {"name": "unet"}}, False),
        ({"normalisation": ["rescale"]}, True),
        ({"crop": "none"}, True),
        ({"spacing": [2.0, 2.0, 2.0]}, True),
    ],
)
def test_only_what_changes_the_arrays_makes_new_ones(opened, tmp_path, change, anew) -> None:
    first = prepared(opened, tmp_path / "cache")
    second = prepared(opened, tmp_path / "cache", **change)
    assert (first.folder != second.folder) is anew


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("age", [-1e6, 1e6])
def test_a_replaced_file_replaces_what_was_prepared(opened, tmp_path, kind, age) -> None:
    """Also by an older one, as from an archive."""
    data, _ = opened
    cases = prepared(opened, tmp_path / "cache")
    before = {k: np.array(cases["case1"][k]) for k in ("image", "label")}
    path = data.root / kind / "case1.nii.gz"
    array = np.asarray(nib.load(path).dataobj)
    stamp = path.stat().st_mtime + age
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array[..., ::-1]), np.eye(4)), path)
    os.utime(path, (stamp, stamp))
    again = prepared(opened, tmp_path / "cache")
    key = kind.removesuffix("s")
    assert not np.array_equal(again["case1"][key], before[key])
    assert len(arrays(tmp_path)) == 6


def test_names_with_dots_spaces_and_brackets(save_nifti, blob, tmp_path) -> None:
    """Replacing the files of case [a] leaves those of case a alone, and x.1 those of x."""
    names = ["a", "[a]", "x", "x.1", "b c"]
    for n, name in enumerate(names):
        image, label = blob((8, 9, 7), n)
        save_nifti(f"set/images/{name}.nii.gz", image)
        save_nifti(f"set/labels/{name}.nii.gz", label)
    data = open_dataset(tmp_path / "set")
    opened = data, make_plan(data, fingerprint(data))
    prepared(opened, tmp_path / "cache")
    for name in ("[a]", "x"):
        os.utime(tmp_path / "set" / "images" / f"{name}.nii.gz", (1e9, 1e9))
    made = arrays(tmp_path)
    cases = prepared(opened, tmp_path / "cache")
    again = arrays(tmp_path)
    assert len(again) == 2 * len(names)
    kept = {path.name for path in made if again.get(path) == made[path]}
    assert {name.rsplit(".", 3)[0] for name in kept} == {"a", "x.1", "b c"}
    for n, name in enumerate(names):
        np.testing.assert_array_equal(cases[name]["label"][0], blob((8, 9, 7), n)[1])


def test_case_names_may_not_leave_the_folder(save_nifti, blob, tmp_path) -> None:
    image, label = blob((8, 9, 7))
    entry = {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}
    save_nifti("set/imagesTr/a.nii.gz", image)
    save_nifti("set/labelsTr/a.nii.gz", label)
    for name in ("../../evil", "..", "a/b", "a\\b"):
        spec = {"labels": {"background": 0, "x": 1, "y": 2}, "channel_names": {"0": "MRI"}}
        listed = json.dumps(spec | {"file_ending": ".nii.gz", "dataset": {name: entry}})
        (tmp_path / "set" / "dataset.json").write_text(listed)
        with pytest.raises(DataError, match="not a file name"):
            open_dataset(tmp_path / "set")


def test_full_disk_leaves_no_half_array(opened, tmp_path, monkeypatch) -> None:
    def full(path, array):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(ResourceError, match="no space left"):
            prepared(opened, tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []
    prepared(opened, tmp_path / "cache")


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00", b"junk", None])
def test_damaged_array_names_the_case_and_the_fix(opened, tmp_path, damage) -> None:
    cases = prepared(opened, tmp_path / "cache")
    for path in arrays(tmp_path):
        path.write_bytes(path.read_bytes()[:-8] if damage is None else damage)
    with pytest.raises(DataError, match=r"'case1' is damaged.*delete the folder"):
        cases["case1"]


def test_unreadable_and_vanished_sources_are_named(opened, tmp_path) -> None:
    data, _ = opened
    path = data.root / "images" / "case2.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"case2\.nii\.gz"):
        prepared(opened, tmp_path / "cache")
    path.unlink()
    with pytest.raises(DataError, match=r"case2\.nii\.gz"):
        prepared(opened, tmp_path / "cache")
