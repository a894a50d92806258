"""What a report says, before anything is laid out: plain text, tables and pictures.

Nothing here comes from a patient's name, number or dates unless ``identify`` asks for them; the
case's own name is the name of its file or folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.intake import image_facts
from apps.medical.overlay import colour_of
from apps.medical.report.figures import (
    Picture,
    plane_pictures,
    reliability_picture,
    slice_pictures,
)
from apps.medical.results import legend, now
from apps.medical.shipped import DISCLAIMER
from apps.medical.uncertainty import Calibration, Figure, LabelCalibration

if TYPE_CHECKING:
    from apps.medical.data.volume import Volume
    from apps.medical.store import Model

Pairs = list[tuple[str, str]]
SHORT = {"pixels": "px", "mm2": "mm²"}


@dataclass(frozen=True)
class Table:
    """Rows of text under a header. ``colours`` mark rows ("" for none), the legend of the pictures."""

    header: list[str]
    rows: list[list[str]]
    colours: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A report. Every text is plain: whoever lays it out escapes it.

    ``subject`` is what the model did, ``numbers`` the file beside the report with its figures.
    """

    case: str
    created: str
    model_name: str
    subject: str = "segmentation"
    numbers: str = "stats.json"
    identity: Pairs
    image: Pairs
    findings: Table
    warnings: list[str]
    pictures: list[Picture]
    model: Pairs
    trust: Table | None
    trust_text: list[str]
    reliability: Picture | None
    disclaimer: str = DISCLAIMER


def gather(
    case: str,
    volumes: Sequence[Volume],
    labels: np.ndarray,
    uncertainty: np.ndarray | None,
    stats: Mapping[str, Any],
    model: Model,
    warnings: Sequence[str] = (),
    run: str = "",
    *,
    identify: bool = False,
) -> Contents:
    """The report of one case: ``labels`` and ``uncertainty`` (*S) lie on the first volume's grid.

    ``stats`` is what stats.json holds, ``run`` says in words how the model was run.
    """
    spec, objects = model.spec, "objects" in stats
    calibration = spec.calibration if stats.get("uncertainty", {}).get("calibrated") else None
    pictures = [
        plane_pictures(volumes[0], labels, legend(stats), uncertainty, instances=objects),
        slice_pictures(volumes[0], labels, instances=objects),
    ]
    return Contents(
        case=case,
        created=now(),
        model_name=spec.name,
        identity=identity_of(volumes[0]) if identify else [],
        image=image_facts(volumes),
        findings=_objects(stats) if objects else _findings(stats, calibration),
        warnings=list(warnings),
        pictures=[picture for picture in pictures if picture is not None],
        model=model_facts(model, run),
        trust=_trust(calibration)
        if calibration and calibration.labels
        else metrics_table(spec.metrics, "px" if spec.plan.spacing is None else "mm"),
        trust_text=_trust_text(calibration, stats),
        reliability=reliability_picture(calibration.reliability) if calibration else None,
    )


def figure_text(figure: Figure | None, places: int = 3, scale: float = 1.0) -> str:
    """``0.894 (0.886 to 0.901)``, or a dash."""
    if figure is None or figure.mean is None:
        return "–"
    text = f"{figure.mean * scale:.{places}f}"
    if figure.ci95 is None:
        return text
    return text + " ({} to {})".format(*(f"{b * scale:.{places}f}" for b in figure.ci95))


def _cell(figure: Figure | None, places: int = 3, percent: bool = False) -> str:
    """As ``figure_text``, on two lines, for a narrow column."""
    text = figure_text(figure, places, 100 if percent else 1)
    mean, _, interval = text.partition(" (")
    unit = " %" if percent and mean != "–" else ""
    return mean + unit + (f"\n({interval.replace(' to ', '–')}" if interval else "")


def _findings(stats: Mapping[str, Any], calibration: Calibration | None) -> Table:
    unit = stats["unit"]
    short = SHORT.get(unit, unit)
    size = "Volume" if unit == "mL" else "Area"
    sure = any("confidence" in entry for entry in stats["labels"].values())
    level = f"{1 - calibration.alpha:.0%} range" if calibration else ""
    header = ["Structure", f"{size} ({short})"]
    header += [f"{level} ({short})", f"Extent ({short})"] if calibration else []
    header += (
        ["Confidence", "Expected Dice" + (" (at least)" if calibration else "")] if sure else []
    )
    header += ["Mean intensity"]
    rows, colours = [], []
    for name, entry in stats["labels"].items():
        row = [name, _size(entry[unit])]
        if calibration:
            between = entry.get(f"range_{unit}")
            row += ["–".join(_size(v) for v in between) if between else "–"]
            row += [_number(entry.get(f"extent_{unit}"))]
        if sure:
            least = entry.get("dice_at_least")
            bound = f" ({least:.2f})" if least is not None else ""
            row += [_number(entry.get("confidence"), 2)]
            row += [_number(entry.get("expected_dice"), 2) + bound]
        rows.append([*row, _intensity(entry["mean_intensity"])])
        colours.append(colour_of(entry["label"]))
    notes = []
    if calibration and stats["uncertainty"].get("unlike_training"):
        notes.append(
            "This image is unlike the held-out cases (see above): its ranges, extents, confidences "
            "and expected Dice may be worth nothing."
        )
    if calibration:
        alpha = f"{calibration.alpha:.0%}"
        notes.append(
            f"Range: holds the true {size.lower()} in {1 - calibration.alpha:.0%} of cases like the "
            f"held-out ones. Extent: {size.lower()} of the region that misses on average at most "
            f"{alpha} of the structure in such cases."
        )
    if sure:
        notes.append(
            "Confidence: mean probability of the voxels marked as the structure. Expected Dice: the "
            "overlap with a perfect contour that these probabilities promise."
            + ("" if calibration else " Neither was calibrated for this run: see below.")
        )
        if calibration and any(_tells_little(label) for label in calibration.labels.values()):
            notes.append(
                "On the held-out cases the expected Dice was no closer to the measured one than a "
                "single number for all of them: read it as typical of such cases."
            )
    return Table(header, rows, colours, notes)


def _tells_little(about: LabelCalibration) -> bool:
    error, floor = about.expected_dice_error.mean, about.dice_constant_error.mean
    return error is not None and floor is not None and error >= floor


def _objects(stats: Mapping[str, Any]) -> Table:
    unit, about = stats["unit"], stats["objects"]
    short = SHORT.get(unit, unit)
    rows = [
        ["Number of objects", str(about["count"])],
        [f"Median size ({short})", _number(about[f"median_size_{unit}"])],
        [f"Total size ({short})", _number(about[f"total_size_{unit}"])],
        ["Mean intensity", _intensity(about["mean_intensity"])],
    ]
    return Table(["Objects", ""], rows)


def identity_of(volume: Volume) -> Pairs:
    """Who this is, from the DICOM header; only on request."""
    read = getattr(volume.store, "read_headers", None)
    headers = read() if read is not None else []
    if not headers:
        return []
    first = headers[0]
    names = {
        "Patient": "PatientName",
        "Patient ID": "PatientID",
        "Born": "PatientBirthDate",
        "Sex": "PatientSex",
        "Study date": "StudyDate",
        "Accession number": "AccessionNumber",
        "Study": "StudyDescription",
        "Series": "SeriesDescription",
    }
    pairs = [(text, str(first.get(key, "") or "")) for text, key in names.items()]
    return [(text, value[:200]) for text, value in pairs if value]


def model_facts(model: Model, run: str) -> Pairs:
    """What the model is, learned from and expects, and how it was run."""
    spec = model.spec
    training = spec.training
    labels = ", ".join(name for label, name in sorted(spec.labels.items()) if label)
    pairs = [("Model", f"{spec.name} ({spec.network.name}, {spec.network.rank}-D)")]
    pairs.append(("Structures", labels))
    trained = str(training.get("dataset") or spec.plan.dataset)
    if training.get("cases"):
        trained += f", {training['cases']} cases"
    if training.get("fold") not in (None, "full"):
        trained += f" (fold {training['fold']}: the rest was held out)"
    pairs.append(("Trained on", trained))
    pairs.append(("Input", ", ".join(spec.plan.channels)))
    if spec.plan.spacing is not None:
        edges = " × ".join(f"{edge:.3g}" for edge in spec.plan.spacing)
        view = " × ".join(f"{n * d:.3g}" for n, d in zip(spec.plan.median_shape, spec.plan.spacing))
        pairs.append(("Expects", f"voxels near {edges} mm, a field of view near {view} mm"))
    if run:
        pairs.append(("This run", run))
    if spec.licence:
        pairs.append(("Licence", spec.licence))
    pairs.append(("Intended use", spec.intended_use or DISCLAIMER))
    weights = ", ".join(digest[:12] for digest in model.weights.values())
    if weights:
        pairs.append(("Weights (SHA-256)", weights))
    return pairs


def _trust(calibration: Calibration) -> Table:
    header = ["Held-out cases", "Dice", "Sure / right", "Expected Dice off by (floor)", "Missed"]
    header += ["Missed by extent", "Volume in range"]
    rows = []
    for name, about in calibration.labels.items():
        said, right = _number(about.confidence.mean, 2), _number(about.precision.mean, 2)
        rows.append(
            [
                name,
                _cell(about.dice),
                f"{said} / {right}",
                f"{_number(about.expected_dice_error.mean, 3)}\n"
                f"({_number(about.dice_constant_error.mean, 3)})",
                _cell(about.miss_rate, 1, percent=True),
                _cell(about.extent_miss_rate, 1, percent=True),
                _cell(about.volume_coverage, 0, percent=True),
            ]
        )
    notes = [
        "Sure / right: mean probability of a structure's voxels, and how many of them were right. "
        "Floor: the error of one number for every case. Missed: share of the structure outside the "
        "segmentation, and outside the extent. Figures of extents, ranges and expected Dice are "
        "cross-fitted between halves of the patients."
    ]
    return Table(header, rows, notes=notes)


def metrics_table(metrics: Mapping[str, Any], unit: str) -> Table | None:
    """What the model's own card says, where there is no calibration: means, without intervals."""
    shown = {
        str(name): row
        for name, row in metrics.items()
        if isinstance(row, Mapping) and "dice" in row
    }
    if not shown:
        return None
    rows = [
        [name, _number(row.get("dice"), 3), _number(row.get("hd95"), 2)]
        for name, row in shown.items()
    ]
    return Table(
        ["Validation cases", "Dice", f"HD95 ({unit})"], rows, notes=["No interval recorded."]
    )


def _trust_text(calibration: Calibration | None, stats: Mapping[str, Any]) -> list[str]:
    about = stats.get("uncertainty", {})
    said = []
    if calibration is not None:
        c = calibration
        said.append(
            f"Measured on {c.cases} cases ({c.patients} patients) of the data set {c.dataset} that "
            "the model was not trained on; in brackets 95 % bootstrap intervals over patients."
        )
        said.append(
            "Expected calibration error near the structures: "
            f"{figure_text(c.ece_before, 3)} as trained, {figure_text(c.ece_after, 3)} after "
            f"temperature scaling (T = {c.temperature:.2f}), cross-fitted between halves."
        )
    if about.get("note"):
        said.append(f"{about['note'][0].upper()}{about['note'][1:]}.")
    if about.get("mean_inside") is not None:
        text = f"Mean uncertainty inside the segmentation: {about['mean_inside']:.2f}"
        if calibration is not None:
            low, high = calibration.seen.uncertainty
            text += f"; in the held-out cases {low:.2f} to {high:.2f}"
        said.append(text + " (0 certain, 1 all structures alike).")
    return said


def _number(value: float | None, places: int | None = None) -> str:
    if value is None:
        return "–"
    return _size(value) if places is None else f"{value:.{places}f}"


def _size(value: float) -> str:
    """Three significant digits with their zeros, whole numbers from a hundred up."""
    return f"{value:.0f}" if value >= 99.95 or value == 0 else f"{value:#.3g}"


def _intensity(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join("–" if v is None else f"{v:.4g}" for v in values)
