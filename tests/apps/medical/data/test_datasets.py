from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.medical.data.datasets import map_labels, open_dataset
from apps.medical.data.volume import read_label
from core.errors import DataError

ZEROS = np.zeros((4, 5, 6), np.float32)
ONES = np.ones((4, 5, 6), np.uint8)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def picture(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def decathlon(tmp_path: Path, save_nifti, **changes) -> Path:
    for name in ("a 1.x", "b"):
        save_nifti(f"set/imagesTr/{name}.nii.gz", ZEROS)
        save_nifti(f"set/labelsTr/{name}.nii.gz", ONES)
    spec = {
        "name": "Liver",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver"},
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"}
            for n in ("a 1.x", "b")
        ],
        "test": ["./imagesTs/c.nii.gz"],
    }
    write_json(tmp_path / "set/dataset.json", spec | changes)
    return tmp_path / "set"


def test_decathlon_json(tmp_path: Path, save_nifti) -> None:
    root = decathlon(tmp_path, save_nifti)
    for given in (root, root / "dataset.json"):
        dataset = open_dataset(given)
        assert (dataset.name, dataset.rank, dataset.layout) == ("Liver", 3, "decathlon")
        assert [case.id for case in dataset.cases] == ["a 1.x", "b"]
        assert dataset.labels == {0: "background", 1: "liver"}
        assert dataset.channels == ("CT",)
        assert not dataset.channels_last_axis
    assert dataset.read_images(dataset.cases[0])[0].shape == (4, 5, 6)


def test_decathlon_channels_in_the_last_axis(tmp_path: Path, save_nifti) -> None:
    root = decathlon(tmp_path, save_nifti, modality={"0": "FLAIR", "1": "T1"})
    for name in ("a 1.x", "b"):
        save_nifti(f"set/imagesTr/{name}.nii.gz", np.zeros((4, 5, 6, 2), np.float32))
    dataset = open_dataset(root)
    assert dataset.channels_last_axis
    assert dataset.read_images(dataset.case("b"))[0].array.shape == (2, 4, 5, 6)


def test_listed_but_absent_files_are_problems_by_name(tmp_path: Path, save_nifti) -> None:
    root = decathlon(tmp_path, save_nifti)
    (root / "labelsTr/b.nii.gz").unlink()
    dataset = open_dataset(root)
    assert [case.id for case in dataset.cases] == ["a 1.x"]
    assert dataset.problems[0].case == "b"
    assert "without label" in dataset.problems[0].what
    (root / "imagesTr/a 1.x.nii.gz").unlink()
    with pytest.raises(DataError, match=r"no case.*missing"):
        open_dataset(root)


@pytest.mark.parametrize("path", ["../../etc/a.nii.gz", "/etc/a.nii.gz", "imagesTr/../../a.nii.gz"])
def test_json_paths_may_not_leave_the_folder(tmp_path: Path, save_nifti, path: str) -> None:
    entry = {"image": path, "label": "labelsTr/b.nii.gz"}
    with pytest.raises(DataError, match="leaves the data set folder"):
        open_dataset(decathlon(tmp_path, save_nifti, training=[entry]))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"whole": [1, 2], "background": 0}, "region"),
        ({"background": 0, "ignore": 2}, "ignore"),
        ({"a": 1, "b": 1}, "twice"),
        ({"a": "x"}, "no integer id"),
        ([1, 2], "must map"),
    ],
)
def test_label_declarations_that_cannot_be_used(tmp_path, save_nifti, labels, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_dataset(decathlon(tmp_path, save_nifti, labels=labels))


def test_broken_json_and_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data set"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match="not a known data set layout"):
        open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        open_dataset(tmp_path)


def nnunet(tmp_path: Path, save_nifti) -> Path:
    for name in ("p_01", "p_02"):
        for channel in range(2):
            save_nifti(f"set/imagesTr/{name}_{channel:04d}.nii.gz", ZEROS + channel)
        save_nifti(f"set/labelsTr/{name}.nii.gz", ONES)
    spec = {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "PZ": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    write_json(tmp_path / "set/dataset.json", spec)
    return tmp_path / "set"


def test_nnunet_raw_layout(tmp_path: Path, save_nifti) -> None:
    dataset = open_dataset(nnunet(tmp_path, save_nifti))
    assert [case.id for case in dataset.cases] == ["p_01", "p_02"]
    assert dataset.channels == ("T2", "ADC")
    first, second = dataset.read_images(dataset.cases[0])
    assert first.array.max() == 0
    assert second.array.min() == 1  # channel order follows the number


def test_nnunet_missing_channel_and_lonely_label(tmp_path: Path, save_nifti) -> None:
    root = nnunet(tmp_path, save_nifti)
    (root / "imagesTr/p_01_0001.nii.gz").unlink()
    save_nifti("set/labelsTr/p_09.nii.gz", ONES)
    dataset = open_dataset(root)
    assert [case.id for case in dataset.cases] == ["p_02"]
    said = {p.case: p.what for p in dataset.problems}
    assert "p_01_0001.nii.gz is missing" in said["p_01"]
    assert said["p_09"] == "label without image"


def test_folder_pairs_report_both_kinds_of_orphans(dataset_folder, save_nifti) -> None:
    root = dataset_folder(3)
    (root / "labels/case0.nii.gz").unlink()
    (root / "images/case1.nii.gz").unlink()
    (root / "images/.DS_Store").write_bytes(b"\0\0")
    dataset = open_dataset(root)
    assert [case.id for case in dataset.cases] == ["case2"]
    assert {p.case: p.what.split(" (")[0] for p in dataset.problems} == {
        "case0": "image without label",
        "case1": "label without image",
    }
    assert dataset.labels == {0: "background", 1: "label 1", 2: "label 2"}


def test_folder_pairs_with_mixed_formats_and_a_mask_tail(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    picture(tmp_path / "images/one two.v1.jpg", rgb)
    picture(tmp_path / "masks/one two.v1_mask.png", (rgb[..., 0] > 99).astype(np.uint8) * 255)
    dataset = open_dataset(tmp_path)
    assert dataset.cases[0].id == "one two.v1"
    assert (dataset.rank, dataset.channels) == (2, ("red", "green", "blue"))
    assert dataset.labels == {0: "background", 1: "foreground"}
    assert dataset.label_map == {255: 1}
    assert set(np.unique(dataset.read_label(dataset.cases[0]).array)) == {0, 1}


def test_same_case_in_two_formats_is_an_error(dataset_folder, save_nifti) -> None:
    root = dataset_folder(2)
    save_nifti("set/images/case0.nii", ZEROS)
    with pytest.raises(DataError, match="the same case"):
        open_dataset(root)


@pytest.mark.parametrize("folder", ["instances", "masks"])
def test_instance_masks_by_folder_name_or_by_many_ids(tmp_path: Path, folder: str) -> None:
    ids = np.arange(64, dtype=np.uint16).reshape(8, 8)
    picture(tmp_path / "images/a.png", ids.astype(np.uint8))
    picture(tmp_path / folder / "a.png", ids)
    dataset = open_dataset(tmp_path)
    assert dataset.kind == "instances"
    assert dataset.labels == {0: "background", 1: "object"}
    assert dataset.channels == ("grey",)


def test_declared_names_for_folder_pairs(dataset_folder) -> None:
    root = dataset_folder(2)
    write_json(
        root / "dataset.json",
        {
            "name": "Toy",
            "labels": {"background": 0, "shell": 1, "core": 2},
            "channel_names": ["MR"],
        },
    )
    dataset = open_dataset(root)
    assert dataset.name == "Toy"
    assert dataset.labels == {0: "background", 1: "shell", 2: "core"}
    assert dataset.channels == ("MR",)


def test_single_slices_in_3d_files_make_a_2d_data_set(dataset_folder) -> None:
    assert open_dataset(dataset_folder(2, (12, 14, 1))).rank == 2


@pytest.mark.parametrize("name", ["patients.csv", "patients.json"])
def test_patients_are_read_from_a_table(dataset_folder, name: str) -> None:
    root = dataset_folder(3)
    if name.endswith("csv"):
        (root / name).write_text("case,patient\ncase0,p\ncase1,p\n")
    else:
        write_json(root / name, {"case0": "p", "case1": "p"})
    assert [case.patient for case in open_dataset(root).cases] == ["p", "p", "case2"]


def test_mapping_labels_keeps_other_ids(save_nifti) -> None:
    stored = np.array([0, 255, 3, 255], np.uint8).reshape(4, 1, 1)
    mapped = map_labels(read_label(save_nifti("a.nii", stored)), {255: 300})
    assert mapped.array.ravel().tolist() == [0, 300, 3, 300]
