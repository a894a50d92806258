"""An image before it is segmented: the same words that the report has afterwards."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from apps.medical.data.volume import read_image
from apps.medical.intake import fit, image_facts
from core.errors import DataError


def test_facts_of_a_volume_and_a_picture(samples) -> None:
    mr = read_image(samples / "hippocampus" / "imagesTr" / "hippocampus_003.nii.gz")
    facts = dict(image_facts([mr]))
    assert facts["Grid"] == "34 × 52 × 35 voxels"
    assert facts["Voxel"] == "1 × 1 × 1 mm"
    assert facts["Axes towards"] == "RAS"
    picture = read_image(sorted((samples / "nuclei" / "images").iterdir())[0])
    facts = dict(image_facts([picture]))
    assert facts["Channels"] == "3"
    assert "Voxel" not in facts


def test_a_series_says_its_modality_and_not_its_patient(dicom_series) -> None:
    from apps.medical.dicom.series import list_series
    from apps.medical.dicom.volume import read_series

    facts = dict(image_facts([read_series(list_series(dicom_series)[0])]))
    assert (facts["Modality"], facts["Body part"]) == ("MR", "brain")
    assert "Nobody" not in str(facts)


def test_prediction_repeats_what_was_told_before(
    make_plan, model_3d, write_volume, tmp_path
) -> None:
    from apps.medical import predict

    path = write_volume(affine=np.diag([4.0, 0.9, 0.9, 1.0]))
    found = fit([read_image(path)], make_plan())
    assert any("anisotropic" in text for text in found.unlike)
    (result,) = predict([path], model_3d, tmp_path / "out")
    assert result.warnings[: len(found.unlike)] == found.unlike


def test_what_a_model_cannot_take_is_refused(make_plan, write_volume) -> None:
    plan = make_plan()
    flat = write_volume("flat.nii.gz")
    nib.save(nib.Nifti1Image(np.full((5, 5, 5), 7, np.int16), np.eye(4)), flat)
    with pytest.raises(DataError, match="every voxel is 7"):
        fit([read_image(flat)], plan)
    holes = write_volume("holes.nii.gz", dtype=np.float32)
    image = nib.load(holes)
    values = image.get_fdata(dtype=np.float32).copy()
    values[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), holes)
    with pytest.raises(DataError, match="1 NaN"):
        fit([read_image(holes)], plan)
    mended = fit([read_image(holes)], plan, repair=True)
    assert any("1 NaN or infinite voxels were replaced" in note for note in mended.notes)
    with pytest.raises(DataError, match="3-D model"):
        fit([read_image(write_volume("thin.nii.gz", shape=(9, 9)))], plan)
