"""Segment images: from files to a folder of results per case, or from arrays to arrays.

    inputs -> cases -> read -> prepare -> sliding window -> restore -> OUT/<case>/

A case folder holds seg.nii.gz (integers on the input's own grid), stats.json, overlay.png and
manifest.json, for a picture seg.png, and on request probabilities.npz. It appears under its name
only when it is complete. A case that cannot be read or fits not is reported in one line; the others
are still done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.cases import CaseInput, files_per_case, find_cases
from apps.medical.data.volume import (
    Volume,
    case_name,
    read_image,
    write_label_like,
)
from apps.medical.results import (
    case_folder,
    check_outputs,
    legend,
    now,
    statistics,
    write_probabilities,
)
from apps.medical.shipped import DISCLAIMER
from core.errors import DataError, UsageError
from core.files import plain, sha256, write_json
from core.progress import Progress, SilentProgress
from core.reporting import Timer, environment, peak_memory_mb

if TYPE_CHECKING:
    from apps.medical.data.plan import Plan
    from apps.medical.data.preprocess import Prepared
    from apps.medical.store import Model

OVERLAP, FAST_OVERLAP = 0.5, 0.25
# Beyond these ratios an image is unlike what the model was trained on, and the reader must know.
SPACING_RATIO, EXTENT_RATIO, ANISOTROPY = 1.5, 1.75, 3.0


@dataclass(kw_only=True)
class CaseResult:
    """What came of one case. ``labels`` (*S) lies on the input's grid; it is kept only in memory
    use, without an output folder. ``error`` is one line, or None when all went well."""

    case: str
    folder: Path | None = None
    labels: np.ndarray | None = None
    affine: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    stats: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    skipped: bool = False

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
    repair: bool
    device: str
    threads: int | None
    seed: int


def predict(
    inputs: Any,
    model: str | Path | Model = "hippocampus",
    out: str | Path | None = None,
    *,
    folds: str | Sequence[int] = "all",
    tta: bool = False,
    overlap: float | None = None,
    batch: int = 1,
    mem_limit: int | None = None,
    fast: bool = False,
    save_probabilities: bool = False,
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
    searched one level deep. For a model of several channels, files CASE_0000.*, CASE_0001.*, ...
    are one case. ``model`` is a shipped name, a model folder, or what ``load_model`` returned, which
    stays on its own device.
    Without ``out`` nothing is written and each result carries its ``labels``.

    ``tta`` averages over the mirrorings the model was trained with. ``fast`` means overlap 0.25 and
    the first fold only. ``mem_limit`` (bytes) bounds the score buffers, see ``sliding``. ``repair``
    replaces NaN and infinite voxels instead of refusing the image. ``resume`` skips cases whose
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
    cases = find_cases(inputs, files_per_case(plan))
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
            volumes, prepared = _read(case, model.spec.plan, options, result)
            labels = _segment(prepared, model, options, result, progress)
            result.stats = statistics(
                labels,
                volumes[0],
                model.spec.labels,
                images=volumes,
                instances=model.spec.plan.target == "instances",
                case=case.name,
            )
            if not labels.any():
                result.warnings.append("nothing was segmented: no voxel got a label")
        result.seconds = round(timer.seconds, 3)
        if root is None:
            result.labels, result.affine = labels, volumes[0].affine
        else:
            with case_folder(root / case.name, force) as folder:
                _write(folder, case, volumes, labels, model, options, result, timer)
            result.folder, result.probabilities = root / case.name, None
    except DataError as error:
        result.error = str(error)
        progress.message(f"error: {error}")
    return result


def _read(
    case: CaseInput, plan: Plan, options: Options, result: CaseResult
) -> tuple[list[Volume], Prepared]:
    """The case's volumes as stored, and the network's input."""
    from apps.medical.data.preprocess import prepare

    volumes = list(case.volumes) or [
        read_image(file, channels_last_axis=plan.channels_last_axis) for file in case.files
    ]
    if len(case.files) > 1:
        wanted = [f"{case.name}_{i:04d}" for i in range(len(plan.channels))]
        if [case_name(file) for file in case.files] != wanted:
            raise DataError(
                f"{case.files[0].parent / case.name}: found {len(case.files)} channel files, the "
                f"model wants {', '.join(wanted)} ({', '.join(plan.channels)})"
            )
    for volume in volumes:
        values = volume.array
        if values.size and values.min() == values.max():
            raise DataError(
                f"{volume.path}: every voxel is {values.flat[0]:g}, nothing to segment; "
                "was it exported correctly?"
            )
        result.warnings += [f"{volume.path.name}: {note}" for note in volume.notes.values()]
    prepared = prepare(volumes, plan, repair=options.repair)
    if prepared.repaired:
        result.warnings.append(
            f"{prepared.repaired} NaN or infinite voxels were replaced by the lowest or highest "
            "finite value"
        )
    result.warnings += _unlike_training(volumes[0], prepared, plan)
    return volumes, prepared


def _unlike_training(volume: Volume, prepared: Prepared, plan: Plan) -> list[str]:
    """How this image differs from what the model knows, in words a reader can weigh."""
    found = []
    for channel, rule, stats in zip(volume.channel_first, plan.normalisation, plan.intensity):
        if rule != "ct" or stats is None:
            continue
        outside = np.mean((channel < stats.low) | (channel > stats.high))
        if outside > 0.995:
            found.append(
                f"almost no voxel lies in the model's intensity range {stats.low:g} to "
                f"{stats.high:g}: is this CT in Hounsfield units?"
            )
    if not volume.physical or plan.spacing is None:
        return found
    edges = np.array(prepared.reference.spacing)
    if max(edges) > ANISOTROPY * min(edges):
        found.append(
            f"anisotropic voxels ({_mm(edges)}): thin structures along the coarse axis suffer"
        )
    size = [n * d for n, d in zip(prepared.shape, prepared.spacing)]
    usual = [n * d for n, d in zip(plan.median_shape, plan.spacing)]
    if any(max(a / b, b / a) > EXTENT_RATIO for a, b in zip(size, usual)):
        found.append(
            f"field of view {_mm(size)}, the model was trained on about {_mm(usual)}: expect "
            "errors outside what it has seen; crop to the same region"
        )
    ordered, trained = sorted(edges), sorted(plan.spacing)  # orientation does not matter here
    if any(max(a / b, b / a) > SPACING_RATIO for a, b in zip(ordered, trained)):
        found.append(f"voxels of {_mm(edges)}, the model was trained on {_mm(plan.spacing)}")
    return found


def _mm(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values) + " mm"


def _segment(
    prepared: Prepared, model: Model, options: Options, result: CaseResult, progress: Progress
) -> np.ndarray:
    """Label ids, or object numbers, (*S) on the input's own grid."""
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
    if not (objects or options.save_probabilities):
        classes = sliding_argmax(image, networks, plan.patch, mem_limit=options.mem_limit, **common)
        return restore(classes, prepared)
    if options.mem_limit is not None:
        result.warnings.append("--mem-limit has no effect where all probabilities are needed")
    scores = sliding_logits(image, networks, plan.patch, **common)
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
        return restore(instances_from_probabilities(*probabilities[1:3]), prepared)
    smallest = np.uint8 if len(scores) <= 256 else np.uint16
    return restore(scores.argmax(0).astype(smallest), prepared)


def _write(
    folder: Path,
    case: CaseInput,
    volumes: Sequence[Volume],
    labels: np.ndarray,
    model: Model,
    options: Options,
    result: CaseResult,
    timer: Timer,
) -> None:
    from apps.medical.overlay import save_overlay

    spec, reference = model.spec, volumes[0]
    write_label_like(reference, labels, folder / "seg.nii.gz")
    if not reference.physical:
        write_label_like(reference, labels, folder / "seg.png")
    if result.probabilities is not None:
        names = [spec.labels[label] for label in sorted(spec.labels)]
        if spec.plan.target == "instances":
            names = ["background", "interior", "border"]
        write_probabilities(folder, result.probabilities, names)
    write_json(folder / "stats.json", result.stats)
    save_overlay(
        folder / "overlay.png",
        reference,
        labels,
        legend(result.stats),
        title=f"{case.name}   model: {spec.name} ({spec.network.name})",
        instances=spec.plan.target == "instances",
    )
    write_json(folder / "manifest.json", _manifest(folder, case, model, options, result, timer))


def _manifest(
    folder: Path,
    case: CaseInput,
    model: Model,
    options: Options,
    result: CaseResult,
    timer: Timer,
) -> dict[str, Any]:
    spec = model.spec
    return {
        "format": 1,
        "case": case.name,
        "created": now(),
        "inputs": [{"path": str(file), "sha256": sha256(file)} for file in case.files],
        "outputs": {file.name: sha256(file) for file in sorted(folder.iterdir())},
        "model": {
            "name": spec.name,
            "network": spec.network.name,
            "folder": str(model.folder),
            "folds": list(model.folds),
            "weights": model.weights,
            "licence": spec.licence,
            "intended_use": spec.intended_use,
        },
        "labels": {str(label): name for label, name in spec.labels.items()},
        "target": spec.plan.target,
        "channels_last_axis": spec.plan.channels_last_axis,
        "options": plain(options),
        "seconds": result.seconds,
        "cpu_seconds": round(timer.cpu_seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "warnings": result.warnings,
        "environment": environment(options.seed),
        "disclaimer": DISCLAIMER,
    }


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
