"""The real sample cases through the whole data path."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from apps.medical.data.augment import training_transform
from apps.medical.data.check import audit
from apps.medical.data.datasets import Dataset, open_dataset
from apps.medical.data.plan import fingerprint, make_plan
from apps.medical.data.preprocess import load_sample, restore
from apps.medical.data.targets import instances_from_classes, instances_to_classes
from apps.medical.data.volume import read_image, write_label_like
from core.errors import DataError

SAMPLES = Path(__file__).parents[4] / "samples"


def opened(name: str) -> Dataset:
    if not (SAMPLES / name).is_dir():
        pytest.skip(f"samples/{name} is not here")
    return open_dataset(SAMPLES / name)


@pytest.mark.parametrize("name", ["hippocampus", "nuclei"])
def test_samples_are_sound_and_labels_come_back_exactly(name: str) -> None:
    dataset = opened(name)
    assert audit(dataset)["ok"]
    plan = make_plan(dataset, fingerprint(dataset))
    for case in dataset.cases[:3]:
        sample, prepared = load_sample(dataset, case, plan)
        stored = dataset.read_label(case).array
        np.testing.assert_array_equal(restore(sample["label"][0], prepared), stored)
        assert np.abs(sample["image"].mean(axis=tuple(range(1, plan.rank + 1)))).max() < 0.2
        patch = training_transform(plan)(sample, 0)
        assert list(patch["image"].shape[1:]) == plan.patch


def test_nuclei_survive_the_three_class_target() -> None:
    dataset = opened("nuclei")
    recovered, total = 0, 0
    for case in dataset.cases[:6]:
        ids = dataset.read_label(case).array
        back = instances_from_classes(instances_to_classes(ids), min_size=1)
        np.testing.assert_array_equal(back > 0, ids > 0)
        for number in np.unique(ids)[1:]:
            mask = ids == number
            other = back == np.bincount(back[mask]).argmax()
            recovered += (mask & other).sum() / (mask | other).sum() > 0.5
            total += 1
    assert recovered / total > 0.98


def test_odd_nifti_files(tmp_path: Path) -> None:
    folder = SAMPLES / "odd"
    files = sorted(folder.glob("*.nii.gz")) if folder.is_dir() else []
    if not files:
        pytest.skip("samples/odd is not here")
    for file in files:
        header = nib.load(file)
        if len(header.shape) > 3:
            with pytest.raises(DataError, match="time"):
                read_image(file)
            continue
        volume = read_image(file)
        np.testing.assert_allclose(volume.array, header.get_fdata(dtype=np.float32), rtol=1e-6)
        path = write_label_like(
            volume, np.zeros(volume.shape, np.uint8), tmp_path / f"seg-{file.name}"
        )
        assert nib.load(path).affine.tobytes() == header.affine.tobytes()
