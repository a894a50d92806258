"""Compare predicted label maps with reference ones: per label, per case, with intervals.

The rules below travel with every result, because a Dice of a data set means nothing without them.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from apps.medical.data.datasets import map_labels, read_patients
from apps.medical.data.volume import (
    SUFFIXES,
    Volume,
    case_name,
    is_volume_file,
    read_label,
    same_grid,
)
from apps.medical.metrics import instance_metrics, mask_metrics
from apps.medical.results import Result, list_results
from core.errors import DataError, TriptychError, UsageError
from core.files import require_absent, write_json, write_text
from core.progress import Progress, SilentProgress
from core.reporting import environment

RESAMPLES = 2000
# More ids than this in a reference picture number objects, not classes.
MAX_CLASSES = 32

RULES = {
    "surface": "mask voxels with a face neighbour outside the mask; outside the image counts as outside",
    "distance": "between voxel centres, in mm by the file's spacing (in pixels where it has none)",
    "hd95": "larger of the two directed 95th percentiles of surface distances, linear interpolation",
    "nsd": "share of both surfaces' voxels within the tolerance of the other surface",
    "both_empty": "dice, iou, hd95 and nsd are undefined: excluded from means and counted",
    "one_empty": "dice = iou = nsd = 0; hd95 is undefined: excluded from its mean and counted, "
    "so read mean hd95 together with that count",
    "volume_error": "prediction minus reference; the percentage is undefined for an empty reference",
    "mean": "over cases with a defined value; n says how many",
    "ci95": "percentile bootstrap over cases (over patients where given), 2000 resamples, seeded; "
    "null below two",
    "objects": "a prediction whose only id is 1 is split into its connected components (face "
    "neighbours); otherwise ids are objects as stored",
    "mask_of_255": "where there is one label, 1, a reference of the values 0 and 255 means it by 255",
    "missing": "a reference without a prediction is an error; with --allow-missing it is listed and "
    "left out",
}


@dataclass
class _Case:
    id: str
    pred: Result
    ref: Path
    rows: dict[str, dict[str, float | None]] = field(default_factory=dict)
    unit: str = "mm"
    binary: bool = False


def evaluate(
    pred_dir: Path,
    ref_dir: Path,
    out_json: Path | None = None,
    *,
    labels: Mapping[int, str] | None = None,
    nsd_tolerance: float = 1.0,
    instances: bool | None = None,
    allow_missing: bool = False,
    patients: Mapping[str, str] | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Metrics of every case of ``ref_dir`` that ``pred_dir`` predicts, and their means.

    A prediction is ``pred_dir/<case>/seg.nii.gz`` (or its seg.png), or ``pred_dir/<case>.*``; a
    reference is ``ref_dir/<case>.*``. ``labels`` names the ids and decides which are evaluated; by
    default they come from the predictions' model, else every id found counts. ``instances``: the
    files number objects; None decides by the references. ``patients`` maps case to patient, for
    intervals that respect several cases of one person; by default it is read from patients.csv or
    patients.json in ``ref_dir`` or in the data set's folder above it.

    Returns, and writes to ``out_json`` with a CSV per case beside it: {"labels": {name: {metric:
    {mean, ci95, n, undefined}}}, "cases", "missing", "rules", ...}.

    Raises UsageError for outputs that exist, DataError for folders that do not and naming the case
    for grids that differ, labels that cannot be read, or missing predictions.
    """
    pred_dir, ref_dir = Path(pred_dir), Path(ref_dir)
    if nsd_tolerance <= 0:
        raise UsageError(f"--nsd-tolerance must be positive (mm), got {nsd_tolerance}")
    table = None
    if out_json is not None:
        out_json = Path(out_json)
        table = out_json.with_suffix(".csv")
        if table == out_json:
            raise UsageError(f"{out_json}: give a name that ends in .json; the CSV lies beside it")
        for file in (out_json, table):
            require_absent(file, force)
    cases, missing, extra = _pair(pred_dir, ref_dir)
    if missing and not allow_missing:
        raise DataError(
            f"{pred_dir}: no prediction for {len(missing)} of {len(missing) + len(cases)} cases of "
            f"{ref_dir} ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); predict "
            "them or pass --allow-missing"
        )
    if not cases:
        raise DataError(f"{pred_dir}: no prediction has the name of a reference in {ref_dir}")
    named = dict(labels) if labels is not None else cases[0].pred.labels
    if instances is None:
        instances = _numbers_objects(cases, named)

    if patients is None:
        patients = read_patients(ref_dir) or read_patients(ref_dir.parent)
    if not instances:
        named, binary = _binary(cases, named)
        for case in cases:
            case.binary = binary
    with (progress or SilentProgress()).task("evaluate", total=len(cases)) as task:
        for case in cases:
            _measure(case, named, nsd_tolerance, instances)
            task.advance(note=case.id)

    result = {
        "pred": str(pred_dir),
        "ref": str(ref_dir),
        "instances": instances,
        "nsd_tolerance": nsd_tolerance,
        "unit": cases[0].unit if len({c.unit for c in cases}) == 1 else "mixed",
        "labels": _summary(cases, patients, seed),
        "cases": {case.id: case.rows for case in cases},
        "n_cases": len(cases),
        "n_patients": len({patients.get(case.id, case.id) for case in cases}),
        "missing": missing,
        "without_reference": extra,
        "rules": RULES | {"seed": seed},
        "environment": environment(seed),
    }
    if out_json is not None and table is not None:
        write_json(out_json, result, force)
        write_text(table, _csv(cases), force)
    return result


def print_summary(result: Mapping[str, Any]) -> None:
    """The means as a table for a person, on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    titles = {
        "dice": ("Dice", 3),
        "iou": ("IoU", 3),
        "hd95": (f"HD95 ({result['unit']})", 2),
        "nsd": (f"NSD at {result['nsd_tolerance']:g} {result['unit']}", 3),
        "ap_50": ("AP at IoU 0.5", 3),
        "ap_mean": ("AP at IoU 0.5 to 0.95", 3),
        "f1_50": ("F1 at IoU 0.5", 3),
        "pq": ("Panoptic quality", 3),
        "aji": ("Aggregated Jaccard", 3),
        "volume_error_mL": ("Volume error (mL)", 3),
        "volume_error_mm2": ("Area error (mm2)", 2),
        "volume_error_px": ("Area error (px)", 1),
        "volume_error_percent": ("Size error (%)", 1),
    }
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("label", "metric"):
        table.add_column(title, no_wrap=True)
    for title in ("mean", "95 % interval", "n", "undefined"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, metrics in result["labels"].items():
        shown = name
        for key, (title, digits) in titles.items():
            entry = metrics.get(key)
            if entry is None:
                continue
            mean, interval = "-", "-"
            if entry["mean"] is not None:
                mean = f"{entry['mean']:.{digits}f}"
            if entry["ci95"] is not None:
                interval = " to ".join(f"{bound:.{digits}f}" for bound in entry["ci95"])
            table.add_row(shown, title, mean, interval, str(entry["n"]), str(entry["undefined"]))
            shown = ""
        table.add_section()
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{result['n_cases']} cases. Undefined: an empty mask, not in the mean (see 'rules')."
    )
    if result["missing"]:
        names = ", ".join(result["missing"][:5])
        console.print(f"{len(result['missing'])} without a prediction, left out: {names}")


def compare(
    labels: np.ndarray,
    reference: Volume,
    names: Mapping[int, str],
    *,
    instances: bool = False,
    nsd_tolerance: float = 1.0,
) -> dict[str, dict[str, float | None]]:
    """The metrics of one label map (*S) against a reference on the same grid, by the ``RULES``.

    One row per label of ``names``, or with ``instances`` one called "objects"; None: undefined.
    Raises DataError for another shape and for ids that have no name.
    """
    if labels.shape != reference.shape:
        raise DataError(f"labels of shape {labels.shape}, reference of shape {reference.shape}")
    masks: list[tuple[str, np.ndarray, np.ndarray]] = []
    extra: dict[str, float] = {}
    if instances:
        objects = labels
        if objects.max(initial=0) == 1:
            objects = ndimage.label(objects)[0]
        extra = instance_metrics(objects, reference.array)
        masks.append(("objects", labels > 0, reference.array > 0))
    else:
        found = set(np.unique(labels).tolist()) | set(np.unique(reference.array).tolist())
        strange = sorted(found - {0} - set(names))
        if strange:
            raise DataError(
                f"label {strange[0]} is not among {', '.join(map(str, sorted(names)))}; "
                "are these the labels of this model?"
            )
        for label in sorted(set(names) - {0}):
            masks.append((names[label], labels == label, reference.array == label))
    unit = "mm" if reference.physical else "px"
    rows = {}
    for name, p, r in masks:
        row = mask_metrics(p, r, reference.spacing, nsd_tolerance) | extra
        row |= _sizes(int(p.sum()), int(r.sum()), reference, unit)
        rows[name] = {key: _none(value) for key, value in row.items()}
    return rows


def read_reference(path: Path | str, grid: Volume) -> Volume:
    """A reference label map for the image ``grid``; in a mask of 0 and 255 the latter means 1.

    Raises DataError for one that cannot be read or lies on another grid.
    """
    reference = _squeezed(read_label(path), grid)
    why = same_grid(grid, reference)
    if why:
        raise DataError(f"{path}: not on the grid of {grid.path.name}: {why}; is it of this image?")
    if 255 in reference.array and set(np.unique(reference.array).tolist()) <= {0, 255}:
        reference = map_labels(reference, {255: 1})
    return reference


def bootstrap(
    values: np.ndarray, groups: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """95 % percentile interval of the mean of ``values`` (n,), resampling whole groups.

    NaN values are left out of every resample's mean. None with fewer than two groups that have a
    value: there is nothing to resample.
    """
    names = sorted({g for g, v in zip(groups, values) if not np.isnan(v)})
    if len(names) < 2:
        return None
    index = {name: i for i, name in enumerate(names)}
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for group, value in zip(groups, values):
        if not np.isnan(value):
            sums[index[group]] += value
            counts[index[group]] += 1
    picks = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _pair(pred_dir: Path, ref_dir: Path) -> tuple[list[_Case], list[str], list[str]]:
    """Cases with both files, references without a prediction, predictions without a reference."""
    if not ref_dir.is_dir():
        raise DataError(f"{ref_dir}: no such folder of references")
    refs = _by_case(ref_dir)
    if not refs:
        raise DataError(f"{ref_dir}: no label file ({' '.join(SUFFIXES)})")
    preds = list_results(pred_dir)
    for name in list(preds):
        # nnU-Net names an image of one channel case_0000 and its label case.
        plain = re.sub(r"_0000$", "", name)
        if name not in refs and plain in refs and plain not in preds:
            preds[plain] = preds.pop(name)
    cases = [_Case(name, preds[name], refs[name]) for name in sorted(refs) if name in preds]
    missing = sorted(set(refs) - set(preds))
    return cases, missing, sorted(set(preds) - set(refs))


def _by_case(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if is_volume_file(file):
            name = case_name(file)
            if name in found:
                raise DataError(f"{found[name]} and {file} are both case {name}; remove one")
            found[name] = file
    return found


def _numbers_objects(cases: Sequence[_Case], named: Mapping[int, str]) -> bool:
    """Whether the references number objects: pictures with many ids, more than there are names."""
    if cases[0].pred.instances:
        return True
    most = max(len(named), MAX_CLASSES)
    for case in cases[:16]:
        try:
            ref = read_label(case.ref)
        except TriptychError:
            continue  # reported with the case's name when its turn comes
        if ref.physical:
            return False
        if len(np.unique(ref.array)) - 1 > most:
            return True
    return False


def _read(case: _Case) -> tuple[Volume, Volume]:
    pred, ref = case.pred.read(), read_label(case.ref)
    pred = _squeezed(pred, ref)
    why = same_grid(pred, ref)
    if why:
        raise DataError(
            f"case {case.id}: {case.pred.file} is not on the grid of {case.ref}: {why}; "
            "predict on the images these references belong to"
        )
    case.unit = "mm" if ref.physical else "px"
    if case.binary and 255 in ref.array and set(np.unique(ref.array).tolist()) <= {0, 255}:
        ref = map_labels(ref, {255: 1})
    return pred, ref


def _squeezed(pred: Volume, ref: Volume) -> Volume:
    """A picture's prediction may be stored with a third axis of length 1, or the other way round."""
    if pred.shape == ref.shape or pred.array.size != ref.array.size:
        return pred
    kept = tuple(n for n in pred.shape if n != 1)
    if kept != tuple(n for n in ref.shape if n != 1):
        return pred
    return replace(pred, array=pred.array.reshape(ref.shape), rank=ref.rank, physical=False)


def _binary(cases: Sequence[_Case], named: Mapping[int, str]) -> tuple[dict[int, str], bool]:
    """The labels to evaluate, and whether 255 in a mask of 0 and 255 means the only one, 1."""
    if named:
        return dict(named), set(named) - {0} == {1}
    preds, refs = set[int](), set[int]()
    for case in cases:
        for found, volume in zip((preds, refs), _read(case)):
            found |= set(np.unique(volume.array).tolist())
    binary = 1 in preds and preds <= {0, 1} and 255 in refs and refs <= {0, 255}
    return {i: str(i) for i in sorted((preds if binary else preds | refs) - {0})}, binary


def _measure(case: _Case, named: Mapping[int, str], tolerance: float, instances: bool) -> None:
    """Fill the case's rows: one per label, or one called "objects"."""
    pred, ref = _read(case)
    try:
        case.rows = compare(pred.array, ref, named, instances=instances, nsd_tolerance=tolerance)
    except DataError as error:
        raise DataError(f"case {case.id}: {error}") from error


def _sizes(pred: int, ref: int, grid: Volume, unit: str) -> dict[str, float]:
    """Sizes and their error: mL in 3-D, mm2 in 2-D, px where there is no physical grid."""
    scale = float(np.prod(grid.spacing))
    name = "px" if unit == "px" else "mm2"
    if unit == "mm" and grid.rank == 3:
        name, scale = "mL", scale / 1000
    return {
        f"volume_pred_{name}": pred * scale,
        f"volume_ref_{name}": ref * scale,
        f"volume_error_{name}": (pred - ref) * scale,
        "volume_error_percent": 100 * (pred - ref) / ref if ref else float("nan"),
    }


def _summary(
    cases: Sequence[_Case], patients: Mapping[str, str], seed: int
) -> dict[str, dict[str, Any]]:
    groups = [patients.get(case.id, case.id) for case in cases]
    names = list(dict.fromkeys(name for case in cases for name in case.rows))
    per_label = {name: [case.rows.get(name, {}) for case in cases] for name in names}
    summary = {
        name: {key: _mean(rows, key, groups, seed) for key in _keys(rows)}
        for name, rows in per_label.items()
    }
    if len(names) > 1:  # the mean over labels of each case, then over cases
        scores = ("dice", "iou", "hd95", "nsd")
        rows = [{k: _none(_over_labels(case, k)) for k in scores} for case in cases]
        summary["mean of labels"] = {key: _mean(rows, key, groups, seed) for key in scores}
    return summary


def _over_labels(case: _Case, key: str) -> float:
    values = [row[key] for row in case.rows.values()]
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else float("nan")


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _mean(
    rows: Sequence[Mapping[str, float | None]], key: str, groups: Sequence[str], seed: int
) -> dict[str, Any]:
    values = np.array(
        [np.nan if (value := row.get(key)) is None else value for row in rows], dtype=float
    )
    defined = values[~np.isnan(values)]
    return {
        "mean": float(defined.mean()) if defined.size else None,
        "ci95": bootstrap(values, groups, seed),
        "median": float(np.median(defined)) if defined.size else None,
        "n": int(defined.size),
        "undefined": int(values.size - defined.size),
    }


def _csv(cases: Sequence[_Case]) -> str:
    keys = _keys([row for case in cases for row in case.rows.values()])
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "label", *keys])
    for case in cases:
        for label, row in case.rows.items():
            cells = ("" if (value := row.get(key)) is None else f"{value:.6g}" for key in keys)
            writer.writerow([case.id, label, *cells])
    return stream.getvalue()


def _none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
