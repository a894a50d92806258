"""AP, AUROC and FROC: picai_eval's own maps and functions, and intervals over patients."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from apps.medical.detection.metrics import (
    Scored,
    Table,
    case_patient,
    difference,
    pair_files,
    score_cases,
    score_folders,
)
from core.errors import DataError

picai_eval = pytest.importorskip("picai_eval")


def cases(count: int = 24, seed: int = 0, patients: int | None = None) -> list[Scored]:
    """Random boxes as candidates and lesions, some of them together, with tied confidences."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        detection = np.zeros((24, 24, 8), np.float32)
        reference = np.zeros_like(detection, dtype=np.int32)
        for column in range(3):
            x, y = 8 * column, random.integers(0, 16)
            if random.random() < 0.3:
                reference[x : x + 4, y : y + 5, 2:6] = random.integers(2, 6)
            if random.random() < 0.5:
                detection[x : x + 4, y + 1 : y + 6, 3:7] = np.round(random.random(), 1) or 0.05
        name = f"{number % patients if patients else number:05d}"
        made.append(
            Scored(
                case=f"{name}_{number:07d}", patient=name, detection=detection, reference=reference
            )
        )
    return made


def theirs(given: list[Scored]):
    return picai_eval.evaluate(
        y_det=[c.detection for c in given],
        y_true=[(c.reference > 0).astype(np.int32) for c in given],
        subject_list=[c.case for c in given],
        num_parallel_calls=1,
    )


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_picai_eval(seed) -> None:
    given = cases(seed=seed)
    ours, reference = score_cases(given, resamples=0), theirs(given)
    assert ours["auroc"]["value"] == reference.auroc
    assert ours["ap"]["value"] == reference.AP
    assert ours["score"]["value"] == reference.score
    assert ours["lesions"] == reference.num_lesions
    for rate, figure in ours["sensitivity"].items():
        assert figure["value"] == reference.lesion_TPR_at_FPR(float(rate))


@pytest.mark.parametrize("seed", range(4))
def test_the_quick_figures_of_a_resample_are_those_of_picai_eval(seed) -> None:
    """Counting a case twice is having it twice, whatever the figure."""
    given = cases(16, seed)
    reference = theirs(given)
    table = Table.of(reference.lesion_results, reference.case_pred)
    names = list(reference.lesion_results)
    for draw in range(6):
        picked = np.random.default_rng(draw).integers(16, size=16)
        weight = np.bincount(picked, minlength=16).astype(float)
        sample = picai_eval.Metrics(
            lesion_results={
                f"{i}": reference.lesion_results[names[p]] for i, p in enumerate(picked)
            },
            case_pred={f"{i}": reference.case_pred[names[p]] for i, p in enumerate(picked)},
        )
        assert table.ap(weight) == pytest.approx(sample.AP, abs=1e-12)
        assert table.auroc(weight) == pytest.approx(sample.auroc, abs=1e-12, nan_ok=True)
        rates = (0.1, 0.3, 0.5, 1.0)
        wanted = [sample.lesion_TPR_at_FPR(rate) for rate in rates]
        assert table.sensitivity(weight, rates) == pytest.approx(wanted, abs=1e-6)


def test_the_ten_published_maps_are_reproduced_exactly() -> None:
    """DIAGNijmegen/picai_eval tests/test-maps against its tests/output-expected, bit for bit."""
    place = os.environ.get("TRIPTYCH_PICAI_EVAL_TESTS")
    if not place:
        pytest.skip("TRIPTYCH_PICAI_EVAL_TESTS does not name picai_eval's folder tests/")
    folder = Path(place)
    wanted = json.loads((folder / "output-expected" / "metrics-full-expected.json").read_text())
    ours = score_folders(folder / "test-maps", folder / "test-maps", resamples=50)
    assert ours["cases"] == wanted["num_cases"] == 10
    assert ours["auroc"]["value"] == wanted["auroc"]
    assert ours["ap"]["value"] == wanted["AP"]
    assert ours["lesions"] == wanted["num_lesions"]
    assert {c: row["score"] for c, row in ours["per_case"].items()} == wanted["case_pred"]
    for case, lesions in wanted["lesion_results"].items():
        row = ours["per_case"][case]
        assert row["results"] == lesions
        assert row["positive"] == bool(wanted["case_target"][case])
    assert (ours["found"], ours["false_positives"], ours["lesions"]) == (5, 4, 10)


def boxes(*spans: tuple[int, int, float], width: int = 3) -> np.ndarray:
    """Bars along x from ``start`` to ``stop`` with a value."""
    out = np.zeros((30, 9, 5), np.float32)
    for start, stop, value in spans:
        out[start:stop, 3 : 3 + width, 1:4] = value
    return out


def test_a_case_by_hand() -> None:
    """A hit, a miss, a false positive; a second candidate on the lesion counts neither way."""
    reference = boxes((0, 10, 2), (16, 22, 3))
    detection = boxes((0, 4, 0.9), (6, 10, 0.8), (26, 29, 0.6))
    row = score_cases([Scored(case="a", detection=detection, reference=reference)], resamples=0)
    assert row["lesions"] == 2
    assert row["found"] == 1
    assert row["false_positives"] == 1
    case = row["per_case"]["a"]
    assert [(t, round(c, 6)) for t, c, _ in case["results"]] == [(1, 0.9), (1, 0), (0, 0.6)]
    assert case["score"] == pytest.approx(0.9)
    # precision 1 up to recall 1/2; the missed lesion never counts
    assert row["ap"]["value"] == 0.5
    assert np.isnan(row["auroc"]["value"])  # no negative case


def test_overlap_below_a_tenth_is_a_miss_and_a_false_positive() -> None:
    reference, detection = boxes((0, 10, 1)), boxes((9, 19, 0.7))  # IoU 1/19
    row = score_cases([Scored(case="a", detection=detection, reference=reference)], resamples=0)
    assert (row["found"], row["false_positives"]) == (0, 1)
    detection = boxes((8, 18, 0.7))  # IoU 2/18
    row = score_cases([Scored(case="a", detection=detection, reference=reference)], resamples=0)
    assert (row["found"], row["false_positives"]) == (1, 0)


def test_perfect_and_empty_detections() -> None:
    references = [boxes((0, 10, 1)), boxes(), boxes((5, 9, 1))]
    perfect = [
        Scored(case=str(i), detection=np.sign(r) * 0.5, reference=r)
        for i, r in enumerate(references)
    ]
    good = score_cases(perfect, resamples=200)
    assert (good["auroc"]["value"], good["ap"]["value"]) == (1, 1)
    assert good["auroc"]["low"] == good["auroc"]["high"] == 1
    assert good["auroc"]["undefined"] > 0  # resamples without a negative case, not hidden
    none = [Scored(case=c.case, detection=0 * c.detection, reference=c.reference) for c in perfect]
    bad = score_cases(none, resamples=0)
    assert (bad["auroc"]["value"], bad["ap"]["value"], bad["found"]) == (0.5, 0, 0)
    healthy = score_cases([Scored(case="a", detection=boxes(), reference=boxes())], resamples=0)
    assert np.isnan(healthy["ap"]["value"])


def test_intervals_hold_the_value_and_are_reproducible() -> None:
    given = cases(40, patients=40)
    first, again = score_cases(given, seed=3), score_cases(given, seed=3)
    for figure in ("auroc", "ap", "score"):
        assert first[figure] == again[figure]
        assert first[figure]["low"] < first[figure]["value"] < first[figure]["high"]
    assert score_cases(given, seed=4)["ap"]["low"] != first["ap"]["low"]


def test_studies_of_one_patient_stay_together() -> None:
    """Every case four times under one patient tells no more than once: the interval stays."""
    given = cases(20, patients=20)
    fourfold = [
        Scored(case=f"{c.case}{k}", patient=c.patient, detection=c.detection, reference=c.reference)
        for k in range(4)
        for c in given
    ]
    one, four = score_cases(given), score_cases(fourfold)
    assert four["patients"] == one["patients"] == 20
    assert four["cases"] == 80
    width = {name: r["ap"]["high"] - r["ap"]["low"] for name, r in (("1", one), ("4", four))}
    assert width["4"] == pytest.approx(width["1"], rel=0.05)
    lone = score_cases([c for c in given if c.patient == "00003"])
    assert lone["ap"]["low"] is None  # one patient: nothing to resample


def test_a_difference_is_paired() -> None:
    """Both detectors see the same resamples: one against itself differs by nothing, ever."""
    given = cases(30, patients=30)
    good = score_cases(given)
    same = difference(good, good)
    assert same["ap"] == {"value": 0, "low": 0, "high": 0, "undefined": 0}
    worse = score_cases(
        [
            Scored(
                case=c.case, patient=c.patient, reference=c.reference,
                detection=c.detection * (i % 3 > 0),
            )
            for i, c in enumerate(given)
        ]
    )  # fmt: skip
    paired = difference(good, worse)
    for name in ("ap", "auroc"):
        assert paired[name]["value"] == pytest.approx(good[name]["value"] - worse[name]["value"])
        assert paired[name]["low"] <= paired[name]["value"] <= paired[name]["high"]
    width = paired["ap"]["high"] - paired["ap"]["low"]
    assert width < good["ap"]["high"] - good["ap"]["low"]  # hard cases are hard for both
    with pytest.raises(DataError, match="different cases"):
        difference(good, score_cases(given[:20]))


def test_a_picture_is_a_volume_of_one_slice() -> None:
    reference = np.zeros((20, 20), np.int32)
    reference[2:8, 2:8] = 1
    row = score_cases([Scored(case="a", detection=reference * 0.5, reference=reference)])
    assert (row["found"], row["lesions"]) == (1, 1)


@pytest.mark.parametrize(
    ("detection", "words"),
    [
        (np.random.default_rng(0).random((6, 6, 6)), "not a detection map"),
        (np.zeros((6, 6, 5)), "shape"),
        (-np.ones((6, 6, 6)), "0 or more"),
        (np.full((6, 6, 6), np.nan), "finite"),
        (np.zeros((2, 6, 6, 6)), "want a picture or a volume"),
    ],
)
def test_bad_maps_are_named(detection, words) -> None:
    with pytest.raises(DataError, match=f"^lone: .*{words}"):
        score_cases([Scored(case="lone", detection=detection, reference=np.zeros((6, 6, 6)))])


def test_a_case_counts_once() -> None:
    case = cases(1)[0]
    with pytest.raises(DataError, match="given twice"):
        score_cases([case, case])
    with pytest.raises(DataError, match="no case"):
        score_cases([])


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def test_folders_are_paired_by_case(tmp_path) -> None:
    given = cases(6, patients=3)
    for case in given[:3]:
        save(tmp_path / "maps" / case.case / "detection_map.nii.gz", case.detection)
        save(tmp_path / "maps" / case.case / "probability.nii.gz", case.detection)
    for case in given[3:]:
        save(tmp_path / "maps" / f"{case.case}_detection_map.nii.gz", case.detection)
    for case in given:
        save(tmp_path / "refs" / f"{case.case}.nii.gz", case.reference.astype(np.uint8))
    ours = score_folders(tmp_path / "maps", tmp_path / "refs", resamples=20)
    assert ours["patients"] == 3
    assert ours["ap"]["value"] == theirs(given).AP


def test_folders_that_do_not_match_are_named(tmp_path) -> None:
    maps, references = tmp_path / "maps", tmp_path / "refs"
    array = np.zeros((5, 5, 5), np.float32)
    save(maps / "one_detection_map.nii.gz", array)
    save(references / "one.nii.gz", array.astype(np.uint8))
    save(references / "two.nii.gz", array.astype(np.uint8))
    with pytest.raises(DataError, match=r"two\.nii\.gz: no detection map of case two"):
        pair_files(maps, references)
    assert list(pair_files(maps, references, allow_missing=True)) == ["one"]
    (references / "two.nii.gz").unlink()
    save(maps / "three.nii.gz", array)
    with pytest.raises(DataError, match=r"three\.nii\.gz: no reference of case three"):
        pair_files(maps, references, allow_missing=True)
    (maps / "three.nii.gz").unlink()
    moved = np.eye(4)
    moved[0, 3] = 5
    save(references / "one.nii.gz", array.astype(np.uint8), moved)
    with pytest.raises(DataError, match="not on the grid"):
        score_folders(maps, references)
    with pytest.raises(DataError, match="no such folder"):
        score_folders(tmp_path / "gone", references)


def test_patients_are_read_from_names() -> None:
    assert case_patient("10417_1000424") == "10417"
    assert case_patient("prostate_7") == "prostate_7"
