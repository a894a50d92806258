"""Layouts, folds without leakage, and what files may not be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.medical.classification.data import (
    open_labelled,
    patient_folds,
    rank_and_channels,
    relabelled,
)
from core.errors import DataError


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(path)
    return path


def table(root: Path, text: str, images: tuple[str, ...] = ("a.png", "b.png", "c.png")) -> Path:
    for name in images:
        picture(root / name)
    (root / "labels.csv").write_text(text)
    return root


def test_a_folder_for_each_class(pictures: Path) -> None:
    data = open_labelled(pictures)
    assert (data.kind, data.classes) == ("images", ("board", "stripes"))
    assert len(data.cases) == 24
    assert data.cases[0].id == "board/im00"
    assert len({case.patient for case in data.cases}) == 12
    assert rank_and_channels(data) == (2, 3)


def test_a_table(tmp_path: Path) -> None:
    text = "image,label,patient\na.png,1,x\nb.png,0,\nsub/d.png,1,x\nc.png,nan,x\ngone.png,0,y\n"
    root = table(tmp_path, text)
    picture(root / "sub" / "d.png")
    data = open_labelled(root / "labels.csv")
    assert [(c.id, data.classes[c.label], c.patient) for c in data.cases] == [
        ("a", "1", "x"), ("b", "0", "b"), ("sub/d", "1", "x"),
    ]  # fmt: skip
    assert len(data.problems) == 2


def test_bags_of_features(bags: Path) -> None:
    data = open_labelled(bags)
    assert (data.kind, data.classes) == ("bags", ("negative", "positive"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na.png,0\n", "needs the columns"),
        ("image,label\n../a.png,0\nb.png,1\n", "not a path inside"),
        ("image,label\n/etc/passwd,0\nb.png,1\n", "not a path inside"),
        ("image,label\na.png,0\nb.png,0\n", "needs two"),
        ("image,label\na.png,0\na.png,1\n", "both case 'a'"),
        ("image,label\na.txt,0\nb.png,1\n", "no format known"),
        ("image,label\n", "no labelled image"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_labelled(table(tmp_path, text))


def test_images_and_bags_together_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "x.png")
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b" / "y.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(DataError, match="images and bags"):
        open_labelled(tmp_path)


def test_masks_are_no_class(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        picture(tmp_path / folder / "a.png")
    with pytest.raises(DataError, match="a data set of masks"):
        open_labelled(tmp_path)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data set"):
        open_labelled(tmp_path / "gone")
    with pytest.raises(DataError, match="no labelled image"):
        open_labelled(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_no_patient_is_on_both_sides_and_classes_are_spread(pictures: Path, seed: int) -> None:
    data = open_labelled(pictures)
    patient = {case.id: case.patient for case in data.cases}
    label = {case.id: case.label for case in data.cases}
    made = patient_folds(data, 3, seed)
    assert sorted(i for _, validation in made for i in validation) == sorted(patient)
    for training, validation in made:
        assert not {patient[i] for i in training} & {patient[i] for i in validation}
        assert set(training) | set(validation) == set(patient)
        assert sorted(label[i] for i in validation) == [0] * 4 + [1] * 4


def test_a_class_of_one_patient_is_refused(tmp_path: Path) -> None:
    text = "image,label,patient\na.png,1,x\nd.png,1,x\nb.png,0,y\nc.png,0,z\n"
    with pytest.raises(DataError, match="'1' has one patient only"):
        patient_folds(open_labelled(table(tmp_path, text, ("a.png", "b.png", "c.png", "d.png"))), 2)


def test_labels_follow_the_models_classes(pictures: Path) -> None:
    data = open_labelled(pictures)
    turned = relabelled(data, ("stripes", "other", "board"), "model")
    assert {turned.classes[c.label] for c in turned.cases} == {"stripes", "board"}
    assert [c.label for c in turned.cases] == [2 - 2 * c.label for c in data.cases]
    with pytest.raises(DataError, match="'stripes' is not among"):
        relabelled(data, ("board",), "model")
