from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from apps.medical.data.volume import (
    case_name,
    is_volume_file,
    peek,
    read_image,
    read_label,
    same_grid,
    write_label_like,
)
from core.errors import DataError, ResourceError, UsageError

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([0.7, 0.9, 2.5]), [-31.5, 12.25, 7.0]
)


def itk_image(shape_xyz=(5, 6, 7), spacing=(0.7, 0.9, 2.5), angle=0.3) -> sitk.Image:
    array = np.arange(np.prod(shape_xyz), dtype=np.int16).reshape(shape_xyz)
    image = sitk.GetImageFromArray(array.T.copy())  # ITK's arrays are (z, y, x)
    image.SetSpacing(spacing)
    image.SetOrigin((10.1, -20.2, 30.3))
    c, s = np.cos(angle), np.sin(angle)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    return image


# Geometry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
def test_itk_lps_becomes_ras_and_array_order_becomes_xyz(tmp_path: Path, suffix: str) -> None:
    image = itk_image()
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image, str(path))
    volume = read_image(path)
    assert volume.shape == image.GetSize()
    assert peek(path).shape == image.GetSize()
    for index in [(0, 0, 0), (4, 5, 6), (1, 3, 2)]:
        assert volume.array[index] == image.GetPixel(*index)
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        ras = (volume.affine @ [*index, 1])[:3]
        np.testing.assert_allclose(ras, lps * [-1, -1, 1], atol=1e-9)
    np.testing.assert_allclose(volume.spacing, image.GetSpacing())


def test_nibabel_and_simpleitk_agree_on_the_same_nifti_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(itk_image(), str(path))
    ours, theirs = read_image(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(ours.array, sitk.GetArrayFromImage(theirs).T)
    lps = np.array(theirs.TransformIndexToPhysicalPoint((4, 5, 6)))
    np.testing.assert_allclose((ours.affine @ [4, 5, 6, 1])[:3], lps * [-1, -1, 1], atol=1e-4)


def test_oblique_spacing_is_the_column_norm_not_the_diagonal(save_nifti) -> None:
    volume = read_image(save_nifti("a.nii", np.zeros((4, 5, 6), np.int16), OBLIQUE))
    np.testing.assert_allclose(volume.spacing, (0.7, 0.9, 2.5), rtol=1e-6)
    assert abs(volume.affine[0, 0]) < 0.7  # the diagonal would be wrong


@pytest.mark.parametrize("name", ["anatomical.nii", "reoriented_anat_moved.nii", "standard.nii.gz"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_labels_written_like_nifti_keep_every_geometry_byte(
    nibabel_file, tmp_path: Path, name: str, suffix: str
) -> None:
    reference = read_image(nibabel_file(name))
    labels = (np.arange(reference.array.size) % 3).reshape(reference.shape)
    path = write_label_like(reference, labels, tmp_path / f"seg{suffix}")
    before, after = nib.load(nibabel_file(name)), nib.load(path)
    assert before.affine.tobytes() == after.affine.tobytes()
    geometry = "sform_code qform_code srow_x srow_y srow_z quatern_b quatern_c quatern_d qoffset_x"
    for key in f"{geometry} qoffset_y qoffset_z xyzt_units".split():
        np.testing.assert_array_equal(before.header[key], after.header[key], err_msg=key)
    assert before.header["pixdim"][:4].tolist() == after.header["pixdim"][:4].tolist()
    assert after.shape == before.shape
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), labels)


def test_oblique_4d_reference_gives_a_3d_label_on_its_grid(nibabel_file, tmp_path: Path) -> None:
    reference = read_image(nibabel_file("example4d.nii.gz"), channels_last_axis=True)
    assert reference.array.shape == (2, 128, 96, 24)
    path = write_label_like(reference, np.ones(reference.shape, np.uint8), tmp_path / "s.nii.gz")
    after = nib.load(path)
    assert after.shape == (128, 96, 24)
    assert after.affine.tobytes() == nib.load(nibabel_file("example4d.nii.gz")).affine.tobytes()


def test_label_has_slope_one_no_window_and_no_extension(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header["cal_max"] = 900
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"patient name"))
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), OBLIQUE, header)
    image.header.set_slope_inter(2.2086, -7)
    nib.save(image, tmp_path / "a.nii")
    path = write_label_like(
        read_image(tmp_path / "a.nii"), np.full((3, 4, 5), 4), tmp_path / "seg.nii"
    )
    raw = path.read_bytes()
    assert np.frombuffer(raw[112:120], "<f4").tolist() == [1.0, 0.0]  # scl_slope, scl_inter
    assert np.frombuffer(raw[124:132], "<f4").tolist() == [0.0, 0.0]  # cal_max, cal_min
    assert b"patient name" not in raw
    assert (read_label(path).array == 4).all()


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_itk_labels_keep_origin_spacing_and_direction_exactly(tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(itk_image(), str(tmp_path / f"a{suffix}"))
    before = sitk.ReadImage(str(tmp_path / f"a{suffix}"))
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1, 2, 3] = 2
    reference = read_image(tmp_path / f"a{suffix}")
    path = write_label_like(reference, labels, tmp_path / f"seg{suffix}")
    after = sitk.ReadImage(str(path))
    assert after.GetOrigin() == before.GetOrigin()
    # NRRD stores direction times spacing: taking them apart again costs the last bit.
    ulp = 0 if suffix == ".mha" else 2e-15
    np.testing.assert_allclose(after.GetSpacing(), before.GetSpacing(), rtol=ulp, atol=0)
    np.testing.assert_allclose(after.GetDirection(), before.GetDirection(), rtol=0, atol=ulp)
    assert after.GetPixel(1, 2, 3) == 2
    assert after.GetPixelID() == sitk.sitkUInt8


@pytest.mark.parametrize("route", [(".mha", ".nii.gz"), (".nii.gz", ".mha"), (".nii.gz", ".nrrd")])
def test_label_in_another_format_lies_on_the_same_world_positions(
    tmp_path: Path, save_nifti, route: tuple[str, str]
) -> None:
    if route[0] == ".mha":
        source = tmp_path / "a.mha"
        sitk.WriteImage(itk_image(), str(source))
    else:
        source = save_nifti("a.nii.gz", np.zeros((5, 6, 7), np.int16), OBLIQUE)
    reference = read_image(source)
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[4, 1, 6] = 1
    back = read_label(write_label_like(reference, labels, tmp_path / f"seg{route[1]}"))
    np.testing.assert_array_equal(back.array, labels)
    np.testing.assert_allclose(back.affine, reference.affine, atol=1e-5)
    assert same_grid(reference, back) == ""


def test_two_file_metaimage_is_not_written(save_nifti, tmp_path: Path) -> None:
    reference = read_image(save_nifti("a.nii", np.zeros((3, 3, 3), np.int16)))
    with pytest.raises(DataError, match=r"write \.mha"):
        write_label_like(reference, np.zeros((3, 3, 3), np.uint8), tmp_path / "seg.mhd")


def test_sheared_grid_is_refused_by_formats_that_cannot_hold_it(save_nifti, tmp_path: Path) -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.4
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), None)
    image.set_sform(sheared, code=1)
    nib.save(image, tmp_path / "a.nii")
    reference = read_image(tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"sheared.*\.nii\.gz"):
        write_label_like(reference, np.zeros((3, 3, 3), np.uint8), tmp_path / "seg.mha")


def test_sform_and_qform_that_disagree_are_noted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((10, 10, 10), np.int16), np.eye(4))
    image.set_sform(np.eye(4), code=1)
    moved = np.eye(4)
    moved[0, 3] = 5
    image.set_qform(moved, code=1)
    nib.save(image, tmp_path / "a.nii")
    volume = read_image(tmp_path / "a.nii")
    assert "disagree by 5 mm" in volume.notes["transforms"]
    np.testing.assert_array_equal(volume.affine, np.eye(4))  # the sform


def test_header_without_orientation_is_noted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), None)
    nib.save(image, tmp_path / "a.nii")
    assert "orientation" in read_image(tmp_path / "a.nii").notes


@pytest.mark.parametrize(("unit", "edge", "wanted"), [("meter", 0.002, 2.0), ("micron", 500, 0.5)])
def test_units_other_than_mm_are_converted(tmp_path, unit: str, edge: float, wanted: float) -> None:
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.diag([edge, edge, edge, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    volume = read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.spacing, [wanted] * 3, rtol=1e-5)
    assert unit in volume.notes["units"]


def test_implausible_unit_is_read_as_mm_and_noted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    volume = read_image(tmp_path / "a.nii")
    assert volume.spacing == (1.0, 1.0, 1.0)
    assert "read as mm" in volume.notes["units"]


def test_singular_affine_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), None)
    image.header["sform_code"] = 1
    image.header["srow_x"] = (1, 0, 0, 0)
    nib.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[254:256] = (1).to_bytes(2, "little")  # sform_code
    raw[280:328] = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(DataError, match="singular"):
        read_image(tmp_path / "a.nii")


# Values -----------------------------------------------------------------------------------------


def test_scl_slope_and_inter_are_applied(nibabel_file, tmp_path: Path) -> None:
    stored = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    image = nib.Nifti1Image(stored, np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([2.2086, -7], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    volume = read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.array, stored * 2.2086 - 7, rtol=1e-5)
    assert volume.array.max() > 100  # would overflow nothing, wrap nowhere


def test_big_endian_file_reads_as_native(nibabel_file) -> None:
    volume = read_image(nibabel_file("anatomical.nii"))
    assert volume.array.dtype.isnative
    expected = nib.load(nibabel_file("anatomical.nii")).get_fdata()
    np.testing.assert_array_equal(volume.array, expected)


def test_4d_time_axis_is_refused_unless_declared_as_channels(nibabel_file, tmp_path: Path) -> None:
    path = nibabel_file("functional.nii")
    with pytest.raises(DataError, match=r"time.*split"):
        read_image(path)
    assert read_image(path, channels_last_axis=True).array.shape == (20, 17, 21, 3)
    assert peek(path).channels == 20
    series = sitk.JoinSeries([itk_image(), itk_image()])
    sitk.WriteImage(series, str(tmp_path / "a.mha"))
    with pytest.raises(DataError, match=r"time.*split"):
        read_image(tmp_path / "a.mha")
    volume = read_image(tmp_path / "a.mha", channels_last_axis=True)
    assert volume.array.shape == (2, 5, 6, 7)
    assert volume.array[1, 4, 5, 6] == itk_image().GetPixel(4, 5, 6)


def test_trailing_singleton_axes_are_squeezed_and_written_back(save_nifti, tmp_path: Path) -> None:
    volume = read_image(save_nifti("a.nii.gz", np.zeros((4, 5, 6, 1), np.int16)))
    assert volume.shape == (4, 5, 6)
    path = write_label_like(volume, np.ones((4, 5, 6), np.uint8), tmp_path / "seg.nii.gz")
    assert nib.load(path).shape == (4, 5, 6, 1)


def test_vector_nrrd_reads_as_channels_only_when_declared(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(4, 3, 2, 5)  # z, y, x, component
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "v.nrrd"))
    with pytest.raises(DataError, match="channel"):
        read_image(tmp_path / "v.nrrd")
    volume = read_image(tmp_path / "v.nrrd", channels_last_axis=True)
    assert volume.array.shape == (5, 2, 3, 4)
    assert volume.array[3, 1, 2, 0] == array[0, 2, 1, 3]


def test_rgb_nifti_is_refused_by_name(tmp_path: Path) -> None:
    rgb = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataError, match="RGB NIfTI"):
        read_image(tmp_path / "a.nii")


def test_complex_values_are_refused(save_nifti) -> None:
    path = save_nifti("a.nii", np.zeros((3, 3, 3), np.complex64))
    with pytest.raises(DataError, match="magnitude"):
        read_image(path)


def test_cifti_is_refused_by_name(nibabel_file) -> None:
    with pytest.raises(DataError, match="Cifti2Image"):
        read_image(nibabel_file("row_major.dconn.nii"))


# Labels -----------------------------------------------------------------------------------------


def test_float_labels_close_to_integers_are_rounded_and_noted(save_nifti) -> None:
    stored = np.array([0.0, 0.9999, 2.0004], np.float32).reshape(3, 1, 1)
    label = read_label(save_nifti("a.nii", stored))
    assert label.array.ravel().tolist() == [0, 1, 2]
    assert label.array.dtype == np.uint8
    assert "float" in label.notes["dtype"]


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "probability"), (np.nan, "NaN"), (-1.0, "negative")]
)
def test_labels_that_are_no_labels_are_refused(save_nifti, value: float, words: str) -> None:
    path = save_nifti("a.nii", np.full((3, 3, 3), value, np.float32))
    with pytest.raises(DataError, match=words):
        read_label(path)


@pytest.mark.parametrize(("highest", "dtype"), [(255, "u1"), (256, "u2"), (70000, "u4")])
def test_more_than_255_labels_do_not_wrap(save_nifti, tmp_path, highest: int, dtype: str) -> None:
    stored = np.zeros((3, 4, 5), np.int32)
    stored[1, 2, 3] = highest
    label = read_label(save_nifti("a.nii.gz", stored))
    assert label.array.dtype == np.dtype(dtype)
    path = write_label_like(label, label.array.astype(np.int64), tmp_path / "seg.nii.gz")
    assert nib.load(path).get_data_dtype() == np.dtype(dtype)
    assert read_label(path).array[1, 2, 3] == highest


def test_probabilities_are_not_written_as_labels(save_nifti, tmp_path: Path) -> None:
    reference = read_image(save_nifti("a.nii", np.zeros((3, 3, 3), np.int16)))
    with pytest.raises(DataError, match="argmax"):
        write_label_like(reference, np.zeros((3, 3, 3), np.float32), tmp_path / "seg.nii")
    with pytest.raises(DataError, match="do not fit"):
        write_label_like(reference, np.zeros((3, 3, 4), np.uint8), tmp_path / "seg.nii")
    assert not list(tmp_path.glob("*seg*"))


def test_existing_output_needs_force(save_nifti, tmp_path: Path) -> None:
    reference = read_image(save_nifti("a.nii", np.zeros((3, 3, 3), np.int16)))
    path = tmp_path / "seg.nii.gz"
    write_label_like(reference, np.zeros((3, 3, 3), np.uint8), path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        write_label_like(reference, np.ones((3, 3, 3), np.uint8), path)
    assert path.read_bytes() == before
    write_label_like(reference, np.ones((3, 3, 3), np.uint8), path, force=True)
    assert read_label(path).array.all()


# Damaged files ----------------------------------------------------------------------------------


def test_truncated_gzip_is_one_line_naming_the_file(save_nifti) -> None:
    random = np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16)
    path = save_nifti("cut short.nii.gz", random)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cut short\.nii\.gz: truncated") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_truncated_uncompressed_nifti(save_nifti) -> None:
    path = save_nifti("a.nii", np.ones((20, 20, 20), np.int16))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"a\.nii"):
        read_image(path)


@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.png", "a.tif", "a.jpg"]
)
def test_garbage_and_empty_files_are_data_errors(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content in (b"", b"not an image at all " * 40, gzip.compress(b"still no image " * 40)):
        path.write_bytes(content)
        for reader in (read_image, read_label, peek):
            with pytest.raises(DataError, match=name.replace(".", r"\.")) as caught:
                reader(path)
            assert "\n" not in str(caught.value)


def test_missing_file_folder_and_unknown_type(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path / "b.nii.gz")
    (tmp_path / "c.docx").write_bytes(b"x")
    with pytest.raises(DataError, match="unknown file type"):
        read_image(tmp_path / "c.docx")
    (tmp_path / "d.dcm").write_bytes(b"x")
    with pytest.raises(DataError, match=r"d\.dcm: unknown file type.*; convert DICOM"):
        read_image(tmp_path / "d.dcm")


def test_wrong_compression_suffix_names_the_fix(save_nifti) -> None:
    path = save_nifti("a.nii", np.zeros((3, 3, 3), np.int16))
    with pytest.raises(DataError, match=r"rename it to \.nii$"):
        read_image(path.rename(path.with_name("b.nii.gz")))
    path = save_nifti("c.nii.gz", np.zeros((3, 3, 3), np.int16))
    with pytest.raises(DataError, match=r"rename it to \.nii\.gz"):
        read_image(path.rename(path.with_name("d.nii")))


def test_git_lfs_pointer_names_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DataError, match="git lfs pull"):
        read_image(path)


def test_declared_size_beyond_the_limit_is_refused_before_decoding(save_nifti, tmp_path) -> None:
    path = save_nifti("a.nii", np.zeros((3, 3, 3), np.int16))
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()  # dim[1:4]
    path.write_bytes(raw)
    with pytest.raises(DataError, match="more than the limit"):
        read_image(path)
    bomb = tmp_path / "b.mha"
    bomb.write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 30000 30000 30000\n"
        "ElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    )
    with pytest.raises(DataError, match="more than the limit"):
        read_image(bomb)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write anything")
def test_unreadable_file_and_unwritable_folder(save_nifti, tmp_path: Path) -> None:
    path = save_nifti("a.nii", np.zeros((3, 3, 3), np.int16))
    reference = read_image(path)
    path.chmod(0)
    with pytest.raises(DataError, match="permission"):
        read_image(path)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(ResourceError):
        write_label_like(reference, np.zeros((3, 3, 3), np.uint8), closed / "seg.nii")


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("my case v1.2.nii.gz", "my case v1.2"),
        ("a.b.c.mha", "a.b.c"),
        ("UPPER.NII.GZ", "UPPER"),
        ("é 1.png", "é 1"),
    ],
)
def test_names_with_spaces_dots_and_capitals(save_nifti, tmp_path, name: str, case: str) -> None:
    path = tmp_path / name
    assert case_name(path) == case
    if name.lower().endswith(".nii.gz"):
        save_nifti(name, np.ones((3, 3, 3), np.int16))
        assert is_volume_file(path)
        assert read_image(path).array.all()


def test_hidden_and_foreign_files_are_not_volumes(tmp_path: Path) -> None:
    for name in (".DS_Store", "._case.nii.gz", "notes.txt", ".nii.gz"):
        (tmp_path / name).write_bytes(b"x")
        assert not is_volume_file(tmp_path / name)
