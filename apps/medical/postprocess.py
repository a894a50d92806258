"""Clean segmentations by rules that had to prove themselves.

Three steps, per label and in this order: keep the largest component, drop components below a size,
fill holes. Components touch by faces, edges or corners; a hole is background that the label encloses
(seen through faces). What is removed becomes background, and only background is filled, so the
labels never take voxels from each other.

``determine`` decides by cross-validation on predictions with references: in each of five folds of
the cases it picks the steps with the best mean Dice on the other four and scores them on the fold.
A label gets steps only if those held-out scores improve on doing nothing; nnU-Net's rule (Isensee et
al. 2021) of choosing and judging on the same cases is a little too kind to every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from apps.medical.data.volume import Volume, same_grid
from apps.medical.derived import Making, write_made
from apps.medical.evaluate import bootstrap
from apps.medical.metrics import overlap
from apps.medical.results import Result, case_folder, check_outputs, list_results
from core.config import StrictModel, validate
from core.errors import DataError, UsageError
from core.files import read_json, require_absent, sha256, write_json
from core.progress import Progress, SilentProgress

CLEANED = Making(
    suffix="cleaned by rules",
    run="cleaned by rules afterwards; the uncertainty is that of the model before",
)
FOLDS = 5
# Improvements of the mean Dice below this are rounding.
LEAST_GAIN = 1e-6


class Steps(StrictModel):
    """What is done to one label. ``min_size`` is in mL (mm2 for a slice, pixels for a picture)."""

    keep_largest: bool = False
    min_size: float = 0.0
    fill_holes: bool = False

    @property
    def idle(self) -> bool:
        return self == Steps()


class Rules(StrictModel):
    """postprocess.json: steps by label id, and the evidence for them."""

    format: Literal[1] = 1
    labels: dict[int, Steps]
    evidence: dict[str, Any] = {}


CANDIDATES = (
    Steps(),
    Steps(keep_largest=True),
    Steps(fill_holes=True),
    Steps(keep_largest=True, fill_holes=True),
)


def clean(mask: np.ndarray, background: np.ndarray, steps: Steps, voxel: float) -> np.ndarray:
    """One label's mask (*S) after ``steps``; ``voxel`` is the size of a voxel in min_size's unit."""
    if not mask.any():
        return mask
    if steps.keep_largest or steps.min_size > 0:
        components, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        keep = sizes * voxel >= steps.min_size
        if steps.keep_largest:
            keep &= np.arange(count + 1) == sizes.argmax()
        keep[0] = False
        mask = keep[components]
    if steps.fill_holes:
        mask = mask | (ndimage.binary_fill_holes(mask) & background)
    return mask


def apply(labels: np.ndarray, steps: Mapping[int, Steps], voxel: float) -> np.ndarray:
    """Label map (*S) after each label's steps."""
    out = labels.copy()
    for label, todo in steps.items():
        mask = out == label
        kept = clean(mask, out == 0, todo, voxel)
        out[mask & ~kept] = 0
        out[kept] = label
    return out


def postprocess(
    pred: Path,
    out: Path,
    rules: Rules | Steps,
    *,
    report: bool = True,
    force: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write cleaned copies of the predictions in ``pred`` to ``out``; returns what changed.

    ``Steps`` alone go to every label. ``out`` may be ``pred`` itself only with ``force``. A case whose
    image is where it was segmented gets a ``report`` as before.

    Raises UsageError for outputs that exist, DataError for predictions of numbered objects.
    """
    results = list_results(Path(pred))
    if not results:
        raise DataError(f"{pred}: no predictions")
    _refuse_objects(results.values())
    done = check_outputs(Path(out), list(results), force=force, resume=resume)
    changed: dict[str, int] = {}
    with (progress or SilentProgress()).task("postprocess", total=len(results)) as task:
        for name, result in results.items():
            if name not in done:
                volume = result.read()
                labels = apply(volume.array, _steps(rules, result, volume), voxel_size(volume))
                changed[name] = int(np.count_nonzero(labels != volume.array))
                about = {
                    "made_by": "postprocess",
                    "rules": rules.model_dump(mode="json", exclude={"evidence"}),
                    "source": {"file": str(result.file), "sha256": sha256(result.file)},
                    "voxels_changed": changed[name],
                }
                with case_folder(Path(out) / name, force) as folder:
                    write_made(folder, result, labels, volume, about, CLEANED, report=report)
            task.advance(note=name)
    return {"out": Path(out), "voxels_changed": changed, "skipped": sorted(done)}


def determine(
    pred: Path,
    ref: Path,
    out_json: Path | None = None,
    *,
    min_sizes: Sequence[float] = (),
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> Rules:
    """Choose each label's steps by cross-validated Dice; writes and returns the rules.

    ``min_sizes`` adds candidates that drop components below these sizes. Cases whose prediction and
    reference both lack a label say nothing about it and do not count for it.

    Raises UsageError for fewer than ten common cases, DataError for folders that are missing and
    grids that differ.
    """
    predicted, references = list_results(Path(pred)), list_results(Path(ref))
    names = sorted(set(predicted) & set(references))
    if len(names) < 2 * FOLDS:
        raise UsageError(
            f"{pred} and {ref} have {len(names)} cases in common; choosing by cross-validation "
            f"needs at least {2 * FOLDS}"
        )
    if out_json is not None:
        require_absent(Path(out_json), force)
    _refuse_objects([predicted[name] for name in names])
    candidates = CANDIDATES + tuple(Steps(min_size=size) for size in min_sizes)
    scores: dict[int, np.ndarray] = {}
    with (progress or SilentProgress()).task("postprocess", total=len(names)) as task:
        for row, name in enumerate(names):
            for label, dices in _dice_of_each(predicted[name], references[name], candidates):
                table = scores.setdefault(label, np.full((len(names), len(candidates)), np.nan))
                table[row] = dices
            task.advance(note=name)
    chosen: dict[int, Steps] = {}
    evidence: dict[str, Any] = {
        "pred": str(pred),
        "ref": str(ref),
        "cases": len(names),
        "labels": {},
    }
    for label, table in sorted(scores.items()):
        chosen[label], evidence["labels"][str(label)] = _choose(table, candidates, seed)
    rules = Rules(labels=chosen, evidence=evidence)
    if out_json is not None:
        write_json(Path(out_json), rules, force)
    return rules


def read_rules(path: Path) -> Rules:
    """The rules that ``determine`` wrote. DataError when the file is something else."""
    try:
        return validate(Rules, read_json(path), str(path))
    except UsageError as error:
        raise DataError(str(error)) from error


def print_rules(rules: Rules, path: Path) -> None:
    """What was chosen and why, for a person, on standard output."""
    for label, steps in rules.labels.items():
        about = rules.evidence["labels"][str(label)]
        chosen = [name for name, value in steps.model_dump().items() if value]
        gain = about.get("held_out_gain")
        number = f" ({gain:+.4f} over {about['cases']} cases)" if gain is not None else ""
        print(f"label {label}: {', '.join(chosen) or 'nothing'}; {about['why']}{number}")
    print(f"rules: {path}")


def voxel_size(volume: Volume) -> float:
    """Size of a voxel in mL, of a slice's pixel in mm2, 1 for a picture."""
    if not volume.physical:
        return 1.0
    return float(np.prod(volume.spacing)) / (1000 if volume.rank == 3 else 1)


def _steps(rules: Rules | Steps, result: Result, volume: Volume) -> dict[int, Steps]:
    if isinstance(rules, Rules):
        return rules.labels
    ids = result.labels or {int(label): "" for label in np.unique(volume.array)}
    return {label: rules for label in sorted(ids) if label != 0}


def _dice_of_each(
    predicted: Result, reference: Result, candidates: Sequence[Steps]
) -> list[tuple[int, list[float]]]:
    """Dice (NaN when both are empty) of every label under every candidate, for one case."""
    p, r = predicted.read(), reference.read()
    why = same_grid(p, r)
    if why:
        raise DataError(f"case {predicted.case}: {predicted.file} and {reference.file}: {why}")
    ids = set(np.unique(p.array).tolist()) | set(np.unique(r.array).tolist())
    voxel, background = voxel_size(p), p.array == 0
    return [
        (
            label,
            [
                overlap(clean(p.array == label, background, steps, voxel), r.array == label)[0]
                for steps in candidates
            ],
        )
        for label in sorted(ids - {0})
    ]


def _choose(
    table: np.ndarray, candidates: Sequence[Steps], seed: int
) -> tuple[Steps, dict[str, Any]]:
    """The steps of one label from Dice (cases, candidates), and why."""
    # A step that empties a mask both sides lack is undefined in some columns only: as good as 1.
    counted = table[~np.isnan(table[:, 0])]
    counted = np.nan_to_num(counted, nan=1.0)
    about: dict[str, Any] = {"cases": len(counted)}
    if len(counted) < 2 * FOLDS:
        return Steps(), about | {"why": f"fewer than {2 * FOLDS} cases have this label"}
    folds = np.random.default_rng(seed).permutation(len(counted)) % FOLDS
    gains = np.empty(len(counted))
    for fold in range(FOLDS):
        held = folds == fold
        best = int(counted[~held].mean(0).argmax())
        gains[held] = counted[held, best] - counted[held, 0]
    best = int(counted.mean(0).argmax())
    proven = gains.mean() > LEAST_GAIN
    about |= {
        "dice_by_candidate": [
            {"steps": steps.model_dump(), "dice": float(dice)}
            for steps, dice in zip(candidates, counted.mean(0))
        ],
        "held_out_gain": float(gains.mean()),
        "held_out_gain_ci95": bootstrap(gains, [str(i) for i in range(len(gains))], seed),
        "why": "held-out Dice improves" if proven else "held-out Dice does not improve",
    }
    return (candidates[best] if proven else Steps()), about


def _refuse_objects(results: Any) -> None:
    for result in results:
        if result.instances:
            raise DataError(
                f"{result.file}: numbers objects; these steps are for labels, object sizes are "
                "bounded when objects are formed"
            )
