"""The report on a study's lesion candidates, laid out as ``apps.medical.report`` lays out any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.data.volume import Volume
from apps.medical.detection.grid import Grid, sample
from apps.medical.detection.inputs import ROLES, TITLES, Biparametric
from apps.medical.intake import image_facts
from apps.medical.overlay import Plane, Turned, colour_of, largest_section, slice_axis
from apps.medical.report.contents import Contents, Table, identity_of, metrics_table, model_facts
from apps.medical.report.figures import Picture, plane_pictures, row_picture
from apps.medical.results import now

if TYPE_CHECKING:
    from apps.medical.detection.detect import DetectionResult
    from apps.medical.store import Model

AROUND = 110.0  # mm: how much of a slice is shown around a candidate
DIRECTIONS = ("RL", "AP", "SI")
SCORE = (
    "How many real lesions are found at how many false positives was not measured for this report: "
    "run.py score does it on studies whose lesions are known."
)


def gather(
    study: Biparametric,
    result: DetectionResult,
    model: Model,
    rule: Mapping[str, Any],
    run: str = "",
    *,
    identify: bool = False,
) -> Contents:
    """The report of one study. ``rule`` says how candidates were cut out, ``run`` how the model ran.

    Nothing in it names the patient but with ``identify``, for a DICOM study.
    """
    index = result.candidates.index
    legend = {row["lesion"]: f"candidate {row['lesion']}" for row in result.lesions}
    facts = image_facts([study.t2w])
    for role, volume in zip(ROLES[1:], study.volumes[1:], strict=True):
        edges = " × ".join(f"{edge:.3g}" for edge in volume.spacing)
        shape = " × ".join(map(str, volume.shape))
        facts.append((TITLES[role], f"{shape} voxels of {edges} mm"))
    return Contents(
        case=result.case,
        created=now(),
        model_name=model.spec.name,
        subject="lesion detection",
        numbers="lesions.json",
        identity=identity_of(study.t2w) if identify else [],
        image=facts,
        findings=_findings(result.lesions, rule),
        warnings=list(result.warnings),
        pictures=[
            plane_pictures(study.t2w, index, legend, marked="candidates"),
            *candidate_pictures(study, index, result.lesions),
        ],
        model=model_facts(model, run),
        trust=metrics_table(model.spec.metrics, "mm"),
        trust_text=[
            "A confidence is the network's highest probability inside the candidate. It was not "
            "calibrated: of candidates with 0.8, not eight in ten need be lesions.",
            SCORE,
        ],
        reliability=None,
    )


def candidate_pictures(
    study: Biparametric, index: np.ndarray, lesions: Sequence[Mapping[str, Any]]
) -> list[Picture]:
    """For each candidate its largest slice on the three series, brought onto the T2W image's grid."""
    if not lesions:
        return []
    grid = Grid.of(study.t2w)
    turned = [
        Turned.of(volume if role == "t2w" else _on(grid, study.t2w, volume), index)
        for role, volume in zip(ROLES, study.volumes, strict=True)
    ]
    axis = slice_axis(turned[0].edges)
    pictures = []
    for row in lesions:
        number = row["lesion"]
        at = largest_section(turned[0].labels == number, axis)
        cuts = [_around(one.cut(axis, at), number) for one in turned]
        where = cuts[0].title
        cuts = [replace(cut, title=TITLES[role]) for role, cut in zip(ROLES, cuts, strict=True)]
        pictures.append(
            row_picture(
                f"candidate-{number}",
                cuts,
                f"Candidate {number}, confidence {row['confidence']:.2f}, {where} of the T2-weighted "
                "image; the other series are brought onto its grid. Radiological convention: the "
                "patient's right is on the left.",
            )
        )
    return pictures


def _on(grid: Grid, reference: Volume, volume: Volume) -> Volume:
    return replace(reference, array=sample(volume, grid, order=1), path=volume.path)


def _around(cut: Plane, number: int) -> Plane:
    """The part of a slice within half of ``AROUND`` mm of a candidate's middle, moved to stay inside."""
    window = []
    middle = np.argwhere(cut.labels == number).mean(0)
    for centre, size, edge in zip(middle, cut.labels.shape, cut.edges, strict=True):
        wanted = min(size, max(1, round(AROUND / edge)))
        first = min(max(0, round(centre - wanted / 2)), size - wanted)
        window.append(slice(first, first + wanted))
    part = tuple(window)
    return replace(cut, image=cut.image[part], labels=cut.labels[part])


def _findings(lesions: Sequence[Mapping[str, Any]], rule: Mapping[str, Any]) -> Table:
    rows = [
        [
            f"candidate {row['lesion']}",
            f"{row['confidence']:.2f}",
            f"{row['volume_ml']:.2f}",
            f"{row['diameter_mm']:.1f}",
            _place(row["centre_mm"]),
        ]
        for row in lesions
    ]
    header = ["Lesion candidate", "Confidence", "Volume (mL)", "Longest (mm)", "Middle (mm)"]
    notes = [
        f"Candidates of more than {rule['min_voxels']} voxels by the rule {rule['threshold']}"
        + (f", at most {rule['most']}" if rule["most"] is not None else "")
        + ". Longest: between the centres of two of its voxels. Middle: in the scanner's coordinates, "
        "R right, L left, A anterior, P posterior, S superior, I inferior.",
    ]
    if not rows:
        rows = [["none", *["–"] * (len(header) - 1)]]
        return Table(header, rows, notes=notes)
    return Table(header, rows, [colour_of(row["lesion"]) for row in lesions], notes)


def _place(centre: Sequence[float]) -> str:
    """RAS+ mm as a reader says it: "12 L, 3 A, 20 I"."""
    return ", ".join(
        f"{abs(value):.0f} {names[value < 0]}"
        for value, names in zip(centre, DIRECTIONS, strict=True)
    )
