"""Segmentations of other programs, damaged ones, and ones that belong to another image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from apps.medical.data.volume import Volume
from apps.medical.dicom.read_segmentation import read_seg
from apps.medical.dicom.segmentation import Algorithm, write_seg
from apps.medical.dicom.series import list_series
from apps.medical.dicom.volume import read_series
from core.errors import DataError

ALGORITHM = Algorithm(name="phantom finder", version="1")


@pytest.fixture
def volume(tmp_path: Path, series: Callable[..., Any]) -> Volume:
    series(tmp_path / "in", plane="oblique", shape=(26, 24, 16), spacing=(1.5, 1.75, 2.5))
    (info,) = list_series(tmp_path / "in")
    return read_series(info)


@pytest.fixture
def labels(volume: Volume, phantom: Callable[..., np.ndarray]) -> np.ndarray:
    return phantom(volume.shape, volume.affine)


@pytest.fixture
def changed(
    tmp_path: Path, volume: Volume, labels: np.ndarray, names: dict[int, str]
) -> Callable[..., Path]:
    """A good segmentation after a change to its data set."""

    def make(change: Callable[[Any], None]) -> Path:
        write_seg(tmp_path / "seg.dcm", labels, volume, names, algorithm=ALGORITHM, force=True)
        dataset = pydicom.dcmread(tmp_path / "seg.dcm")
        change(dataset)
        dataset.save_as(tmp_path / "seg.dcm")
        return tmp_path / "seg.dcm"

    return make


def masks(volume: Volume, labels: np.ndarray) -> np.ndarray:
    """(slice, row, column, segment), highdicom's order."""
    return np.stack([(labels == n).transpose(2, 1, 0) for n in (1, 2)], axis=-1)


def foreign(volume: Volume, pixels: np.ndarray, kind: str, count: int = 2, **options: Any) -> Any:
    """A segmentation as another program writes it, with highdicom directly."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    segments = [
        hd.seg.SegmentDescription(
            number, f"thing {number}", codes.SCT.Tissue, codes.SCT.Organ, "MANUAL"
        )
        for number in range(1, count + 1)
    ]
    headers = volume.store.read_headers()
    return hd.seg.Segmentation(
        headers, pixels, kind, segments, hd.UID(), 5, hd.UID(), 1, "Other", "Model", "1", "1",
        **options,
    )  # fmt: skip


def test_a_label_map(tmp_path, volume, labels) -> None:
    """Supplement 243: voxels hold segment numbers."""
    made = foreign(volume, labels.transpose(2, 1, 0), "LABELMAP")
    made.save_as(tmp_path / "map.dcm")
    content = read_seg(tmp_path / "map.dcm", like=volume)
    assert np.array_equal(content.volume.array, labels)
    assert {label: content.names[label] for label in (1, 2)} == {1: "thing 1", 2: "thing 2"}


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [("BINARY", "1.2.840.10008.1.2"), ("LABELMAP", "1.2.840.10008.1.2.5")],
    ids=["implicit", "run lengths"],
)
def test_other_transfer_syntaxes(tmp_path, volume, labels, kind, syntax) -> None:
    made = foreign(volume, labels.transpose(2, 1, 0), kind, transfer_syntax_uid=syntax)
    made.save_as(tmp_path / "other.dcm")
    assert np.array_equal(read_seg(tmp_path / "other.dcm", like=volume).volume.array, labels)


def test_overlapping_segments_are_named_and_the_later_wins(tmp_path, volume, labels) -> None:
    both = masks(volume, labels)
    both[..., 1] |= both[..., 0] & (np.arange(both.shape[2])[:, None] % 2 == 0)[None, None, :, 0]
    made = foreign(volume, both, "BINARY")
    made.save_as(tmp_path / "overlap.dcm")
    content = read_seg(tmp_path / "overlap.dcm", like=volume)
    assert content.overlaps == (("thing 1", "thing 2"),)
    assert np.array_equal(content.volume.array == 2, both[..., 1].transpose(2, 1, 0))


def test_frames_in_any_order(changed, volume, labels) -> None:
    def shuffle(dataset: Any) -> None:
        order = np.random.default_rng(0).permutation(int(dataset.NumberOfFrames))
        pixels = dataset.pixel_array[order]
        frames = dataset.PerFrameFunctionalGroupsSequence
        dataset.PerFrameFunctionalGroupsSequence = [frames[k] for k in order]
        bits = np.packbits(pixels.ravel(), bitorder="little").tobytes()
        dataset.PixelData = bits + b"\0" * (len(bits) % 2)

    assert np.array_equal(read_seg(changed(shuffle), like=volume).volume.array, labels)


def test_geometry_per_frame_instead_of_shared(changed, volume, labels) -> None:
    def move(dataset: Any) -> None:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame.PlaneOrientationSequence = shared.PlaneOrientationSequence
            frame.PixelMeasuresSequence = shared.PixelMeasuresSequence
        del shared.PlaneOrientationSequence, shared.PixelMeasuresSequence

    assert np.array_equal(read_seg(changed(move), like=volume).volume.array, labels)


def test_without_a_stated_spacing_the_frames_tell(changed, volume, phantom) -> None:
    def forget(dataset: Any) -> None:
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        del measures.SpacingBetweenSlices
        measures.SliceThickness = 0.7  # slices with gaps

    found = read_seg(changed(forget)).volume
    assert found.spacing[2] == pytest.approx(2.5, abs=1e-4)
    assert np.array_equal(found.array, phantom(found.shape, found.affine))


def test_a_series_read_in_the_other_direction(changed, volume, labels) -> None:
    """The grid of an image whose slices are counted backwards is the same grid."""
    flip = np.eye(4)
    flip[2, 2], flip[2, 3] = -1, volume.shape[2] - 1
    backwards = replace(volume, array=volume.array[:, :, ::-1], affine=volume.affine @ flip)
    content = read_seg(changed(lambda d: None), like=backwards)
    assert np.array_equal(content.volume.array, labels[:, :, ::-1])


def shift(by: float) -> Callable[[Any], None]:
    def change(dataset: Any) -> None:
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            place = frame.PlanePositionSequence[0]
            position = np.array(place.ImagePositionPatient, float) + [0, 0, by]
            place.ImagePositionPatient = [f"{v:.6f}" for v in position]

    return change


def turn(dataset: Any) -> None:
    plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def scale(dataset: Any) -> None:
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = [1.8, 1.5]


def another_reference(dataset: Any) -> None:
    dataset.FrameOfReferenceUID = "1.2.3.4"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shift(1.0), "mm from the nearest slice"),
        (shift(500.0), "mm from the nearest slice"),
        (turn, "turned or scaled"),
        (scale, "turned or scaled"),
        (another_reference, "another frame of reference"),
    ],
)
def test_not_the_grid_of_the_image(changed, volume, change, said) -> None:
    with pytest.raises(DataError, match=said):
        read_seg(changed(change), like=volume)


def test_frames_of_another_size(changed, volume) -> None:
    smaller = replace(volume, array=volume.array[:-2])
    with pytest.raises(DataError, match=r"\(26, 24\) voxels against slices of \(24, 24\)"):
        read_seg(changed(lambda d: None), like=smaller)


def uneven(dataset: Any) -> None:
    frame = dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    frame.ImagePositionPatient = [float(v) + 0.9 for v in frame.ImagePositionPatient]


def no_positions(dataset: Any) -> None:
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence


def undescribed(dataset: Any) -> None:
    del dataset.SegmentSequence[1]


def too_many_frames(dataset: Any) -> None:
    dataset.NumberOfFrames = 10**9


def huge(dataset: Any) -> None:
    dataset.Rows = dataset.Columns = 65535


def truncated(dataset: Any) -> None:
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2 // 2 * 2]


def fractional(dataset: Any) -> None:
    dataset.SegmentationType = "FRACTIONAL"


def no_spacing(dataset: Any) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0, 0]


def skewed(dataset: Any) -> None:
    plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [1, 0, 0, 0.5, 0.5, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (uneven, "shifted against each other|unequal distances"),
        (no_positions, "PlanePositionSequence"),
        (undescribed, "segment 2, which is not described"),
        (too_many_frames, "frames"),
        (huge, "truncated|limit"),
        (truncated, "truncated"),
        (fractional, "FRACTIONAL"),
        (no_spacing, "spacing"),
        (skewed, "not perpendicular"),
    ],
)
def test_damaged_or_hostile_files_are_refused_in_one_line(changed, change, said) -> None:
    path = changed(change)
    with pytest.raises(DataError, match=said) as caught:
        read_seg(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CT_small.dcm", "CT Image Storage, not a DICOM segmentation"),
        ("rtdose.dcm", "RT Dose Storage"),
        ("image_dfl.dcm", "deflated"),
        ("liver_1frame.dcm", "no readable DICOM segmentation"),  # frames described, not counted
        ("README.txt", "no readable DICOM segmentation"),
    ],
)
def test_other_files(name, said) -> None:
    with pytest.raises(DataError, match=said):
        read_seg(str(get_testdata_file(name)))


def test_cut_off_in_the_middle(changed, tmp_path) -> None:
    path = changed(lambda d: None)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 500])
    with pytest.raises(DataError):
        read_seg(path)
    path.write_bytes(b"")
    with pytest.raises(DataError):
        read_seg(path)
    with pytest.raises(DataError, match="no such file"):
        read_seg(tmp_path / "nothing.dcm")
