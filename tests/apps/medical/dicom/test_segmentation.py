"""Segmentations as DICOM: the right voxels, on the right side, for every reader, in any series."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from apps.medical.data.volume import Volume, read_label, write_label_like
from apps.medical.dicom.codes import PRIVATE, Code, LabelCode, codes_for
from apps.medical.dicom.deidentify import Deidentifier
from apps.medical.dicom.segmentation import Algorithm, read_seg, write_seg
from apps.medical.dicom.series import list_series
from apps.medical.dicom.volume import read_series
from core.errors import DataError, ResourceError, UsageError

PLANES = ("axial", "coronal", "sagittal", "oblique")
ALGORITHM = Algorithm(name="phantom finder", version="1.2", parameters={"overlap": "0.5"})
SERIES = [(plane, reverse, False) for plane in PLANES for reverse in (False, True)]
SERIES += [("oblique", False, True), ("sagittal", True, True)]
# On PATH, or beside this interpreter, where pip puts it.
PLACES = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
DCMQI = shutil.which("segimage2itkimage", path=PLACES)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def open_volume(folder: Path) -> Volume:
    (info,) = list_series(folder)
    assert info.refusal == ""
    return read_series(info)


def in_world(affine_lps: np.ndarray) -> np.ndarray:
    return LPS @ affine_lps


def itk_affine(image: Any) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return in_world(affine)


@pytest.fixture(scope="module", params=SERIES, ids=lambda p: f"{p[0]}-{p[1]:d}-{p[2]:d}")
def written(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    series: Callable[..., Any],
    phantom: Callable[..., np.ndarray],
    names: dict[int, str],
) -> tuple[Volume, np.ndarray, Path, str]:
    """The phantom segmented in one kind of series: volume, labels, seg.dcm, plane."""
    plane, reverse, multiframe = request.param
    folder = tmp_path_factory.mktemp("seg")
    series(folder / "in", plane=plane, reverse=reverse, multiframe=multiframe)
    volume = open_volume(folder / "in")
    labels = phantom(volume.shape, volume.affine)
    path = write_seg(folder / "seg.dcm", labels, volume, names, algorithm=ALGORITHM)
    return volume, labels, path, plane


def test_comes_back_voxel_for_voxel_on_the_series_grid(written, names) -> None:
    volume, labels, path, _ = written
    content = read_seg(path, like=volume)
    assert np.array_equal(content.volume.array, labels)
    assert np.array_equal(content.volume.affine, volume.affine)
    assert content.names == {1: names[1], 2: names[2]}
    assert content.overlaps == ()
    assert content.algorithm == "phantom finder 1.2"


def test_the_right_ball_stays_in_the_patients_right(written, phantom) -> None:
    """Without the series: from the file's own geometry alone, in every orientation."""
    _, labels, path, _ = written
    found = read_seg(path).volume
    assert np.array_equal(found.array, phantom(found.shape, found.affine))
    for label, sign in ((1, 1), (2, -1)):  # RAS: +x is the patient's right
        index = np.argwhere(found.array == label)
        assert len(index) == (labels == label).sum() > 100
        world = index @ found.affine[:3, :3].T + found.affine[:3, 3]
        assert (np.sign(world[:, 0]) == sign).all()


def test_highdicom_reads_the_same(written, phantom) -> None:
    import highdicom

    _, labels, path, _ = written
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    assert np.array_equal(volume.array, phantom(volume.array.shape, in_world(volume.affine)))
    assert (volume.array > 0).sum() == (labels > 0).sum()


def test_simpleitk_reads_the_same(written, phantom, tmp_path) -> None:
    """ITK stacks a file's frames whatever their segment, so each label goes into its own file."""
    import SimpleITK as sitk

    volume, labels, _, _ = written
    for label in (1, 2):
        path = tmp_path / f"{label}.dcm"
        write_seg(
            path, (labels == label).astype(np.uint8), volume, {1: "ball"}, algorithm=ALGORITHM
        )
        image = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(image).transpose(2, 1, 0) > 0
        assert np.array_equal(array, phantom(array.shape, itk_affine(image)) == label)
        assert array.sum() == (labels == label).sum()


@pytest.mark.skipif(DCMQI is None, reason="dcmqi (pip install dcmqi) is missing")
def test_dcmqi_reads_the_same(written, phantom, tmp_path) -> None:
    import SimpleITK as sitk

    _, labels, path, _ = written
    subprocess.run(
        [DCMQI, "--inputDICOM", path, "--outputDirectory", tmp_path, "-t", "nrrd"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    for label in (1, 2):
        image = sitk.ReadImage(str(tmp_path / f"{label}.nrrd"))
        array = sitk.GetArrayFromImage(image).transpose(2, 1, 0) > 0
        assert np.array_equal(array, phantom(array.shape, itk_affine(image)) == label)
        assert array.sum() == (labels == label).sum()


def test_nifti_says_the_same(written, phantom, tmp_path) -> None:
    volume, labels, _, _ = written
    write_label_like(volume, labels, tmp_path / "seg.nii.gz")
    read = read_label(tmp_path / "seg.nii.gz")
    assert np.array_equal(read.array, phantom(read.shape, read.affine))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools' dciodvfy is missing")
def test_conforms_to_the_standard(written) -> None:
    shown = subprocess.run(["dciodvfy", written[2]], capture_output=True, text=True, timeout=60)
    assert "Segmentation" in shown.stderr + shown.stdout
    assert "Error" not in shown.stderr + shown.stdout


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="DCMTK's dcmdump is missing")
def test_dcmtk_parses_it(written) -> None:
    shown = subprocess.run(
        ["dcmdump", "-q", written[2]], capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    assert "=SegmentationStorage" in shown.stdout


def test_each_frame_refers_to_the_slice_it_was_made_from(written) -> None:
    volume, labels, path, _ = written
    dataset = pydicom.dcmread(path)
    store = volume.store
    frames = dataset.PerFrameFunctionalGroupsSequence
    shown = [(labels[:, :, k] == label).any() for label in (1, 2) for k in range(labels.shape[2])]
    assert len(frames) == dataset.NumberOfFrames == sum(shown)  # empty ones are left out
    for frame in frames:
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        index = np.linalg.inv(volume.affine) @ LPS @ [*position, 1]
        slice_number = round(index[2])
        assert np.abs(index[:3] - [0, 0, slice_number]).max() < 1e-5
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPClassUID == store.sop_class
        assert source.ReferencedSOPInstanceUID == store.sop_uids[slice_number]
        if store.multiframe:
            assert source.ReferencedFrameNumber == store.frames[slice_number] + 1
    (listed,) = dataset.ReferencedSeriesSequence
    assert listed.SeriesInstanceUID == store.series.uid
    uids = {str(item.ReferencedSOPInstanceUID) for item in listed.ReferencedInstanceSequence}
    assert uids == set(store.sop_uids)
    assert dataset.FrameOfReferenceUID == store.frame_of_reference_uid


@pytest.fixture
def axial(tmp_path: Path, series: Callable[..., Any]) -> Volume:
    series(tmp_path / "in", shape=(13, 11, 6), spacing=(3.0, 3.5, 5.0))
    return open_volume(tmp_path / "in")


def test_any_ids_any_size(axial, tmp_path) -> None:
    """Frames of 143 bits, ids that are not segment numbers, a label that does not occur."""
    labels = np.random.default_rng(0).choice([0, 2, 300], axial.shape, p=[0.6, 0.2, 0.2])
    names = {0: "background", 2: "front", 7: "nowhere", 300: "back"}
    path = write_seg(tmp_path / "seg.dcm", labels, axial, names, algorithm=ALGORITHM)
    content = read_seg(path, like=axial, names=names)
    assert np.array_equal(content.volume.array, labels)
    assert content.names == {2: "front", 7: "nowhere", 300: "back"}
    numbers = read_seg(path, like=axial)
    assert np.array_equal(numbers.volume.array == 3, labels == 300)


def test_nothing_found_is_a_result(axial, tmp_path, names) -> None:
    path = write_seg(
        tmp_path / "seg.dcm", np.zeros(axial.shape, np.uint8), axial, names, algorithm=ALGORITHM
    )
    content = read_seg(path, like=axial)
    assert not content.volume.array.any()
    assert content.names == {1: names[1], 2: names[2]}


def test_says_what_labels_are_and_what_made_them(axial, tmp_path) -> None:
    labels = np.zeros(axial.shape, np.uint8)
    labels[2:5, 2:5, 2:4], labels[7:9, 7:9, 1:3], labels[0, 0, 0] = 1, 2, 3
    mine = LabelCode(
        category=Code(value="91723000", scheme="SCT", meaning="Anatomical Structure"),
        type=Code(value="10200004", scheme="SCT", meaning="Liver"),
        colour="#FF0000",
    )
    names = {1: "anterior", 2: "organ", 3: "gizmo"}
    path = write_seg(
        tmp_path / "seg.dcm", labels, axial, names, codes={2: mine},
        algorithm=replace(ALGORITHM, name="hippocampus"), description="A description",
    )  # fmt: skip
    dataset = pydicom.dcmread(path)
    assert (dataset.Modality, dataset.SegmentationType) == ("SEG", "BINARY")
    assert dataset.ContentDescription == "A description"
    first, second, third = dataset.SegmentSequence
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    about = first.SegmentationAlgorithmIdentificationSequence[0]
    assert (about.AlgorithmName, about.AlgorithmVersion) == ("hippocampus", "1.2")
    assert about.AlgorithmParameters == "overlap=0.5"
    kind = first.SegmentedPropertyTypeCodeSequence[0]  # the model's name completes the label's
    assert (kind.CodeValue, kind.CodeMeaning) == ("5366008", "Hippocampus")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Anterior"
    assert first.AnatomicRegionSequence[0].CodeMeaning == "Brain"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    lightness = second.RecommendedDisplayCIELabValue[0] / 65535 * 100
    assert lightness == pytest.approx(53.2, abs=0.2)  # of sRGB red
    assert third.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == PRIVATE
    assert dataset.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == PRIVATE
    assert read_seg(path).types[2] == ("10200004", "SCT", "Liver")


def test_any_name(axial, tmp_path) -> None:
    """Backslashes separate values in DICOM, and a label must be called something."""
    labels = np.ones(axial.shape, np.uint8)
    labels[0] = 2
    path = write_seg(
        tmp_path / "seg.dcm", labels, axial, {1: "left\\right\nβ" + "x" * 99, 2: ""},
        algorithm=replace(ALGORITHM, name="a\\b", version=""),
    )  # fmt: skip
    content = read_seg(path)
    assert content.names == {1: ("left right β" + "x" * 99)[:63], 2: "label 2"}
    assert content.algorithm == "a b unknown"


@pytest.mark.filterwarnings("ignore:Invalid value for VR DA")
def test_lies_in_the_patients_study_and_takes_nothing_else_along(
    tmp_path, series, phantom, names
) -> None:
    def edit(dataset: Any, k: int) -> None:
        dataset.PatientName = "Müller^Žofie"
        dataset.PatientSex = "U"  # not one that the standard knows
        dataset.add_new(0x00100030, "DA", "1970.01.01")  # as old archives write it
        dataset.SpacingBetweenSlices = 9.9  # wrong, as in many archives
        block = dataset.private_block(0x0029, "SECRETS", create=True)
        block.add_new(0x01, "LO", "private secret")

    series(tmp_path / "in", edit=edit)
    volume = open_volume(tmp_path / "in")
    labels = phantom(volume.shape, volume.affine)
    path = write_seg(tmp_path / "seg.dcm", labels, volume, names, algorithm=ALGORITHM)
    made, source = pydicom.dcmread(path), volume.store.read_headers()[0]
    for keyword in ("StudyInstanceUID", "PatientID", "StudyDate", "AccessionNumber", "StudyID"):
        assert made[keyword].value == source[keyword].value
    assert str(made.PatientName) == "Müller^Žofie"
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert (made.PatientSex, made.PatientBirthDate) == ("", "")
    shared = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(shared.SpacingBetweenSlices) == pytest.approx(2.5)
    content = path.read_bytes()
    for secret in (b"House of Nobody", b"private secret", b"SECRETS"):
        assert secret not in content
    assert np.array_equal(read_seg(path, like=volume).volume.array, labels)


@pytest.mark.parametrize("multiframe", [False, True])
def test_deidentified(tmp_path, series, phantom, names, multiframe) -> None:
    series(tmp_path / "in", multiframe=multiframe)
    volume = open_volume(tmp_path / "in")
    labels = phantom(volume.shape, volume.affine)
    cleaner = Deidentifier("key")
    path = write_seg(
        tmp_path / "seg.dcm", labels, volume, names, algorithm=ALGORITHM, deidentify=cleaner
    )
    made = pydicom.dcmread(path)
    assert made.PatientIdentityRemoved == "YES"
    source = volume.store.read_headers()[0]
    assert made.StudyInstanceUID == cleaner.uid(source.StudyInstanceUID)
    content = read_seg(path)
    assert set(content.instances) == {cleaner.uid(uid) for uid in volume.store.sop_uids}
    assert content.series == (cleaner.uid(volume.store.series.uid),)
    data = path.read_bytes()
    secrets = ["Nobody", "Doctor", "A77", "20010203", "031Y", source.FrameOfReferenceUID]
    secrets += [source.StudyInstanceUID, *volume.store.sop_uids]
    for secret in secrets:
        assert secret.encode() not in data, secret
    assert np.array_equal(
        content.volume.array, phantom(content.volume.shape, content.volume.affine)
    )
    other = write_seg(
        tmp_path / "again.dcm", labels, volume, names, algorithm=ALGORITHM, deidentify=True
    )
    assert pydicom.dcmread(other).StudyInstanceUID != made.StudyInstanceUID


def shifted(volume: Volume) -> Volume:
    affine = volume.affine.copy()
    affine[0, 3] += 1.5
    return replace(volume, affine=affine)


@pytest.mark.parametrize(
    ("change", "labels", "said"),
    [
        (lambda v: v, np.zeros((13, 11, 5), int), r"do not fit the grid \(13, 11, 6\)"),
        (lambda v: v, np.zeros((11, 13, 6), int), "restore them to the series' grid"),
        (shifted, np.zeros((13, 11, 6), int), "1.5 mm from the slices"),
        (lambda v: v, np.full((13, 11, 6), 9), "label 9 has no name"),
        (lambda v: v, np.zeros((13, 11, 6)), "must be integers"),
        (lambda v: replace(v, store=None), np.zeros((13, 11, 6), int), "not read from one"),
    ],
)
def test_labels_beside_the_series_grid_are_refused(axial, tmp_path, names, change, labels, said):
    with pytest.raises(DataError, match=said):
        write_seg(tmp_path / "seg.dcm", labels, change(axial), names, algorithm=ALGORITHM)
    assert not (tmp_path / "seg.dcm").exists()


def test_classes_that_only_their_maker_knows(tmp_path, series, phantom, names) -> None:
    def edit(dataset: Any, k: int) -> None:
        dataset.SOPClassUID = "1.3.46.670589.11.0.0.12.1"  # a private MR class

    series(tmp_path / "in", edit=edit)
    volume = open_volume(tmp_path / "in")
    labels = phantom(volume.shape, volume.affine)
    path = write_seg(tmp_path / "seg.dcm", labels, volume, names, algorithm=ALGORITHM)
    content = read_seg(path, like=volume)
    assert np.array_equal(content.volume.array, labels)
    assert content.instances == volume.store.sop_uids
    source = pydicom.dcmread(path).SourceImageSequence[0]
    assert source.ReferencedSOPClassUID == "1.3.46.670589.11.0.0.12.1"


def test_says_that_the_source_was_compressed_with_loss(tmp_path, series, names) -> None:
    def edit(dataset: Any, k: int) -> None:
        dataset.LossyImageCompression, dataset.LossyImageCompressionRatio = "01", 12.5
        dataset.LossyImageCompressionMethod = "ISO_10918_1"

    series(tmp_path / "in", shape=(8, 8, 3), edit=edit)
    volume = open_volume(tmp_path / "in")
    ones = np.ones(volume.shape, np.uint8)
    made = pydicom.dcmread(
        write_seg(tmp_path / "seg.dcm", ones, volume, names, algorithm=ALGORITHM)
    )
    assert (made.LossyImageCompression, made.LossyImageCompressionRatio) == ("01", 12.5)
    assert made.LossyImageCompressionMethod == "ISO_10918_1"


def test_a_series_without_frame_of_reference_is_refused(tmp_path, series, names) -> None:
    def edit(dataset: Any, k: int) -> None:
        del dataset.FrameOfReferenceUID

    series(tmp_path / "in", shape=(8, 8, 3), edit=edit)
    volume = open_volume(tmp_path / "in")
    with pytest.raises(DataError, match="Frame of Reference"):
        write_seg(
            tmp_path / "seg.dcm", np.ones(volume.shape, int), volume, names, algorithm=ALGORITHM
        )


def test_only_the_background_has_a_name(axial, tmp_path) -> None:
    with pytest.raises(UsageError, match="segment"):
        write_seg(
            tmp_path / "s.dcm", np.zeros(axial.shape, int), axial, {0: "b"}, algorithm=ALGORITHM
        )


def test_replaces_only_with_force(axial, tmp_path, names) -> None:
    path, labels = tmp_path / "seg.dcm", np.zeros(axial.shape, np.uint8)
    write_seg(path, labels, axial, names, algorithm=ALGORITHM)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="--force"):
        write_seg(path, labels, axial, names, algorithm=ALGORITHM)
    assert path.read_bytes() == before
    write_seg(path, labels, axial, names, algorithm=ALGORITHM, force=True)
    assert path.read_bytes() != before  # another instance UID


def test_disk_full_leaves_nothing_half(axial, tmp_path, names) -> None:
    """The system itself stops the writing, in the middle of the file."""
    path, labels = tmp_path / "out" / "seg.dcm", np.ones(axial.shape, np.uint8)
    write_seg(path, labels, axial, names, algorithm=ALGORITHM)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(ResourceError, match="no space left"):
            write_seg(path, labels, axial, names, algorithm=ALGORITHM, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["seg.dcm"]


def test_codes_fit_what_a_model_calls_its_labels() -> None:
    found = codes_for({1: "anterior", 2: "posterior"}, "hippocampus")
    assert not any(code.private for code in found.values())


@pytest.mark.parametrize("study", ["brain-study", "prostate-study"])
def test_real_series(dicom_data, tmp_path, study) -> None:
    """A box that touches no symmetry, written for each series and read by three readers."""
    import highdicom

    for number, info in enumerate(list_series(dicom_data / study)):
        volume = read_series(info)
        a, b, c = volume.shape
        labels = np.zeros(volume.shape, np.uint8)
        labels[a // 5 : a // 3, b // 2 : b // 2 + 9, c // 3 : c // 3 + 4] = 1
        labels[a // 5, b // 2, c // 3] = 0
        path = tmp_path / f"{number}.dcm"
        write_seg(path, labels, volume, {1: "box"}, algorithm=ALGORITHM)
        assert np.array_equal(read_seg(path, like=volume).volume.array, labels)
        wanted = world(labels, volume.affine)
        alone = read_seg(path).volume
        assert same_places(world(alone.array, alone.affine), wanted)
        other = highdicom.seg.segread(path).get_volume(combine_segments=True)
        assert same_places(world(other.array, in_world(other.affine)), wanted)


def world(labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """RAS positions of the voxels that are set."""
    return np.argwhere(labels > 0) @ affine[:3, :3].T + affine[:3, 3]


def same_places(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two sets of positions are one, to a micrometre, in any order."""
    from scipy.spatial import cKDTree

    distance, partner = cKDTree(b).query(a)
    return len(a) == len(b) == len(set(partner)) and distance.max() < 1e-3
