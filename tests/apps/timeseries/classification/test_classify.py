"""The whole way: what is learned comes from training cases alone, and survives on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.timeseries.classification.classify import (
    Scale,
    _split,
    classify,
    load,
    wilson,
)
from apps.timeseries.classification.ts_files import Cases
from core.errors import DataError, UsageError

QUICK: dict[str, Any] = {
    "per_class": 3,
    "dim": 16,
    "generic_dim": 8,
    "ffn": 16,
    "epochs": 25,
    "rate": 5e-3,
    "dropout": 0.0,
}


def made(
    seed: int, n: int = 24, lengths: tuple[int, int] = (24, 40), missing: bool = False
) -> Cases:
    """Noise of 2 channels and unequal lengths; class "b" has a tooth in the second."""
    rng = np.random.default_rng(seed)
    series, labels = [], []
    for i in range(n):
        values = 5.0 + 0.2 * rng.normal(size=(2, int(rng.integers(lengths[0], lengths[1] + 1))))
        label = "ab"[i % 2]
        if label == "b":
            at = int(rng.integers(8, 12))
            values[1, at : at + 6] += [0, 2, 4, -4, -2, 0]
        if missing:
            values[0, 3:5] = np.nan
        series.append(values)
        labels.append(label)
    return Cases("made", tuple(series), tuple(labels), ("a", "b"))


def relabelled(cases: Cases, labels: tuple[str, ...]) -> Cases:
    return Cases(cases.name, cases.series, labels, cases.classes)


def write_ts(path: Path, cases: Cases) -> Path:
    lines = ["@problemName made", "@classLabel true " + " ".join(cases.classes), "@data"]
    for values, label in zip(cases.series, cases.labels):
        rows = [",".join("?" if np.isnan(v) else repr(float(v)) for v in row) for row in values]
        lines.append(":".join([*rows, label]))
    path.write_text("\n".join(lines))
    return path


def test_learns_what_was_planted_and_reports_beside_baselines(tmp_path: Path) -> None:
    train, test = write_ts(tmp_path / "a.ts", made(0, missing=True)), made(1, missing=True)
    report = classify(train, write_ts(tmp_path / "b.ts", test), tmp_path / "model", **QUICK)
    scores = report["scores"]
    assert scores["accuracy"] >= 0.9
    assert scores["accuracy_interval_95"][0] < scores["accuracy"]
    assert np.sum(scores["confusion"]) == scores["cases"] == 24
    assert set(scores["recall"]) == {"a", "b"}
    assert report["baselines"]["majority"] == 0.5
    assert report["baselines"]["nearest_euclidean"] is None  # lengths differ
    assert 0.5 <= report["baselines"]["nearest_warping"] <= 1.0
    assert report["train"]["fitted"] + report["train"]["held_back"] == 24
    assert report["train"]["missing"] == 48
    assert len(report["train"]["sha256"]) == 64
    assert any(s["class"] == "b" and s["channel"] == 1 for s in report["shapelets"])
    assert json.loads((tmp_path / "model" / "report.json").read_text()) == report


def test_a_model_folder_gives_the_same_answers(tmp_path: Path) -> None:
    train, test = made(0), made(1)
    report = classify(train, test, tmp_path / "model", **QUICK)
    model = load(tmp_path / "model")
    right = np.mean([a == b for a, b in zip(model.predict(test), test.labels)])
    assert right == report["scores"]["accuracy"]
    probabilities = model.probabilities(test)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    # Longer series than any of training, and one case alone.
    assert len(model.predict(made(2, n=4, lengths=(60, 80)))) == 4
    one = model.probabilities(test.take(np.array([3])))
    np.testing.assert_allclose(one[0], probabilities[3], atol=1e-5)
    with pytest.raises(UsageError, match="--force"):
        classify(train, None, tmp_path / "model", **QUICK)
    classify(train, None, tmp_path / "model", force=True, **{**QUICK, "epochs": 1})


def test_test_labels_reach_nothing_but_the_scores(tmp_path: Path) -> None:
    train, test = made(0), made(1)
    shuffled = relabelled(test, tuple(np.random.default_rng(0).permutation(test.labels)))
    one = classify(train, test, tmp_path / "one", **QUICK)
    two = classify(train, shuffled, tmp_path / "two", **QUICK)
    assert one["scores"] != two["scores"]
    for report in (one, two):
        for key in ("scores", "baselines", "seconds", "seconds_of"):
            report.pop(key)
    assert one == two
    tensors = [(tmp_path / k / "model.safetensors").read_bytes() for k in ("one", "two")]
    assert tensors[0] == tensors[1]
    # Without any test file the model is the same.
    classify(train, None, tmp_path / "three", **QUICK)
    assert (tmp_path / "three" / "model.safetensors").read_bytes() == tensors[0]


def test_shapelets_and_scaling_come_from_what_was_not_held_back(tmp_path: Path) -> None:
    train = made(0)
    held, kept = _split(train, 0.2, 0)
    changed = list(train.series)
    for i in held:
        changed[i] = 100.0 * changed[i]
    other = Cases(train.name, tuple(changed), train.labels, train.classes)
    reports = [classify(c, **{**QUICK, "epochs": 1}) for c in (train, other)]
    assert reports[0]["shapelets"] == reports[1]["shapelets"]
    assert reports[0]["validation"]["loss"] != reports[1]["validation"]["loss"]
    scales = [Scale.of_cases(c.take(kept)) for c in (train, other)]
    np.testing.assert_array_equal(scales[0].mean, scales[1].mean)


def test_split_holds_back_of_every_class() -> None:
    train = made(0, n=21)
    held, kept = _split(train, 0.25, 3)
    assert sorted([*held, *kept]) == list(range(21))
    labels = np.array(train.labels)
    assert (labels[held] == "a").sum() == 3
    assert (labels[held] == "b").sum() == 2
    assert not np.array_equal(held, _split(train, 0.25, 4)[0])


def test_missing_values_are_filled_along_time() -> None:
    values = np.array([[np.nan, 1.0, np.nan, 3.0, np.nan], [np.nan] * 5])
    cases = Cases("x", (values, np.ones((2, 3))), ("a", "b"), ("a", "b"))
    arrays, lengths = Scale(np.zeros(2), np.ones(2)).arrays(cases)
    assert lengths.tolist() == [5, 3]
    assert arrays[0].tolist() == [[1, 1, 2, 3, 3], [0] * 5]
    assert arrays[1].tolist() == [[1, 1, 1, 0, 0]] * 2
    assert Scale.of_cases(cases).std.tolist()[1] == 1.0


def test_wilson() -> None:
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)
    # Newcombe 1998, table I: 81 of 263.
    np.testing.assert_allclose(wilson(81, 263), (0.2553, 0.3662), atol=1e-4)


@pytest.mark.parametrize(
    ("train", "test", "options", "kind", "message"),
    [
        (made(0), None, {"per_clas": 3}, UsageError, "per_class"),
        (made(0), None, {"epochs": 0}, UsageError, "epochs"),
        (made(0), None, {"dropout": 1.0}, UsageError, "dropout"),
        (made(0), None, {"validation": 1.0}, UsageError, "share of the training cases"),
        (made(0, n=2), None, {}, DataError, "held back"),
        (relabelled(made(0), ("a",) * 24), None, {}, DataError, "two classes"),
        (
            Cases("flat", (np.ones((1, 9)),) * 8, ("a", "b") * 4, ("a", "b")),
            None,
            {},
            DataError,
            "no stretch",
        ),
        (
            made(0),
            Cases("other", (np.ones((3, 9)),), ("a",), ("a",)),
            {},
            DataError,
            "3 channels",
        ),
        (
            made(0),
            Cases("other", (np.ones((2, 9)),), ("c",), ("c",)),
            {},
            DataError,
            "class c",
        ),
    ],
)
def test_mistakes_are_explained(
    train: Cases, test: Cases | None, options: dict[str, Any], kind: type, message: str
) -> None:
    with pytest.raises(kind, match=message) as error:
        classify(train, test, **{**QUICK, "epochs": 1, **options})
    assert "\n" not in str(error.value)


def test_folders_of_another_kind_are_refused(tmp_path: Path) -> None:
    classify(made(0), None, tmp_path / "m", **{**QUICK, "epochs": 1})
    path = tmp_path / "m" / "model.json"
    spec = json.loads(path.read_text())
    for change, message in [
        ({"task": "forecast"}, "no classifier"),
        ({"format": 2}, "schema version 2"),
        ({"network": {"channels": 2}}, "missing .* argument"),
    ]:
        path.write_text(json.dumps(spec | change))
        with pytest.raises(DataError, match=message):
            load(tmp_path / "m")
    with pytest.raises(UsageError, match="no such model"):
        load(tmp_path / "none")


@pytest.mark.slow
def test_basic_motions(samples: Path) -> None:
    paths = [samples / f"basicmotions/BasicMotions_{part}.ts" for part in ("TRAIN", "TEST")]
    report = classify(*paths)
    assert report["scores"]["accuracy"] >= 0.85
    assert report["scores"]["accuracy"] > report["baselines"]["nearest_euclidean"]
    assert report["baselines"]["majority"] == 0.25
