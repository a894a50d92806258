from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from apps.medical.data.datasets import Case, Dataset
from apps.medical.data.splits import folds, validated_cases
from core.errors import DataError


def make(root: Path, patients: list[str]) -> Dataset:
    cases = tuple(
        Case(id=f"c{i}", images=(root / "x.nii",), label=None, patient=p)
        for i, p in enumerate(patients)
    )
    labels = {0: "background", 1: "a"}
    return Dataset(root=root, name="d", rank=3, channels=("MR",), labels=labels, cases=cases)


def test_folds_partition_the_cases_and_keep_patients_together(tmp_path: Path) -> None:
    dataset = make(tmp_path, [f"p{i // 3}" for i in range(40)])
    patient = {case.id: case.patient for case in dataset.cases}
    result = folds(dataset)
    assert sorted(i for _, val in result for i in val) == sorted(patient)
    for train, val in result:
        assert sorted(train + val) == sorted(patient)
        assert not {patient[i] for i in train} & {patient[i] for i in val}
        assert 6 <= len(val) <= 10


def test_folds_depend_on_ids_and_seed_only(tmp_path: Path) -> None:
    dataset = make(tmp_path, [f"p{i}" for i in range(20)])
    turned = replace(dataset, cases=dataset.cases[::-1])
    assert folds(dataset) == folds(turned)
    assert folds(dataset, seed=1) != folds(dataset)


@pytest.mark.parametrize("name", ["splits_final.json", "splits.json"])
def test_stored_splits_are_used_as_they_are(tmp_path: Path, name: str) -> None:
    stored = [{"train": ["c0", "c2"], "val": ["c1"]}, {"train": ["c1"], "val": ["c0"]}]
    (tmp_path / name).write_text(json.dumps(stored))
    assert folds(make(tmp_path, ["a", "b", "c"])) == [(["c0", "c2"], ["c1"]), (["c1"], ["c0"])]


def test_patient_on_both_sides_of_a_stored_fold_is_refused(tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(json.dumps([{"train": ["c0"], "val": ["c1"]}]))
    with pytest.raises(DataError, match="'same' is in training and validation of fold 0"):
        folds(make(tmp_path, ["same", "same"]))


@pytest.mark.parametrize(
    "content", ["{", "[1]", "[" * 100_000, '[{"train": ["c0"], "val": ["gone"]}]']
)
def test_unusable_stored_splits_name_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(DataError, match=r"splits\.json"):
        folds(make(tmp_path, ["a", "b"]))


def test_validated_cases_of_all_finished_folds(tmp_path: Path) -> None:
    assert validated_cases(tmp_path) == ([], {})
    for fold, case in (("fold_1", "b"), ("fold_0", "a"), ("full", "c")):
        (tmp_path / fold).mkdir()
        (tmp_path / fold / "validation.json").write_text(json.dumps({"cases": {case: {"n": 1}}}))
    (tmp_path / "fold_2").mkdir()  # not finished
    assert validated_cases(tmp_path) == (["fold_0", "fold_1"], {"a": {"n": 1}, "b": {"n": 1}})
    for damage in ('{"cases": {', "{}"):
        (tmp_path / "fold_1" / "validation.json").write_text(damage)
        with pytest.raises(DataError, match=r"validation\.json.*remove fold_1 and train it again"):
            validated_cases(tmp_path)


def test_fewer_patients_than_folds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="patients"):
        folds(make(tmp_path, ["a", "a", "a", "b", "b", "b"]))
