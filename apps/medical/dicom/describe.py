"""What lies at a path, before anything is segmented: DICOM series or image files, for `info PATH`.

Patients are numbered, never named: the list may be pasted into a bug report.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import DataError, TriptychError

if TYPE_CHECKING:
    from apps.medical.dicom.series import SeriesInfo


def describe(path: Path, model: str | None = None) -> dict[str, Any]:
    """The series or image files at ``path``, JSON-ready. With ``model``, also what it would take.

    Raises DataError where there is neither, and as ``list_series``.
    """
    from apps.medical.cases import find_cases
    from apps.medical.data.volume import peek, suffix_of
    from apps.medical.dicom.series import list_series
    from apps.medical.dicom.sources import has_dicom

    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if has_dicom(path) if path.is_dir() else not suffix_of(path):
        return _series(path, list_series(path), model)
    images = []
    for case in find_cases([path]):
        for file in case.files:
            try:
                about = peek(file)
                images.append(
                    {"file": str(file), "shape": list(about.shape), "channels": about.channels}
                )
            except DataError as error:
                images.append({"file": str(file), "error": str(error)})
    return {"path": str(path), "images": images}


def print_description(report: dict[str, Any]) -> None:
    """The list for a person, on standard output."""
    if "images" in report:
        for image in report["images"]:
            what = image.get("error") or " x ".join(str(n) for n in image["shape"])
            print(f"{image['file']}: {what}")
        return
    count = len(report["series"])
    patients = f", {report['patients']} patients" if report["patients"] > 1 else ""
    print(f"{report['path']}: {count} series{patients}")
    for entry in report["series"]:
        number = "" if entry["number"] is None else str(entry["number"])
        patient = f"patient {entry['patient']}: " if report["patients"] > 1 else ""
        size = " x ".join(str(n) for n in entry["shape"])
        print(f"\n{number:>6}  {patient}{entry['title'] or '(no description)'}")
        grid = f", {_mm(entry['spacing'])}" if entry["slices"] else ""
        print(f"        {entry['modality']}, {entry['orientation']}, {size}{grid}")
        print(f"        {entry['transfer_syntax']}; {entry['uid']}")
        for note in entry["notes"]:
            print(f"        note: {note}")
        if entry["refusal"]:
            print(f"        cannot be segmented: {entry['refusal']}")
    if "chosen" in report:
        print(f"\n{report['model']} would take: {report['chosen'] or report['open']}")


def _series(path: Path, found: list[SeriesInfo], model: str | None) -> dict[str, Any]:
    patients = list(dict.fromkeys(info.patient_id for info in found))
    report: dict[str, Any] = {
        "path": str(path),
        "patients": len(patients),
        "series": [
            {
                "uid": info.uid,
                "number": info.number,
                "description": info.description,
                "part": info.part,
                "title": info.title,
                "modality": info.modality,
                "body_part": info.body_part,
                "patient": patients.index(info.patient_id) + 1,
                "orientation": info.orientation,
                "shape": info.shape,
                "spacing": info.spacing,
                "slices": info.slices,
                "frames": info.frames,
                "files": len(info.files),
                "transfer_syntax": info.transfer_syntax,
                "notes": info.notes,
                "refusal": info.refusal,
            }
            for info in found
        ],
    }
    if model is not None:
        report |= {"model": model, **_choice(found, model)}
    return report


def _choice(found: list[SeriesInfo], model: str) -> dict[str, str]:
    from apps.medical.cases import files_per_case
    from apps.medical.dicom.choose import choose_series
    from apps.medical.store import read_spec

    plan = read_spec(model).plan
    try:
        chosen = [
            choose_series(found, None, plan, channel) for channel in range(files_per_case(plan))
        ]
    except TriptychError as error:
        return {"chosen": "", "open": str(error)}
    return {"chosen": ", ".join(f"'{info.title}' ({info.uid})" for info in chosen)}


def _mm(values: list[float]) -> str:
    return " x ".join(f"{value:.3g}" for value in values) + " mm"
