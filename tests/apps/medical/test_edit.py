"""Corrections by hand: what each step does, and what an edited case folder holds."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from apps.medical.edit import (
    Clean,
    Edits,
    Remove,
    apply,
    component_at,
    components,
    write_edited,
)
from apps.medical.postprocess import Steps
from apps.medical.results import list_results
from core.errors import DataError, UsageError


@pytest.fixture
def labels() -> np.ndarray:
    """Label 1 in two parts of 8 and 1 voxels, label 3 in one of 4, with a corner in common."""
    made = np.zeros((6, 6, 6), np.uint8)
    made[0:2, 0:2, 0:2] = 1
    made[5, 5, 5] = 1
    made[3, 3, 1:5] = 3
    made[4, 4, 4] = 1  # touches label 1's last voxel by a corner: one component with it
    return made


def test_components_by_label_and_size(labels: np.ndarray) -> None:
    found = components(labels, 0.5)
    assert [(part.label, part.voxels, part.size) for part in found] == [
        (1, 8, 4.0), (1, 2, 1.0), (3, 4, 2.0)
    ]  # fmt: skip
    for part in found:
        assert labels[part.at] == part.label
    assert components(np.zeros((3, 3), np.uint8), 1.0) == []
    objects = components(labels, 1.0, instances=True)
    assert [(part.label, part.voxels) for part in objects] == [(1, 10), (3, 4)]


def test_a_component_is_named_by_a_voxel_of_its_own() -> None:
    ring = np.zeros((5, 5), np.uint8)
    ring[0, :] = ring[-1, :] = ring[:, 0] = ring[:, -1] = 2
    (part,) = components(ring, 1.0)  # its centre of mass is outside of it
    assert ring[part.at] == 2


def test_removing_one_component_leaves_the_rest(labels: np.ndarray) -> None:
    before = labels.copy()
    out = apply(labels, Edits(steps=(Remove(label=1, at=(5, 5, 5)),)), 1.0)
    np.testing.assert_array_equal(labels, before)
    assert out[5, 5, 5] == 0
    assert out[4, 4, 4] == 0
    assert (out == 1).sum() == 8
    assert (out == 3).sum() == 4
    objects = apply(labels, Edits(steps=(Remove(label=1, at=(5, 5, 5)),)), 1.0, instances=True)
    assert set(np.unique(objects)) == {0, 3}


def test_a_step_whose_component_is_gone_does_nothing(labels: np.ndarray) -> None:
    twice = Edits(steps=(Remove(label=1, at=(0, 0, 0)), Remove(label=1, at=(1, 1, 1))))
    once = Edits(steps=twice.steps[:1])
    np.testing.assert_array_equal(apply(labels, twice, 1.0), apply(labels, once, 1.0))
    outside = Edits(steps=(Remove(label=1, at=(9, 9, 9)), Remove(label=1, at=(0, 0))))
    np.testing.assert_array_equal(apply(labels, outside, 1.0), labels)


def test_cleaning_one_label_or_each(labels: np.ndarray) -> None:
    largest = apply(labels, Edits(steps=(Clean(label=1, steps=Steps(keep_largest=True)),)), 1.0)
    assert (largest == 1).sum() == 8
    small = apply(labels, Edits(steps=(Clean(steps=Steps(min_size=2.5)),)), 0.5)
    assert set(np.unique(small)) == {0, 1}  # 4 mL stay, 1 and 2 go
    hollow = np.ones((5, 5), np.uint8)
    hollow[2, 2] = 0
    filled = apply(hollow, Edits(steps=(Clean(steps=Steps(fill_holes=True)),)), 1.0)
    assert filled.all()
    objects = apply(labels, Edits(steps=(Clean(steps=Steps(min_size=5)),)), 1.0, instances=True)
    assert set(np.unique(objects)) == {0, 1}
    keep = Edits(steps=(Clean(steps=Steps(keep_largest=True)),))
    with pytest.raises(UsageError, match="by size"):
        apply(labels, keep, 1.0, instances=True)


def test_a_threshold_lets_labels_grow_and_shrink() -> None:
    labels = np.array([[0, 2, 5]], np.uint8)
    p = np.array([[[0.6, 0.3, 0.1]], [[0.3, 0.6, 0.0]], [[0.1, 0.1, 0.9]]])  # classes 0, 2, 5
    for threshold, wanted in ((0.0, [2, 2, 5]), (0.5, [0, 2, 5]), (0.7, [0, 0, 5]), (1, [0, 0, 0])):
        out = apply(labels, Edits(threshold=threshold), 1.0, probabilities=p, ids=(0, 2, 5))
        assert out.tolist() == [wanted]
        assert out.dtype == labels.dtype
    with pytest.raises(UsageError, match="probabilities"):
        apply(labels, Edits(threshold=0.5), 1.0)
    with pytest.raises(UsageError, match="do not belong"):
        apply(labels, Edits(threshold=0.5), 1.0, probabilities=p, ids=(0, 2))


def test_what_lies_at_a_voxel(labels: np.ndarray) -> None:
    assert component_at(labels, (3, 3, 2)) == Remove(label=3, at=(3, 3, 2))
    for place in ((0, 5, 5), (9, 0, 0), (-1, 0, 0), (0, 0)):
        with pytest.raises(UsageError, match="no label lies there"):
            component_at(labels, place)


def test_edits_in_words_and_back() -> None:
    edits = Edits(threshold=0.7).then(Remove(label=1, at=(4, 5, 6)))
    edits = edits.then(Clean(steps=Steps(min_size=0.2, fill_holes=True)))
    assert edits.words({1: "anterior"}) == [
        "voxels with a probability of at least 0.7 kept",
        "anterior: component at voxel 4, 5, 6 removed",
        "every label: components below 0.2 mL removed",
        "every label: holes filled",
    ]
    assert Edits.model_validate(json.loads(edits.model_dump_json())) == edits
    assert edits.undone().undone() == Edits(threshold=0.7)
    assert not edits.idle
    assert Edits().idle


def test_an_edited_folder_is_a_result_like_any_other(model_3d, write_volume, tmp_path) -> None:
    from apps.medical import predict

    path = write_volume()
    predict([path], model_3d, tmp_path / "out")
    source = list_results(tmp_path / "out")["case"]
    labels = source.read().array
    step = component_at(labels, np.argwhere(labels)[0])
    edits = Edits(steps=(step,))
    edited = apply(labels, edits, 1.0)
    folder = write_edited(tmp_path / "edited", source, edited, edits)
    assert {file.name for file in folder.iterdir()} == {
        "manifest.json", "overlay.png", "report.html", "report.pdf", "seg.nii.gz", "stats.json",
        "uncertainty.nii.gz",
    }  # fmt: skip
    written = nib.load(folder / "seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), edited)
    np.testing.assert_allclose(written.affine, nib.load(path).affine)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["made_by"] == "edit"
    assert manifest["voxels_changed"] == np.count_nonzero(edited != labels) > 0
    assert Edits.model_validate(manifest["edits"]) == edits
    assert set(manifest["outputs"]) == {f.name for f in folder.iterdir()} - {"manifest.json"}
    page = (folder / "report.html").read_text()
    assert "edited by hand after the segmentation" in page
    assert "small, edited by hand" in page
    name = source.labels[step.label]
    stats = json.loads((folder / "stats.json").read_text())["labels"][name]
    assert stats["voxels"] == np.count_nonzero(edited == step.label)
    assert "confidence" not in stats  # that was of what the model marked
    with pytest.raises(UsageError, match="already exists"):
        write_edited(tmp_path / "edited", source, edited, edits)
    with pytest.raises(DataError, match="the edited labels"):
        write_edited(tmp_path / "more", source, edited[:-1], edits)


def test_an_edited_series_says_that_a_person_took_part(model_3d, dicom_series, tmp_path) -> None:
    import pydicom

    from apps.medical import predict

    predict([dicom_series], model_3d, tmp_path / "out", deidentify=True)
    (source,) = list_results(tmp_path / "out").values()
    labels = source.read().array
    edits = Edits(steps=(component_at(labels, np.argwhere(labels)[0]),))
    edited = apply(labels, edits, 1.0)
    # Where the source was not recorded, neither report nor seg.dcm can be written.
    folder = write_edited(tmp_path / "edited", source, edited, edits)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert any("no report" in warning for warning in manifest["warnings"])
    predict([dicom_series], model_3d, tmp_path / "named")
    (source,) = list_results(tmp_path / "named").values()
    folder = write_edited(tmp_path / "edited2", source, edited, edits)
    segments = pydicom.dcmread(folder / "seg.dcm").SegmentSequence
    assert {item.SegmentAlgorithmType for item in segments} == {"SEMIAUTOMATIC"}
    report = pydicom.dcmread(folder / "report.dcm")
    assert report.StudyInstanceUID == pydicom.dcmread(folder / "seg.dcm").StudyInstanceUID
    assert "edited" in report.DocumentTitle
    original = pydicom.dcmread(source.file.parent / "seg.dcm").SegmentSequence
    assert {item.SegmentAlgorithmType for item in original} == {"AUTOMATIC"}


def test_without_the_image_labels_are_written_all_the_same(
    model_3d, write_volume, tmp_path
) -> None:
    from apps.medical import predict

    path = write_volume()
    predict([path], model_3d, tmp_path / "out", report=False)
    path.unlink()
    (source,) = list_results(tmp_path / "out").values()
    labels = source.read().array
    edits = Edits(steps=(Clean(steps=Steps(keep_largest=True)),))
    folder = write_edited(tmp_path / "edited", source, apply(labels, edits, 1.0), edits)
    assert (folder / "seg.nii.gz").is_file()
    assert not (folder / "report.html").exists()
    assert any(
        "not where it was segmented" in warning
        for warning in json.loads((folder / "manifest.json").read_text())["warnings"]
    )
