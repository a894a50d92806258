"""Classify images or bags with a trained model: predictions.csv and predictions.json.

No label is needed.  Where the input is a labelled data set (labels.csv, or a folder for each class)
of the model's classes, the scores of ``train`` come with it, patients included.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps.medical.cases import find_cases
from apps.medical.classification.data import (
    BAG_SUFFIXES,
    LabelledCase,
    LabelledData,
    looks_labelled,
    open_labelled,
    relabelled,
)
from apps.medical.classification.inputs import PreparedInputs
from apps.medical.classification.learning import probabilities
from apps.medical.classification.metrics import classification_metrics
from apps.medical.classification.patients import patient_metrics, patient_to_patient
from apps.medical.classification.store import ClassifierModel, load_classifier
from apps.medical.shipped import DISCLAIMER
from core.errors import DataError, UsageError
from core.files import require_writable, results_folder, sha256, write_json, write_text
from core.progress import Progress, SilentProgress
from core.reporting import environment
from core.weights.folder import TENSORS

PREDICTIONS, TABLE = "predictions.json", "predictions.csv"


def classify(
    inputs: Sequence[Path],
    model: Path,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The classes of ``inputs``, files or folders; written to ``out`` and returned.

    A case that cannot be read does not stop the others: it is listed under "failed".  Raises
    UsageError for outputs that exist and inputs that name nothing; DataError for a model that is
    none, and when every case failed.
    """
    progress = progress or SilentProgress()
    require_writable(Path(out), (PREDICTIONS, TABLE), force)
    loaded = load_classifier(model, device)
    cases, data = _cases([Path(i) for i in inputs], loaded)
    found, vectors, failed, sums = [], [], {}, {}
    readers = [PreparedInputs(cases, spec.preparation) for spec in loaded.specs]
    with progress.task("classify", total=len(cases)) as task:
        for case in cases:
            try:
                sums[case.id] = sha256(case.file)
                found.append(_ensemble(loaded, readers, case))
                vectors.append(
                    probabilities(loaded.networks[0], readers[0], [case], features=True)[1]
                )
            except DataError as error:
                failed[case.id] = str(error)
                progress.message(f"error: {error}")
            task.advance(1, note=case.id)
    kept = [case for case in cases if case.id not in failed]
    if not kept:
        raise DataError(f"none of {len(cases)} cases could be read; first: {failed[cases[0].id]}")
    p, features = np.concatenate(found), np.concatenate(vectors)
    known = {mark for spec in loaded.specs for mark in spec.training.get("seen", ())}
    seen = [case.id for case in kept if sums[case.id][:16] in known]
    warnings = []
    if seen:
        warnings.append(
            f"{len(seen)} of {len(kept)} cases were trained on (by content), first {seen[0]}: what is "
            "said of them, and every score they are part of, is too good"
        )
    classes = loaded.spec.classes
    report: dict[str, Any] = {
        "disclaimer": DISCLAIMER,
        "model": str(loaded.folder),
        "members": len(loaded.networks),
        "classes": classes,
        "cases": {
            case.id: {
                "file": str(case.file),
                "sha256": sums[case.id],
                "class": classes[int(row.argmax())],
                "probabilities": dict(zip(classes, row.tolist(), strict=True)),
            }
            for case, row in zip(kept, p, strict=True)
        },
        "failed": failed,
        "warnings": warnings,
        "trained_on": seen,
        "scores": None if data is None else _scores(p, features, kept, classes, seed),
        "weights": [
            sha256(file)
            for file in sorted(loaded.folder.rglob(TENSORS))
            if "checkpoints" not in file.parts
        ],
        "environment": environment(seed),
    }
    with results_folder(Path(out), (PREDICTIONS, TABLE), force=force) as folder:
        write_json(folder / PREDICTIONS, report)
        write_text(folder / TABLE, _csv(kept, p, classes))
    return report


def _cases(
    inputs: list[Path], model: ClassifierModel
) -> tuple[list[LabelledCase], LabelledData | None]:
    """What to classify; with the data set where ``inputs`` is one with labels."""
    kind = model.spec.preparation.kind
    if len(inputs) == 1 and looks_labelled(inputs[0], model.spec.classes):
        data = relabelled(open_labelled(inputs[0]), model.spec.classes, str(model.folder))
        if data.kind != kind:
            raise UsageError(f"{data.root}: holds {data.kind}, this model classifies {kind}")
        return list(data.cases), data
    if kind == "bags":
        files: list[Path] = []
        for place in inputs:
            inside = sorted(place.iterdir()) if place.is_dir() else [place]
            files += [f for f in inside if f.suffix.lower() in BAG_SUFFIXES]
        named = [(file.stem, file) for file in files]
    else:
        named = [(case.name, case.files[0]) for case in find_cases(inputs)]
    if not named:
        raise UsageError(f"no {kind} in {', '.join(map(str, inputs))}")
    if len({name for name, _ in named}) < len(named):
        raise UsageError("two inputs have one name; rename one or classify them in two calls")
    return [LabelledCase(id=n, file=f, label=-1, patient=n) for n, f in named], None


def _ensemble(
    model: ClassifierModel, readers: Sequence[PreparedInputs], case: LabelledCase
) -> np.ndarray:
    """Mean of the members' probabilities, (1, K)."""
    rows = [
        probabilities(network, reader, [case])[0]
        for network, reader in zip(model.networks, readers, strict=True)
    ]
    return np.mean(rows, 0)


def _scores(
    p: np.ndarray,
    features: np.ndarray,
    cases: Sequence[LabelledCase],
    classes: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    y, patients = np.array([c.label for c in cases]), [c.patient for c in cases]
    return {
        "images": classification_metrics(p, y, patients, classes, seed=seed),
        "patients": patient_metrics(p, y, patients, classes, seed=seed),
        # Features of the first member: those of different networks do not compare.
        "patient_to_patient": patient_to_patient(features, y, patients, seed=seed),
    }


def _csv(cases: Sequence[LabelledCase], p: np.ndarray, classes: Sequence[str]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "class", *classes])
    for case, row in zip(cases, p, strict=True):
        writer.writerow([case.id, classes[int(row.argmax())], *(f"{v:.6g}" for v in row)])
    return stream.getvalue()
