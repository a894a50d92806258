"""The verb as a person types it, from pictures to verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

QUICK = ("--device", "cpu", "--precision", "float32", "--threads", 1)
TINY = (
    *("--option", "dims=[8, 16]", "--option", "depths=[1, 1]", "--option", "kernel=3"),
    *("--option", "patch=2", "--network", "convnext_t"),
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve dark or bright pictures."""
    root = tmp_path_factory.mktemp("verb") / "data"
    for n in range(12):
        grey = np.random.default_rng(n).integers(0, 60, (16, 16, 3)) + 150 * (n % 2)
        path = root / ("bright" if n % 2 else "dark") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey.astype(np.uint8)).save(path)
    return root


def test_teacher_student_and_verdicts(command, labelled: Path, tmp_path: Path) -> None:
    code, report, _ = command(
        "classify", "train", labelled, "--out", tmp_path / "teacher", *TINY, *QUICK,
        "--size", 16, "--batch", 4, "--max-steps", 5,
    )  # fmt: skip
    assert code == 0
    assert report["folds"][0]["images"]["n"] == 3
    code, report, _ = command(
        "classify", "train", labelled, "--out", tmp_path / "student", *QUICK, "--batch", 4,
        "--network", "deit_xs", "--option", "depth=1", "--option", "patch=8", "--max-steps", 2,
        "--teacher", tmp_path / "teacher", "--distillation", "soft", "--no-mirror",
    )  # fmt: skip
    assert code == 0
    code, report, _ = command(
        "classify", "predict", labelled / "dark", "--model", tmp_path / "student",
        "--out", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert len(report["cases"]) == 6
    assert "Not a medical device" in report["disclaimer"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "predictions.csv", "predictions.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("learn", "DATA", "--out", "OUT"), 2, "action of classify"),
        (("predict", "DATA", "--out", "OUT"), 2, "give --model"),
        (("train", "DATA", "DATA", "--out", "OUT"), 2, "one data set"),
        (("train", "OUT/none", "--out", "OUT"), 3, "no such data set"),
        (("train", "DATA", "--out", "OUT", "--distillation", "loud"), 2, "distillation"),
        (("train", "DATA", "--out", "OUT", "--fold", "7"), 2, "--fold 7"),
        (("train", "DATA", "--out", "OUT", "--teacher", "OUT"), 2, "no trained classifier"),
    ],
)
def test_what_is_refused(command, labelled: Path, tmp_path: Path, arguments, code, said) -> None:
    places = {"DATA": str(labelled), "OUT": str(tmp_path)}
    given = [
        str(a).replace("DATA", places["DATA"]).replace("OUT", places["OUT"]) for a in arguments
    ]
    found, _, errors = command("classify", *given)
    assert found == code
    assert said in errors
