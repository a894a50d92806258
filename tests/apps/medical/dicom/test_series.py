"""What is listed of a source, and why what cannot be segmented cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from apps.medical.dicom.series import list_series
from apps.medical.dicom.volume import read_series
from core.errors import DataError

SHAPE = (8, 6, 5)


@pytest.fixture
def write(tmp_path, series):
    """`write(**options)`: a small series below tmp_path / "in"; returns what was written."""

    def make(name: str = "a", shape=SHAPE, **options):
        return series(tmp_path / "in" / name, shape, **options)

    return make


def only(folder: Path):
    (info,) = list_series(folder)
    return info


def test_what_a_series_says(write, tmp_path) -> None:
    made = write(number=7, description="T2 axial", plane="oblique", spacing=(0.8, 0.5, 3.0))
    info = only(tmp_path / "in")
    assert (info.uid, info.study_uid, info.patient_id) == (made.uid, made.study, "77")
    assert (info.number, info.description, info.modality) == (7, "T2 axial", "MR")
    assert info.body_part == "BRAIN"
    assert info.orientation == "oblique axial"
    assert (info.shape, info.slices, info.frames) == (SHAPE, 5, 5)
    np.testing.assert_allclose(info.spacing, (0.8, 0.5, 3.0), rtol=1e-5)
    assert info.transfer_syntax == "Explicit VR Little Endian"
    assert (info.notes, info.refusal) == ((), "")
    assert set(info.files) == set(made.files)
    assert info.label == f"{tmp_path / 'in'}: series 7 'T2 axial'"


def test_several_series_in_order_of_their_numbers(write, tmp_path) -> None:
    write("b", number=12, plane="sagittal")
    write("a", number=3, plane="coronal")
    found = list_series(tmp_path / "in")
    assert [(i.number, i.orientation) for i in found] == [(3, "coronal"), (12, "sagittal")]


@pytest.mark.parametrize("kept", [(0, 1, 3, 4), (0, 1, 2, 4)])
def test_a_missing_slice(write, tmp_path, kept) -> None:
    made = write()
    for k in set(range(5)) - set(kept):
        made.files[k].unlink()
    info = only(tmp_path / "in")
    assert info.refusal.startswith("lacks 1 slice: 5 mm between")
    with pytest.raises(DataError, match="lacks 1 slice"):
        read_series(info)


def test_every_second_slice_missing_shows_in_the_header_alone(write, tmp_path) -> None:
    def edit(dataset, k):
        dataset.SpacingBetweenSlices = 2.5

    made = write(edit=edit)
    for k in (1, 3):
        made.files[k].unlink()
    info = only(tmp_path / "in")
    assert not info.refusal
    assert "is every second one missing?" in info.notes[0]


def test_a_file_twice_is_left_out(write, tmp_path) -> None:
    made = write()
    shutil.copy(made.files[2], tmp_path / "in" / "copy.dcm")
    info = only(tmp_path / "in")
    assert (info.refusal, info.slices) == ("", 5)
    assert "1 files are copies of others" in info.notes[0]
    np.testing.assert_array_equal(read_series(info).array, made.array)


def test_two_images_under_one_sop_uid(write, tmp_path) -> None:
    def edit(dataset, k):
        if k == 3:
            dataset.SOPInstanceUID = str(dataset.SOPInstanceUID)[:-1] + "2"

    write(edit=edit)
    assert "two different images with one SOP Instance UID" in only(tmp_path / "in").refusal


def test_duplicate_slices_that_nothing_tells_apart(write, tmp_path, series) -> None:
    def edit(dataset, k):
        dataset.ImagePositionPatient = [0, 0, float(min(k, 3))]

    write(edit=edit)
    assert only(tmp_path / "in").refusal.startswith("has 5 slices at 4 places")


def test_two_volumes_under_one_uid_are_told_apart_by_b_value(write, tmp_path) -> None:
    volumes = {}
    for b in (0, 800, 50):

        def edit(dataset, k, b=b):
            dataset.DiffusionBValue = float(b)
            dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2.3", 4
            dataset.AcquisitionTime = f"0102{k:02d}"  # differs in every slice, splits nothing
            dataset.SOPInstanceUID = f"1.2.3.{b + 1}.{k}"

        noise = np.random.default_rng(b).integers(0, 900, SHAPE)
        volumes[f"b {b}"] = write(f"{b}", array=noise, edit=edit).array
    found = list_series(tmp_path / "in")
    assert [info.part for info in found] == ["b 0", "b 50", "b 800"]
    assert [info.title for info in found][2] == "synthetic [b 800]"
    for info in found:
        assert not info.refusal
        assert "one of 3 volumes that share a series UID" in info.notes
        np.testing.assert_array_equal(read_series(info).array, volumes[info.part])


def test_echoes_of_two_time_points_are_split_twice(write, tmp_path) -> None:
    for place, (echo, time) in enumerate([(10, 1), (20, 1), (10, 2), (20, 2)]):

        def edit(dataset, k, echo=echo, time=time, place=place):
            dataset.EchoTime, dataset.TemporalPositionIdentifier = echo, time
            dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2.3", 4
            dataset.SOPInstanceUID = f"1.2.3.{place + 1}.{k}"

        write(f"{place}", edit=edit)
    assert [info.part for info in list_series(tmp_path / "in")] == [
        "echo time 10, time point 1", "echo time 10, time point 2",
        "echo time 20, time point 1", "echo time 20, time point 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"PatientID": "78"}, "mixes several patients"),
        ({"PatientID": "", "PatientName": "Other^Person"}, "mixes several patients"),
        ({"StudyInstanceUID": "1.2.9"}, "2 series with one UID .they differ in study"),
        ({"SeriesNumber": 99}, "2 series with one UID .they differ in series number"),
        ({"Modality": "CT"}, "differ in modality"),
        ({"FrameOfReferenceUID": "1.2.8"}, "differ in frame of reference"),
        ({"BitsStored": 12, "HighBit": 11}, "images of 2 pixel formats"),
    ],
)
def test_slices_that_do_not_belong_together(write, tmp_path, change, words) -> None:
    def edit(dataset, k):
        if k == 2:
            for keyword, value in change.items():
                setattr(dataset, keyword, value)

    write(edit=edit)
    import re

    assert re.search(words, only(tmp_path / "in").refusal)


def test_two_series_with_one_uid_of_two_sizes(write, tmp_path, series) -> None:
    def edit(dataset, k):
        dataset.SeriesInstanceUID = "1.2.3"
        dataset.SOPInstanceUID = f"1.2.3.{dataset.Rows}.{k}"

    write("a", edit=edit)
    write("b", (8, 7, 5), edit=edit)
    assert only(tmp_path / "in").refusal.startswith("has images of 2 sizes")


def test_no_message_names_the_patient(write, tmp_path) -> None:
    def edit(dataset, k):
        if k == 2:
            dataset.PatientID = "SECRET-ID"

    write(edit=edit)
    info = only(tmp_path / "in")
    said = " ".join((info.refusal, info.label, *info.notes))
    assert "SECRET-ID" not in said
    assert "Nobody" not in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "is a localizer"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "is a Siemens mosaic"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "is in colour (RGB)"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "MONOCHROME is needed"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "is a segmentation (DICOM-SEG)"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "is an RT dose"),
        ({"Modality": "SR"}, "holds no image"),
        ({"Rows": 0}, "holds no image"),
        ({"PixelSpacing": None}, "has no Pixel Spacing"),
        ({"PixelSpacing": [0, 0]}, "Pixel Spacing of 0 mm"),
        ({"ImagePositionPatient": None}, "its place is unknown"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no pair of perpendicular"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "Rescale Slope or Intercept that is 0"),
        ({"HighBit": 13}, "not supported"),
        ({"NumberOfFrames": 4}, "its geometry is unknown"),
        ({"ConcatenationUID": "1.2.3"}, "concatenation"),
    ],
)
def test_what_is_no_volume_is_refused_by_name(write, tmp_path, change, words) -> None:
    def edit(dataset, k):
        for keyword, value in change.items():
            setattr(dataset, keyword, value)

    write(edit=edit)
    info = only(tmp_path / "in")
    assert words in info.refusal
    with pytest.raises(DataError) as error:
        read_series(info)
    assert words in str(error.value)


def test_a_projection_is_no_slice(write, tmp_path) -> None:
    def edit(dataset, k):
        del dataset.PixelSpacing
        dataset.ImagerPixelSpacing = [0.1, 0.1]

    write(edit=edit)
    assert "projection" in only(tmp_path / "in").refusal


def test_a_modality_lut(write, tmp_path) -> None:
    from pydicom.dataset import Dataset

    def edit(dataset, k):
        table = Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [2, 0, 16], "US"
        table.LUTData = bytes(4)
        dataset.ModalityLUTSequence = [table]

    write(edit=edit)
    assert "Modality LUT" in only(tmp_path / "in").refusal


def test_a_three_plane_scout_without_the_word(write, tmp_path) -> None:
    def edit(dataset, k):
        planes = [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]]
        dataset.ImageOrientationPatient = planes[k % 3]

    write(edit=edit)
    assert "slices in 3 orientations" in only(tmp_path / "in").refusal


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "is a localizer"),
        ({"SamplesPerPixel": 3, "FrameOfReferenceUID": ""}, "is in colour"),
    ],
)
def test_scouts_and_screenshots_within_a_series_are_left_out(
    write, tmp_path, change, words
) -> None:
    def edit(dataset, k):
        if k == 0:
            for keyword, value in change.items():
                setattr(dataset, keyword, value)

    write(edit=edit)
    info = only(tmp_path / "in")
    assert (info.refusal, info.slices) == ("", 4)
    assert info.notes[0].startswith(f"1 files left out: the first {words}")


def test_one_slice(write, tmp_path) -> None:
    write(shape=(8, 6, 1))
    assert "one slice only" in only(tmp_path / "in").refusal


@pytest.mark.parametrize("cut", [1, 40])
def test_a_truncated_file(write, tmp_path, cut) -> None:
    made = write()
    data = made.files[2].read_bytes()
    made.files[2].write_bytes(data[:-cut])
    info = only(tmp_path / "in")
    assert f"is truncated: {8 * 6 * 2 - cut} of 96 bytes" in info.refusal


def test_a_file_cut_in_its_header_is_named(write, tmp_path) -> None:
    made = write()
    data = made.files[4].read_bytes()  # at the end of the stack, where no gap shows
    series_uid = data.find(b"\x20\x00\x0e\x00UI")
    for keep in (400, series_uid - 20):  # before the file says to which series it belongs
        made.files[4].write_bytes(data[:keep])
        info = only(tmp_path / "in")
        assert info.slices == 4
        assert f"may belong here could not be read: {made.files[4]}" in info.notes[0]
    made.files[4].write_bytes(data[: series_uid + 100])
    assert "cut off in its header" in only(tmp_path / "in").refusal
    made.files[4].write_bytes(data[: data.find(b"\xe0\x7f\x10\x00")])
    assert "has no pixel data" in only(tmp_path / "in").refusal
    for file in made.files[:4]:
        file.unlink()
    made.files[4].write_bytes(data[:400])
    with pytest.raises(DataError, match="cut off in its header"):
        list_series(tmp_path / "in")


def test_bytes_that_only_begin_like_dicom(write, tmp_path) -> None:
    write()
    for n, tail in enumerate((b"\x02\x00\x10\x00UI\xff\x7f" + bytes(40), b"\xff" * 500, b"")):
        (tmp_path / "in" / f"bad{n}.dcm").write_bytes(bytes(128) + b"DICM" + tail)
    good = [info for info in list_series(tmp_path / "in") if not info.refusal]
    assert [info.slices for info in good] == [5]


def with_syntax(file: Path, uid: bytes) -> None:
    """Write another Transfer Syntax UID into the file's meta group, whatever the data are."""
    data = file.read_bytes()
    at = data.index(b"\x02\x00\x10\x00UI") + 6
    length = int.from_bytes(data[at : at + 2], "little")
    value = uid + b"\0" * (len(uid) % 2)
    group = int.from_bytes(data[140:144], "little") + len(value) - length
    rest = data[at + 2 + length :]
    head = data[:140] + group.to_bytes(4, "little") + data[144:at]
    file.write_bytes(head + len(value).to_bytes(2, "little") + value + rest)


@pytest.mark.parametrize(
    ("uid", "words"),
    [
        (b"1.2.840.113619.5.2", "has the private transfer syntax 1.2.840.113619.5.2; export it again"),
        (b"1.2.826.0.1.99.1", "has the private transfer syntax"),
        (b"1.2.840.10008.1.2.4.100", "compressed as MPEG2 Main Profile / Main Level, which cannot"),
    ],
)  # fmt: skip
def test_syntaxes_that_cannot_be_decoded_are_named(write, tmp_path, uid, words) -> None:
    made = write()
    for file in made.files:
        with_syntax(file, uid)
    assert words in only(tmp_path / "in").refusal


def test_enhanced_multiframe_reads_like_the_classic_series(tmp_path, series) -> None:
    options = {"plane": "oblique", "spacing": (0.8, 0.5, 3.0), "slope": [1, 2, 1, 0.5, 3]}
    many = series(tmp_path / "many", SHAPE, **options)
    one = series(tmp_path / "one", SHAPE, multiframe=True, **options)
    volumes = [read_series(only(made.folder)) for made in (many, one)]
    for volume in volumes:
        np.testing.assert_allclose(volume.array, many.array, rtol=1e-6)
        np.testing.assert_allclose(volume.affine, many.affine, atol=1e-5)
    store = volumes[1].store
    assert store.sources == one.files
    assert store.multiframe
    assert store.frames == (4, 3, 2, 1, 0)  # the file counts against the normal
    assert len(store.read_headers()) == 1
    assert "PixelData" not in store.read_headers()[0]


def test_enhanced_multiframe_with_two_volumes(tmp_path, series) -> None:
    def edit(dataset, _):
        from copy import deepcopy

        from pydicom.dataset import Dataset

        again = deepcopy(list(dataset.PerFrameFunctionalGroupsSequence))
        for b, groups in ((0.0, dataset.PerFrameFunctionalGroupsSequence), (800.0, again)):
            for group in groups:
                item = Dataset()
                item.DiffusionBValue = b
                group.MRDiffusionSequence = [item]
        dataset.PerFrameFunctionalGroupsSequence += again
        dataset.NumberOfFrames = 2 * SHAPE[2]
        first = np.frombuffer(dataset.PixelData, "<u2")
        dataset.PixelData = np.concatenate([first, first + 1000]).astype("<u2").tobytes()

    made = series(tmp_path / "a", SHAPE, multiframe=True, edit=edit)
    low, high = list_series(made.folder)
    assert (low.part, high.part) == ("b 0", "b 800")
    np.testing.assert_array_equal(read_series(low).array, made.array)
    np.testing.assert_array_equal(read_series(high).array, made.array + 1000)


def test_pydicoms_test_files_are_listed_or_refused() -> None:
    """Every encoding and oddity that pydicom tests itself with: what is not refused can be read."""
    import pydicom.data

    found = list_series(Path(pydicom.data.__file__).parent / "test_files")
    usable = [info for info in found if not info.refusal]
    assert [info.title for info in usable] == ["SmartScore - Gated 0.5 sec"]
    assert read_series(usable[0]).shape == usable[0].shape == (16, 16, 5)
    reasons = " ".join(info.refusal for info in found)
    for words in ("one slice only", "in colour", "RT dose", "DICOM-SEG", "holds no image"):
        assert words in reasons
