"""The PI-CAI challenge's files, and from them a data set that ``train`` takes.

    IMAGES/PATIENT/PATIENT_STUDY_t2w.mha  _adc.mha  _hbv.mha        (also _cor, _sag: not used)
    LABELS/csPCa_lesion_delineations/human_expert/resampled/PATIENT_STUDY.nii.gz
    LABELS/clinical_information/marksheet.csv        patient_id, study_id, case_csPCa, ...

IMAGES may hold the folds' folders (picai_public_images_fold0, ...) as unpacked.  Labels are 0, or the
ISUP grade 2 to 5 of a clinically significant lesion, or 1 where no grade is known; anything above 0
is a lesion.  Experts' labels on the T2W grid come first, then those of Pooch et al. 2025 for the cases
without, then the originals on whatever grid they were drawn; ``ai`` adds Bosma et al.'s automatic ones
for what remains.  A case without any label is left out and counted: it is not a negative one.

Sources: Saha et al. 2022, doi:10.5281/zenodo.6624726 (images); DIAGNijmegen/picai_labels (labels,
CC BY-NC 4.0); DIAGNijmegen/picai_baseline (3.0 x 0.5 x 0.5 mm, 20 x 256 x 256 around the middle; folds
by patient).  Their file of folds, nnU-Net's splits.json, is used where it is given; without it folds
are dealt by patient (``data.splits``).
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from apps.medical.data.plan import NetworkDefaults, Plan, network_strides, write_plan
from apps.medical.data.splits import read_splits
from apps.medical.data.volume import Volume, read_label, write_label_like
from apps.medical.detection.detect import place, write_map
from apps.medical.detection.grid import SHAPE, SPACING, Grid, detection_grid, sample
from apps.medical.detection.inputs import ROLES, read_study
from core.errors import DataError, UsageError
from core.files import write_json, write_text
from core.progress import Progress, SilentProgress

LABELS = (
    "csPCa_lesion_delineations/human_expert/resampled",
    "csPCa_lesion_delineations/human_expert/Pooch25",
    "csPCa_lesion_delineations/human_expert/original",
)
AI_LABELS = "csPCa_lesion_delineations/AI/Bosma22a"
MARKSHEET = "clinical_information/marksheet.csv"
CHANNELS = ("T2W", "ADC", "HBV")
# Four levels; the last, where every position attends to every other, is 16 x 16 x 5 of PI-CAI's grid.
# The width is a third of the published one, so that a step takes seconds of a CPU, not minutes.
NETWORK = "cswin_unet"
OPTIONS: dict[str, object] = {
    "feature_size": 24,
    "depths": [1, 2, 4, 1],
    "heads": [3, 3, 6, 12],
    "stripes": [1, 2, 7, None],
    "decoder": "residual",
    "width": 16,
}


@dataclass(frozen=True, kw_only=True)
class PicaiCase:
    """One study: its folder and name, label file, and what the marksheet says of csPCa, if it does."""

    patient: str
    study: str
    images: dict[str, Path]
    label: Path
    positive: bool | None

    @property
    def id(self) -> str:
        return f"{self.patient}_{self.study}"


@dataclass(frozen=True)
class PicaiFiles:
    """The complete cases, by name, and in one line each what is wrong with the others."""

    cases: tuple[PicaiCase, ...]
    problems: tuple[str, ...]


def list_cases(images: Path, labels: Path, *, ai: bool = False) -> PicaiFiles:
    """The cases of the layout above.  Raises DataError where there is none, or a name comes twice."""
    for folder in (images, labels):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    found = _images(images)
    if not found:
        raise DataError(f"{images}: no PATIENT/PATIENT_STUDY_t2w.mha in it")
    sheet = _marksheet(labels)
    places = [labels / name for name in (*LABELS, *([AI_LABELS] if ai else ()), ".")]
    cases, problems = [], []
    for name, files in sorted(found.items()):
        missing = [role for role in ROLES if role not in files]
        label = next((f for p in places if (f := p / f"{name}.nii.gz").is_file()), None)
        if missing:
            problems.append(f"{name}: no {', '.join(missing)} image")
        elif label is None:
            problems.append(f"{name}: no label")
        else:
            patient, study = name.split("_")
            cases.append(
                PicaiCase(
                    patient=patient,
                    study=study,
                    images=files,
                    label=label,
                    positive=sheet.get(name),
                )
            )
    if not cases:
        raise DataError(f"{images}: no case with three images and a label; first {problems[0]}")
    return PicaiFiles(tuple(cases), tuple(problems))


def _images(root: Path) -> dict[str, dict[str, Path]]:
    """Role -> file of each PATIENT_STUDY below ``root``."""
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(root.rglob("*.mha")):
        name, _, role = file.stem.rpartition("_")
        patient, _, study = name.partition("_")
        if role not in ROLES or not (patient.isdigit() and study.isdigit()):
            continue
        other = found.setdefault(name, {}).setdefault(role, file)
        if other is not file:
            raise DataError(f"{other} and {file}: the same image twice; keep one")
    return found


def _marksheet(labels: Path) -> dict[str, bool]:
    """Whether each PATIENT_STUDY has csPCa; empty without a marksheet."""
    file = next((f for f in (labels / MARKSHEET, labels / "marksheet.csv") if f.is_file()), None)
    if file is None:
        return {}
    with file.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.DictReader(stream)
        if not {"patient_id", "study_id", "case_csPCa"} <= set(rows.fieldnames or ()):
            raise DataError(f"{file}: needs the columns patient_id, study_id and case_csPCa")
        return {
            f"{row['patient_id']}_{row['study_id']}": row["case_csPCa"].strip().upper() == "YES"
            for row in rows
        }


def read_folds(file: Path, cases: Sequence[PicaiCase]) -> list[dict[str, list[str]]]:
    """The folds of an nnU-Net splits.json, without cases that are not here.

    Raises DataError where a patient is on both sides, a case in no validation, or a side is empty.
    """
    known = {case.id: case.patient for case in cases}
    folds = [
        {"train": [c for c in train if c in known], "val": [c for c in val if c in known]}
        for train, val in read_splits(file)
    ]
    for number, fold in enumerate(folds):
        both = {known[c] for c in fold["train"]} & {known[c] for c in fold["val"]}
        if both:
            raise DataError(f"{file}: patient {min(both)} is on both sides of fold {number}")
        if not (fold["train"] and fold["val"]):
            raise DataError(f"{file}: fold {number} has no case that is here on one of its sides")
    lost = set(known) - {case for fold in folds for case in fold["val"]}
    if lost:
        raise DataError(f"{file}: {len(lost)} cases are in no validation fold, first {min(lost)}")
    return folds


def prepare_dataset(
    images: Path,
    labels: Path,
    out: Path,
    *,
    spacing: Sequence[float] = SPACING,
    shape: Sequence[int] = SHAPE,
    patch: Sequence[int] | None = None,
    splits: Path | None = None,
    ai: bool = False,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the cases as a data set in nnU-Net's layout, with plan.yaml, on the detection grid.

    Each case's channels are T2W, ADC and HBV on one grid of ``shape`` voxels of ``spacing`` mm (x, y,
    z), its label 1 where a lesion is.  ``patch`` is what a network sees at once, the whole grid where
    not given.  Interrupted, ``resume`` goes on with the cases that are missing.

    Returns counts and, case by case, what a reader should know (``notes``).  Raises UsageError for a
    grid without meaning and an ``out`` that exists, DataError for files that cannot be read.
    """
    spacing, shape = [float(s) for s in spacing], [int(n) for n in shape]
    patch = [int(n) for n in patch or shape]
    if len(spacing) != 3 or len(shape) != 3 or len(patch) != 3:
        raise UsageError("spacing, shape and patch need three numbers each: x, y, z")
    if min(spacing) <= 0 or min(shape) < 4 or any(p < 4 or p > n for p, n in zip(patch, shape)):
        raise UsageError(f"spacing {spacing}, shape {shape}, patch {patch}: does not make a grid")
    out = Path(out)
    if out.exists() and not (resume or force):
        raise UsageError(f"{out} already exists; pass --force to replace or --resume to go on")
    files = list_cases(images, labels, ai=ai)
    folds = read_folds(splits, files.cases) if splits is not None else None
    notes: list[str] = list(files.problems)
    positive = 0
    with (progress or SilentProgress()).task("placing cases", total=len(files.cases)) as task:
        for case in files.cases:
            found, said = _prepare_case(case, out, spacing, shape, resume and not force)
            positive += found > 0
            notes += said
            task.advance(note=case.id)
    write_text(
        out / "patients.csv",
        "case,patient\n" + "".join(f"{c.id},{c.patient}\n" for c in files.cases),
        force=True,
    )
    if folds is not None:
        write_json(out / "splits_final.json", folds, force=True)
    about = {
        "name": "PI-CAI layout, csPCa",
        "channel_names": {str(i): name for i, name in enumerate(CHANNELS)},
        "labels": {"background": 0, "csPCa": 1},
        "numTraining": len(files.cases),
        "file_ending": ".nii.gz",
        "grid": {"spacing": spacing, "shape": shape},
    }
    write_json(out / "dataset.json", about, force=True)
    write_plan(
        make_plan([c.id for c in files.cases], spacing, shape, patch), out / "plan.yaml", True
    )
    return {
        "out": str(out),
        "cases": len(files.cases),
        "positive": positive,
        "patients": len({c.patient for c in files.cases}),
        "left_out": len(files.problems),
        "notes": notes,
    }


def make_plan(
    ids: Sequence[str], spacing: Sequence[float], shape: Sequence[int], patch: Sequence[int]
) -> Plan:
    """The plan of a detection data set: z-scores of each channel, strides that follow the spacing.

    At 0.5 x 0.5 x 3 mm the first two reductions leave the slices alone, the patch embedding is one of
    them: (2, 2, 1) voxels here, (1, 2, 2) in the order of the paper.
    """
    strides = network_strides(patch, spacing)
    levels = [*strides[1:5], *([[1, 1, 1]] * 4)][:4]
    digest = hashlib.sha256(repr((sorted(ids), list(spacing), list(shape))).encode()).hexdigest()
    return Plan(
        dataset="PI-CAI layout, csPCa",
        fingerprint=digest,
        rank=3,
        channels=list(CHANNELS),
        labels={0: "background", 1: "csPCa"},
        crop="none",
        spacing=list(spacing),
        normalisation=["zscore"] * 3,
        intensity=[None] * 3,
        median_shape=list(shape),
        patch=list(patch),
        batch=2,
        strides=strides,
        flip=[
            True,
            False,
            False,
        ],  # a prostate has a left and a right alike, but a back and a front
        network=NetworkDefaults(
            name=NETWORK, options={**OPTIONS, "patch": levels[0], "strides": levels[1:]}
        ),
    )


def _prepare_case(
    case: PicaiCase, out: Path, spacing: Sequence[float], shape: Sequence[int], resume: bool
) -> tuple[int, list[str]]:
    """Write one case; the number of its lesions on the grid, and what is to be said of it."""
    targets = [out / "imagesTr" / f"{case.id}_{i:04d}.nii.gz" for i in range(len(ROLES))]
    label_file = out / "labelsTr" / f"{case.id}.nii.gz"
    label = read_label(case.label)
    _, before = ndimage.label(label.array > 0, np.ones((3, 3, 3)))
    notes = []
    if case.positive is not None and case.positive != (before > 0):
        said = "csPCa" if case.positive else "no csPCa"
        notes.append(f"{case.id}: the marksheet says {said}, the label has {before} lesions")
    # The label is written last: where it is, the case is complete.
    if resume and label_file.is_file():
        done = read_label(label_file)
        return ndimage.label(done.array > 0, np.ones((3, 3, 3)))[1], notes
    study = read_study(
        case.images["t2w"].parent,
        **{role: str(file) for role, file in case.images.items()},
        case=case.id,
    )
    notes += [f"{case.id}: {note}" for note in study.notes]
    grid = detection_grid(study.t2w, spacing, shape)
    placed = place(study, grid)
    for volume, target in zip(placed, targets, strict=True):
        write_map(target, volume.array, grid.affine, force=True)
    lesions = place_label(label, grid)
    after = ndimage.label(lesions, np.ones((3, 3, 3)))[1]
    if after != before:
        notes.append(f"{case.id}: {before} lesions in the label, {after} on the grid")
    write_label_like(placed[0], lesions, label_file, force=True)
    return after, notes


def place_label(label: Volume, grid: Grid) -> np.ndarray:
    """1 where a lesion of the label map is, uint8 (*grid.shape), in world space.

    Each lesion is interpolated linearly and kept where it is more than half; one so small that it is
    nowhere more than half keeps the voxels nearest to its peak, so that none disappears for its size.
    """
    index, count = ndimage.label(label.array > 0, np.ones((3, 3, 3)))
    out = np.zeros(grid.shape, np.uint8)
    if not count:
        return out
    whole = sample(_as(label, index > 0), grid, order=1)
    out[whole > 0.5] = 1
    where, kept = np.nonzero(out), sample(_as(label, index), grid, order=0)
    for number in set(range(1, count + 1)) - set(kept[where].astype(int)):
        alone = sample(_as(label, index == number), grid, order=1)
        if alone.max() > 0:
            out[alone >= 0.5 * alone.max()] = 1
    return out


def _as(volume: Volume, array: np.ndarray) -> Volume:
    return Volume(
        array=array.astype(np.float32),
        affine=volume.affine,
        spacing=volume.spacing,
        rank=3,
        path=volume.path,
    )
