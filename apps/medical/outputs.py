"""What ``predict`` writes into a case's folder, one file after the other; the manifest comes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.cases import provenance
from apps.medical.data.volume import Volume, write_label_like
from apps.medical.results import legend, model_record, now, write_probabilities
from apps.medical.shipped import DISCLAIMER
from core.errors import DataError
from core.files import atomic_path, plain, sha256, write_json, write_text
from core.reporting import Timer, environment, peak_memory_mb

if TYPE_CHECKING:
    from apps.medical.cases import CaseInput
    from apps.medical.dicom.codes import LabelCode
    from apps.medical.dicom.deidentify import Deidentifier
    from apps.medical.dicom.segmentation import Algorithm
    from apps.medical.predict import CaseResult, Options
    from apps.medical.report.contents import Contents
    from apps.medical.store import Model, ModelSpec

UNCERTAINTY = "uncertainty.nii.gz"


def write_case(
    folder: Path,
    case: CaseInput,
    volumes: Sequence[Volume],
    labels: np.ndarray,
    model: Model,
    options: Options,
    result: CaseResult,
    timer: Timer,
) -> None:
    """Everything about one case. Raises as the writers do; a DICOM file that the series does not
    allow becomes a warning, for the NIfTI beside it is whole."""
    from apps.medical.overlay import save_overlay

    spec, reference = model.spec, volumes[0]
    objects = spec.plan.target == "instances"
    write_label_like(reference, labels, folder / "seg.nii.gz")
    if not reference.physical:
        write_label_like(reference, labels, folder / "seg.png")
    if result.probabilities is not None:
        names = [spec.labels[label] for label in sorted(spec.labels)]
        if objects:
            names = ["background", "interior", "border"]
        write_probabilities(folder, result.probabilities, names)
    if result.uncertainty is not None:
        write_uncertainty(reference, result.uncertainty, folder / UNCERTAINTY)
    write_json(folder / "stats.json", result.stats)
    save_overlay(
        folder / "overlay.png",
        reference,
        labels,
        legend(result.stats),
        title=f"{case.name}   model: {spec.name} ({spec.network.name})",
        instances=objects,
    )
    series = from_dicom(reference)
    cleaner = one_deidentifier() if series and options.deidentify else None
    if series:
        _write_segmentation(folder, labels, reference, model, options, result, cleaner)
    if options.report:
        _write_report(folder, case, volumes, labels, model, options, result, cleaner)
    write_json(folder / "manifest.json", _manifest(folder, case, model, options, result, timer))


def write_uncertainty(reference: Volume, values: np.ndarray, path: Path) -> Path:
    """Write a float map (*S) as NIfTI float32 on the grid of ``reference``, as seg.nii.gz lies."""
    from apps.medical.data import nifti

    with atomic_path(path) as temporary:
        # Four digits: more would be noise, and noise does not compress.
        nifti.write_label(reference, np.round(values, 4).astype(np.float32), temporary)
    return path


def run_in_words(model: Model, overlap: float, tta: bool) -> str:
    """How the model was run, for the report: "overlap 0.5, 5 networks, mirrored copies averaged"."""
    words = [f"windows overlapping by {overlap:g}"]
    if len(model.networks) > 1:
        words.append(f"{len(model.networks)} networks averaged ({', '.join(model.folds)})")
    if tta:
        words.append("mirrored copies averaged")
    return ", ".join(words)


def write_report(
    folder: Path,
    contents: Contents,
    reference: Volume,
    title: str,
    deidentify: bool | Deidentifier = False,
) -> list[str]:
    """Write report.html and report.pdf, and report.dcm where ``reference`` is a DICOM series.

    Returns what could not be written, and why. ``deidentify`` as in ``write_seg``.
    """
    from apps.medical.report import page, pdf

    write_text(folder / "report.html", page.render(contents))
    printed = pdf.render(contents)
    with atomic_path(folder / "report.pdf") as temporary:
        temporary.write_bytes(printed)
    if not from_dicom(reference):
        return []
    from apps.medical.dicom.encapsulate import write_pdf

    try:
        write_pdf(
            folder / "report.dcm",
            printed,
            reference,
            title[:64],
            deidentify=deidentify,
            identified=bool(contents.identity),
        )
    except DataError as error:
        return [f"no report.dcm: {error}"]
    return []


def from_dicom(volume: Volume) -> bool:
    """Whether it was read from a DICOM series, so that DICOM objects can refer to it."""
    return getattr(volume.store, "series", None) is not None


def seg_codes(spec: ModelSpec) -> Mapping[int, LabelCode]:
    """What the segments are. "anterior" alone is no structure: the model's and data's names say of what."""
    from apps.medical.dicom.codes import codes_for

    return spec.codes or codes_for(spec.labels, f"{spec.name} {spec.plan.dataset}")


def seg_algorithm(model: Model, **more: Any) -> Algorithm:
    """What made seg.dcm: this version and the first digits of the weights' hash; ``more`` fields."""
    from apps.medical.dicom.segmentation import Algorithm
    from core import __version__

    digest = next(iter(model.weights.values()), "")[:12]
    return Algorithm(name=model.spec.name[:64], version=f"{__version__} {digest}".strip(), **more)


def _write_report(
    folder: Path,
    case: CaseInput,
    volumes: Sequence[Volume],
    labels: np.ndarray,
    model: Model,
    options: Options,
    result: CaseResult,
    cleaner: Deidentifier | None,
) -> None:
    from apps.medical.report.contents import gather

    contents = gather(
        case.name,
        volumes,
        labels,
        result.uncertainty,
        result.stats,
        model,
        result.warnings,
        run_in_words(model, options.overlap, options.tta),
        identify=options.identify,
    )
    title = f"Segmentation report, {model.spec.name}"
    result.warnings += write_report(folder, contents, volumes[0], title, cleaner or False)


def _write_segmentation(
    folder: Path,
    labels: np.ndarray,
    reference: Volume,
    model: Model,
    options: Options,
    result: CaseResult,
    cleaner: Deidentifier | None,
) -> None:
    """seg.dcm. Numbered objects are no classes, for which a segment each would be wrong."""
    from apps.medical.dicom.codes import notes

    spec = model.spec
    if spec.plan.target == "instances":
        result.warnings.append("no seg.dcm: this model numbers objects, which are not segments")
        return
    codes = seg_codes(spec)
    result.warnings += notes(codes, spec.labels)
    parameters = {"overlap": f"{options.overlap:g}", "mirroring": str(options.tta)}
    if model.folds:
        parameters["folds"] = ",".join(model.folds)
    result.warnings += try_seg(
        folder,
        labels,
        reference,
        spec.labels,
        codes=codes,
        algorithm=seg_algorithm(model, parameters=parameters),
        description=f"{spec.name} segmentation"[:64],
        deidentify=cleaner or False,
    )


def try_seg(
    folder: Path, labels: np.ndarray, image: Volume, names: Mapping[int, str], **how: Any
) -> list[str]:
    """Write seg.dcm as ``write_seg`` does; in a line why not, where the NIfTI beside it is whole."""
    from apps.medical.dicom.segmentation import write_seg

    try:
        write_seg(folder / "seg.dcm", labels, image, names, **how)
    except DataError as error:
        return [f"no seg.dcm: {error}"]
    return []


def one_deidentifier() -> Deidentifier:
    """One for all files of the case, so that their replaced identifiers agree."""
    from apps.medical.dicom.deidentify import Deidentifier

    return Deidentifier()


def _manifest(
    folder: Path,
    case: CaseInput,
    model: Model,
    options: Options,
    result: CaseResult,
    timer: Timer,
) -> Mapping[str, Any]:
    spec = model.spec
    return {
        "format": 1,
        "case": case.name,
        "created": now(),
        "inputs": provenance(case, deidentify=options.deidentify),
        "outputs": {file.name: sha256(file) for file in sorted(folder.iterdir())},
        "model": model_record(model),
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
