"""Grey windows: the file's own first, CT's where values are Hounsfield units, percentiles otherwise."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from apps.medical.data.volume import Volume, read_image
from apps.medical.overlay import thinned
from apps.medical.windowing import CT, Window, value_range, windows_of


def volume(array: np.ndarray, physical: bool = True) -> Volume:
    return Volume(
        array=array,
        affine=np.eye(4),
        spacing=(1.0,) * array.ndim,
        rank=array.ndim,
        path=Path("x.nii.gz"),
        physical=physical,
    )


def test_a_window_is_its_middle_and_its_width() -> None:
    assert Window("bone", 400, 1800).limits == (-500, 1300)
    between = Window.between("x", -50.0, 150.0)
    assert (between.level, between.width) == (50, 200)
    assert Window.between("flat", 3.0, 3.0).width > 0


def test_magnetic_resonance_gets_percentiles_and_everything() -> None:
    array = np.random.default_rng(0).uniform(10, 900, (20, 20, 20)).astype(np.float32)
    array[0, 0, 0] = 90_000  # one hot voxel
    automatic, everything = windows_of(volume(array))
    assert automatic.name == "Automatic"
    assert 0 < automatic.limits[0] < 40
    assert 850 < automatic.limits[1] < 950
    assert everything.limits[1] == 90_000


def test_hounsfield_units_get_the_windows_of_ct() -> None:
    array = np.random.default_rng(0).integers(-1000, 1200, (12, 12, 12)).astype(np.int16)
    names = [window.name for window in windows_of(volume(array))]
    assert names[: len(CT)] == [window.name for window in CT]
    assert names[0] == "CT soft tissue"
    assert "Automatic" in names
    pictured = [window.name for window in windows_of(volume(array, physical=False))]
    assert not any(name.startswith("CT") for name in pictured)


def test_a_nifti_files_display_range_comes_first(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    image.header["cal_min"], image.header["cal_max"] = 10, 30
    nib.save(image, tmp_path / "a.nii.gz")
    first = windows_of(read_image(tmp_path / "a.nii.gz"))[0]
    assert (first.name, *first.limits) == ("As the file says", 10, 30)
    image.header["cal_min"], image.header["cal_max"] = 30, 10
    nib.save(image, tmp_path / "b.nii.gz")
    assert windows_of(read_image(tmp_path / "b.nii.gz"))[0].name == "Automatic"


def test_values_that_are_not_numbers_are_left_out() -> None:
    array = np.full((3, 3, 3), np.nan, np.float32)
    assert value_range(array) == (0.0, 1.0)
    array[0] = 5
    assert value_range(array) == (5.0, 6.0)
    array[1] = np.inf
    array[2, 0] = -2
    assert value_range(array) == (-2.0, 5.0)
    assert all(np.isfinite([*w.limits]).all() for w in windows_of(volume(array)))


def test_large_arrays_are_thinned_evenly_and_small_ones_not_at_all() -> None:
    small = np.zeros((64, 64, 64), np.uint8)
    assert thinned(small).shape == small.shape
    large = np.broadcast_to(np.uint8(1), (512, 512, 400))
    shape = thinned(large).shape
    assert np.prod(shape) < 6e6
    assert shape == tuple(-(-n // 3) for n in large.shape)


def test_each_channel_has_its_own() -> None:
    array = np.stack([np.full((4, 4, 4), 10.0), np.linspace(100, 200, 64).reshape(4, 4, 4)])
    channels = Volume(
        array=array, affine=np.eye(4), spacing=(1.0, 1.0, 1.0), rank=3, path=Path("x.nii.gz")
    )
    assert windows_of(channels, 1)[-1].limits == (100, 200)
    assert windows_of(channels, 0)[-1].limits == (10, 11)
