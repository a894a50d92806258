"""What reaches a network: sizes, orientation, statistics, and files that are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from apps.medical.classification.data import open_labelled
from apps.medical.classification.inputs import (
    BagPreparation,
    ImagePreparation,
    PreparedInputs,
    fit_images,
    read_bag,
)
from core.errors import DataError


def test_pictures_are_normalised_by_the_training_images(pictures: Path) -> None:
    cases = open_labelled(pictures).cases
    preparation = fit_images(cases, 2, 3, (20, 24))
    stack = torch.stack([preparation.read(case.file) for case in cases])
    assert stack.shape == (24, 3, 20, 24)
    torch.testing.assert_close(stack.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(stack.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_shrinking_averages_instead_of_picking(tmp_path: Path) -> None:
    """A pattern finer than the new grid becomes grey."""
    fine = (255 * (np.indices((64, 64)).sum(0) % 2)).astype(np.uint8)
    Image.fromarray(fine).save(tmp_path / "fine.png")
    plain = ImagePreparation(rank=2, channels=1, size=(8, 8), mean=[0.0], std=[1.0])
    small = plain.read(tmp_path / "fine.png")
    assert float(small.std()) < 3
    assert float(small.mean()) == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR"])
def test_volumes_are_turned_to_one_orientation(tmp_path: Path, codes: str) -> None:
    array = np.random.default_rng(0).uniform(1, 9, (12, 10, 8)).astype(np.float32)
    image = nib.Nifti1Image(array, np.eye(4))
    target = nib.orientations.axcodes2ornt(codes)
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
    )
    nib.save(image, tmp_path / "a.nii.gz")
    nib.save(turned, tmp_path / "b.nii.gz")
    preparation = ImagePreparation(rank=3, channels=1, size=(6, 5, 7))
    a, b = (preparation.read(tmp_path / f"{n}.nii.gz") for n in "ab")
    torch.testing.assert_close(a, b)
    assert float(a.mean()) == pytest.approx(0, abs=1e-5)


def test_grey_pictures_fit_colour_models_and_nothing_else_does(tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(tmp_path / "colour.png")
    colour = ImagePreparation(rank=2, channels=3, size=(4, 4), mean=[0.0] * 3, std=[1.0] * 3)
    torch.testing.assert_close(colour.read(tmp_path / "grey.png"), torch.full((3, 4, 4), 7.0))
    with pytest.raises(DataError, match="channel"):
        ImagePreparation(rank=2, channels=1, size=(4, 4)).read(tmp_path / "colour.png")


def test_volumes_with_nan_are_refused(tmp_path: Path) -> None:
    array = np.ones((5, 5, 5), np.float32)
    array[2, 2, 2] = np.nan
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "bad.nii.gz")
    with pytest.raises(DataError, match="NaN"):
        ImagePreparation(rank=3, channels=1, size=(4, 4, 4)).read(tmp_path / "bad.nii.gz")


def test_bags_come_from_either_format(tmp_path: Path) -> None:
    features = torch.randn(5, 3)
    save_file({"features": features, "coords": torch.zeros(5, 2)}, tmp_path / "a.safetensors")
    np.save(tmp_path / "b.npy", features.numpy().astype(np.float64))
    assert torch.equal(read_bag(tmp_path / "a.safetensors"), features)
    assert read_bag(tmp_path / "b.npy").dtype == torch.float32
    with pytest.raises(DataError, match="width 3, the model wants 4"):
        BagPreparation(dim=4).read(tmp_path / "b.npy")


def test_bags_that_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())

    np.save(tmp_path / "pickled.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Trap()))
    np.save(tmp_path / "flat.npy", np.zeros(4, np.float32))
    np.save(tmp_path / "empty.npy", np.zeros((0, 4), np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((2, 4), np.int32))
    np.save(tmp_path / "nan.npy", np.full((2, 4), np.nan, np.float32))
    save_file({"x": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:20])
    for name, said in {
        "pickled.npy": "not a plain NumPy array", "raw.npy": "not a plain NumPy array",
        "flat.npy": "shape", "empty.npy": "shape", "whole.npy": "floating", "nan.npy": "NaN",
        "other.safetensors": "no tensor 'features'", "cut.safetensors": "safetensors",
        "gone.npy": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=said):
            read_bag(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_what_is_read_twice_is_the_same(pictures: Path, monkeypatch) -> None:
    from apps.medical.classification import inputs

    cases = open_labelled(pictures).cases[:3]
    preparation = fit_images(cases, 2, 3, (8, 8))
    kept = PreparedInputs(cases, preparation)
    first = kept[cases[0].id]
    assert kept[cases[0].id] is first
    monkeypatch.setattr(inputs, "CACHE_BYTES", 0)
    again = PreparedInputs(cases, preparation)
    assert again[cases[0].id] is not again[cases[0].id]
    torch.testing.assert_close(again[cases[0].id], first)
