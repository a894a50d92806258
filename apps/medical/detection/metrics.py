"""How well lesions are found: AP, AUROC, FROC, as the PI-CAI challenge counts, with intervals.

    hit     a candidate with IoU >= 0.1 with a reference lesion; one-to-one, most pairs first, then
            the largest summed IoU (Hungarian); components of all 26 neighbours
    AP      area under the precision-recall steps over candidates; a missed lesion is one of
            confidence 0, which is never precise
    AUROC   of the cases, each scored by its most confident candidate
    score   (AUROC + AP) / 2, the challenge's ranking
    FROC    sensitivity at a number of false positives a case

Source: DIAGNijmegen/picai_eval 1.4, whose functions match the lesions and give AP, AUROC and FROC here;
Saha et al. 2024, Lancet Oncology 25:879.  A candidate that hits a lesion which another candidate has
is neither right nor wrong there, and the lowest confidence is left off the FROC curve where no lesion
is missed: theirs, kept so that figures compare.

Intervals are 95 % percentile bootstraps over patients, whole (picai_eval resamples cases: two studies
of one patient would count as independent).  The same definitions are evaluated on every resample by
counting, which is a thousand times cheaper; a test holds both to the same value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from core.errors import DataError, need

MIN_OVERLAP = 0.1
FALSE_POSITIVES = (0.1, 0.5, 1.0, 2.0)
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One case: its detection map and reference lesions, arrays (*S) on one grid."""

    case: str
    detection: np.ndarray
    reference: np.ndarray
    patient: str = ""


def score_cases(
    cases: Iterable[Scored],
    *,
    min_overlap: float = MIN_OVERLAP,
    false_positives: Sequence[float] = FALSE_POSITIVES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of a set of cases, JSON-ready; ``cases`` may be a generator, one is held at a time.

    {"cases", "positive_cases", "patients", "lesions", "auroc": {"value", "low", "high", "undefined"},
    "ap": ..., "score": ..., "sensitivity": {"0.1": ..., ...}, "candidates", "per_case": {...}}.
    A figure without meaning (AUROC of positive cases only) is NaN; "undefined" counts resamples.
    Raises DataError naming the case whose map is no detection map or has another shape.
    """
    picai = _picai("eval")
    found: dict[str, list[tuple[int, float, float]]] = {}
    case_score: dict[str, float] = {}
    patients: list[str] = []
    for case in cases:
        if case.case in found:
            raise DataError(f"{case.case}: given twice; each case counts once")
        detection = _volume(case.detection, np.float32, case.case)
        reference = (_volume(case.reference, np.int64, case.case) > 0).astype(np.int32)
        if detection.shape != reference.shape:
            raise DataError(
                f"{case.case}: detection map of shape {detection.shape}, reference of "
                f"{reference.shape}; bring both onto the T2W grid"
            )
        if not np.isfinite(detection).all() or detection.min(initial=0) < 0:
            raise DataError(f"{case.case}: a detection map holds finite confidences, 0 or more")
        box = _occupied((detection > 0) | (reference > 0))
        try:
            lesions, confidence, _, _ = picai.evaluate_case(
                detection[box], reference[box], min_overlap=min_overlap, idx=case.case
            )
        except ValueError as error:  # more values than components: probabilities, not candidates
            raise DataError(
                f"{case.case}: not a detection map (every separate candidate has one confidence); "
                "extract candidates from the probabilities first"
            ) from error
        found[case.case] = [(int(t), float(c), float(o)) for t, c, o in lesions]
        case_score[case.case] = float(confidence)
        patients.append(case.patient or case.case)
    if not found:
        raise DataError("no case to score")
    return _figures(found, case_score, patients, false_positives, resamples, seed)


def _occupied(mask: np.ndarray) -> tuple[slice, ...]:
    """The box of what is true, or of one voxel: emptiness around it changes no count, only the time
    that comparing every candidate with every lesion takes."""
    found: list[tuple[slice, ...]] = ndimage.find_objects(mask.astype(np.uint8))
    return found[0] if found else (slice(0, 1),) * mask.ndim


def _picai(module: str) -> Any:
    """A module of picai_eval, which greets on standard output: there a result belongs, no greeting."""
    from contextlib import redirect_stdout
    from io import StringIO

    with redirect_stdout(StringIO()):
        return need(f"picai_eval.{module}", "detection")


def _volume(array: np.ndarray, dtype: Any, case: str) -> np.ndarray:
    """(*S) of rank 2 or 3 as a volume: picai_eval's neighbourhoods are those of three axes."""
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.size == 0:
        raise DataError(f"{case}: shape {array.shape}; want a picture or a volume")
    return array.astype(dtype)


def _figures(
    found: Mapping[str, list[tuple[int, float, float]]],
    case_score: Mapping[str, float],
    patients: Sequence[str],
    false_positives: Sequence[float],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    from warnings import catch_warnings, simplefilter

    metrics = _picai("metrics")
    with catch_warnings():
        simplefilter("ignore")  # undefined figures are NaN here, not a message
        authority = metrics.Metrics(lesion_results=dict(found), case_pred=dict(case_score))
        table = Table.of(found, case_score)
        point = {"auroc": float(authority.auroc), "ap": float("nan")}
        point |= {_key(rate): float("nan") for rate in false_positives}
        if table.lesions:  # without one there is nothing to find
            point["ap"] = float(authority.AP)
            for rate in false_positives:
                point[_key(rate)] = float(authority.lesion_TPR_at_FPR(rate))
    point["score"] = (point["auroc"] + point["ap"]) / 2
    intervals = _bootstrap(table, patients, false_positives, resamples, seed)
    figures = {name: {"value": value, **intervals[name]} for name, value in point.items()}
    rows = {
        case: {
            "patient": patient,
            "score": case_score[case],
            "positive": any(t for t, _, _ in lesions),
            "lesions": sum(t for t, _, _ in lesions),
            "found": sum(t for t, c, _ in lesions if c > 0),
            "false_positives": sum(1 - t for t, _, _ in lesions),
            # picai_eval's own: (1 a lesion or 0 none, confidence, IoU) of each candidate or miss
            "results": [list(entry) for entry in lesions],
        }
        for (case, lesions), patient in zip(found.items(), patients, strict=True)
    }
    return {
        "cases": len(found),
        "positive_cases": sum(row["positive"] for row in rows.values()),
        "patients": len(set(patients)),
        "lesions": table.lesions,
        "found": sum(row["found"] for row in rows.values()),
        "false_positives": sum(row["false_positives"] for row in rows.values()),
        **{name: figures[name] for name in ("auroc", "ap", "score")},
        "sensitivity": {f"{rate:g}": figures[_key(rate)] for rate in false_positives},
        "interval": f"95 % percentile bootstrap over patients, {resamples} resamples, seed {seed}",
        "by": f"picai_eval {_version()}",
        "per_case": rows,
    }


def _key(rate: float) -> str:
    return f"sensitivity at {rate:g}"


def _version() -> str:
    from importlib.metadata import version

    return version("picai_eval")


@dataclass(frozen=True, eq=False)
class Table:
    """Every candidate and missed lesion of every case, most confident first, to resample cheaply."""

    target: np.ndarray  # (n,) 1 for a lesion, found or missed; 0 for a false positive
    confidence: np.ndarray  # (n,) descending; 0 for a missed lesion
    case: np.ndarray  # (n,) the number of its case
    case_target: np.ndarray  # (m,)
    case_score: np.ndarray  # (m,)

    @classmethod
    def of(
        cls, found: Mapping[str, list[tuple[int, float, float]]], case_score: Mapping[str, float]
    ) -> Table:
        rows = [(t, c, i) for i, lesions in enumerate(found.values()) for t, c, _ in lesions]
        rows.sort(key=lambda row: -row[1])
        target, confidence, case = (np.array([row[k] for row in rows], float) for k in range(3))
        positive = [float(any(t for t, _, _ in lesions)) for lesions in found.values()]
        scores = [case_score[name] for name in found]
        return cls(target, confidence, case.astype(int), np.array(positive), np.array(scores))

    @property
    def lesions(self) -> int:
        return int(self.target.sum())

    def ap(self, weight: np.ndarray) -> float:
        """With each case counted ``weight`` (m,) times; NaN without a lesion."""
        levels, hits, misses = self._steps(weight)
        total = float((self.target * weight[self.case]).sum())
        if total == 0:
            return float("nan")
        recall = np.r_[0.0, hits] / total
        with np.errstate(invalid="ignore"):
            precision = hits / (hits + misses)
        precision[levels == 0] = 0
        return float((np.diff(recall) * precision).sum())

    def auroc(self, weight: np.ndarray) -> float:
        """Mann and Whitney's: ties count half; NaN where all cases are of one kind."""
        order = np.argsort(self.case_score, kind="stable")
        score, w = self.case_score[order], weight[order]
        positive = w * self.case_target[order]
        negative = w - positive
        if positive.sum() == 0 or negative.sum() == 0:
            return float("nan")
        last = np.r_[np.flatnonzero(np.diff(score)), len(score) - 1]
        p, n = (np.diff(np.r_[0.0, np.cumsum(x)[last]]) for x in (positive, negative))
        below = np.cumsum(n) - n
        return float((p * (below + n / 2)).sum() / (positive.sum() * negative.sum()))

    def sensitivity(self, weight: np.ndarray, rates: Sequence[float]) -> list[float]:
        """At each number of false positives a case; NaN without a lesion."""
        _, hits, misses = self._steps(weight)
        total = float((self.target * weight[self.case]).sum())
        if total == 0:
            return [float("nan")] * len(rates)
        if len(hits) < 2:
            hits, misses = np.zeros(2), np.array([0.0, np.inf])
        else:
            hits, misses = np.r_[hits[:-1], hits[-2]], np.r_[misses[:-1], np.inf]
        rate = misses / weight.sum()
        return [float(hits[rate <= r][-1] / total) if rate.min() <= r else 0.0 for r in rates]

    def _steps(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each distinct confidence, descending, and lesions found and false positives down to it."""
        counts = weight[self.case]
        present = counts > 0
        levels, counts, target = self.confidence[present], counts[present], self.target[present]
        ends = np.flatnonzero(np.r_[np.diff(levels) != 0, len(levels) > 0])
        return (
            levels[ends],
            np.cumsum(target * counts)[ends],
            np.cumsum((1 - target) * counts)[ends],
        )


def difference(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """AP and AUROC of one detector minus another's, results of ``score_cases`` on the same cases.

    Every resample of patients is the same for both: what makes a case hard falls away.  Raises
    DataError where the cases differ.
    """
    if set(first["per_case"]) != set(second["per_case"]):
        raise DataError("the two results are of different cases; score both on the same ones")
    names = sorted(first["per_case"])
    patients = [first["per_case"][name]["patient"] for name in names]
    tables = [
        Table.of(
            {name: [tuple(entry) for entry in rows[name]["results"]] for name in names},
            {name: rows[name]["score"] for name in names},
        )
        for rows in (first["per_case"], second["per_case"])
    ]

    def figures(weight: np.ndarray) -> list[float]:
        a, b = tables
        return [a.auroc(weight) - b.auroc(weight), a.ap(weight) - b.ap(weight)]

    whole = figures(np.ones(len(names)))
    rows = np.array([figures(weight) for weight in _weights(patients, resamples, seed)])
    return {
        name: {"value": value, **_interval(column)}
        for name, value, column in zip(("auroc", "ap"), whole, rows.T.reshape(2, -1), strict=True)
    }


def _weights(patients: Sequence[str], resamples: int, seed: int) -> Iterable[np.ndarray]:
    """How often each case (m,) counts in each resample of patients; none for fewer than two."""
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    random = np.random.default_rng(seed)
    for _ in range(resamples if len(names) > 1 else 0):
        picked = random.integers(len(names), size=len(names))
        yield np.bincount(picked, minlength=len(names))[index].astype(float)


def _interval(values: np.ndarray) -> dict[str, Any]:
    """2.5 and 97.5 % of the resamples that have a value, None without one; how many have none."""
    known = values[~np.isnan(values)]
    low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (None, None)
    return {
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "undefined": int(len(values) - len(known)),
    }


def _bootstrap(
    table: Table, patients: Sequence[str], rates: Sequence[float], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Percentile intervals of every figure over resampled patients; None for fewer than two."""
    keys = ("auroc", "ap", "score", *(_key(rate) for rate in rates))
    rows = []
    for weight in _weights(patients, resamples, seed):
        auroc, ap = table.auroc(weight), table.ap(weight)
        rows.append((auroc, ap, (auroc + ap) / 2, *table.sensitivity(weight, rates)))
    columns = np.array(rows, float).reshape(-1, len(keys)).T
    return {key: _interval(column) for key, column in zip(keys, columns, strict=True)}


def score_folders(
    maps: Path,
    references: Path,
    *,
    min_overlap: float = MIN_OVERLAP,
    resamples: int = RESAMPLES,
    seed: int = 0,
    patients: Mapping[str, str] | None = None,
    allow_missing: bool = False,
) -> dict[str, Any]:
    """Score detection maps on disk: CASE/detection_map.nii.gz or CASE_detection_map.*, against
    CASE_label.* or CASE.*, in the formats of ``data.volume``.

    A PI-CAI name, PATIENT_STUDY, gives its patient unless ``patients`` does.  Raises DataError where
    a reference has no map (unless ``allow_missing``, which leaves it out), a map no reference, or the
    two differ in grid.
    """
    from apps.medical.data.volume import read_image, read_label, same_grid

    pairs = pair_files(maps, references, allow_missing=allow_missing)

    def read() -> Iterable[Scored]:
        for case, (map_file, label_file) in pairs.items():
            detection, reference = read_image(map_file), read_label(label_file)
            why = same_grid(reference, detection)
            if why:
                raise DataError(f"{map_file}: not on the grid of {label_file}: {why}")
            patient = (patients or {}).get(case, case_patient(case))
            yield Scored(
                case=case, detection=detection.array, reference=reference.array, patient=patient
            )

    return score_cases(read(), min_overlap=min_overlap, resamples=resamples, seed=seed)


def case_patient(case: str) -> str:
    """10417_1000424 is a study of patient 10417; any other name is its own patient."""
    patient, _, study = case.partition("_")
    return patient if patient.isdigit() and study.isdigit() else case


def pair_files(
    maps: Path, references: Path, *, allow_missing: bool = False
) -> dict[str, tuple[Path, Path]]:
    """Map and reference of each case, by name.  Raises DataError for one without the other, but with
    ``allow_missing`` leaves out references without a map."""
    together = (
        maps.resolve() == references.resolve()
    )  # then only a file's ending tells the two apart
    found = _named(maps, "_detection_map", "detection_map", only_ending=together)
    wanted = _named(references, "_label", "label", only_ending=together)
    if allow_missing:
        wanted = {case: file for case, file in wanted.items() if case in found}
    for folder, names, others, what in (
        (references, wanted, found, "detection map"),
        (maps, found, wanted, "reference"),
    ):
        alone = sorted(set(names) - set(others))
        if alone:
            raise DataError(
                f"{names[alone[0]]}: no {what} of case {alone[0]}"
                + (f" ({len(alone)} such cases)" if len(alone) > 1 else "")
                + f"; {folder} and the other folder must hold the same cases"
            )
    if not wanted:
        raise DataError(f"{references}: no reference label in it")
    return {case: (found[case], wanted[case]) for case in sorted(wanted)}


def _named(folder: Path, ending: str, inside: str, *, only_ending: bool) -> dict[str, Path]:
    """Files of a folder by case: CASE/<inside>.*, CASE<ending>.*, or else CASE.*."""
    from apps.medical.data.volume import case_name, is_volume_file

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            held = [f for f in sorted(entry.iterdir()) if is_volume_file(f)]
            own = [f for f in held if case_name(f) == inside]
            if own:
                files[entry.name] = own[0]
        elif is_volume_file(entry):
            name = case_name(entry)
            if only_ending and not name.endswith(ending):
                continue
            case = name.removesuffix(ending)
            if case in files:
                raise DataError(f"{files[case]} and {entry}: both of case {case}; keep one")
            files[case] = entry
    return files


def print_figures(figures: Mapping[str, Any]) -> None:
    """The figures with their intervals, for a person, on standard output."""
    print(
        f"{figures['cases']} cases of {figures['patients']} patients, {figures['positive_cases']} "
        f"positive; {figures['lesions']} lesions, {figures['found']} found, "
        f"{figures['false_positives']} false positives"
    )
    rows = {"AUROC": figures["auroc"], "AP": figures["ap"], "score": figures["score"]}
    for rate, figure in figures["sensitivity"].items():
        rows[f"sensitivity at {rate} false positives a case"] = figure
    for name, figure in rows.items():
        value = "undefined" if np.isnan(figure["value"]) else f"{figure['value']:.3f}"
        low, high = figure["low"], figure["high"]
        interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        lost = f" ({figure['undefined']} resamples without)" if figure["undefined"] else ""
        print(f"  {name}: {value}{interval}{lost}")
    print(f"  {figures['interval']}; {figures['by']}")
