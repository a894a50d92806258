"""Patient-level scores by hand, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest

from apps.medical.classification.patients import (
    average_precision,
    patient_distances,
    patient_metrics,
    patient_scores,
    patient_to_patient,
)


def test_recognition_rate_is_the_mean_over_patients() -> None:
    """Spanhol et al.: 4 of 4 and 1 of 2 give 0.75, where 5 of 6 images are right."""
    right = np.array([True, True, True, True, True, False])
    patients = ["a", "a", "a", "a", "b", "b"]
    assert patient_scores(right, patients) == {"a": 1.0, "b": 0.5}
    p = np.array([[0.9, 0.1]] * 4 + [[0.1, 0.9], [0.9, 0.1]])
    y = np.array([0, 0, 0, 0, 1, 1])
    found = patient_metrics(p, y, patients, ("x", "y"))
    assert found["recognition_rate"]["value"] == 0.75
    # The mean of b's probabilities is undecided, and argmax takes the first class.
    assert found["pooled"]["accuracy"]["value"] == 0.5
    assert found["pooled"]["n"] == 2


def test_a_patient_of_two_labels_is_counted_apart() -> None:
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    found = patient_metrics(p, np.array([0, 1, 1]), ["a", "a", "b"], ("x", "y"))
    assert found["mixed"] == 1
    assert found["pooled"]["n"] == 1
    assert found["recognition_rate"]["value"] == 1.0


def test_distance_is_the_median_of_the_nearest() -> None:
    a = np.array([[0.0], [10.0], [20.0]])
    b = np.array([[1.0], [12.0]])
    found = patient_distances([a], [b, a])
    # Nearest of b: 1, 2, 8.
    assert found.tolist() == [[2.0, 0.0]]
    assert patient_distances([b], [a])[0, 0] == 1.5  # 1 and 2: it is not symmetric


def features() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Three patients of each of two classes, two images each, classes far apart."""
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], 6)
    x = 10.0 * np.eye(4)[y] + random.normal(0, 1, (12, 4))
    return x, y, [f"p{i // 2}" for i in range(12)]


def test_separate_classes_are_found() -> None:
    x, y, patients = features()
    found = patient_to_patient(x, y, patients)
    assert found is not None
    assert [found[k]["value"] for k in ("top1", "mv3", "map")] == [1.0, 1.0, 1.0]
    # Two others of the same class among the five nearest, so all five vote against.
    assert found["mv5"]["value"] == 0.0
    assert (found["queries"], found["archive"], found["left_out"]) == (6, 6, 0)


def test_a_patient_never_finds_itself() -> None:
    """Every image's nearest neighbour is its own twin, of the same person; it must not count."""
    x = np.array([[0.0], [0.01], [5.0], [5.01], [0.5], [0.51], [5.5], [5.51]])
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    patients = ["a", "a", "b", "b", "c", "c", "d", "d"]
    found = patient_to_patient(x, y, patients)
    assert found is not None
    assert found["top1"]["value"] == 0.0
    again = patient_to_patient(x, y, patients, (x, y, patients))
    assert again is not None
    assert again["top1"]["value"] == 0.0


def test_an_archive_of_others() -> None:
    x, y, patients = features()
    train, test = slice(0, 12, None), np.array([0, 1, 10, 11])
    others = [f"q{p}" for p in patients]
    found = patient_to_patient(
        x[test] + 0.1, y[test], [patients[i] for i in test], (x[train], y[train], others)
    )
    assert found is not None
    assert found["top1"]["value"] == 1.0
    assert found["mv5"]["value"] == 1.0  # three of five
    assert found["archive"] == 6


def test_a_question_without_an_answer_is_left_out() -> None:
    x, y, patients = features()
    kept = np.array([0, 1, 2, 3, 6, 7])  # one patient only of class 1
    found = patient_to_patient(x[kept], y[kept], [patients[i] for i in kept])
    assert found is not None
    assert (found["queries"], found["left_out"]) == (2, 1)
    assert patient_to_patient(x[:1], y[:1], ["a"]) is None


def test_neither_scale_of_features_nor_names_matter() -> None:
    x, y, patients = features()
    x = x + np.random.default_rng(1).normal(0, 4, x.shape)
    a = patient_to_patient(x, y, patients)
    b = patient_to_patient(7.5 * x, y, [f"zz{p}" for p in patients])
    assert a is not None
    assert b is not None
    assert {k: a[k]["value"] for k in ("top1", "mv3", "mv5", "map")} == {
        k: b[k]["value"] for k in ("top1", "mv3", "mv5", "map")
    }


def test_average_precision_by_hand() -> None:
    assert average_precision(np.array([True, False, True])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([False, True])) == 0.5
