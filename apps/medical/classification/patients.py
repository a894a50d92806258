"""Patient by patient: several images of one person are one question, not several.

No paper known to us defines a metric by the name "patient-to-patient".  It is used of two things,
and both are here under their own names:

    patient score        share of a patient's images that are classified right; its mean over patients
                         is the patient recognition rate (Spanhol et al., "A dataset for breast cancer
                         histopathological image classification", IEEE TBME 2016, equations 1 and 2).
                         A patient with many images counts no more than one with few.
    patient to patient   retrieval: each patient's images are the query, all other patients the
                         archive, and the most similar patients' class is the answer.  Distance from
                         patient P to Q: for each image of P the Euclidean distance to the nearest of
                         Q, and the median of these ("median of minimum", Kalra et al., "Yottixel",
                         Medical Image Analysis 2020).  Scores: class of the nearest patient (top 1),
                         majority of the nearest 3 and 5 (mv 3, mv 5; a tie goes to the class met
                         first), mean average precision.  Leave one patient out, as in Kalra et al. and
                         Alfasly et al. (arXiv:2311.09902).

And the usual third: the mean of a patient's probabilities, scored as ``metrics`` does ("pooled").

A patient whose images carry different labels has no label of its own: it counts in the patient
score only, and such patients are counted.  No image is ever compared with one of the same person.
Deviates from Yottixel: features are compared as they are, not as bar codes (signs of differences).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from apps.medical.classification.metrics import classification_metrics
from apps.medical.evaluate import bootstrap

NEAREST = (1, 3, 5)


def patient_scores(right: np.ndarray, patients: Sequence[str]) -> dict[str, float]:
    """Share of right answers, ``right`` (n,), of each patient."""
    names = np.array(patients)
    return {str(name): float(right[names == name].mean()) for name in np.unique(names)}


def patient_metrics(
    p: np.ndarray, y: np.ndarray, patients: Sequence[str], classes: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """Patient recognition rate with its interval, and scores of each patient's mean probabilities.

    {"recognition_rate": {"value", "ci95"}, "pooled": as ``classification_metrics`` or None,
    "mixed": patients of several labels}.
    """
    scores = patient_scores(p.argmax(1) == y, patients)
    values = np.array(list(scores.values()))
    names, labels, rows = _one_label(y, patients)
    pooled = None
    if names:
        means = np.stack([p[i].mean(0) for i in rows])
        pooled = classification_metrics(means, labels, names, classes, seed=seed)
    return {
        "recognition_rate": {
            "value": float(values.mean()),
            "ci95": bootstrap(values, list(scores), seed),
        },
        "pooled": pooled,
        "mixed": len(scores) - len(names),
    }


def patient_distances(query: Sequence[np.ndarray], archive: Sequence[np.ndarray]) -> np.ndarray:
    """Median of minimum distances (P, Q) between bags of features, (n_i, C) each."""
    found = np.zeros((len(query), len(archive)))
    for i, a in enumerate(query):
        for j, b in enumerate(archive):
            found[i, j] = np.median(_distances(a, b).min(1))
    return found


def patient_to_patient(
    features: np.ndarray,
    y: np.ndarray,
    patients: Sequence[str],
    archive: tuple[np.ndarray, np.ndarray, Sequence[str]] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Retrieval scores of ``features`` (n, C) with labels y (n,); see the module.

    ``archive``: features, labels and patients to look in, such as those of the training cases; a
    patient that is in both is not compared with itself.  Without it every other patient is looked
    at.  Returns {"top1", "mv3", "mv5", "map": {"value", "ci95"}, "queries", "archive", "left_out"},
    or None where nothing can be asked.  A query whose class no other patient has is left out.
    """
    names, labels, rows = _one_label(y, patients)
    query = [features[i] for i in rows]
    if archive is None:
        stored, stored_labels, bags = names, labels, query
    else:
        stored, stored_labels, there = _one_label(archive[1], archive[2])
        bags = [archive[0][i] for i in there]
    if not names or not stored:
        return None
    table = patient_distances(query, bags)
    hits: dict[str, list[float]] = {f"{'top' if k == 1 else 'mv'}{k}": [] for k in NEAREST}
    hits["map"] = []
    asked = []
    for i, name in enumerate(names):
        others = np.array([j for j, other in enumerate(stored) if other != name], dtype=int)
        if not (stored_labels[others] == labels[i]).any():
            continue
        asked.append(name)
        order = others[np.argsort(table[i, others], kind="stable")]
        ranked = stored_labels[order]
        for k, key in zip(NEAREST, hits):
            hits[key].append(float(_majority(ranked[:k]) == labels[i]))
        hits["map"].append(average_precision(ranked == labels[i]))
    if not asked:
        return None
    scores = {
        key: {"value": float(np.mean(v)), "ci95": bootstrap(np.array(v), asked, seed)}
        for key, v in hits.items()
    }
    left_out = len(set(patients)) - len(asked)
    return {**scores, "queries": len(asked), "archive": len(stored), "left_out": left_out}


def average_precision(relevant: np.ndarray) -> float:
    """Mean precision at the ranks of the relevant items; at least one must be."""
    at = np.flatnonzero(relevant)
    return float(np.mean(np.arange(1, len(at) + 1) / (at + 1)))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0.0))


def _majority(labels: np.ndarray) -> int:
    """The commonest label; of equals the one that comes first."""
    values, counts = np.unique(labels, return_counts=True)
    best = set(values[counts == counts.max()].tolist())
    return next(int(label) for label in labels if label in best)


def _one_label(
    y: np.ndarray, patients: Sequence[str]
) -> tuple[list[str], np.ndarray, list[np.ndarray]]:
    """Patients whose cases share one label: names, labels, and the indices of their cases."""
    rows: dict[str, list[int]] = {}
    for i, patient in enumerate(patients):
        rows.setdefault(patient, []).append(i)
    kept = [name for name in sorted(rows) if len({int(y[i]) for i in rows[name]}) == 1]
    labels = np.array([int(y[rows[name][0]]) for name in kept], dtype=int)
    return kept, labels, [np.array(rows[name]) for name in kept]
