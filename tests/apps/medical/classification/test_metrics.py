"""Scores against their definitions and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from apps.medical.classification.metrics import (
    auroc,
    balanced_accuracy,
    calibration_error,
    classification_metrics,
    mean_auroc,
)


def sample(n: int = 57, K: int = 3, seed: int = 0):
    random = np.random.default_rng(seed)
    y = random.integers(K, size=n)
    p = random.dirichlet(np.ones(K), n).round(2) + 0.4 * np.eye(K)[y] + 1e-3
    return p / p.sum(1, keepdims=True), y


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_the_reference(seed: int) -> None:
    p, y = sample(seed=seed)
    assert mean_auroc(p, y) == pytest.approx(
        reference.roc_auc_score(y, p, multi_class="ovr", average="macro")
    )
    assert balanced_accuracy(p, y) == pytest.approx(
        reference.balanced_accuracy_score(y, p.argmax(1))
    )


def test_ties_count_half() -> None:
    assert auroc(np.array([1.0, 1.0, 0.0]), np.array([True, False, False])) == 0.75
    assert np.isnan(auroc(np.array([1.0, 0.0]), np.array([True, True])))


def test_calibration_by_hand() -> None:
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.45, 0.55], [0.35, 0.65]])
    y = np.array([0, 1, 1, 1])
    # Three bins: two at 0.95 of which half are right, one right at 0.55, one right at 0.65.
    assert calibration_error(p, y) == pytest.approx(0.5 * 0.45 + 0.25 * 0.45 + 0.25 * 0.35)
    assert calibration_error(np.eye(2), np.array([0, 1])) == 0.0


def test_the_table_of_one_call() -> None:
    p, y = sample()
    patients = [f"p{i // 3}" for i in range(len(y))]
    found = classification_metrics(p, y, patients, ("a", "b", "c"), resamples=200)
    assert (found["n"], found["patients"]) == (57, 19)
    assert np.array(found["confusion"]).tolist() == (
        reference.confusion_matrix(y, p.argmax(1)).tolist()
    )
    for name in ("accuracy", "balanced_accuracy", "auroc"):
        low, high = found[name]["ci95"]
        assert low < found[name]["value"] < high
    recalls = [row["recall"] for row in found["classes"].values()]
    assert found["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls))
    assert found["classes"]["b"]["precision"] == pytest.approx(
        reference.precision_score(y, p.argmax(1), labels=[1], average=None)[0]
    )


def test_intervals_follow_patients_not_images() -> None:
    """The same image ten times over is not ten times the evidence."""
    p, y = sample(40)
    once = classification_metrics(p, y, [str(i) for i in range(40)], "abc", resamples=300)
    ten = classification_metrics(
        np.repeat(p, 10, 0), np.repeat(y, 10), np.repeat(np.arange(40).astype(str), 10).tolist(),
        "abc", resamples=300,
    )  # fmt: skip
    width = [m["accuracy"]["ci95"][1] - m["accuracy"]["ci95"][0] for m in (once, ten)]
    assert width[0] == pytest.approx(width[1], abs=0.05)


def test_what_is_undefined_is_null() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2]])
    found = classification_metrics(p, np.array([0, 0]), ["x", "x"], ("a", "b"), resamples=10)
    assert found["accuracy"] == {"value": 1.0, "ci95": None}
    assert found["auroc"]["value"] is None
    assert found["classes"]["b"] == {"n": 0, "recall": None, "precision": None, "auroc": None}
