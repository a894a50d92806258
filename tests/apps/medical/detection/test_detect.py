"""From a study's files to lesions at their place in the world, and the command line that does it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from apps.medical.detection.candidates import CandidateRule
from apps.medical.detection.detect import (
    detect,
    lesion_probability,
    require_detector,
    unlike_training,
)
from apps.medical.detection.metrics import Scored, score_cases
from apps.medical.detection.synthetic import write_image
from core.errors import UsageError

HALF = CandidateRule(threshold=0.5)  # the scene's own hills stay below


def right_first(result) -> list[dict]:
    return sorted(result.lesions, key=lambda row: -row["centre_mm"][0])


def test_lesions_are_found_where_they_are_in_the_world(painted, centres, detector) -> None:
    study, label = painted
    result = detect(study, detector, rule=HALF)
    assert result.candidates.map.shape == study.t2w.shape
    assert len(result.lesions) == 2
    for row, centre in zip(right_first(result), centres, strict=True):
        assert row["centre_mm"] == pytest.approx(centre, abs=1.0)
        assert row["volume_ml"] == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.5)
    assert result.score == result.lesions[0]["confidence"] > result.lesions[1]["confidence"]
    figures = score_cases(
        [Scored(case="a", detection=result.candidates.map, reference=label)], resamples=0
    )
    assert (figures["found"], figures["false_positives"]) == (2, 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_how_the_t2w_image_is_stored_does_not_move_a_lesion(
    painted, centres, detector, order
) -> None:
    """Axes swapped and turned about: the lesion on the patient's right stays there."""
    from dataclasses import replace

    study, _ = painted
    t2w = study.t2w
    affine = t2w.affine[:, [*order, 3]].copy()
    array = t2w.array.transpose(order)[::-1]
    affine[:3, 3] += affine[:3, 0] * (array.shape[0] - 1)
    affine[:3, 0] *= -1
    spacing = tuple(t2w.spacing[a] for a in order)
    stored = replace(study, t2w=replace(t2w, array=array, affine=affine, spacing=spacing))
    found = detect(stored, detector, rule=HALF)
    assert [row["centre_mm"] for row in right_first(found)] == [
        pytest.approx(centre, abs=1.0) for centre in centres
    ]
    plain = lesion_probability(study, detector)
    assert found.probability == pytest.approx(plain.transpose(order)[::-1], abs=1e-3)


def test_beyond_the_networks_grid_nothing_is_claimed(painted, detector) -> None:
    probability = lesion_probability(painted[0], detector)
    assert probability[0].max() == 0  # the T2W image is 80 mm wide, the network's grid 72
    assert probability[:, :, 9].max() > 0.5
    assert probability.min() >= 0


def test_mirroring_averages(painted, detector) -> None:
    """An arithmetic network sees no difference but the rounding of where windows lie."""
    plain = lesion_probability(painted[0], detector)
    mirrored = lesion_probability(painted[0], detector, tta=True)
    assert mirrored == pytest.approx(plain, abs=1e-4)


def test_the_rule_is_the_callers(painted, detector) -> None:
    assert len(detect(painted[0], detector, rule=CandidateRule(most=1)).lesions) == 1
    none = detect(painted[0], detector, rule=CandidateRule(min_voxels=10**6))
    assert none.lesions == []
    assert none.score == 0
    assert any("no lesion candidate" in warning for warning in none.warnings)


def test_an_image_unlike_training_is_said(painted, detector) -> None:
    from dataclasses import replace

    t2w = painted[0].t2w
    plan = detector.spec.plan
    assert unlike_training(t2w, plan) == []
    coarse = replace(t2w, spacing=(2.0, 2.0, 3.0))
    assert "trained on 1 x 1 x 3 mm" in unlike_training(coarse, plan)[0]
    small = replace(t2w, array=t2w.array[20:50, 20:50])
    assert "fills" in unlike_training(small, plan)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": ["ADC", "T2W", "HBV"]}, "takes ADC, T2W, HBV"),
        ({"channels": ["MRI"], "normalisation": ["zscore"], "intensity": [None]}, "takes MRI"),
        ({"spacing": None}, "not a lesion detector"),
    ],
)
def test_a_model_of_other_inputs_is_refused(changes, words, detector) -> None:
    plan = detector.spec.plan
    with pytest.raises(UsageError, match=words):
        require_detector(type(plan).model_validate(plan.model_dump() | changes), "model")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, detector) -> Path:
    """A random network's folder with a detector's plan."""
    from apps.medical import catalog, models
    from apps.medical.store import ModelSpec, NetworkSpec, save_model
    from core.files import plain

    plan = detector.spec.plan
    tiny = {"feature_size": 6, "depths": (1, 1), "heads": (3, 3), "stripes": (1, 2), "width": 4}
    tiny |= {"patch": (2, 2, 1), "strides": ((2, 2, 2),), "decoder": "residual"}
    options = plain(catalog.resolve("cswin_unet", 3, **tiny))
    about = NetworkSpec(name="cswin_unet", rank=3, in_channels=3, out_channels=2, options=options)
    torch.manual_seed(0)
    network = models.build("cswin_unet", 3, 3, 2, **options)
    spec = ModelSpec(name="small", network=about, plan=plan, labels=plan.labels)
    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(folder, network, spec)
    return folder


@pytest.fixture
def study_folder(tmp_path, painted) -> Path:
    for role in ("t2w", "adc", "hbv"):
        write_image(getattr(painted[0], role), tmp_path / "study" / f"10001_1000001_{role}.mha")
    return tmp_path / "study"


def test_the_command_line(command, tmp_path, model_folder, study_folder) -> None:
    out = tmp_path / "out"
    line = ("detect", study_folder, "--model", model_folder, "--out", out)
    code, report, _ = command(*line)
    assert code == 0
    folder = out / "10001_1000001"
    assert report["folder"] == str(folder)
    assert {file.name for file in folder.iterdir()} == {
        "detection_map.nii.gz", "probability.nii.gz", "seg.nii.gz", "lesions.json", "overlay.png",
        "manifest.json", "report.html", "report.pdf",
    }  # fmt: skip
    t2w = nib.load(folder / "probability.nii.gz")
    assert t2w.shape == (80, 76, 18)
    found = nib.load(folder / "detection_map.nii.gz")
    index = np.asarray(nib.load(folder / "seg.nii.gz").dataobj)
    lesions = json.loads((folder / "lesions.json").read_text())
    assert lesions["lesions"] == report["lesions"]
    assert lesions["score"] == pytest.approx(float(found.get_fdata().max()))
    assert sorted(set(np.unique(index)) - {0}) == [row["lesion"] for row in report["lesions"]]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [Path(i["path"]).name for i in manifest["inputs"]] == [
        "10001_1000001_t2w.mha", "10001_1000001_adc.mha", "10001_1000001_hbv.mha",
    ]  # fmt: skip
    assert set(manifest["outputs"]) == {f.name for f in folder.iterdir()} - {"manifest.json"}
    assert "Not a medical device" in manifest["disclaimer"]

    code, report, errors = command(*line)
    assert code == 2
    assert "already exists" in errors
    assert command(*line, "--force", "--no-report")[0] == 0
    assert not list(folder.glob("report.*"))
    code, _, errors = command(*line, "--force", "--identify", "--deidentify")
    assert code == 2
    assert "contradict" in errors


def test_from_picais_files_to_figures(command, tmp_path, model_folder, study) -> None:
    """prepare, detect in each study, score: the lines of the manual on invented cases."""
    from apps.medical.data.plan import read_plan
    from apps.medical.detection.picai import LABELS, list_cases
    from apps.medical.detection.synthetic import write_dataset

    pytest.importorskip("picai_eval")
    write_dataset(study, tmp_path / "d", 3, positive=1, seed=1)
    images, labels = tmp_path / "d" / "images", tmp_path / "d" / "labels"
    line = ("prepare", images, labels, "--out", tmp_path / "set", "--spacing", "2,2,3")
    code, report, _ = command(*line, "--shape", "32,32,12", "--patch", "16,16,12")
    assert code == 0
    assert (report["cases"], report["positive"], report["left_out"]) == (3, 3, 0)
    assert read_plan(tmp_path / "set" / "plan.yaml").patch == [16, 16, 12]
    assert command(*line, "--shape", "32;32;12")[0] == 2

    for case in list_cases(images, labels).cases[:2]:
        folder = case.images["t2w"].parent
        line = ("detect", folder, "--model", model_folder, "--out", tmp_path / "out")
        assert command(*line)[0] == 0
    line = ("score", "--pred", tmp_path / "out", "--ref", labels / LABELS[0])
    line = (*line, "--out", tmp_path / "figures.json")
    code, report, errors = command(*line)
    assert code == 3
    assert "no detection map of case" in errors
    code, report, _ = command(*line, "--allow-missing")
    assert code == 0
    assert (report["cases"], report["patients"], report["positive_cases"]) == (2, 2, 2)
    assert report["auroc"]["value"] is None  # no negative case
    assert json.loads((tmp_path / "figures.json").read_text()) == report
    assert command(*line, "--allow-missing")[0] == 2


def test_the_command_lines_mistakes(command, tmp_path, model_folder, study_folder) -> None:
    line = ("detect", study_folder, "--model", model_folder, "--out", tmp_path / "out")
    code, _, errors = command(*line, "--threshold", "dynamik")
    assert code == 2
    assert "Did you mean 'dynamic'" in errors
    (study_folder / "10001_1000001_hbv.mha").unlink()
    code, _, errors = command(*line)
    assert code == 3
    assert "no high b-value image" in errors
    assert not (tmp_path / "out").exists()


def test_a_dicom_study_gets_a_segmentation_of_its_t2w_series(
    tmp_path, dicom_study, centres, detector
) -> None:
    """Each candidate is a segment, at the same place of the world."""
    from apps.medical.dicom.segmentation import read_seg

    result = detect(dicom_study, detector, tmp_path / "out", rule=HALF)
    for row, centre in zip(right_first(result), centres, strict=True):
        assert row["centre_mm"] == pytest.approx(centre, abs=1.0)
    content = read_seg(result.folder / "seg.dcm")
    assert len(content.names) - (0 in content.names) == 2
    assert any("confidence" in name for name in content.names.values())
    voxels = np.argwhere(content.volume.array == 1)
    at = content.volume.affine[:3, :3] @ voxels.mean(0) + content.volume.affine[:3, 3]
    assert at == pytest.approx(result.lesions[0]["centre_mm"], abs=0.1)
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert [entry["files"] for entry in manifest["inputs"]] == [18, 22, 22]
    assert {"seg.dcm", "report.dcm"} <= set(manifest["outputs"])
