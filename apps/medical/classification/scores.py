"""Scores of a trained classifier: of one fold, of all folds together, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from apps.medical.classification.data import LabelledCase
from apps.medical.classification.inputs import PreparedInputs
from apps.medical.classification.learning import probabilities
from apps.medical.classification.metrics import classification_metrics
from apps.medical.classification.patients import patient_metrics, patient_to_patient
from apps.medical.data.splits import validated_cases


def measured(
    network: nn.Module,
    inputs: PreparedInputs,
    validation: Sequence[LabelledCase],
    archive: Sequence[LabelledCase],
    classes: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Probabilities and scores of ``validation``; its patients are looked for among ``archive``'s."""
    p, vectors = probabilities(network, inputs, validation, features=True)
    _, stored = probabilities(network, inputs, archive, features=True)
    y, patients = _labels(validation)
    where = (stored, *_labels(archive))
    return {
        "cases": {
            case.id: {
                "label": classes[case.label],
                "patient": case.patient,
                "probabilities": dict(zip(classes, row.tolist(), strict=True)),
            }
            for case, row in zip(validation, p, strict=True)
        },
        "images": classification_metrics(p, y, patients, classes, seed=seed),
        "patients": patient_metrics(p, y, patients, classes, seed=seed),
        "patient_to_patient": patient_to_patient(vectors, y, patients, where, seed=seed),
    }


def summarise(run: Path, classes: Sequence[str], seed: int) -> dict[str, Any]:
    """Every finished fold together: scores over all validation cases."""
    finished, rows = validated_cases(run)
    if not rows:
        return {}
    names = list(classes)
    p = np.array([[row["probabilities"][c] for c in names] for row in rows.values()])
    y = np.array([names.index(row["label"]) for row in rows.values()])
    patients = [row["patient"] for row in rows.values()]
    return {
        "folds": finished,
        "images": classification_metrics(p, y, patients, names, seed=seed),
        "patients": patient_metrics(p, y, patients, names, seed=seed),
    }


def described(results: Mapping[str, Any]) -> list[str]:
    """Scores in words, a line each."""
    if not results:
        return []
    lines = []
    images = results["images"]
    scores = ", ".join(f"{k} {_shown(images[k])}" for k in ("balanced_accuracy", "auroc", "ece"))
    lines.append(f"  {images['n']} images of {images['patients']} patients: {scores}")
    rate = results["patients"]["recognition_rate"]
    lines.append(f"  patient recognition rate {_shown(rate)}")
    pair = results.get("patient_to_patient")
    if pair is not None:
        shown = ", ".join(f"{k} {_shown(pair[k])}" for k in ("top1", "mv3", "mv5", "map"))
        lines.append(f"  patient to patient ({pair['queries']} asked): {shown}")
    return lines


def _shown(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "undefined"
    if score["ci95"] is None:
        return f"{score['value']:.3f}"
    return f"{score['value']:.3f} [{score['ci95'][0]:.3f}, {score['ci95'][1]:.3f}]"


def _labels(cases: Sequence[LabelledCase]) -> tuple[np.ndarray, list[str]]:
    return np.array([case.label for case in cases]), [case.patient for case in cases]
