"""The audit of a data set: everything that would spoil training or its figures, found beforehand.

Every case is read once; one that cannot be read is a finding, not the end. Severities: `error` must
be put right (the case cannot be used, or figures would be false), `warning` deserves a look, `info`
is handled by the program and said for the record.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from apps.medical.data.datasets import Case, Dataset, open_dataset
from apps.medical.data.preprocess import to_canonical
from apps.medical.data.splits import stored_splits, straddling
from apps.medical.data.volume import Volume, read_label, same_grid
from core.errors import DataError
from core.files import sha256
from core.progress import Progress, SilentProgress

Severity = Literal["error", "warning", "info"]
# A voxel edge this many times longer or shorter than the data set's median is an outlier.
SPACING_RATIO = 2.0
ANISOTROPY = 3.0
SHOWN = 40


@dataclass
class _Audit:
    """What is collected while the cases go by."""

    findings: list[dict[str, str]] = field(default_factory=list)
    spacing: dict[str, tuple[float, ...]] = field(default_factory=dict)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    orientation: dict[str, str] = field(default_factory=dict)
    voxels: Counter[int] = field(default_factory=Counter)
    by_file: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    by_pixels: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    mapped: list[str] = field(default_factory=list)

    def add(
        self, severity: Severity, code: str, case: str, file: Path | str, what: str, fix: str
    ) -> None:
        entry = {"severity": severity, "code": code, "case": case, "file": str(file)}
        self.findings.append(entry | {"what": what, "fix": fix})


def check_dataset(path: Path | str, progress: Progress | None = None) -> dict[str, Any]:
    """As ``audit``, of the data set in the folder ``path``. DataError where there is none."""
    return audit(open_dataset(path), progress)


def audit(dataset: Dataset, progress: Progress | None = None) -> dict[str, Any]:
    """Check pairs, grids, voxels, labels, duplicates and folds of every case.

    Returns a JSON-able report: `ok` (no error), `findings` (severity, code, case, file, what, fix),
    `counts` by severity, and a `summary` of shapes, spacings, orientations and label voxels.
    """
    found = _Audit()
    for problem in dataset.problems:
        found.add("error", "pair", problem.case, problem.file, problem.what, problem.fix)
    with (progress or SilentProgress()).task("check", total=len(dataset.cases)) as task:
        for case in dataset.cases:
            _check_case(dataset, case, found)
            task.advance(note=case.id)
    _check_together(dataset, found)
    _check_splits(dataset, found)
    order = {"error": 0, "warning": 1, "info": 2}
    found.findings.sort(key=lambda f: order[f["severity"]])
    counts = Counter(f["severity"] for f in found.findings)
    return {
        "dataset": dataset.name,
        "root": str(dataset.root),
        "layout": dataset.layout,
        "rank": dataset.rank,
        "cases": len(dataset.cases),
        "patients": len({case.patient for case in dataset.cases}),
        "channels": list(dataset.channels),
        "labels": {str(i): name for i, name in dataset.labels.items()},
        "target": dataset.kind,
        "ok": counts["error"] == 0,
        "counts": {name: counts[name] for name in order},
        "summary": _summary(found),
        "findings": found.findings,
    }


def render(report: dict[str, Any]) -> None:
    """Print a report for people on stdout."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    counts = report["counts"]
    console.print(
        f"[bold]{escape(report['dataset'])}[/bold]: {report['cases']} cases of"
        f" {report['patients']} patients, {report['rank']}-D,"
        f" channels {escape(', '.join(report['channels']))}"
    )
    names = ", ".join(f"{i} {name}" for i, name in report["labels"].items())
    console.print(f"{report['target']}: {escape(names)}")
    for key, value in report["summary"].items():
        console.print(f"{key}: {escape(str(value))}", highlight=False)
    if report["findings"]:
        table = Table("", "case", "what", "what to do", box=None, pad_edge=False)
        colours = {"error": "red", "warning": "yellow", "info": "dim"}
        for f in report["findings"][:SHOWN]:
            colour = colours[f["severity"]]
            label = f"[{colour}]{f['severity']}[/{colour}]"
            table.add_row(label, escape(f["case"]), escape(f["what"]), escape(f["fix"]))
        console.print(table)
        if len(report["findings"]) > SHOWN:
            console.print(f"... and {len(report['findings']) - SHOWN} more (all with --json)")
    verdict = "[green]ready to train[/green]" if report["ok"] else "[red]errors to put right[/red]"
    console.print(f"{verdict}: {', '.join(f'{n} {name}' for name, n in counts.items())}")


def _check_case(dataset: Dataset, case: Case, found: _Audit) -> None:
    try:
        images = dataset.read_images(case)
        _check_images(dataset, case, images, found)
    except DataError as error:
        _unreadable(error, case, case.images[0], found)
        images = []
    if case.label is None:
        return
    try:
        label = read_label(case.label)
        _check_label(dataset, case, label, images, found)
    except DataError as error:
        _unreadable(error, case, case.label, found)


def _check_images(dataset: Dataset, case: Case, images: list[Volume], found: _Audit) -> None:
    first = images[0]
    for image in images:
        for code, note in image.notes.items():
            found.add("warning", code, case.id, image.path, note, "correct the header if wrong")
    grid = to_canonical(images, dataset.rank, f"case {case.id}")
    if len(grid.array) != len(dataset.channels):
        found.add(
            "error",
            "channels",
            case.id,
            first.path,
            f"{len(grid.array)} channels, the data set has {len(dataset.channels)}",
            "convert the image or drop the case",
        )
    bad = int(grid.array.size - np.count_nonzero(np.isfinite(grid.array)))
    if bad:
        fix = "clean the image, or let preprocessing repair it"
        found.add("error", "nonfinite", case.id, first.path, f"{bad} NaN or infinite voxels", fix)
    for number, channel in enumerate(grid.array):
        if channel.min() == channel.max():
            what = f"channel {number} is constant ({channel.flat[0]})"
            found.add("error", "constant", case.id, first.path, what, "export it again or drop it")
    found.shapes.append(tuple(grid.array.shape[1:]))
    if first.physical:
        found.spacing[case.id] = tuple(grid.spacing)
        found.orientation[case.id] = grid.orientation
    for image in images:
        found.by_file[sha256(image.path)].append(case.id)
        found.by_pixels[_pixels(image)].append(case.id)


def _check_label(
    dataset: Dataset, case: Case, label: Volume, images: list[Volume], found: _Audit
) -> None:
    for code, note in label.notes.items():
        severity: Severity = "info" if code == "dtype" else "warning"
        found.add(severity, code, case.id, label.path, note, "store labels as integers")
    if images:
        why = same_grid(images[0], label)
        if why:
            fix = "check that they are a pair; resample the label by nearest if so"
            what = f"label and image lie on different grids: {why}"
            found.add("error", "grid", case.id, label.path, what, fix)
    ids, counts = np.unique(label.array, return_counts=True)
    if ids.max() == 0:
        fix = "right if the structure is absent, else annotate it"
        found.add("warning", "empty", case.id, label.path, "the mask is empty", fix)
    if dataset.kind == "instances":
        found.voxels[1] += int(counts[ids > 0].sum())
        return
    stored = {int(i): int(n) for i, n in zip(ids, counts, strict=True)}
    if dataset.label_map and set(stored) & set(dataset.label_map):
        found.mapped.append(case.id)
    for value, count in stored.items():
        wanted = dataset.label_map.get(value, value)
        found.voxels[wanted] += count
        if wanted not in dataset.labels:
            found.add(
                "error",
                "label",
                case.id,
                label.path,
                f"label {value} ({count} voxels) is not declared",
                "correct the mask, or declare it in dataset.json",
            )


def _check_together(dataset: Dataset, found: _Audit) -> None:
    root = dataset.root
    if found.mapped:
        what = f"{len(found.mapped)} masks store {dataset.label_map} (value: label); read as labels"
        found.add("info", "values", "", root, what, "nothing to do")
    if dataset.kind == "labels":
        for number, name in dataset.labels.items():
            if number and not found.voxels[number]:
                what = f"label {number} ({name}) occurs in no case"
                found.add("warning", "absent", "", root, what, "correct the masks or dataset.json")
        if list(dataset.labels) != list(range(len(dataset.labels))):
            what = f"label ids have gaps: {list(dataset.labels)}"
            found.add("info", "gaps", "", root, what, "nothing to do: ids are kept in the output")
    if found.spacing:
        median = np.median(list(found.spacing.values()), axis=0)
        for case_id, spacing in found.spacing.items():
            ratio = np.array(spacing) / median
            if ratio.max() > SPACING_RATIO or ratio.min() < 1 / SPACING_RATIO:
                what = f"spacing {_round(spacing)} mm, the median is {_round(median)}"
                fix = "check the header; it will be resampled"
                found.add("warning", "spacing", case_id, root, what, fix)
        if median.max() > ANISOTROPY * median.min():
            what = f"anisotropic: median spacing {_round(median)} mm"
            found.add("info", "anisotropy", "", root, what, "the coarse axis is resampled apart")
    kinds = Counter(found.orientation.values())
    if len(kinds) > 1:
        what = f"mixed orientations: {dict(kinds)}"
        fix = "nothing to do: all are turned to RAS and back"
        found.add("info", "orientation", "", root, what, fix)
    _check_duplicates(dataset, found)
    lower = Counter(case.id.lower() for case in dataset.cases)
    for name in sorted(n for n, count in lower.items() if count > 1):
        what = f"case names differ only by upper and lower case: {name}"
        found.add("warning", "names", name, root, what, "rename: some disks take them for one")


def _check_duplicates(dataset: Dataset, found: _Audit) -> None:
    patient = {case.id: case.patient for case in dataset.cases}
    seen: set[tuple[str, ...]] = set()
    for kind, groups in (("files", found.by_file), ("voxels", found.by_pixels)):
        for cases in groups.values():
            together = tuple(sorted(set(cases)))
            if len(cases) < 2 or together in seen:
                continue
            seen.add(together)
            if len(together) == 1:
                what = f"two channels hold identical {kind}"
                fix = "check the channel files"
            else:
                what = f"identical {kind}: {', '.join(together)}"
                people = len({patient[i] for i in together})
                fix = "keep one" if people == 1 else "keep one, or give them one patient"
            found.add("warning", "duplicate", together[0], dataset.root, what, fix)


def _check_splits(dataset: Dataset, found: _Audit) -> None:
    try:
        stored = stored_splits(dataset)
    except DataError as error:
        found.add("error", "folds", "", dataset.root, str(error), "correct or remove the file")
        return
    if stored is None:
        return
    path, splits = stored
    known = {case.id for case in dataset.cases}
    for number, fold in enumerate(splits):
        for patient in straddling(dataset, fold):
            what = f"patient {patient} is in training and validation of fold {number}"
            found.add("error", "folds", patient, path, what, "move the patient to one side")
        absent = sorted((set(fold[0]) | set(fold[1])) - known)
        if absent:
            what = f"fold {number} names {len(absent)} cases that are not here, first {absent[0]}"
            found.add("error", "folds", absent[0], path, what, "correct or remove the file")


def _unreadable(error: DataError, case: Case, file: Path, found: _Audit) -> None:
    named = next(
        (p for p in (*case.images, case.label) if p and str(error).startswith(f"{p}:")), file
    )
    message = str(error).removeprefix(f"{named}: ")
    what, _, fix = message.partition("; ")
    found.add("error", "unreadable", case.id, named, what, fix or "correct the file or drop it")


def _pixels(volume: Volume) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((volume.array.shape, volume.array.dtype.str)).encode())
    digest.update(np.ascontiguousarray(volume.array).data)
    return digest.hexdigest()


def _summary(found: _Audit) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    if found.shapes:
        shapes = np.array(found.shapes)
        summary["shape"] = {
            "min": shapes.min(axis=0).tolist(),
            "median": np.median(shapes, axis=0).tolist(),
            "max": shapes.max(axis=0).tolist(),
        }
    if found.spacing:
        spacing = np.array(list(found.spacing.values()))
        summary["spacing_mm"] = {
            "min": _round(spacing.min(axis=0)),
            "median": _round(np.median(spacing, axis=0)),
            "max": _round(spacing.max(axis=0)),
        }
        summary["orientations"] = dict(Counter(found.orientation.values()))
    summary["voxels"] = {str(i): n for i, n in sorted(found.voxels.items())}
    return summary


def _round(values: Any) -> list[float]:
    return [round(float(v), 4) for v in values]
