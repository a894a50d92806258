"""PI-CAI's files, invented ones of its layout: found, checked, put on one grid, dealt into folds."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from apps.medical.data.datasets import open_dataset
from apps.medical.data.plan import read_plan
from apps.medical.data.splits import folds, straddling
from apps.medical.data.volume import read_label
from apps.medical.detection.grid import Grid, detection_grid
from apps.medical.detection.picai import (
    AI_LABELS,
    LABELS,
    MARKSHEET,
    list_cases,
    make_plan,
    place_label,
    prepare_dataset,
    read_folds,
)
from apps.medical.detection.synthetic import write_dataset
from core.errors import DataError, UsageError

SMALL = {"spacing": (2.0, 2.0, 3.0), "shape": (32, 32, 12)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, study) -> Path:
    folder = tmp_path_factory.mktemp("picai") / "data"
    write_dataset(study, folder, 7, seed=1)
    return folder


@pytest.fixture
def copy(tmp_path, written) -> Path:
    import shutil

    return Path(shutil.copytree(written, tmp_path / "data"))


def names(folder: Path) -> list[str]:
    return [case.id for case in list_cases(folder / "images", folder / "labels").cases]


def test_folders_of_folds_are_searched(copy) -> None:
    before = names(copy)
    fold = copy / "images" / "picai_public_images_fold0"
    fold.mkdir()
    for patient in sorted((copy / "images").glob("9*"))[:3]:
        patient.rename(fold / patient.name)
    assert names(copy) == before
    cor = next((copy / "images").rglob("*_t2w.mha"))
    cor.with_name(cor.name.replace("t2w", "cor")).write_bytes(b"not read")
    assert names(copy) == before


def test_what_is_incomplete_is_said(copy) -> None:
    first, second, *rest = names(copy)
    next((copy / "images").rglob(f"{first}_adc.mha")).unlink()
    (copy / "labels" / LABELS[0] / f"{second}.nii.gz").unlink()
    found = list_cases(copy / "images", copy / "labels")
    assert [case.id for case in found.cases] == rest
    assert found.problems == (f"{first}: no adc image", f"{second}: no label")


def test_labels_come_in_order_of_trust(copy) -> None:
    """Resampled expert's, then Pooch's, then the originals; automatic ones only when asked for."""
    case = names(copy)[0]
    own = copy / "labels" / LABELS[0] / f"{case}.nii.gz"
    for place in (*LABELS[1:], AI_LABELS):
        (copy / "labels" / place).mkdir(parents=True)
        (copy / "labels" / place / own.name).write_bytes(own.read_bytes())

    def label(ai: bool = False) -> str:
        found = list_cases(copy / "images", copy / "labels", ai=ai)
        return next((c.label.parent.name for c in found.cases if c.id == case), "")

    for place in LABELS:
        assert label() == Path(place).name
        (copy / "labels" / place / own.name).unlink()
    assert label() == ""
    assert label(ai=True) == "Bosma22a"


def test_no_images_no_labels_twice_the_same(copy, tmp_path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        list_cases(tmp_path / "gone", copy / "labels")
    with pytest.raises(DataError, match="no PATIENT/PATIENT_STUDY_t2w"):
        list_cases(copy / "labels", copy / "labels")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no case with three images and a label; first 9"):
        list_cases(copy / "images", tmp_path / "empty")
    file = next((copy / "images").rglob("*_t2w.mha"))
    (copy / "images" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="the same image twice"):
        list_cases(copy / "images", copy / "labels")


def test_a_marksheet_of_another_form_is_refused(copy) -> None:
    (copy / "labels" / MARKSHEET).write_text("patient,csPCa\n1,YES\n")
    with pytest.raises(DataError, match="columns patient_id, study_id and case_csPCa"):
        list_cases(copy / "images", copy / "labels")


def test_the_data_set_is_one_that_training_takes(written, tmp_path) -> None:
    out = tmp_path / "set"
    report = prepare_dataset(written / "images", written / "labels", out, **SMALL)
    assert (report["cases"], report["patients"]) == (7, 6)
    data = open_dataset(out)
    assert data.channels == ("T2W", "ADC", "HBV")
    assert data.labels == {0: "background", 1: "csPCa"}
    assert not data.problems
    positive = 0
    for case in data.cases:
        volumes, label = data.read_images(case), data.read_label(case)
        assert {v.shape for v in volumes} == {(32, 32, 12)}
        assert all(v.affine == pytest.approx(label.affine, abs=1e-4) for v in volumes)
        positive += bool(label.array.any())
        if label.array.any():  # lesions are dark on ADC and bright at high b, at the same voxels
            inside = label.array > 0
            around = ndimage.binary_dilation(inside, iterations=3) & ~inside
            adc, hbv = (v.array.astype(float) for v in volumes[1:])
            assert np.median(adc[inside]) < np.median(adc[around])
            assert np.median(hbv[inside]) > np.median(hbv[around])
    assert positive == report["positive"] > 0
    plan = read_plan(out / "plan.yaml")
    assert (plan.median_shape, plan.patch) == ([32, 32, 12], [32, 32, 12])


def test_patients_stay_on_one_side(written, tmp_path) -> None:
    prepare_dataset(written / "images", written / "labels", tmp_path / "set", **SMALL)
    data = open_dataset(tmp_path / "set")
    assert len({case.patient for case in data.cases}) == 6
    for fold in folds(data):
        assert straddling(data, fold) == []


def test_given_folds_are_used_and_checked(written, tmp_path) -> None:
    ids = names(written)
    cases = list_cases(written / "images", written / "labels").cases
    pair = [c.id for c in cases if sum(o.patient == c.patient for o in cases) == 2]
    rest = [i for i in ids if i not in pair]
    file = tmp_path / "splits.json"

    def write(*validations: list[str]) -> None:
        every = [*ids, "77777_1"]  # not here: left out, their file is of 1500 cases
        entries = [{"train": [i for i in every if i not in v], "val": v} for v in validations]
        file.write_text(json.dumps(entries))

    write(pair, rest[:3], rest[3:])
    prepare_dataset(written / "images", written / "labels", tmp_path / "set", splits=file, **SMALL)
    stored = folds(open_dataset(tmp_path / "set"))
    assert [sorted(val) for _, val in stored] == [sorted(pair), rest[:3], rest[3:]]
    write(pair[:1], [*rest, *pair[1:]])
    with pytest.raises(DataError, match=f"patient {pair[0].split('_')[0]} is on both sides"):
        read_folds(file, cases)
    write(pair, rest[:3])
    with pytest.raises(DataError, match="2 cases are in no validation fold"):
        read_folds(file, cases)
    file.write_text('{"train": []}')
    with pytest.raises(DataError, match="must be a list"):
        read_folds(file, cases)


def test_an_interrupted_preparation_goes_on(written, tmp_path, monkeypatch) -> None:
    from apps.medical.detection import picai

    out, done = tmp_path / "set", []
    original = picai.place

    def stop(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return original(*arguments)

    monkeypatch.setattr(picai, "place", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(written / "images", written / "labels", out, **SMALL)
    monkeypatch.undo()
    kept = {f: f.stat().st_mtime_ns for f in (out / "labelsTr").iterdir()}
    assert len(kept) == 3
    with pytest.raises(UsageError, match="--resume"):
        prepare_dataset(written / "images", written / "labels", out, **SMALL)
    report = prepare_dataset(written / "images", written / "labels", out, resume=True, **SMALL)
    assert report["cases"] == len(open_dataset(out).cases) == 7
    assert all(f.stat().st_mtime_ns == time for f, time in kept.items())
    whole = prepare_dataset(written / "images", written / "labels", tmp_path / "b", **SMALL)
    assert {**whole, "out": ""} == {**report, "out": ""}


def test_a_marksheet_that_contradicts_the_label_is_said(copy, tmp_path) -> None:
    sheet = copy / "labels" / MARKSHEET
    sheet.write_text(sheet.read_text().replace("YES", "MAYBE").replace("NO", "YES"))
    report = prepare_dataset(copy / "images", copy / "labels", tmp_path / "set", **SMALL)
    assert sum("the marksheet says csPCa, the label has 0" in n for n in report["notes"]) == (
        7 - report["positive"]
    )
    assert any("says no csPCa, the label has" in n for n in report["notes"])


def test_labels_of_another_grid_land_in_the_world(study) -> None:
    """Drawn on the ADC grid, as some of PI-CAI's originals are, and with other axes than T2W's."""
    from dataclasses import replace

    adc = study.adc
    index = np.moveaxis(np.indices(adc.shape), 0, -1)
    points = index @ adc.affine[:3, :3].T + adc.affine[:3, 3]
    centre = np.array((12.0, -14.0, 16.0))
    drawn = (np.linalg.norm(points - centre, axis=-1) < 8).astype(np.uint8)
    grid = detection_grid(study.t2w, (0.5, 0.5, 3.0), (160, 160, 20))
    placed = place_label(replace(adc, array=drawn), grid)
    at = np.argwhere(placed).mean(0)
    assert grid.affine[:3, :3] @ at + grid.affine[:3, 3] == pytest.approx(centre, abs=0.6)
    volume = placed.sum() * 0.75
    assert volume == pytest.approx(drawn.sum() * 12, rel=0.08)


def test_a_tiny_lesion_does_not_disappear(study) -> None:
    from dataclasses import replace

    drawn = np.zeros(study.t2w.shape, np.uint8)
    drawn[30, 30, 9], drawn[40:50, 40:50, 7:11] = 3, 2
    grid = Grid(study.t2w.affine @ np.diag([2.5, 2.5, 1, 1]), (30, 30, 18))
    label = replace(study.t2w, array=drawn)
    assert ndimage.label(place_label(label, grid), np.ones((3, 3, 3)))[1] == 2
    assert not place_label(replace(label, array=0 * drawn), grid).any()


def test_the_plan_reduces_slices_late() -> None:
    """PI-CAI's grid: the patch embedding is (2, 2, 1) voxels, in the paper's order (1, 2, 2)."""
    plan = make_plan(["a"], (0.5, 0.5, 3.0), (256, 256, 20), (256, 256, 20))
    assert plan.strides[1] == [2, 2, 1]
    assert plan.network.options["patch"] == [2, 2, 1]
    assert plan.network.options["strides"][:2] == [[2, 2, 1], [2, 2, 2]]
    assert plan.flip == [True, False, False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"spacing": (0.0, 1.0, 3.0)},
        {"shape": (32, 32)},
        {"patch": (64, 32, 12)},
        {"shape": (2, 32, 12)},
    ],
)
def test_a_grid_without_meaning_is_refused(written, tmp_path, wrong) -> None:
    with pytest.raises(UsageError):
        prepare_dataset(written / "images", written / "labels", tmp_path / "set", **(SMALL | wrong))


def test_the_network_of_the_plan_runs_on_its_patch() -> None:
    import torch

    from apps.medical import models

    plan = make_plan(["a"], (1.0, 1.0, 3.0), (48, 48, 12), (48, 48, 12))
    torch.manual_seed(0)
    network = models.build(plan.network.name, 3, 3, 2, **plan.network.options).eval()
    with torch.inference_mode():
        out = network(torch.randn(1, 3, 48, 48, 12))
    assert out.shape == (1, 2, 48, 48, 12)
    assert tuple(network.encoder.strides[0]) == (2, 2, 1)
    assert network.encoder.channels == [24, 48, 96, 192]


def test_label_files_hold_grades(written) -> None:
    grades = set()
    for file in (written / "labels" / LABELS[0]).iterdir():
        grades |= set(np.unique(read_label(file).array))
        assert nib.load(file).get_data_dtype() == np.uint8
    assert grades <= {0, 2, 3, 4, 5}
    assert len(grades) > 1
