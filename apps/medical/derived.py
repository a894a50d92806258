"""Segmentations made from others, as whole case folders: by hand, by rules, by combining several.

Beside the mask stands what ``predict`` writes beside its own: statistics, uncertainty, overlay, a report,
and for a DICOM series seg.dcm and report.dcm. All but the first two need the image where it was segmented
and unchanged, and the model's folder; what could not be made is a warning in the manifest.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.data.volume import Volume, read_image
from apps.medical.results import Result, source_images, statistics, write_derived
from core.errors import DataError, TriptychError

if TYPE_CHECKING:
    from apps.medical.dicom.deidentify import Deidentifier
    from apps.medical.report.contents import Contents
    from apps.medical.store import Model


@dataclass(frozen=True, kw_only=True)
class Making:
    """How a segmentation came about.

    ``suffix`` follows the model's name ("edited by hand"), ``run`` says in the report how it was made.
    ``by_person``: a person took part, so seg.dcm's segments are SEMIAUTOMATIC. ``parameters`` go into
    seg.dcm, ``warnings`` into the report and the manifest. ``members`` are the other models of a
    combination, whose figures the first one's are not.
    """

    suffix: str
    run: str
    by_person: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    members: Sequence[str] = ()


def write_made(
    folder: Path,
    source: Result,
    labels: np.ndarray,
    grid: Volume,
    about: Mapping[str, Any],
    making: Making,
    *,
    uncertainty: np.ndarray | None = None,
    report: bool = True,
) -> None:
    """Write ``labels`` (*S), made from ``source`` on ``grid``, and what belongs to them.

    ``about`` goes into the manifest on top of the source's. ``uncertainty`` (*S) of the new labels; by
    default a copy of the source's map, where there is one and ``members`` are none. The patient is named,
    or left out, as the source's run did.
    """
    images = source_images(source)
    reference = images[0] if images else grid
    _write_uncertainty(folder, source, reference, making, uncertainty)
    stats = statistics(
        labels,
        reference,
        source.labels,
        images=images,
        instances=source.instances,
        case=source.case,
    )
    warnings = list(making.warnings)
    if images:
        try:
            warnings += _accompany(folder, source, images, labels, stats, making, report)
        except DataError as error:
            warnings.append(f"no report: {error}")
    elif report:
        warnings.append("no report: the image is not where it was segmented")
    known = [*source.manifest.get("warnings", []), *warnings]
    write_derived(folder, source, labels, grid, stats, {**about, "warnings": known}, images)


def _write_uncertainty(
    folder: Path,
    source: Result,
    reference: Volume,
    making: Making,
    uncertainty: np.ndarray | None,
) -> None:
    from apps.medical.outputs import UNCERTAINTY, write_uncertainty

    before = source.file.parent / UNCERTAINTY
    if uncertainty is not None:
        write_uncertainty(reference, uncertainty, folder / UNCERTAINTY)
    elif before.is_file() and not making.members:
        shutil.copyfile(before, folder / UNCERTAINTY)


def _accompany(
    folder: Path,
    source: Result,
    images: Sequence[Volume],
    labels: np.ndarray,
    stats: Mapping[str, Any],
    making: Making,
    report: bool,
) -> list[str]:
    """seg.dcm and report; returns what could not be written."""
    from apps.medical.outputs import UNCERTAINTY, from_dicom, one_deidentifier, write_report

    options = source.manifest.get("options", {})
    cleaner = one_deidentifier() if options.get("deidentify") else None
    model, warnings = _model(source), []
    if from_dicom(images[0]) and not source.instances:
        warnings += _write_seg(folder, labels, images[0], model, making, cleaner)
    if report:
        map_file, uncertainty = folder / UNCERTAINTY, None
        if map_file.is_file():
            uncertainty = read_image(map_file).array.reshape(labels.shape)
        identify = bool(options.get("identify"))
        said = [*source.manifest.get("warnings", []), *making.warnings, *warnings]
        contents = _contents(
            source, images, labels, uncertainty, stats, model, making, said, identify
        )
        title = f"Segmentation report, {making.suffix}, {model.spec.name}"
        warnings += write_report(folder, contents, images[0], title, cleaner or False)
    return warnings


def _write_seg(
    folder: Path,
    labels: np.ndarray,
    image: Volume,
    model: Model,
    making: Making,
    cleaner: Deidentifier | None,
) -> list[str]:
    from apps.medical.outputs import seg_algorithm, seg_codes, try_seg

    spec = model.spec
    algorithm = seg_algorithm(
        model, edited=making.by_person, parameters={"made": making.suffix, **making.parameters}
    )
    return try_seg(
        folder,
        labels,
        image,
        spec.labels,
        codes=seg_codes(spec),
        algorithm=algorithm,
        description=f"{spec.name} segmentation, {making.suffix}"[:64],
        deidentify=cleaner or False,
    )


def _contents(
    source: Result,
    images: Sequence[Volume],
    labels: np.ndarray,
    uncertainty: np.ndarray | None,
    stats: Mapping[str, Any],
    model: Model,
    making: Making,
    warnings: Sequence[str],
    identify: bool,
) -> Contents:
    from apps.medical.report.contents import gather

    contents = gather(
        source.case, images, labels, uncertainty, stats, model, warnings, making.run,
        identify=identify,
    )  # fmt: skip
    contents = replace(contents, model_name=f"{contents.model_name}, {making.suffix}")
    if not making.members:
        return contents
    return replace(
        contents,
        model=[*contents.model, ("Combined with", ", ".join(making.members))],
        trust=None,
        trust_text=["What was measured of each model does not hold for their combination."],
    )


def _model(source: Result) -> Model:
    """What the source's manifest and the model's own folder say of the model, without its weights."""
    from apps.medical.store import Model, read_spec

    about = source.manifest.get("model", {})
    try:
        folder = Path(about["folder"])
        return Model((), read_spec(folder), folder, tuple(about["folds"]), dict(about["weights"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source.file.parent}: the manifest does not say its model") from error
    except TriptychError as error:
        raise DataError(f"the model is not where it was ({error})") from error
