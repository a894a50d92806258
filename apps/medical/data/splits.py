"""Cross-validation folds in which no patient is on both sides."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.medical.data.datasets import Dataset
from core.errors import DataError
from core.files import MAX_JSON_BYTES, read_bounded, read_json

SPLIT_FILES = ("splits_final.json", "splits.json")

Fold = tuple[list[str], list[str]]


def fold_folder(fold: str) -> str:
    """The name of a fold's folder in a run: fold_0, fold_1, ..., or full."""
    return "full" if fold == "full" else f"fold_{fold}"


def validated_cases(run: Path) -> tuple[list[str], dict[str, Any]]:
    """The finished folds of a run, and every case's row of their validation.json together.

    Raises DataError for a file that is damaged.
    """
    finished, rows = [], {}
    for file in sorted(Path(run).glob("fold_*/validation.json")):
        advice = f"remove {file.parent.name} and train it again"
        cases = read_json(file, advice=advice).get("cases")
        if not isinstance(cases, dict):
            raise DataError(f"{file}: has no cases; {advice}")
        finished.append(file.parent.name)
        rows.update(cases)
    return finished, rows


def digest(ids: Sequence[str]) -> str:
    """SHA-256 of case names, whatever their order."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def folds(dataset: Dataset, k: int = 5, seed: int = 0) -> list[Fold]:
    """[(training case ids, validation case ids)] for each of `k` folds.

    A `splits_final.json` (nnU-Net) or `splits.json` in the data set's folder, a list of
    {"train": [...], "val": [...]}, is used as it is. Otherwise patients are shuffled by `seed` and
    dealt, those with most cases first, to the fold that has the fewest cases: the result depends on
    the ids and the seed only. Raises DataError if a patient would straddle or `k` is too large.
    """
    stored = stored_splits(dataset)
    if stored is not None:
        path, splits = stored
        _check(dataset, path, splits)
        return splits
    patients: dict[str, list[str]] = {}
    for case in dataset.cases:
        patients.setdefault(case.patient, []).append(case.id)
    if not 2 <= k <= len(patients):
        raise DataError(f"{dataset.root}: {k} folds need 2 <= folds <= {len(patients)} patients")
    order = sorted(patients)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda patient: -len(patients[patient]))  # stable: keeps the shuffle within ties
    parts: list[list[str]] = [[] for _ in range(k)]
    for patient in order:
        min(parts, key=len).extend(patients[patient])
    return [
        (sorted(i for j, part in enumerate(parts) if j != fold for i in part), sorted(parts[fold]))
        for fold in range(k)
    ]


def stored_splits(dataset: Dataset) -> tuple[Path, list[Fold]] | None:
    """The data set's own split file, parsed but not checked against its cases."""
    path = next((dataset.root / f for f in SPLIT_FILES if (dataset.root / f).is_file()), None)
    if path is None:
        return None
    return path, read_splits(path)


def read_splits(path: Path) -> list[Fold]:
    """nnU-Net's file of folds.  Raises DataError where it cannot be read or holds something else."""
    content = read_bounded(path, MAX_JSON_BYTES, "correct or remove this file")
    try:
        return [(list(e["train"]), list(e["val"])) for e in json.loads(content)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f'{path}: must be a list of {{"train": [...], "val": [...]}}') from error


def straddling(dataset: Dataset, fold: Fold) -> list[str]:
    """Patients with cases on both sides of a fold."""
    patient = {case.id: case.patient for case in dataset.cases}
    sides = [{patient[i] for i in side if i in patient} for side in fold]
    return sorted(sides[0] & sides[1])


def _check(dataset: Dataset, path: Path, splits: list[Fold]) -> None:
    known = {case.id for case in dataset.cases}
    for number, fold in enumerate(splits):
        absent = sorted((set(fold[0]) | set(fold[1])) - known)
        if absent:
            raise DataError(
                f"{path}: fold {number} names {len(absent)} cases that are not here, first"
                f" {absent[0]!r}; correct or remove this file"
            )
        both = straddling(dataset, fold)
        if both:
            raise DataError(
                f"{path}: patient {both[0]!r} is in training and validation of fold {number};"
                " metrics would be too good: move all of a patient's cases to one side"
            )
