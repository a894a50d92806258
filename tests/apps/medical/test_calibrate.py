"""What is measured on held-out cases, what is refused, and that predict uses what was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from apps.medical.calibrate import calibrate
from apps.medical.calibration import Held, halve, summarise
from apps.medical.data.datasets import open_dataset
from apps.medical.data.splits import folds
from apps.medical.predict import predict
from apps.medical.store import load_model
from apps.medical.uncertainty import LEVELS, softmax
from core.errors import DataError, UsageError

ABOUT = {
    "dataset": "d", "cases_sha256": "", "how": "", "overlap": 0.5, "tta": False, "seed": 0,
    "tensors_sha256": None,
}  # fmt: skip


def held(n: int, temperature: float = 2.0, patients: int | None = None) -> list[Held]:
    """Cases whose labels are drawn at ``temperature``, and whose volumes are off by up to 20 %."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(n):
        scores = rng.normal(0, 4, (3000, 3)).astype(np.float32)
        p = softmax(scores.T, temperature).T
        truth = (rng.random(3000)[:, None] > np.cumsum(p, 1)).sum(1).clip(0, 2)
        winner = scores.argmax(1)
        dice = [2 * ((winner == k) & (truth == k)).sum() / ((winner == k).sum() + (truth == k).sum())
                for k in range(3)]  # fmt: skip
        cases.append(
            Held(
                patient=str(number % (patients or n)), scores=scores, truth=truth,
                near=np.ones(3000, bool), dice=dice, volume_true=[1.0, 1.0, 2.0],
                volume_pred=[1.0, float(rng.uniform(0.8, 1.2)), 2.0], extent=[10.0, 12.0, 14.0],
                quantiles=[[float(number)] * len(LEVELS)],
            )
        )  # fmt: skip
    return cases


def test_an_overconfident_model_is_found_out_and_repaired() -> None:
    found = summarise(held(30), ["background", "a", "b"], alpha=0.2, seed=0, about=ABOUT)
    assert found.temperature == pytest.approx(2, rel=0.05)
    assert found.ece_after.mean < 0.02 < 0.05 < found.ece_before.mean
    assert found.nll_after.mean < found.nll_before.mean
    assert found.ece_after.ci95[0] <= found.ece_after.mean * 1.5
    assert sum(b.share for b in found.reliability) == pytest.approx(1)
    a = found.labels["a"]
    assert a.confidence.mean == pytest.approx(a.precision.mean, abs=0.02)
    assert a.extent_miss_rate.mean <= 0.2
    assert a.threshold < 0.5  # the segmentation alone misses more than a fifth
    assert a.miss_rate.mean > 0.2
    assert 1 < a.volume_factor < 1.3
    assert a.volume_coverage.mean >= 0.7
    assert found.labels["b"].volume_factor == pytest.approx(1)
    assert a.dice_margin is not None
    assert found.seen.quantile_distance == [pytest.approx(14.5 * 30 / 29)]  # case 0 from the others
    assert found.seen.volumes == {"a": (1, 1), "b": (2, 2)}
    assert 0 < found.seen.uncertainty[0] <= found.seen.uncertainty[1] <= 1


def test_few_cases_promise_nothing() -> None:
    found = summarise(held(6), ["background", "a", "b"], alpha=0.1, seed=0, about=ABOUT)
    a = found.labels["a"]
    assert (a.threshold, a.extent_miss_rate, a.volume_factor, a.dice_margin) == (None,) * 4
    with pytest.raises(DataError, match="at least 4"):
        summarise(held(9, patients=3), ["background", "a", "b"], alpha=0.1, seed=0, about=ABOUT)


def test_a_label_that_is_missed_or_absent_everywhere_is_no_number() -> None:
    cases = held(12)
    for case in cases:
        case.truth[case.truth == 2] = 0
        case.volume_true[2], case.dice[2] = 0.0, float("nan")
    found = summarise(cases, ["background", "a", "b"], alpha=0.1, seed=0, about=ABOUT)
    b = found.labels["b"]
    assert b.miss_rate.mean is None
    assert b.threshold is None
    assert b.dice.n == 0
    assert "b" not in found.seen.volumes
    json.dumps(found.model_dump(mode="json"), allow_nan=False)


def test_no_patient_is_in_both_halves() -> None:
    patients = [f"p{n // 3}" for n in range(31)]
    halves = halve(patients, 0)
    assert len({*zip(patients, halves)}) == len(set(patients))
    assert abs(sum(halves) - 15) <= 3
    assert halves == halve(patients, 0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 volumes with the labels 2 and 5 of the small models."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(25):
        rng = np.random.default_rng(number)
        label = np.zeros((14, 12, 13), np.uint8)
        label[3:8, 3:9, 4:9], label[8:11, 3:9, 4:9] = 2, 5
        image = 100 + 20 * label + rng.normal(0, 9, label.shape)
        for kind, array in (("images", image.astype(np.float32)), ("labels", label)):
            (folder / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"c{number:02d}.nii.gz")
    return folder


@pytest.fixture
def model(tmp_path, dataset, save_small, make_plan) -> Path:
    """A random network that says it was trained on fold 0 of the data set."""
    folder = save_small(tmp_path / "model", make_plan())
    import hashlib

    training, _ = folds(open_dataset(dataset))[0]
    digest = hashlib.sha256("\n".join(sorted(training)).encode()).hexdigest()
    card = json.loads((folder / "model.json").read_text())
    card["training"] = {"fold": "0", "cases": len(training), "cases_sha256": digest}
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def test_from_the_command_line_to_a_prediction_that_uses_it(
    command, model, dataset, tmp_path
) -> None:
    weights = (model / "model.safetensors").read_bytes()
    code, report, errors = command("calibrate", model, dataset, "--alpha", 0.3)
    assert code == 0, errors
    (written,) = report["calibrations"].values()
    assert written["cases"] == 5
    assert load_model(model).spec.calibration.model_dump(mode="json") == written
    assert (model / "model.safetensors").read_bytes() == weights

    image = dataset / "images" / "c00.nii.gz"
    (result,) = predict(image, model, tmp_path / "out")
    assert result.stats["uncertainty"]["calibrated"] is True
    assert result.stats["uncertainty"]["temperature"] == written["temperature"]
    entry = result.stats["labels"]["front"]
    if entry["mL"]:
        factor = written["labels"]["front"]["volume_factor"]
        if factor is not None:
            assert entry["range_mL"] == [entry["mL"] / factor, entry["mL"] * factor]
    (result,) = predict(image, model, tta=True)
    assert "without mirrored copies" in result.stats["uncertainty"]["note"]

    code, _, errors = command("calibrate", model, dataset)
    assert code == 2
    assert "--force" in errors
    code, _, _ = command("calibrate", model, dataset, "--force")
    assert code == 0


def test_the_report_of_a_calibrated_model_prints_it(model, dataset, tmp_path, calibration) -> None:
    from apps.medical.calibrate import write_calibration

    write_calibration(model, calibration())
    (result,) = predict(dataset / "images" / "c00.nii.gz", model, tmp_path / "out", overlap=0.25)
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "0.876<br>(0.851–0.912)" in page
    assert "20 cases (19 patients)" in page
    assert "windows overlapping by 0.5, unlike this run" in page


def test_cases_that_were_trained_on_are_refused(model, dataset, tmp_path, save_small, make_plan):
    smaller = tmp_path / "smaller"
    shutil.copytree(dataset, smaller)
    for kind in ("images", "labels"):
        (smaller / kind / "c07.nii.gz").unlink()
    with pytest.raises(DataError, match=r"trains on other cases.*--external"):
        calibrate(model, smaller)
    assert (
        "calibration" not in (model / "model.json").read_text()
        or not json.loads((model / "model.json").read_text())["calibration"]
    )
    found = calibrate(model, smaller, external=True)
    assert next(iter(found.values())).cases == 24
    whole = save_small(tmp_path / "whole", make_plan())
    with pytest.raises(DataError, match="none was held out"):
        calibrate(whole, dataset)
    with pytest.raises(UsageError, match="alpha"):
        calibrate(model, dataset, alpha=1.5)


def test_an_ensembles_folds_are_calibrated_one_by_one(tmp_path, dataset, save_small, make_plan):
    for fold in range(2):
        save_small(tmp_path / "m" / f"fold_{fold}", make_plan(), seed=fold)
    with pytest.raises(UsageError, match="no fold 7"):
        calibrate(tmp_path / "m", dataset, fold=7)
    found = calibrate(tmp_path / "m", dataset)
    assert [Path(folder).name for folder in found] == ["fold_0", "fold_1"]
    image = dataset / "images" / "c00.nii.gz"
    (result,) = predict(image, tmp_path / "m")
    assert "averages 2" in result.stats["uncertainty"]["note"]
    (result,) = predict(image, tmp_path / "m", folds="1")
    assert result.stats["uncertainty"]["calibrated"] is True


def test_numbered_objects_get_a_temperature_and_no_extents(tmp_path, save_small, make_plan) -> None:
    from PIL import Image

    for number in range(8):
        rng = np.random.default_rng(number)
        ids = np.zeros((32, 40), np.uint8)
        ids[4:12, 4:12], ids[15:25, 20:30] = 1, 2
        for kind, array in (("images", 60 * (ids > 0) + rng.integers(0, 40, ids.shape)),
                            ("instances", ids)):  # fmt: skip
            (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / "d" / kind / f"n{number}.png")
    model = save_small(tmp_path / "m", make_plan(rank=2, target="instances"))
    (found,) = calibrate(model, tmp_path / "d", external=True).values()
    assert found.cases == 8
    assert found.labels == {}
    assert found.nll_after.mean < found.nll_before.mean  # a random network is anything but sure
    (result,) = predict(tmp_path / "d" / "images" / "n0.png", model, tmp_path / "out")
    assert result.error is None
    assert result.stats["uncertainty"]["calibrated"] is True
    page = (result.folder / "report.html").read_text()
    assert "8 cases" in page
    assert ">Sure / right<" not in page  # a table of labels, of which there are none
