"""`apps.medical.read` and `read_labels` of DICOM, as a notebook uses them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from apps.medical import predict, read, read_labels
from core.errors import DataError, UsageError


def test_a_series_is_read_from_its_folder_and_from_a_zip(series, tmp_path) -> None:
    written = series(tmp_path / "study")
    volume = read(tmp_path / "study")
    assert volume.shape == (40, 36, 20)
    assert np.array_equal(volume.array, written.array)
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "study")
    assert np.array_equal(read(archive).array, written.array)


def test_of_several_series_one_is_named(series, tmp_path) -> None:
    series(tmp_path / "study", description="T1 sagittal", number=1)
    second = series(tmp_path / "study", description="T2 axial", number=2, prefix="B")
    with pytest.raises(UsageError, match="T2 axial"):
        read(tmp_path / "study")
    assert np.array_equal(read(tmp_path / "study", series="t2").array, second.array)


def test_a_segmentation_is_read_onto_its_image(series, model_3d, tmp_path) -> None:
    series(tmp_path / "study")
    (result,) = predict(tmp_path / "study", model_3d, tmp_path / "out", report=False)
    scan = read(tmp_path / "study")
    labels = read_labels(result.folder / "seg.dcm", like=scan)
    same = read_labels(result.folder / "seg.nii.gz", like=scan)
    assert labels.array.any()
    # Segments are numbered from one; the model's own ids are 2 and 5.
    assert np.array_equal(labels.array > 0, same.array > 0)
    series(tmp_path / "other", centre=(9.5, 0, 0))
    with pytest.raises(DataError):
        read_labels(result.folder / "seg.dcm", like=read(tmp_path / "other"))
