"""The verbs as scripts call them: exit codes, one JSON object, files where they are promised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from apps.medical.run import app
from core.cli import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> tuple[int, dict, str]:
        code = main(app, [str(argument) for argument in (*arguments, "--json")])
        captured = capsys.readouterr()
        return code, json.loads(captured.out), captured.err

    return call


@pytest.fixture
def references(tmp_path: Path, write_volume) -> Path:
    """Labels of two cases: front where the image is dark, back where it is bright."""
    folder = tmp_path / "ref"
    folder.mkdir()
    for seed, name in enumerate(("one", "two")):
        image = nib.load(write_volume(f"{name}.nii.gz", seed=seed))
        values = image.get_fdata()
        labels = np.where(values < 80, 2, np.where(values > 130, 5, 0)).astype(np.uint8)
        nib.save(nib.Nifti1Image(labels, image.affine), folder / f"{name}.nii.gz")
    return folder


def test_predict_and_evaluate(run, tmp_path, model_3d, references) -> None:
    out, metrics = tmp_path / "out", tmp_path / "metrics.json"
    code, report, _ = run("predict", tmp_path / "in", "--model", model_3d, "--out", out)
    assert code == 0
    assert [case["status"] for case in report["cases"]] == ["done", "done"]
    for case in ("one", "two"):
        names = {file.name for file in (out / case).iterdir()}
        assert names == {
            *("seg.nii.gz", "uncertainty.nii.gz", "stats.json", "overlay.png"),
            *("report.html", "report.pdf", "manifest.json"),
        }
    code, result, _ = run("evaluate", "--pred", out, "--ref", references, "--out", metrics)
    assert code == 0
    assert json.loads(metrics.read_text())["labels"] == result["labels"]
    assert set(result["labels"]) == {"front", "back", "mean of labels"}
    code, _, _ = run("evaluate", "--pred", out, "--ref", references, "--out", metrics)
    assert code == 2


def test_one_bad_input_gives_exit_code_3_and_lists_both(run, tmp_path, model_3d, references):
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"\x1f\x8bnonsense")
    code, report, errors = run(
        "predict", tmp_path / "in", "--model", model_3d, "--out", tmp_path / "out"
    )
    assert code == 3
    assert (report["done"], report["failed"]) == (2, 1)
    assert errors.startswith("error: ")
    assert "bad.nii.gz" in errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "nothing-like-it"], 2, "unknown model"),
        (["--mem-limit", "12"], 2, "such as 500MB"),
        (["--mem-limit", "1KB"], 4, "give at least"),
        (["--device", "tpu"], 2, "unknown device"),
        (["--overlap", "1.5"], 2, "overlap"),
    ],
)
def test_wrong_options(run, tmp_path, model_3d, write_volume, arguments, code, message) -> None:
    path = write_volume()
    given = ["--model", str(model_3d), *arguments]
    got, report, _ = run("predict", path, "--out", tmp_path / "out", *given)
    assert got == code
    assert message in report["error"]["message"]
    assert not (tmp_path / "out" / "case").exists()


def test_people_get_text(tmp_path, model_3d, write_volume, capsys) -> None:
    path = str(write_volume())
    arguments = [
        "predict",
        path,
        "--model",
        str(model_3d),
        "--out",
        str(tmp_path / "out"),
        "--fast",
    ]
    assert main(app, arguments) == 0
    text = capsys.readouterr().out
    assert "front, " in text
    assert " mL" in text
    assert "--fast" in text
    assert "Not a medical device" in text
    shutil.rmtree(tmp_path / "out")
