"""How good class probabilities are: pure functions of arrays, with intervals over patients.

Letters: n cases, K classes, p (n, K) probabilities, y (n,) labels.

    accuracy             share of cases whose likeliest class is right
    balanced accuracy    mean over classes of the recall
    AUROC of a class     chance that a case of it scores above one of another (ties count half):
                         the Mann-Whitney statistic; "auroc" is the mean over classes
    ECE                  expected calibration error: 10 bins of the top probability, their |share
                         right - mean probability| weighted by cases (Guo et al., ICML 2017)

A class without cases, or with all, has no AUROC; one without cases no recall.  Both are left out of
means and reported as null.  Intervals are 95 % percentile bootstraps over patients, 2000 resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 2000
BINS = 10


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve of ``scores`` (n,) for the cases ``positive`` (n,); NaN if undefined."""
    n, total = int(positive.sum()), len(positive)
    if n in (0, total):
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (total - n)))


def mean_auroc(p: np.ndarray, y: np.ndarray) -> float:
    """Mean over classes, one against the rest; of two classes that is the second's."""
    values = [auroc(p[:, k], y == k) for k in range(p.shape[1])]
    defined = [v for v in values if not np.isnan(v)]
    return float(np.mean(defined)) if defined else float("nan")


def balanced_accuracy(p: np.ndarray, y: np.ndarray) -> float:
    """Mean recall of the classes that have cases."""
    right = p.argmax(1) == y
    return float(np.mean([right[y == k].mean() for k in np.unique(y)]))


def calibration_error(p: np.ndarray, y: np.ndarray) -> float:
    """ECE of the likeliest class."""
    top, right = p.max(1), p.argmax(1) == y
    bins = np.minimum((top * BINS).astype(int), BINS - 1)
    gaps = [
        abs(right[bins == b].mean() - top[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


def _accuracy(p: np.ndarray, y: np.ndarray) -> float:
    return float((p.argmax(1) == y).mean())


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": balanced_accuracy,
    "auroc": mean_auroc,
    "ece": calibration_error,
}


def classification_metrics(
    p: np.ndarray,
    y: np.ndarray,
    patients: Sequence[str],
    classes: Sequence[str],
    *,
    seed: int = 0,
    resamples: int | None = None,
) -> dict[str, Any]:
    """Every score with its interval, and each class' recall, precision, AUROC and count.

    {"n", "patients", "accuracy": {"value", "ci95"}, ..., "classes": {name: {...}}, "confusion"};
    rows of the confusion are the true classes.  An interval is None below two patients.
    """
    groups = _groups(patients)
    size = (RESAMPLES if resamples is None else resamples, len(groups))
    draws = np.random.default_rng(seed).integers(len(groups), size=size)
    picked = [np.concatenate([groups[i] for i in draw]) for draw in draws]
    scores = {
        name: {"value": _number(score(p, y)), "ci95": _interval(score, p, y, picked, len(groups))}
        for name, score in SCORES.items()
    }
    K, found = len(classes), p.argmax(1)
    confusion = np.bincount(y * K + found, minlength=K * K).reshape(K, K)
    rows = {}
    for k, name in enumerate(classes):
        true, called = int(confusion[k].sum()), int(confusion[:, k].sum())
        rows[name] = {
            "n": true,
            "recall": confusion[k, k] / true if true else None,
            "precision": confusion[k, k] / called if called else None,
            "auroc": _number(auroc(p[:, k], y == k)),
        }
    return {
        "n": len(y),
        "patients": len(groups),
        **scores,
        "classes": rows,
        "confusion": confusion.tolist(),
    }


def _groups(patients: Sequence[str]) -> list[np.ndarray]:
    """The cases of each patient."""
    found: dict[str, list[int]] = {}
    for i, patient in enumerate(patients):
        found.setdefault(patient, []).append(i)
    return [np.array(found[patient]) for patient in sorted(found)]


def _interval(
    score: Callable[[np.ndarray, np.ndarray], float],
    p: np.ndarray,
    y: np.ndarray,
    picked: Sequence[np.ndarray],
    groups: int,
) -> tuple[float, float] | None:
    if groups < 2:
        return None
    values = np.array([score(p[i], y[i]) for i in picked])
    values = values[~np.isnan(values)]
    if len(values) < len(picked) / 2:  # mostly undefined: an interval of the rest would mislead
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
