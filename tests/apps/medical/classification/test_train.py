"""From a data set to a student of a teacher and its verdicts, killed and resumed, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.medical.classification.predict import classify
from apps.medical.classification.scores import summarise
from apps.medical.classification.store import load_classifier
from apps.medical.classification.train import (
    ClassSettings,
    class_config,
    train_classifier,
)
from apps.medical.store import load_model
from core.errors import DataError, UsageError
from core.weights.folder import read_tensors

SETTINGS = ClassSettings(size=24, batch=4)
TINY = {"dims": (8, 16), "depths": (1, 1), "kernel": 3, "patch": 2}
DEIT = {"dim": 24, "depth": 2, "heads": 3, "patch": 6}
SMALL_BAGS = {"dim": 16, "regions": 2, "heads": 4, "cross_heads": 4, "epeg": 3}


def config(steps: int = 20, **more):
    return class_config(max_steps=steps, precision="float32", threads=1, **more)


@pytest.fixture(scope="module")
def teacher(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fold 0 that has learned the two classes; not to be written in."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    train_classifier(
        pictures, "convnext_t", out, options=TINY, settings=SETTINGS, config=config(60, lr=4e-3)
    )
    return out


def test_a_teacher_learns_and_its_run_says_how_well(teacher: Path) -> None:
    found = json.loads((teacher / "fold_0" / "validation.json").read_text())
    assert found["images"]["auroc"]["value"] > 0.9
    assert found["patients"]["recognition_rate"]["ci95"] is not None
    assert found["patient_to_patient"]["top1"]["value"] > 0.5
    assert found["weights_chosen_on_these_cases"] is False
    card = json.loads((teacher / "fold_0" / "model.json").read_text())
    assert "Not a medical device" in card["intended_use"]
    assert "p0" not in json.dumps(card["training"])  # who was in it is not in the model
    assert json.loads((teacher / "cv_summary.json").read_text())["folds"] == ["fold_0"]


def test_a_student_hears_its_teacher(pictures: Path, teacher: Path, tmp_path: Path) -> None:
    (fold,) = train_classifier(
        pictures, "deit_t", tmp_path / "student", options=DEIT, settings=ClassSettings(batch=4),
        config=config(4), teacher=teacher,
    )  # fmt: skip
    model = load_classifier(fold.folder)
    assert model.spec.network.distilled
    assert model.spec.preparation == load_classifier(teacher / "fold_0").spec.preparation
    assert model.spec.training["teacher"] == "convnext_t"
    log = [json.loads(line) for line in (fold.folder / "log.jsonl").read_text().splitlines()]
    assert fold.steps == 4
    assert any(entry.get("event") == "start" or "start" in entry.values() for entry in log)
    # The distillation head's gradient comes from the teacher alone, and it moved.
    start = train_classifier(
        pictures, "deit_t", tmp_path / "deaf", options=DEIT,
        settings=ClassSettings(batch=4, distillation={"alpha": 0.0}), config=config(4),
        teacher=teacher,
    )[0]  # fmt: skip
    taught, deaf = (
        read_tensors(f.folder / "model.safetensors")["head_distilled.bias"] for f in (fold, start)
    )
    assert taught.abs().max() > 0
    assert deaf.abs().max() == 0


def test_a_teacher_that_saw_the_answers_is_refused(
    pictures: Path, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="a validation case of this fold"):
        train_classifier(
            pictures, "deit_t", tmp_path, fold="1", options=DEIT, config=config(2),
            settings=ClassSettings(batch=4), teacher=teacher / "fold_0",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_resumes_to_the_same_weights(
    pictures: Path, teacher: Path, tmp_path: Path
) -> None:
    def run(name: str, steps: int, **more) -> dict[str, torch.Tensor]:
        (fold,) = train_classifier(
            pictures, "deit_t", tmp_path / name, options=DEIT, settings=ClassSettings(batch=4),
            config=config(steps, schedule="constant"), teacher=teacher, **more,
        )  # fmt: skip
        return read_tensors(fold.folder / "model.safetensors")

    whole = run("whole", 6)
    run("parts", 3)
    parts = run("parts", 6, resume=True)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    with pytest.raises(UsageError):
        run("parts", 6)


def test_prediction_equals_validation_and_scores_a_labelled_folder(
    pictures: Path, teacher: Path, tmp_path: Path
) -> None:
    validated = json.loads((teacher / "fold_0" / "validation.json").read_text())["cases"]
    report = classify([pictures], teacher, tmp_path / "out")
    assert report["members"] == 1
    for name, case in validated.items():
        assert report["cases"][name]["probabilities"] == pytest.approx(case["probabilities"])
    assert report["scores"]["images"]["n"] == 24
    assert set(report["trained_on"]) == set(report["cases"]) - set(validated)
    assert "trained on" in report["warnings"][0]
    assert report["scores"]["patient_to_patient"]["queries"] == 12
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert rows[0] == "case,class,board,stripes"
    assert len(rows) == 25
    with pytest.raises(UsageError, match="already exists"):
        classify([pictures], teacher, tmp_path / "out")


def test_unlabelled_files_and_one_that_is_damaged(
    pictures: Path, teacher: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = sorted((pictures / "board").iterdir())[0]
    (folder / "good.png").write_bytes(source.read_bytes())
    (folder / "bad.png").write_bytes(source.read_bytes()[:60])
    report = classify([folder], teacher / "fold_0", tmp_path / "out")
    assert list(report["cases"]) == ["good"]
    assert list(report["failed"]) == ["bad"]
    assert report["scores"] is None
    with pytest.raises(DataError, match="none of 1 cases"):
        classify([folder / "bad.png"], teacher, tmp_path / "other")


def test_bags_are_learned_and_classified(bags: Path, tmp_path: Path) -> None:
    (fold,) = train_classifier(
        bags, "r2t_mil", tmp_path / "run", options=SMALL_BAGS,
        config=class_config(bags=True, max_steps=120, lr=3e-3, precision="float32", threads=1),
    )  # fmt: skip
    assert fold.results["images"]["n"] == 4
    report = classify([bags], tmp_path / "run", tmp_path / "out")
    assert report["scores"]["images"]["auroc"]["value"] > 0.9


def test_an_ensemble_is_the_mean_of_its_folds(bags: Path, tmp_path: Path) -> None:
    settings = class_config(bags=True, max_steps=2, precision="float32", threads=1)
    options = {"dim": 16}
    folds = [
        train_classifier(
            bags, "ab_mil", tmp_path, fold=f, config=settings,
            options=options | {"heads": 4, "cross_heads": 4},
        )[0].folder
        for f in ("0", "1")
    ]  # fmt: skip
    single = [
        classify([bags], folder, tmp_path / f"out{i}")["cases"] for i, folder in enumerate(folds)
    ]
    both = classify([bags], tmp_path, tmp_path / "both")
    assert both["members"] == 2
    for name, case in both["cases"].items():
        for label, p in case["probabilities"].items():
            assert p == pytest.approx(np.mean([s[name]["probabilities"][label] for s in single]))
    summary = summarise(tmp_path, ("negative", "positive"), 0)
    assert summary["images"]["n"] == 8


@pytest.mark.parametrize(
    ("network", "options", "error", "said"),
    [
        ("convnext_sx", {}, UsageError, "convnext_xs"),
        ("convnext_t", {"kernels": 3}, UsageError, "kernel"),
        ("r2t_mil", {}, UsageError, "holds images"),
    ],
)
def test_wrong_names_leave_no_run(
    pictures: Path, tmp_path: Path, network: str, options: dict, error: type, said: str
) -> None:
    with pytest.raises(error, match=said):
        train_classifier(
            pictures, network, tmp_path / "run", options=options, settings=SETTINGS,
            config=config(2),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_models_of_another_kind_are_refused(model_3d: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no classifier"):
        load_classifier(model_3d)
    with pytest.raises(DataError, match="classify predict"):
        load_model(teacher / "fold_0")
    with pytest.raises(UsageError, match="no trained classifier"):
        load_classifier(tmp_path)


def test_a_bag_network_names_its_options(bags: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="epeg"):
        train_classifier(bags, "r2t_mil", tmp_path / "run", options={"window": 2})
    assert not (tmp_path / "run").exists()
