"""Measure on held-out cases how far a model's probabilities can be believed, and write it down.

The figures are defined in ``apps.medical.uncertainty``. Held out are the validation cases of the
model's own fold, whose training cases are checked against the digest in model.json, or with
``external`` all cases of a data set the model has never seen.

Everything is measured on the network's grid. Temperature, ECE and likelihood are of the voxels
within three of the prediction: a background that no one doubts would make any model look calibrated
(in a box around the structure the shipped hippocampus model has an ECE of 0.002 after scaling, and
the confidence of its labels is still five points too high). The rest is of the smallest box around
reference and prediction with a margin of five voxels. Of a large box a seeded sample counts.
``apps.medical.calibration`` makes the figures of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from apps.medical.calibration import Held, summarise
from apps.medical.data.plan import Plan
from apps.medical.data.splits import digest, folds
from apps.medical.metrics import overlap as dice_and_iou
from apps.medical.uncertainty import (
    Calibration,
    quantiles,
)
from core.errors import DataError, UsageError
from core.files import read_json, write_json
from core.progress import Progress, SilentProgress
from core.reporting import environment

if TYPE_CHECKING:
    from apps.medical.data.datasets import Case, Dataset
    from apps.medical.store import Model

MARGIN, NEAR = 5, 3  # voxels
# Scores kept per case, over all classes: 8 MB. Smaller boxes, such as an organ's crop, are whole.
SAMPLE = 2_000_000


def calibrate(
    model: str | Path,
    dataset: str | Path,
    *,
    fold: int | None = None,
    external: bool = False,
    alpha: float = 0.1,
    tta: bool = False,
    overlap: float = 0.5,
    batch: int = 1,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Calibration]:
    """Calibrate a model folder, or each fold of one (``fold``: that one), and write it into its
    model.json. Returns the calibrations by folder.

    Raises UsageError for a calibration that exists without ``force`` and an alpha outside 0..1,
    DataError for a data set whose folds are not those the model was trained on, fewer than four
    patients, or references that do not fit.
    """
    from apps.medical.data.datasets import open_dataset
    from apps.medical.store import find_model, load_model
    from core.cli import pick_device, seed_everything, set_threads
    from core.runtime import fast_matmul

    if not 0 < alpha < 1:
        raise UsageError(f"--alpha must be between 0 and 1, got {alpha:g}")
    set_threads(threads)
    chosen = pick_device(device)
    folder = find_model(model)
    data = open_dataset(dataset)
    parts = _parts(folder, fold)
    for _, part in parts:
        _require_free(part, force)
    seed_everything(seed)
    fast_matmul()
    done: dict[str, Calibration] = {}
    for number, part in parts:
        loaded = load_model(part, chosen)
        cases = held_out(loaded, data, number if number is not None else fold, external)
        found = measure(
            loaded, data, cases, alpha=alpha, tta=tta, overlap=overlap, batch=batch, seed=seed,
            progress=progress,
        )  # fmt: skip
        write_calibration(part, found, force)
        done[str(part)] = found
    return done


def measure(
    model: Model,
    dataset: Dataset,
    cases: Sequence[Case],
    *,
    alpha: float = 0.1,
    tta: bool = False,
    overlap: float = 0.5,
    batch: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """The calibration of ``model`` on ``cases`` it has not seen. Raises as ``calibrate``."""
    plan = model.spec.plan
    held = []
    with (progress or SilentProgress()).task("calibrate", total=len(cases)) as task:
        for number, case in enumerate(cases):
            rng = np.random.default_rng((seed, number))
            held.append(_hold(model, dataset, case, rng, tta=tta, overlap=overlap, batch=batch))
            task.advance(note=case.id)
    first = next(iter(model.weights.values()), None)
    return summarise(
        held, _names(plan), alpha=alpha, seed=seed,
        about={
            "dataset": dataset.name,
            "cases_sha256": digest([case.id for case in cases]),
            "how": "held-out cases, on the network's grid; temperature, ECE and likelihood within "
            f"{NEAR} voxels of the prediction; chosen figures cross-fitted between halves of the "
            "patients",
            "overlap": overlap,
            "tta": tta,
            "seed": seed,
            "tensors_sha256": first,
            "environment": environment(seed),
        },
    )  # fmt: skip


def write_calibration(folder: Path, calibration: Calibration, force: bool = False) -> None:
    """Put it into the folder's model.json. UsageError where there is one and ``force`` is false."""
    from apps.medical.store import METADATA

    _require_free(folder, force)
    values = read_json(folder / METADATA)
    values["calibration"] = calibration.model_dump(mode="json")
    # The checksum of the tensors stays the last entry, where a reader looks for it.
    values["tensors"] = values.pop("tensors", {})
    write_json(folder / METADATA, values, force=True)


def print_calibration(folder: str, found: Calibration) -> None:
    """The measured figures as tables for a person, on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from apps.medical.report.contents import figure_text

    console = Console(highlight=False)
    console.print(
        f"{folder}: {found.cases} held-out cases of {found.patients} patients. Temperature "
        f"{found.temperature:.3f}. In brackets 95 % bootstrap intervals."
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("near the prediction", "as trained", "scaled, cross-fitted"):
        table.add_column(title, no_wrap=True)
    for title, before, after in (
        ("calibration error", found.ece_before, found.ece_after),
        ("- log likelihood", found.nll_before, found.nll_after),
    ):
        table.add_row(title, figure_text(before, 4), figure_text(after, 4))
    console.print(table)
    level = f"{found.alpha:.0%}"
    for name, label in found.labels.items():
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(name, no_wrap=True)
        table.add_column("mean over cases", no_wrap=True)
        table.add_row("Dice", figure_text(label.dice))
        table.add_row("error of the expected Dice", figure_text(label.expected_dice_error))
        table.add_row("  of one number for all cases", figure_text(label.dice_constant_error))
        table.add_row("Dice above its bound", figure_text(label.dice_coverage))
        table.add_row("confidence of its voxels", figure_text(label.confidence))
        table.add_row("share of them that is right", figure_text(label.precision))
        table.add_row("missed by the segmentation", figure_text(label.miss_rate))
        threshold = "too few cases" if label.threshold is None else f"p >= {label.threshold:.3f}"
        table.add_row(
            f"missed by the extent for {level} ({threshold})", figure_text(label.extent_miss_rate)
        )
        factor = "too few cases" if label.volume_factor is None else f"x/ {label.volume_factor:.3f}"
        table.add_row(f"volume inside its range ({factor})", figure_text(label.volume_coverage))
        console.print(table)


def _hold(
    model: Model,
    dataset: Dataset,
    case: Case,
    rng: np.random.Generator,
    *,
    tta: bool,
    overlap: float,
    batch: int,
) -> Held:
    """Run one case and keep of it what the figures need."""
    from apps.medical.data.preprocess import load_sample
    from apps.medical.data.targets import instances_to_classes
    from apps.medical.sliding import mirrorings, sliding_logits

    plan = model.spec.plan
    sample, prepared = load_sample(dataset, case, plan)
    label = sample["label"][0]
    truth = instances_to_classes(label) if plan.target == "instances" else label
    flips = mirrorings([a for a, f in enumerate(plan.flip) if f]) if tta else ()
    scores = sliding_logits(
        prepared.image, list(model.networks), plan.patch, overlap, batch, tta=flips
    )
    winner = scores.argmax(0)
    box = _box((truth > 0) | (winner > 0))
    classes = len(scores)
    inside, true = scores[(slice(None), *box)].reshape(classes, -1).T, truth[box].reshape(-1)
    near = ndimage.binary_dilation(winner[box] > 0, iterations=NEAR).reshape(-1)
    if inside.size > SAMPLE:
        picked = rng.choice(len(inside), max(1, SAMPLE // classes), replace=False)
        inside, true, near = inside[picked], true[picked], near[picked]
    reference = prepared.reference
    voxel = float(np.prod(prepared.spacing))
    if reference.physical and plan.rank == 3:
        voxel /= 1000
    counts = [
        np.bincount(np.asarray(array).reshape(-1), minlength=classes)[:classes]
        for array in (truth, winner)
    ]
    return Held(
        patient=case.patient,
        scores=np.ascontiguousarray(inside, dtype=np.float32),
        truth=true.astype(np.int64),
        near=near,
        dice=[dice_and_iou(winner == k, truth == k)[0] for k in range(classes)],
        volume_true=[float(n) * voxel for n in counts[0]],
        volume_pred=[float(n) * voxel for n in counts[1]],
        extent=[n * d for n, d in zip(prepared.shape, prepared.spacing)],
        quantiles=quantiles(prepared.image),
    )


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    box = []
    for axis, n in enumerate(mask.shape):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if line.size == 0:
            return tuple(slice(0, n) for n in mask.shape)
        box.append(slice(max(0, int(line[0]) - MARGIN), min(n, int(line[-1]) + 1 + MARGIN)))
    return tuple(box)


def _names(plan: Plan) -> list[str]:
    """The classes' names; none for numbered objects, whose interior and rim nobody measures."""
    if plan.target == "instances":
        return []
    return [plan.labels[label] for label in plan.label_ids]


def _parts(folder: Path, fold: int | None) -> list[tuple[int | None, Path]]:
    """The model folders to calibrate, with their numbers in an ensemble."""
    from apps.medical.store import METADATA, fold_folders

    found = [] if (folder / METADATA).is_file() else fold_folders(folder)
    if not found:
        return [(None, folder)]
    parts: list[tuple[int | None, Path]] = [(int(part.name[5:]), part) for part in found]
    if fold is None:
        return parts
    if fold not in [number for number, _ in parts]:
        has = ", ".join(str(number) for number, _ in parts)
        raise UsageError(f"{folder}: no fold {fold}; it has {has}")
    return [(number, part) for number, part in parts if number == fold]


def _require_free(folder: Path, force: bool) -> None:
    from apps.medical.store import METADATA

    if (
        not force
        and (folder / METADATA).is_file()
        and read_json(folder / METADATA).get("calibration")
    ):
        raise UsageError(f"{folder}: is calibrated already; pass --force to replace it")


def held_out(
    model: Model, dataset: Dataset, fold: int | None = None, external: bool = False
) -> list[Case]:
    """The cases the model has not seen: its fold's validation cases, or all with ``external``."""
    if external:
        return [case for case in dataset.cases if case.label is not None]
    training = model.spec.training
    own = str(training.get("fold", ""))
    number = fold if fold is not None else int(own) if own.isdigit() else None
    hint = "; if it has seen none of this data set's cases, pass --external"
    if number is None:
        raise DataError(f"{model.folder}: trained on every case, none was held out{hint}")
    splits = folds(dataset)
    if not 0 <= number < len(splits):
        raise UsageError(f"--fold {number}: {dataset.root} has folds 0 to {len(splits) - 1}")
    seen, unseen = splits[number]
    known = training.get("cases_sha256")
    if known is not None and known != digest(seen):
        raise DataError(
            f"{dataset.root}: fold {number} trains on other cases ({len(seen)}) than the model was "
            f"trained on ({training.get('cases', '?')}): its held-out cases cannot be told{hint}"
        )
    return [dataset.case(case_id) for case_id in unseen]
