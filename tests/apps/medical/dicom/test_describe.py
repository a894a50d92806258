"""`info PATH`: what is listed, as a person and as a script see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from apps.medical.run import app
from core.cli import main

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def study(tmp_path, series) -> Path:
    def scout(dataset, k):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    folder = tmp_path / "study"
    series(folder / "a", (8, 6, 5), number=1, description="scout", edit=scout)
    series(folder / "b", (8, 6, 5), number=2, description="T1 axial", spacing=(1, 2, 3))
    return folder


def test_as_a_script_sees_it(command, study) -> None:
    code, report, errors = command("info", study)
    assert (code, errors) == (0, "")
    scout, good = report["series"]
    assert scout["refusal"].startswith("is a localizer")
    assert (good["title"], good["shape"], good["slices"]) == ("T1 axial", [8, 6, 5], 5)
    assert good["spacing"] == pytest.approx([1, 2, 3])
    assert report["patients"] == 1
    assert "Nobody" not in json.dumps(report)
    assert '"77"' not in json.dumps(report)  # the patient's ID


def test_as_a_person_sees_it(study, capsys) -> None:
    assert main(app, ["info", str(study), "--model", "hippocampus"]) == 0
    out = capsys.readouterr().out
    assert "2 series" in out
    assert "2  T1 axial" in out
    assert "MR, axial, 8 x 6 x 5, 1 x 2 x 3 mm" in out
    assert "cannot be segmented: is a localizer" in out
    assert "hippocampus would take: 'T1 axial'" in out
    assert "Nobody" not in out


def test_patients_are_numbered(tmp_path, series, capsys) -> None:
    series(tmp_path / "a", (8, 6, 5), study=1, patient="SECRET-A")
    series(tmp_path / "b", (8, 6, 5), study=2, patient="SECRET-B")
    assert main(app, ["info", str(tmp_path), "--model", "hippocampus"]) == 0
    out = capsys.readouterr().out
    assert "2 patients" in out
    assert "patient 2: synthetic" in out
    assert "would take: " in out
    assert "holds series of 2 patients" in out
    assert "SECRET" not in out


def test_images_and_nothing(command, write_volume, tmp_path) -> None:
    path = write_volume("a.nii.gz", shape=(5, 6, 7))
    (path.parent / "b.nii.gz").write_bytes(b"\x1f\x8bno")
    code, report, _ = command("info", path.parent)
    assert code == 0
    good, bad = report["images"]
    assert good["shape"] == [5, 6, 7]
    assert "b.nii.gz" in bad["error"]
    assert command("info", path)[1]["images"][0]["shape"] == [5, 6, 7]
    (tmp_path / "empty").mkdir()
    assert command("info", tmp_path / "empty")[0] == 3
    assert command("info", tmp_path / "absent")[0] == 3


def test_a_model_without_a_path(command) -> None:
    assert command("info", "--model", "hippocampus")[0] == 2


def test_info_alone_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['run.py', 'info', '--json'];"
        "from apps.medical.run import app; from core.cli import main; main(app);"
        "heavy = {'numpy', 'torch', 'monai', 'pydicom', 'SimpleITK'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
