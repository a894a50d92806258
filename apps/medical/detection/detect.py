"""Detect lesions in one study: from three series to scored candidates on the T2W image's own grid.

    study -> three volumes -> one grid -> sliding window -> probability -> T2W grid -> candidates

The model is an ordinary model folder (``apps.medical.store``) whose plan has the channels T2W, ADC
and HBV in this order, a spacing, and the shape of the network's grid as ``median_shape``; all that
is not background counts as lesion.  OUT/<case>/ holds

    detection_map.nii.gz   each candidate's confidence in its voxels, else 0: what picai_eval reads
    probability.nii.gz     of a lesion, voxel by voxel, before candidates are cut out
    seg.nii.gz             the candidates, numbered from the most confident
    seg.dcm                the same as DICOM Segmentation, where T2W is a DICOM series
    lesions.json           confidence, volume, place and length of each; the case's score
    report.html, .pdf      each candidate on the three series; report.dcm beside seg.dcm
    overlay.png, manifest.json

and appears under its name only when it is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.cases import provenance
from apps.medical.data.volume import Volume, write_label_like
from apps.medical.detection.candidates import (
    CandidateRule,
    Candidates,
    describe_candidates,
    extract_candidates,
)
from apps.medical.detection.grid import Grid, covered, detection_grid, sample
from apps.medical.detection.inputs import ROLES, Biparametric, read_study
from apps.medical.results import case_folder, check_outputs, model_record, now
from apps.medical.shipped import DISCLAIMER
from core.errors import UsageError
from core.files import atomic_path, plain, sha256, write_json
from core.progress import Progress, SilentProgress
from core.reporting import Timer, environment, peak_memory_mb

if TYPE_CHECKING:
    from apps.medical.data.plan import Plan
    from apps.medical.dicom.deidentify import Deidentifier
    from apps.medical.store import Model

OVERLAP = 0.5
# Voxels coarser than the model's by more than this ratio lack detail; below this share of the
# network's grid the image is mostly padding.
COARSER, SEEN = 1.6, 0.5
CHANNELS = {
    "t2w": ("t2w", "t2", "t2-weighted"),
    "adc": ("adc",),
    "hbv": ("hbv", "dwi", "high b-value", "highb"),
}


@dataclass(kw_only=True)
class DetectionResult:
    """What was found: arrays (*S) on the T2W image's grid, and each lesion's description."""

    case: str
    candidates: Candidates
    probability: np.ndarray
    lesions: list[dict[str, Any]]
    grid: Grid
    folder: Path | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def score(self) -> float:
        """The case's: its most confident candidate, 0 without one."""
        return max(self.candidates.confidences, default=0.0)

    def report(self) -> dict[str, Any]:
        """For a machine."""
        return {
            "case": self.case,
            "score": self.score,
            "lesions": self.lesions,
            "folder": self.folder,
            "warnings": self.warnings,
            "seconds": self.seconds,
            "disclaimer": DISCLAIMER,
        }


def detect(
    study: str | Path | Biparametric,
    model: str | Path | Model,
    out: str | Path | None = None,
    *,
    series: dict[str, str | None] | None = None,
    rule: CandidateRule | None = None,
    folds: str | Sequence[int] = "all",
    tta: bool = False,
    overlap: float = OVERLAP,
    batch: int = 1,
    report: bool = True,
    identify: bool = False,
    deidentify: bool = False,
    force: bool = False,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DetectionResult:
    """Detect lesions in ``study`` with ``model``; write a case folder below ``out`` where given.

    ``series`` overrides the choice of series by role, see ``inputs.read_study``.  ``report`` writes
    report.html and report.pdf, which name the patient of a DICOM study only with ``identify``.
    ``deidentify`` removes the patient from seg.dcm, report.dcm and the manifest; otherwise the two
    belong to the source's study.  Raises UsageError for an unknown model, a model of other inputs and
    outputs that exist; DataError for a study that lacks a series or cannot be read; ResourceError when
    the disk is full.
    """
    from apps.medical.store import Model, load_model
    from core.cli import pick_device, seed_everything, set_threads
    from core.runtime import fast_matmul

    progress = progress or SilentProgress()
    if identify and deidentify:
        raise UsageError("--identify and --deidentify contradict each other; choose one")
    set_threads(threads)
    chosen_device = pick_device(device)
    if not isinstance(model, Model):
        model = load_model(model, chosen_device, folds)
    require_detector(model.spec.plan, str(model.folder))
    seed_everything(seed)
    fast_matmul()
    rule = rule or CandidateRule()
    with Timer() as timer:
        given = study if isinstance(study, Biparametric) else None
        read = given or read_study(Path(str(study)), **(series or {}))
        root = Path(out) if out is not None else None
        if root is not None:
            check_outputs(root, [read.case], force=force)
        probability = lesion_probability(
            read, model, tta=tta, overlap=overlap, batch=batch, progress=progress
        )
        found = extract_candidates(probability, rule)
        grid = Grid.of(read.t2w)
        result = DetectionResult(
            case=read.case,
            candidates=found,
            probability=probability,
            lesions=describe_candidates(found, grid.affine, read.t2w.spacing),
            grid=grid,
            warnings=[*read.notes, *unlike_training(read.t2w, model.spec.plan)],
        )
        if not found.confidences:
            result.warnings.append("no lesion candidate: nothing rose above the threshold")
    result.seconds = round(timer.seconds, 3)
    if root is not None:
        options = {
            "rule": rule.describe(),
            "folds": folds,
            "tta": tta,
            "overlap": overlap,
            "batch": batch,
            "report": report,
            "identify": identify,
            "deidentify": deidentify,
            "device": str(chosen_device),
            "threads": threads,
            "seed": seed,
        }
        with case_folder(root / read.case, force) as folder:
            _write(folder, read, model, options, result, timer)
        result.folder = root / read.case
    return result


def require_detector(plan: Plan, name: str) -> None:
    """UsageError unless the plan's input is T2W, ADC and high b-value, in 3-D, at one spacing."""
    if plan.rank != 3 or plan.spacing is None or plan.target != "labels":
        raise UsageError(
            f"{name}: is not a lesion detector (3-D, of a fixed spacing, with classes)"
        )
    names = [channel.strip().lower() for channel in plan.channels]
    if len(names) != len(ROLES) or any(
        name not in CHANNELS[role] for role, name in zip(ROLES, names, strict=True)
    ):
        raise UsageError(
            f"{name}: takes {', '.join(plan.channels)}; a lesion detector takes T2W, ADC, HBV"
        )


def is_detector(plan: Plan) -> bool:
    """Whether a model of this plan can ``detect``."""
    try:
        require_detector(plan, "")
    except UsageError:
        return False
    return True


def unlike_training(t2w: Volume, plan: Plan) -> list[str]:
    """How the T2W image differs from what the model knows, in words a reader can weigh."""
    assert plan.spacing is not None
    found = []
    edges, trained = sorted(t2w.spacing), sorted(plan.spacing)
    if any(a > COARSER * b for a, b in zip(edges, trained, strict=True)):
        texts = [" x ".join(f"{v:.3g}" for v in values) for values in (edges, trained)]
        found.append(f"T2W voxels of {texts[0]} mm, the model was trained on {texts[1]} mm")
    share = float(covered(t2w, detection_grid(t2w, plan.spacing, plan.median_shape)).mean())
    if share < SEEN:
        found.append(f"the T2W image fills {share:.0%} of the region that the model looks at")
    return found


def on_one_grid(study: Biparametric, plan: Plan) -> list[Volume]:
    """The three channels on the network's grid, a Volume each."""
    assert plan.spacing is not None
    return place(study, detection_grid(study.t2w, plan.spacing, plan.median_shape))


def place(study: Biparametric, grid: Grid) -> list[Volume]:
    """The three channels on ``grid``, a Volume each, in the order of ``ROLES``."""
    return [
        Volume(
            array=sample(volume, grid),
            affine=grid.affine,
            spacing=grid.spacing,
            rank=3,
            path=volume.path,
        )
        for volume in study.volumes
    ]


def lesion_probability(
    study: Biparametric,
    model: Model,
    *,
    tta: bool = False,
    overlap: float = OVERLAP,
    batch: int = 1,
    progress: Progress | None = None,
) -> np.ndarray:
    """Probability of a lesion (*S) float32 on the T2W image's own grid, 0 beyond the network's."""
    from apps.medical.data.preprocess import prepare, restore_map
    from apps.medical.sliding import mirrorings, sliding_logits

    plan = model.spec.plan
    channels = on_one_grid(study, plan)
    prepared = prepare(channels, plan)
    scores = sliding_logits(
        prepared.image,
        list(model.networks),
        plan.patch,
        overlap=overlap,
        batch=batch,
        tta=mirrorings([a for a, f in enumerate(plan.flip) if f]) if tta else (),
        progress=progress,
    )
    odds = np.exp(scores - scores.max(0))
    lesion = restore_map(odds[1:].sum(0) / odds.sum(0), prepared)
    placed = replace(channels[0], array=lesion)
    return np.clip(sample(placed, Grid.of(study.t2w), order=1), 0, 1)


def _write(
    folder: Path,
    study: Biparametric,
    model: Model,
    options: dict[str, Any],
    result: DetectionResult,
    timer: Timer,
) -> None:
    from apps.medical.detection.report import gather
    from apps.medical.outputs import one_deidentifier, run_in_words, write_report
    from apps.medical.overlay import save_overlay

    spec, found = model.spec, result.candidates
    write_map(folder / "detection_map.nii.gz", found.map, study.t2w.affine)
    write_map(folder / "probability.nii.gz", result.probability, study.t2w.affine)
    write_label_like(study.t2w, found.index, folder / "seg.nii.gz")
    cleaner = one_deidentifier() if options["deidentify"] else None
    _write_dicom(folder, study, model, options, result, cleaner)
    about = {
        "case": study.case,
        "score": result.score,
        "lesions": result.lesions,
        "rule": options["rule"],
        "series": dict(study.chosen),
        "warnings": result.warnings,
        "disclaimer": DISCLAIMER,
    }
    write_json(folder / "lesions.json", about)
    save_overlay(
        folder / "overlay.png",
        study.t2w,
        found.index,
        {row["lesion"]: _legend(row) for row in result.lesions},
        title=f"{study.case}   lesion candidates on T2W   model: {spec.name} ({spec.network.name})",
    )
    if options["report"]:
        contents = gather(
            study,
            result,
            model,
            options["rule"],
            run_in_words(model, options["overlap"], options["tta"]),
            identify=options["identify"],
        )
        title = f"Lesion detection report, {spec.name}"
        result.warnings += write_report(folder, contents, study.t2w, title, cleaner or False)
    manifest = {
        "format": 1,
        "case": study.case,
        "created": now(),
        "inputs": provenance(study.source, deidentify=options["deidentify"]),
        "series": dict(study.chosen),
        "outputs": {file.name: sha256(file) for file in sorted(folder.iterdir())},
        "model": model_record(model),
        "labels": {"0": "background", "1": "lesion"},
        "target": "instances",  # seg.nii.gz numbers objects
        "options": plain(options),
        "seconds": result.seconds,
        "cpu_seconds": round(timer.cpu_seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "warnings": result.warnings,
        "environment": environment(options["seed"]),
        "disclaimer": DISCLAIMER,
    }
    write_json(folder / "manifest.json", manifest)


def _write_dicom(
    folder: Path,
    study: Biparametric,
    model: Model,
    options: dict[str, Any],
    result: DetectionResult,
    cleaner: Deidentifier | None,
) -> None:
    """seg.dcm, a segment for each candidate, where T2W came from DICOM and there is one."""
    from apps.medical.outputs import from_dicom, seg_algorithm, try_seg

    if not result.lesions or not from_dicom(study.t2w):
        return
    from apps.medical.dicom.codes import codes_for

    rule = options["rule"]
    names = {
        row["lesion"]: f"lesion {row['lesion']}, confidence {row['confidence']:.2f}"
        for row in result.lesions
    }
    result.warnings += try_seg(
        folder,
        result.candidates.index,
        study.t2w,
        names,
        codes=codes_for(dict.fromkeys(names, "lesion"), "prostate"),
        algorithm=seg_algorithm(
            model,
            parameters={"threshold": str(rule["threshold"]), "mirroring": str(options["tta"])},
        ),
        description="lesion candidates, research use only",
        deidentify=cleaner or False,
    )


def _legend(row: dict[str, Any]) -> str:
    return f"lesion {row['lesion']}: {row['confidence']:.2f}, {row['volume_ml']:.2g} mL"


def write_map(path: Path, values: np.ndarray, affine: np.ndarray, force: bool = False) -> None:
    """Write (x, y, z) float32 as NIfTI, atomically."""
    import nibabel as nib

    image = nib.Nifti1Image(np.asarray(values, np.float32), affine)
    image.header.set_xyzt_units("mm")
    with atomic_path(path, force=force) as temporary:
        nib.save(image, temporary)


def print_result(result: DetectionResult) -> None:
    """The candidates, for a person, on standard output."""
    count = len(result.lesions)
    print(
        f"{result.case}: {count} lesion candidate{'s' * (count != 1)}, score {result.score:.3f}"
        f"   {result.seconds:.1f} s   {result.folder or ''}"
    )
    for row in result.lesions:
        place_mm = ", ".join(f"{value:.1f}" for value in row["centre_mm"])
        print(
            f"  lesion {row['lesion']}: confidence {row['confidence']:.3f}, "
            f"{row['volume_ml']:.2f} mL, {row['diameter_mm']:.1f} mm long, at ({place_mm}) mm RAS"
        )
    for warning in result.warnings:
        print(f"  warning: {warning}")
    print(DISCLAIMER)
