"""The Python interface: what its manual says, and its listing."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import apps.medical as medical
from core.errors import DataError, UsageError


def test_the_manuals_example_runs(root, samples, tmp_path, monkeypatch, capsys):
    manual = (root / "docs" / "python.md").read_text(encoding="utf-8")
    section = manual.partition("## apps.medical")[2].partition("\n## ")[0]
    (tmp_path / "samples").symlink_to(samples)
    monkeypatch.chdir(tmp_path)
    exec(section.split("```python")[1].split("```")[0], {})
    volume, uncertainty = map(float, capsys.readouterr().out.split())
    assert 1 < volume < 3
    assert 0 < uncertainty <= 1
    assert (tmp_path / "hippocampus.png").stat().st_size > 10_000


def test_the_models_are_all_there_is_to_list():
    found = medical.list_models()
    assert found["hippocampus"] == "shipped: swin_unetr in 3-D; anterior, posterior"
    assert found["dynunet"].startswith("to train: DynUNet, 2-D and 3-D; ")
    for name, line in found.items():
        if line.startswith("shipped: "):
            assert medical.load_model(name).spec.network.name in line


def test_a_card_that_is_broken_is_named(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.json").write_text(json.dumps({"app": "medical"}))
    monkeypatch.setenv("TRIPTYCH_WEIGHTS", str(tmp_path))
    with pytest.raises(DataError, match=r"mine.model\.json: is not a model description"):
        medical.list_models()


def test_an_image_file_is_read_with_its_place(samples):
    scan = medical.read(samples / "hippocampus/imagesTr/hippocampus_003.nii.gz")
    assert scan.shape == (34, 52, 35)
    assert scan.spacing == (1.0, 1.0, 1.0)
    picture = medical.read(next((samples / "nuclei/images").iterdir()))
    assert picture.rank == 2
    assert not picture.physical


def test_what_is_not_one_image_is_refused(samples, tmp_path):
    with pytest.raises(UsageError, match="holds 3 images; give the file of one"):
        medical.read(samples / "hippocampus/imagesTr")
    with pytest.raises(DataError, match="no such file"):
        medical.read(tmp_path / "absent.nii.gz")
    with pytest.raises(DataError, match="no such file"):
        medical.read(tmp_path / "absent.zip")
    with pytest.raises(UsageError, match="--series chooses from DICOM"):
        medical.read(samples / "hippocampus/imagesTr/hippocampus_003.nii.gz", series="T1")


def test_labels_are_read_and_held_against_their_image(samples, tmp_path):
    folder = samples / "hippocampus"
    scan = medical.read(folder / "imagesTr/hippocampus_003.nii.gz")
    labels = medical.read_labels(folder / "labelsTr/hippocampus_003.nii.gz", like=scan)
    assert set(np.unique(labels.array)) == {0, 1, 2}
    with pytest.raises(DataError, match="does not lie on the grid of its image"):
        medical.read_labels(folder / "labelsTr/hippocampus_004.nii.gz", like=scan)
    fractions = nib.Nifti1Image(np.full(scan.shape, 0.4, np.float32), scan.affine)
    nib.save(fractions, tmp_path / "soft.nii.gz")
    with pytest.raises(DataError, match="labels are not integers"):
        medical.read_labels(tmp_path / "soft.nii.gz")
    with pytest.raises(DataError, match="no readable DICOM segmentation"):
        medical.read_labels(Path(__file__).with_name("conftest.py"))
    with pytest.raises(DataError, match="no such file"):
        medical.read_labels(folder / "labelsTr/absent.nii.gz")


def test_a_figure_shows_image_and_labels(samples):
    folder = samples / "hippocampus"
    scan = medical.read(folder / "imagesTr/hippocampus_003.nii.gz")
    labels = medical.read_labels(folder / "labelsTr/hippocampus_003.nii.gz").array
    figure = medical.draw_labels(scan, labels, {1: "anterior"}, title="a case")
    assert len(figure.axes) == 3
    drawn, bare = _pixels(figure), _pixels(medical.draw_labels(scan))
    orange = np.array([0xE6, 0x9F, 0x00])  # of label 1
    assert (np.abs(drawn - orange).max(-1) < 40).sum() > 300
    assert (np.abs(bare - orange).max(-1) < 40).sum() == 0
    with pytest.raises(UsageError, match="are they of this image"):
        medical.draw_labels(scan, labels[1:])


def _pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def test_a_data_set_is_audited(samples):
    report = medical.check_dataset(samples / "hippocampus")
    assert report["ok"]
    assert report["cases"] == 3
    with pytest.raises(DataError):
        medical.check_dataset(samples / "absent")
