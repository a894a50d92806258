"""Values and places of what is read, against what was written and against SimpleITK."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from apps.medical.data.volume import Volume
from apps.medical.dicom import headers, stream
from apps.medical.dicom.series import list_series
from apps.medical.dicom.volume import read_series
from core.errors import DataError

SHAPE = (9, 7, 5)
PLANES = ("axial", "coronal", "sagittal", "oblique")


@pytest.fixture
def write(tmp_path, series):
    def make(shape=SHAPE, **options):
        return series(tmp_path / "in", shape, **options)

    return make


def read(folder: Path) -> Volume:
    (info,) = list_series(folder)
    assert info.refusal == ""
    return read_series(info)


def check_against_simpleitk(volume: Volume, folder: Path) -> None:
    """Every voxel of ours has, at its place in the world, SimpleITK's value; and none is over."""
    import SimpleITK as sitk

    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), volume.store.series.uid)
    image = sitk.ReadImage(names)
    theirs = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    assert volume.array.size == theirs.size
    matrix = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    index = np.indices(volume.shape).reshape(3, -1)
    ras = volume.affine[:3, :3] @ index + volume.affine[:3, 3:]
    lps = ras * np.array([[-1], [-1], [1]])
    place = np.linalg.solve(matrix, lps - np.array(image.GetOrigin())[:, None])
    np.testing.assert_allclose(place, place.round(), atol=2e-3)
    found = theirs[tuple(place.round().astype(int))].reshape(volume.shape)
    np.testing.assert_allclose(volume.array, found, rtol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_every_orientation_and_slice_order(write, plane, reverse) -> None:
    made = write(plane=plane, reverse=reverse, spacing=(0.7, 0.9, 3.1))
    volume = read(made.folder)
    # The writer's slices may run against the normal; ours never do.
    array, affine = made.array, made.affine
    if reverse:
        array = array[:, :, ::-1]
        affine = affine @ np.array(
            [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, SHAPE[2] - 1], [0, 0, 0, 1]]
        )
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    np.testing.assert_allclose(volume.spacing, (0.7, 0.9, 3.1), rtol=1e-5)
    assert np.linalg.det(volume.affine) > 0
    check_against_simpleitk(volume, made.folder)


def test_the_right_hand_side_stays_right(tmp_path, series, phantom) -> None:
    """The phantom's ball 1 lies at x = +15 mm in RAS, ball 2, brighter, at -13 mm."""
    shape = (44, 40, 24)
    for plane in PLANES:
        made = series(tmp_path / plane, shape, plane=plane, spacing=(1.0, 1.25, 2.0))
        volume = read(made.folder)
        labels = phantom(shape, volume.affine)
        index = np.argwhere(labels == 1).mean(0)
        x = (volume.affine @ [*index, 1])[0]
        assert x > 10
        # The labels are drawn on the grid that was read; the values were written elsewhere.
        means = [volume.array[labels == label].mean() for label in (0, 1, 2)]
        np.testing.assert_allclose(means, (30, 430, 830), atol=10)


def test_what_the_store_remembers(write) -> None:
    made = write(reverse=True)
    volume = read(made.folder)
    store = volume.store
    assert store.sources == tuple(reversed(made.files))
    assert store.frames == (0,) * 5
    assert not store.multiframe
    found = store.read_headers()
    assert [str(header.SOPInstanceUID) for header in found] == list(store.sop_uids)
    assert all("PixelData" not in header for header in found)
    assert store.sop_class == "1.2.840.10008.5.1.4.1.1.4"
    assert store.frame_of_reference_uid == f"{made.study}.999"
    made.files[0].unlink()
    with pytest.raises(DataError, match="cannot be read again"):
        store.read_headers()


def test_rescale_slope_of_each_slice(write) -> None:
    slopes = [1.0, 2.0, 0.25, 1.3526, 10.0]
    made = write(slope=slopes, intercept=-3.5, modality="PT")
    volume = read(made.folder)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, made.array, rtol=1e-6)
    check_against_simpleitk(volume, made.folder)


@pytest.mark.parametrize(
    ("bits", "signed", "intercept", "dtype"),
    [
        (12, 0, -1024, np.int16),
        (12, 0, 0, np.int16),
        (16, 0, 0, np.uint16),
        (16, 0, -1024, np.int32),
        (16, 1, 0, np.int16),
        (16, 1, -1024, np.int32),
    ],
)
def test_integers_never_overflow(write, bits, signed, intercept, dtype) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values = np.linspace(low, high, int(np.prod(SHAPE))).astype(np.int64).reshape(SHAPE)

    def edit(dataset, k):
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, signed
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, intercept

    made = write(array=values.astype(np.int64) & 0xFFFF, edit=edit, modality="CT")
    volume = read(made.folder)
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, values + intercept)


def test_an_overlay_in_the_unused_bits_is_no_value(write) -> None:
    values = np.random.default_rng(0).integers(0, 4096, SHAPE)

    def edit(dataset, k):
        dataset.BitsStored, dataset.HighBit = 12, 11

    made = write(array=values | 0x8000, edit=edit)
    volume = read(made.folder)
    np.testing.assert_array_equal(volume.array, values)
    assert f"{values.size} voxels have bits set above Bits Stored" in volume.notes["bits"]


def test_monochrome1_is_turned_over_where_values_are_no_quantities(write, tmp_path) -> None:
    def edit(dataset, k):
        dataset.PhotometricInterpretation = "MONOCHROME1"

    made = write(edit=edit)
    volume = read(made.folder)
    np.testing.assert_array_equal(volume.array, 65535 - made.array.astype(int))
    assert "MONOCHROME1" in volume.notes["monochrome1"]
    shutil.rmtree(made.folder)
    made = write(edit=edit, modality="CT", intercept=-1024)
    np.testing.assert_array_equal(read(made.folder).array, made.array)


@pytest.mark.parametrize(
    ("modality", "padding", "limit", "fill"),
    [
        ("CT", 63536, None, -924.0),  # -2000 as unsigned; the lowest measured value
        ("CT", 63536, 63540, -924.0),
        ("MR", 0, None, 0.0),  # empty stays empty, for the crop to nonzero
        ("MR", 65535, None, 0.0),
    ],
)
def test_padding_is_no_measurement(write, modality, padding, limit, fill) -> None:
    intercept = -1024 if modality == "CT" else 0
    values = np.random.default_rng(1).integers(100, 900, SHAPE).astype(np.uint16)
    values[4, 4, 2] = 100
    values[0, :, :] = padding
    if limit is not None:
        values[1, 0, :] = limit - 2

    def edit(dataset, k):
        dataset.PixelPaddingValue = padding
        if limit is not None:
            dataset.PixelPaddingRangeLimit = limit

    made = write(array=values, edit=edit, modality=modality, intercept=intercept)
    volume = read(made.folder)
    count = 7 * 5 + (5 if limit else 0)
    if fill == padding:
        assert "padding" not in volume.notes
    else:
        assert f"{count} padding voxels" in volume.notes["padding"]
    assert (volume.array[0] == fill).all()
    if limit is not None:
        assert (volume.array[1, 0] == fill).all()
    np.testing.assert_array_equal(volume.array[2:], values[2:].astype(int) + intercept)


def test_padding_that_does_not_fit_the_bits_stored(write) -> None:
    """-2000 in 16 bits around a circle of 12-bit values, as older CT scanners write it."""
    values = np.random.default_rng(2).integers(0, 4096, SHAPE).astype(np.uint16)
    values[0, 0, 0] = 0
    stored = values.copy()
    stored[:, 6, :] = 63536

    def edit(dataset, k):
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.PixelPaddingValue = 63536

    made = write(array=stored, edit=edit, modality="CT", intercept=-1024)
    volume = read(made.folder)
    np.testing.assert_array_equal(volume.array[:, :6], values[:, :6].astype(int) - 1024)
    assert (volume.array[:, 6] == -1024).all()
    assert "bits" not in volume.notes


@pytest.mark.parametrize("value", [-2000, 63536, b"\x30\xf8"])
def test_padding_values_written_with_the_wrong_sign(value) -> None:
    from pydicom import Dataset

    header = Dataset()
    header.PixelPaddingValue = 0
    header["PixelPaddingValue"]._value = value
    assert headers._padding(header, True, 16) == (-2000, -2000)
    assert headers._padding(header, False, 16) == (63536, 63536)


# gdcm's names: what a PACS sends most often. Lossless ones must give every value back.
LOSSLESS = ("JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless",
            "RLELossless")  # fmt: skip
LOSSY = ("JPEG2000", "JPEGLSNearLossless")


def compress(folder: Path, syntax: str) -> bool:
    """Rewrite the files below ``folder`` with gdcm; False where it cannot encode this syntax."""
    import gdcm

    for file in folder.iterdir():
        reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
        reader.SetFileName(str(file))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        if not change.Change():
            return False
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(file))
        assert writer.Write()
    return True


def twelve_bits(dataset, k) -> None:
    dataset.BitsStored, dataset.HighBit = 12, 11


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_compression(write, syntax) -> None:
    made = write((24, 20, 4), edit=twelve_bits)
    assert compress(made.folder, syntax)
    (info,) = list_series(made.folder)
    assert info.transfer_syntax.startswith(("JPEG", "RLE"))
    np.testing.assert_array_equal(read_series(info).array, made.array)


@pytest.mark.parametrize("syntax", LOSSY)
def test_lossy_compression_is_read_and_noted(write, syntax) -> None:
    def edit(dataset, k):
        twelve_bits(dataset, k)
        dataset.LossyImageCompression = "01"

    smooth = (1000 + 900 * np.sin(np.indices((24, 20, 4)).sum(0) / 9)).astype(np.uint16)
    made = write((24, 20, 4), array=smooth, edit=edit)
    if not compress(made.folder, syntax):
        pytest.skip(f"gdcm does not write {syntax}")
    volume = read(made.folder)
    assert np.abs(volume.array - smooth.astype(int)).max() < 120
    assert any("with loss" in note for note in volume.notes.values())


def test_twelve_bit_jpeg_is_refused_by_name(write) -> None:
    made = write((24, 20, 4), edit=twelve_bits)
    assert compress(made.folder, "JPEGExtendedProcess2_4")
    (info,) = list_series(made.folder)
    assert "JPEG Extended with 12 bits" in info.refusal


@pytest.mark.parametrize("name", ["MR_small_RLE", "MR_small_jp2klossless",
                                  "MR_small_jpeg_ls_lossless", "MR_small_bigendian",
                                  "MR_small_implicit", "MR_small_padded"])  # fmt: skip
def test_the_scanners_slice_in_other_encodings(tmp_path, name) -> None:
    """pydicom's MR_small in each encoding, made into two slices, reads as the plain one does."""
    import pydicom
    from pydicom.data import get_testdata_file

    volumes = []
    for which in ("MR_small", name):
        folder = tmp_path / which
        folder.mkdir()
        for k in range(2):
            dataset = pydicom.dcmread(get_testdata_file(f"{which}.dcm"))
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}"
            dataset.ImagePositionPatient = [0, 0, 5 * k]
            dataset.save_as(folder / f"{k}.dcm")
        volumes.append(read(folder))
    assert volumes[0].array.std() > 10
    np.testing.assert_array_equal(volumes[0].array, volumes[1].array)


def test_deflated_and_its_bomb(write, monkeypatch) -> None:
    import pydicom

    made = write()
    for file in made.files:
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = stream.DEFLATED
        dataset.save_as(file)
    np.testing.assert_array_equal(read(made.folder).array, made.array)
    monkeypatch.setattr(stream, "MAX_INFLATED", 1000)
    with pytest.raises(DataError, match="decompression bomb"):
        list_series(made.folder)


def test_compressed_pixels_cut_short(write) -> None:
    made = write((24, 20, 4), edit=twelve_bits)
    assert compress(made.folder, "JPEG2000Lossless")
    data = made.files[1].read_bytes()
    made.files[1].write_bytes(data[: len(data) - 300])
    (info,) = list_series(made.folder)
    with pytest.raises(DataError, match=r"IM\d+\.dcm"):
        read_series(info)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("syntax", "marker", "offset", "width"),
    [
        ("JPEG2000Lossless", b"\xff\x4f\xff\x51", 8, 4),
        ("JPEGLSLossless", b"\xff\xf7", 5, 2),
        ("JPEGLosslessProcess14_1", b"\xff\xc3", 5, 2),
    ],
)
def test_a_codestream_that_claims_a_huge_size_is_never_decoded(
    write, syntax, marker, offset, width
) -> None:
    made = write((24, 20, 4), edit=twelve_bits)
    assert compress(made.folder, syntax)
    data = bytearray(made.files[1].read_bytes())
    at = data.index(marker, 1000) + offset
    data[at : at + 2 * width] = (60000).to_bytes(width, "big") * 2
    made.files[1].write_bytes(data)
    (info,) = list_series(made.folder)
    with pytest.raises(DataError, match=r"declare 60000 x 60000, the header 20 x 24"):
        read_series(info)


def test_a_file_that_changed_since_it_was_listed(write) -> None:
    made = write()
    (info,) = list_series(made.folder)
    shutil.copy(made.files[0], made.files[1])
    with pytest.raises(DataError, match="changed while it was read"):
        read_series(info)


def test_a_declared_size_beyond_the_bound_is_not_allocated(write) -> None:
    import pydicom
    from pydicom.encaps import encapsulate

    def edit(dataset, k):
        dataset.Rows = dataset.Columns = 65535

    made = write(edit=edit)
    assert "truncated" in list_series(made.folder)[0].refusal
    # The same lie in compressed files, whose length says nothing.
    for file in made.files:
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
        dataset.PixelData = encapsulate([b"\xff\x4f" + bytes(40)])
        dataset["PixelData"].VR = "OB"
        dataset.save_as(file)
    (info,) = list_series(made.folder)
    assert "more than the limit" in info.refusal
    with pytest.raises(DataError, match="more than the limit"):
        read_series(info)


def test_read_like_simpleitk_on_real_studies(dicom_data) -> None:
    seen = 0
    for study in ("brain-study", "prostate-study"):
        for info in list_series(dicom_data / study):
            assert info.refusal == "", info.label
            check_against_simpleitk(read_series(info), info.files[0].parent)
            seen += 1
    assert seen == 6


def test_enhanced_multiframe_of_two_vendors_against_dcm2niix() -> None:
    """Philips and Siemens files of github.com/neurolabusc/dcm_qa_enh (BSD-2), with its NIfTIs."""
    import nibabel as nib

    place = os.environ.get("TRIPTYCH_DCM_QA_ENH")
    if not place or not Path(place, "Ref").is_dir():
        pytest.skip("TRIPTYCH_DCM_QA_ENH names no clone of neurolabusc/dcm_qa_enh")
    field_map = list_series(Path(place, "In/Philips/IM_0027_fMAP.dcm"))
    assert [info.part for info in field_map] == ["echo time 0", "echo time 1.52"]
    series = list_series(Path(place, "In/Siemens/XA10"))
    assert [info.part for info in series] == [f"file {n}" for n in (1, 2, 3, 4)]
    pairs = [(field_map[0], "Philips_WIP_B0_NS_801_e2_fieldmaphz.nii", None)]
    pairs += [(info, "Siemens_REST1_w_SMS_PF7-8_6.nii", t) for t, info in enumerate(series)]
    for info, name, time in pairs:
        volume = read_series(info)
        image = nib.load(Path(place, "Ref", name))
        theirs = np.asarray(image.dataobj)
        theirs = theirs if time is None else theirs[..., time]
        index = np.indices(volume.shape).reshape(3, -1)
        world = volume.affine[:3, :3] @ index + volume.affine[:3, 3:]
        where = np.linalg.solve(image.affine[:3, :3], world - image.affine[:3, 3:])
        np.testing.assert_allclose(where, where.round(), atol=1e-3)
        found = theirs[tuple(where.round().astype(int))].reshape(volume.shape)
        np.testing.assert_allclose(volume.array, found, atol=0.01)  # NIfTI's slope is a float32
