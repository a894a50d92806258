"""Combine several predictions of the same cases into one.

Where every folder holds probabilities (``predict --save-probabilities``) their weighted mean decides;
otherwise each label map has a vote per voxel, and of labels with equal votes the one that an earlier
folder gave wins. Numbered objects cannot be voted on: they need probabilities.

Folds of one model need none of this: ``predict`` averages them window by window.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from apps.medical.data.volume import Volume, same_grid, smallest_unsigned
from apps.medical.derived import Making, write_made
from apps.medical.results import (
    PROBABILITIES,
    Result,
    case_folder,
    check_outputs,
    list_results,
    write_probabilities,
)
from apps.medical.uncertainty import entropy
from core.errors import DataError, UsageError
from core.files import sha256
from core.progress import Progress, SilentProgress

Method = Literal["auto", "mean", "vote"]


def ensemble(
    folders: Sequence[Path],
    out: Path,
    *,
    method: Method = "auto",
    weights: Sequence[float] | None = None,
    save_probabilities: bool = False,
    report: bool = True,
    force: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write OUT/<case>/ for the cases that all ``folders`` predict; returns what was combined how.

    ``weights``, one positive number per folder, count in the mean and in the votes alike. A vote
    that one folder decides alone, as with two of equal weight, is a warning in what is returned.
    A mean comes with its entropy, and a case whose image is where it was segmented with a ``report``.

    Raises UsageError for fewer than two folders or outputs that exist; DataError, naming the case,
    for cases that some folder lacks, grids or labels that differ, and probabilities that are
    missing where they are needed.
    """
    folders = [Path(folder) for folder in folders]
    if len(folders) < 2:
        raise UsageError("an ensemble needs at least two folders of predictions")
    shares = np.ones(len(folders)) if weights is None else np.asarray(weights, dtype=float)
    if len(shares) != len(folders) or not (shares > 0).all():
        raise UsageError(f"weights: give {len(folders)} positive numbers, one per folder")
    members = [list_results(folder) for folder in folders]
    names = sorted(set().union(*members))
    if not names:
        raise DataError(f"{folders[0]}: no predictions")
    for name in names:
        lacking = [str(folder) for folder, found in zip(folders, members) if name not in found]
        if lacking:
            raise DataError(f"case {name} is missing in {', '.join(lacking)}; predict it there")
    done = check_outputs(out, names, force=force, resume=resume)
    methods: dict[str, str] = {}
    with (progress or SilentProgress()).task("ensemble", total=len(names)) as task:
        for name in names:
            if name not in done:
                given = [found[name] for found in members]
                chosen = _method(given, method)
                methods[name] = chosen
                _combine(given, shares, chosen, Path(out) / name, save_probabilities, report, force)
            task.advance(note=name)
    decides = _decides_alone(shares)
    warnings = []
    if decides is not None and "vote" in methods.values():
        warnings.append(
            f"{folders[decides]} alone decides every vote; predict with --save-probabilities, or "
            "give more folders or other --weights"
        )
    return {
        "out": Path(out),
        "cases": methods,
        "skipped": sorted(done),
        "weights": shares.tolist(),
        "warnings": warnings,
    }


def _decides_alone(shares: np.ndarray) -> int | None:
    """The folder that no others can outvote: more than half, or the first, which wins ties, half."""
    heaviest = int(shares.argmax())
    lead = 2 * shares[heaviest] - shares.sum()
    return heaviest if lead > 1e-9 or (heaviest == 0 and lead > -1e-9) else None


def _method(given: Sequence[Result], wanted: Method) -> Literal["mean", "vote"]:
    lacking = [result for result in given if not result.probabilities.is_file()]
    instances = any(result.instances for result in given)
    if wanted != "vote" and not lacking:
        return "mean"
    if wanted == "mean" or instances:
        where = lacking[0].file.parent if lacking else given[0].file.parent
        why = "objects cannot be voted on" if instances else "the mean needs probabilities"
        raise DataError(
            f"case {given[0].case}: {why} and {where} holds no {PROBABILITIES}; "
            "predict with --save-probabilities"
        )
    return "vote"


def _combine(
    given: Sequence[Result],
    shares: np.ndarray,
    method: Literal["mean", "vote"],
    target: Path,
    save_probabilities: bool,
    report: bool,
    force: bool,
) -> None:
    volumes = [result.read() for result in given]
    first = volumes[0]
    for result, volume in zip(given[1:], volumes[1:]):
        why = same_grid(first, volume)
        if why:
            raise DataError(f"case {given[0].case}: {result.file} and {given[0].file}: {why}")
        if result.labels != given[0].labels:
            raise DataError(
                f"case {given[0].case}: {result.file} and {given[0].file} come from models with "
                "different labels"
            )
    mean: np.ndarray | None = None
    if method == "mean":
        mean, classes = _mean(given, shares, first.shape)
        labels = _decide(mean, given[0], len(classes))
    else:
        labels = _vote(volumes, shares)
    about = {
        "made_by": "ensemble",
        "method": method,
        "members": [
            {"file": str(r.file), "sha256": sha256(r.file), "weight": float(w)}
            for r, w in zip(given, shares)
        ],
    }
    with case_folder(target, force) as folder:
        if mean is not None and save_probabilities:
            write_probabilities(folder, mean, classes)
        doubt = None if mean is None else entropy(mean / mean.sum(0))
        making = _making(given, shares, method)
        write_made(folder, given[0], labels, first, about, making, uncertainty=doubt, report=report)


def _making(given: Sequence[Result], shares: np.ndarray, method: str) -> Making:
    how = "probabilities averaged" if method == "mean" else "one vote a folder"
    if len(set(shares.tolist())) > 1:
        how += f", weighted {', '.join(f'{share:g}' for share in shares)}"
    models = [str(result.manifest.get("model", {}).get("name", "unknown")) for result in given]
    return Making(
        suffix=f"ensemble of {len(given)}",
        run=f"{len(given)} segmentations combined: {how}",
        parameters={"members": ", ".join(models)[:64], "method": method},
        members=models[1:],
    )


def _mean(
    given: Sequence[Result], shares: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, list[str]]:
    """Weighted mean probabilities (K, *S), and the classes' names."""
    total: np.ndarray | None = None
    names: list[str] = []
    for result, share in zip(given, shares):
        path = result.probabilities
        try:
            with np.load(path, allow_pickle=False) as stored:
                values = stored["probabilities"].astype(np.float32)
                classes = [str(name) for name in stored["classes"]]
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DataError(f"{path}: cannot be read ({error}); predict this case again") from error
        if values.shape[1:] != shape or (total is not None and classes != names):
            raise DataError(
                f"{path}: classes {classes} on {values.shape[1:]}, wanted {names or 'any'} on "
                f"{shape}; combine predictions of one data set"
            )
        names = classes
        total = values * share if total is None else total + values * share
    assert total is not None
    return total / shares.sum(), names


def _decide(mean: np.ndarray, result: Result, classes: int) -> np.ndarray:
    """Labels, or numbered objects, of mean probabilities (K, *S)."""
    if result.instances:
        from apps.medical.data.targets import instances_from_probabilities

        return instances_from_probabilities(mean[1], mean[2])
    ids = sorted(result.labels)
    if len(ids) != classes:
        raise DataError(
            f"{result.file.parent}: {classes} classes in {PROBABILITIES}, {len(ids)} labels in "
            "manifest.json; predict this case again"
        )
    return np.array(ids, smallest_unsigned(max(ids)))[mean.argmax(0)]


def _vote(volumes: Sequence[Volume], shares: np.ndarray) -> np.ndarray:
    """The label with most votes per voxel; on ties what the earliest of the tied folders says."""
    arrays = [volume.array for volume in volumes]
    best = arrays[0].copy()
    most = np.full(best.shape, -1.0)
    for candidate in arrays:
        # A later folder must win by more than rounding to displace an earlier one.
        votes = sum(share * (other == candidate) for share, other in zip(shares, arrays))
        wins = votes > most + 1e-9
        best = np.where(wins, candidate, best)
        most = np.where(wins, votes, most)
    return best
