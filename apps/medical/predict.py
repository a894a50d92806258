"""Segment images: from files to a folder of results per case, or from arrays to arrays.

    inputs -> cases -> read -> prepare -> sliding window -> restore -> OUT/<case>/

A case folder holds seg.nii.gz (integers on the input's own grid), uncertainty.nii.gz, stats.json,
overlay.png, report.html, report.pdf and manifest.json; for a picture seg.png, for a DICOM series
seg.dcm and report.dcm, and on request probabilities.npz. It appears under its name only when it is
complete. A case that cannot be read or fits not is reported in one line; the others are still done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.cases import CaseInput, files_per_case, find_cases
from apps.medical.data.volume import Volume, case_name, read_image
from apps.medical.intake import fit
from apps.medical.ood import output_warnings
from apps.medical.results import case_folder, check_outputs, legend, statistics
from apps.medical.shipped import DISCLAIMER
from apps.medical.uncertainty import Calibration, Confidence, usable
from core.errors import DataError, UsageError
from core.progress import Progress, SilentProgress
from core.reporting import Timer

if TYPE_CHECKING:
    from apps.medical.data.plan import Plan
    from apps.medical.data.preprocess import Prepared
    from apps.medical.store import Model

OVERLAP, FAST_OVERLAP = 0.5, 0.25


@dataclass(kw_only=True)
class CaseResult:
    """What came of one case. ``labels`` and ``uncertainty`` (*S, 0..1) lie on the input's grid; they
    are kept only in memory use, without an output folder. ``error`` is one line, or None when all
    went well."""

    case: str
    folder: Path | None = None
    labels: np.ndarray | None = None
    affine: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    stats: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    skipped: bool = False
    unlike: int = 0  # how many of the warnings say that the image is unlike the training's

    def to_nibabel(self) -> Any:
        """The labels as a nibabel image on the input's grid."""
        import nibabel as nib

        if self.labels is None:
            raise UsageError(
                f"{self.case}: labels are kept in memory only without an output folder"
            )
        return nib.Nifti1Image(self.labels, self.affine)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to segment, as recorded in every manifest."""

    folds: str | list[int]
    tta: bool
    overlap: float
    batch: int
    mem_limit: int | None
    fast: bool
    save_probabilities: bool
    uncertainty: bool = True
    report: bool = True
    identify: bool = False
    deidentify: bool = False
    repair: bool
    device: str
    threads: int | None
    seed: int


def predict(
    inputs: Any,
    model: str | Path | Model = "hippocampus",
    out: str | Path | None = None,
    *,
    series: str | Sequence[str] = (),
    folds: str | Sequence[int] = "all",
    tta: bool = False,
    overlap: float | None = None,
    batch: int = 1,
    mem_limit: int | None = None,
    fast: bool = False,
    save_probabilities: bool = False,
    uncertainty: bool = True,
    report: bool = True,
    identify: bool = False,
    deidentify: bool = False,
    repair: bool = False,
    force: bool = False,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[CaseResult]:
    """Segment ``inputs`` with ``model`` and write a folder per case below ``out``.

    ``inputs`` is one or several files or folders, ``Volume``s or nibabel images. Folders are
    searched one level deep; one without images but with DICOM, a zip, a DICOMDIR or a DICOM file is
    a source of series, of which ``series`` (UID, number or part of the description) or a rule
    chooses, see ``dicom.choose``. For a model of several channels, files CASE_0000.*, CASE_0001.*, ...
    are one case. ``model`` is a shipped name, a model folder, or what ``load_model`` returned, which
    stays on its own device.
    Without ``out`` nothing is written and each result carries its ``labels``.

    ``tta`` averages over the mirrorings the model was trained with. ``fast`` means overlap 0.25 and
    the first fold only. ``mem_limit`` (bytes) bounds the score buffers, see ``sliding``.
    ``uncertainty`` writes the entropy of the probabilities and adds confidences to the statistics,
    calibrated where the model is; ``report`` writes report.html and report.pdf, which name the
    patient of a DICOM series only with ``identify``. ``deidentify`` removes the patient from seg.dcm
    and report.dcm, which otherwise belong to the source's study. ``repair`` replaces NaN and infinite voxels instead of refusing the image. ``resume`` skips cases whose
    folder exists, ``force`` replaces them.

    Raises UsageError before any work for unknown models, two cases of one name and outputs that
    exist, ResourceError when the disk is full. A case's own DataError ends in its ``error``.
    """
    from apps.medical.store import Model, load_model
    from core.cli import pick_device, seed_everything, set_threads
    from core.runtime import fast_matmul

    progress = progress or SilentProgress()
    if fast and tta:
        raise UsageError("--fast and --tta contradict each other: mirroring multiplies the time")
    if identify and deidentify:
        raise UsageError("--identify and --deidentify contradict each other; choose one")
    if force and resume:
        raise UsageError("--force replaces finished cases and --continue skips them; choose one")
    options = Options(
        folds=folds if isinstance(folds, str) else list(folds),
        tta=tta,
        overlap=overlap if overlap is not None else FAST_OVERLAP if fast else OVERLAP,
        batch=batch,
        mem_limit=mem_limit,
        fast=fast,
        save_probabilities=save_probabilities,
        uncertainty=uncertainty,
        report=report,
        identify=identify,
        deidentify=deidentify,
        repair=repair,
        device=device,
        threads=threads,
        seed=seed,
    )
    set_threads(threads)
    chosen_device = pick_device(device)
    if not isinstance(model, Model):
        picked = "first" if fast and folds == "all" else folds
        model = load_model(model, chosen_device, picked)
    elif fast:
        model = replace(model, networks=model.networks[:1], folds=model.folds[:1])
    used = next((p.device for p in model.network.parameters()), chosen_device)
    options = replace(options, device=str(used))
    plan = model.spec.plan
    wanted = [series] if isinstance(series, str) else list(series)
    cases = find_cases(inputs, files_per_case(plan), dicom=True, series=wanted, plan=plan)
    root = Path(out) if out is not None else None
    names = [case.name for case in cases]
    done = check_outputs(root, names, force=force, resume=resume) if root else set()
    seed_everything(seed)
    fast_matmul()

    results = []
    with progress.task("segment", total=len(cases)) as task:
        for case in cases:
            if case.name in done:
                assert root is not None
                results.append(CaseResult(case=case.name, folder=root / case.name, skipped=True))
            else:
                results.append(_one(case, model, options, root, force, progress))
            task.advance(note=case.name)
    return results


def _one(
    case: CaseInput,
    model: Model,
    options: Options,
    root: Path | None,
    force: bool,
    progress: Progress,
) -> CaseResult:
    """One case from files to files. Its own faults become its ``error``; the machine's are raised."""
    result = CaseResult(case=case.name)
    try:
        with Timer() as timer:
            why = usable(model.spec.calibration, len(model.networks), model.weights)
            calibration = None if why else model.spec.calibration
            volumes, prepared = _read(case, model.spec.plan, options, result, calibration)
            labels, confidence = _segment(prepared, model, options, result, progress, calibration)
            result.stats = statistics(
                labels,
                volumes[0],
                model.spec.labels,
                images=volumes,
                instances=model.spec.plan.target == "instances",
                case=case.name,
            )
            if confidence is not None:
                _add_confidence(result, prepared, model.spec.plan, confidence, calibration)
                result.stats["uncertainty"]["note"] = why or _differs(calibration, options)
            if not labels.any():
                result.warnings.append("nothing was segmented: no voxel got a label")
        result.seconds = round(timer.seconds, 3)
        if root is None:
            result.labels, result.affine = labels, volumes[0].affine
        else:
            from apps.medical.outputs import write_case

            with case_folder(root / case.name, force) as folder:
                write_case(folder, case, volumes, labels, model, options, result, timer)
            result.folder, result.probabilities, result.uncertainty = root / case.name, None, None
    except DataError as error:
        result.error = str(error)
        progress.message(f"error: {error}")
    return result


def _read(
    case: CaseInput,
    plan: Plan,
    options: Options,
    result: CaseResult,
    calibration: Calibration | None = None,
) -> tuple[list[Volume], Prepared]:
    """The case's volumes as stored, and the network's input."""
    if case.error:
        raise DataError(case.error)
    if case.note:
        result.warnings.append(case.note)
    volumes = (
        list(case.volumes)
        or _read_series(case)
        or [read_image(file, channels_last_axis=plan.channels_last_axis) for file in case.files]
    )
    if len(case.files) > 1:
        wanted = [f"{case.name}_{i:04d}" for i in range(len(plan.channels))]
        if [case_name(file) for file in case.files] != wanted:
            raise DataError(
                f"{case.files[0].parent / case.name}: found {len(case.files)} channel files, the "
                f"model wants {', '.join(wanted)} ({', '.join(plan.channels)})"
            )
    seen = calibration.seen if calibration is not None else None
    found = fit(volumes, plan, seen, repair=options.repair)
    result.warnings += found.notes + found.unlike
    result.unlike = len(found.unlike)
    return volumes, found.prepared


def _read_series(case: CaseInput) -> list[Volume]:
    if not case.series:
        return []
    from apps.medical.dicom.volume import read_series

    return [read_series(info) for info in case.series]


def _segment(
    prepared: Prepared,
    model: Model,
    options: Options,
    result: CaseResult,
    progress: Progress,
    calibration: Calibration | None = None,
) -> tuple[np.ndarray, Confidence | None]:
    """Label ids, or object numbers, (*S) on the input's own grid, and how certain they are."""
    from apps.medical.data.preprocess import restore, restore_map
    from apps.medical.data.targets import instances_from_probabilities
    from apps.medical.sliding import mirrorings, sliding_argmax, sliding_logits

    plan = model.spec.plan
    common: dict[str, Any] = {
        "overlap": options.overlap,
        "batch": options.batch,
        "tta": mirrorings([a for a, f in enumerate(plan.flip) if f]) if options.tta else (),
        "progress": progress,
    }
    image, networks, objects = prepared.image, list(model.networks), plan.target == "instances"
    watch = _watch(prepared, plan, calibration) if options.uncertainty else None
    if not (objects or options.save_probabilities):
        classes = sliding_argmax(
            image, networks, plan.patch, mem_limit=options.mem_limit, watch=watch, **common
        )
        labels = restore(classes, prepared)
    else:
        if options.mem_limit is not None:
            result.warnings.append("--mem-limit has no effect where all probabilities are needed")
        scores = sliding_logits(image, networks, plan.patch, **common)
        if watch is not None:
            import torch

            watch(tuple((0, n) for n in prepared.shape), torch.from_numpy(scores))
        probabilities = np.exp(scores - scores.max(0))
        probabilities /= probabilities.sum(0)
        if options.save_probabilities:
            result.probabilities = np.stack(
                [
                    restore_map(p, prepared, fill=float(k == 0)).astype(np.float16)
                    for k, p in enumerate(probabilities)
                ]
            )
        if objects:
            labels = restore(instances_from_probabilities(*probabilities[1:3]), prepared)
        else:
            smallest = np.uint8 if len(scores) <= 256 else np.uint16
            labels = restore(scores.argmax(0).astype(smallest), prepared)
    if watch is not None:
        result.uncertainty = restore_map(watch.entropy, prepared)
    return labels, watch


def _watch(prepared: Prepared, plan: Plan, calibration: Calibration | None) -> Confidence:
    if calibration is None:
        return Confidence(prepared.shape)
    names = _class_names(plan)
    known = [calibration.labels.get(name) for name in names]
    thresholds = [about.threshold if about is not None else None for about in known]
    return Confidence(prepared.shape, calibration.temperature, thresholds)


def _class_names(plan: Plan) -> list[str]:
    """The names of the network's classes, in their order."""
    if plan.target == "instances":
        return ["background", "interior", "border"]
    return [plan.labels[label] for label in plan.label_ids]


def _add_confidence(
    result: CaseResult,
    prepared: Prepared,
    plan: Plan,
    confidence: Confidence,
    calibration: Calibration | None,
) -> None:
    """Put each label's figures into the statistics, and warn of what no held-out case had."""
    stats = result.stats
    unit = stats["unit"]
    # The network's grid covers the same crop with voxels of another size.
    ratio = float(np.prod(prepared.cropped)) / float(np.prod(prepared.shape))
    voxel = stats["voxel_size"] * ratio
    for name, found in zip(_class_names(plan), confidence.summary()):
        entry = stats.get("labels", {}).get(name)
        if entry is None:
            continue
        dice, extent = found["expected_dice"], found["extent_voxels"]
        entry["confidence"], entry["expected_dice"] = found["confidence"], dice
        about = calibration.labels.get(name) if calibration is not None else None
        if about is None:
            continue
        if dice is not None:
            entry["expected_dice"] = min(1.0, max(0.0, dice - about.dice_shift))
            margin = about.dice_margin
            entry["dice_at_least"] = max(0.0, dice - margin) if margin is not None else None
        entry[f"extent_{unit}"] = extent * voxel if extent is not None else None
        factor = about.volume_factor
        entry[f"range_{unit}"] = (
            [entry[unit] / factor, entry[unit] * factor] if factor and entry[unit] else None
        )
    stats["uncertainty"] = {
        "mean_inside": confidence.mean_inside,
        "temperature": confidence.temperature,
        "calibrated": calibration is not None,
    }
    seen = calibration.seen if calibration is not None else None
    unlike = output_warnings(stats, confidence.mean_inside, seen)
    result.warnings += unlike
    result.unlike += len(unlike)
    stats["uncertainty"]["unlike_training"] = result.unlike > 0


def _differs(calibration: Calibration | None, options: Options) -> str:
    """How this run differs from the one the calibration was measured with, or ""."""
    if calibration is None:
        return ""
    words = []
    if options.tta != calibration.tta:
        words.append(f"with{'' if calibration.tta else 'out'} mirrored copies")
    if abs(options.overlap - calibration.overlap) > 1e-6:
        words.append(f"with windows overlapping by {calibration.overlap:g}")
    return f"calibration was measured {' and '.join(words)}, unlike this run" if words else ""


def as_json(results: Sequence[CaseResult]) -> dict[str, Any]:
    """The summary that the command prints: every case, and how many failed."""
    return {
        "cases": [
            {
                "case": result.case,
                "status": "failed" if result.error else "skipped" if result.skipped else "done",
                "folder": result.folder,
                "stats": result.stats or None,
                "warnings": result.warnings,
                "seconds": result.seconds,
                "error": result.error,
            }
            for result in results
        ],
        "done": sum(not (r.error or r.skipped) for r in results),
        "skipped": sum(r.skipped for r in results),
        "failed": sum(r.error is not None for r in results),
        "disclaimer": DISCLAIMER,
    }


def print_results(results: Sequence[CaseResult], fast: bool = False) -> None:
    """What was found and where it lies, for a person, on standard output."""
    for result in results:
        if result.error:
            print(f"{result.case}: failed: {result.error}")
            continue
        if result.skipped:
            print(f"{result.case}: already finished, skipped ({result.folder})")
            continue
        found = "; ".join(legend(result.stats).values())
        print(f"{result.case}: {found}   {result.seconds:.1f} s   {result.folder}")
        for warning in result.warnings:
            print(f"  warning: {warning}")
    if fast:
        print("--fast: windows overlap by 0.25 and one fold was used; less exact at window seams.")
    print(DISCLAIMER)
