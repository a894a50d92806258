"""De-identification: nothing of the patient stays, and a series stays a series."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from apps.medical.dicom.deidentify import Deidentifier, deidentify_dataset, deidentify_folder
from apps.medical.dicom.segmentation import Algorithm, read_seg, write_seg
from apps.medical.dicom.series import list_series
from apps.medical.dicom.volume import read_series
from core.errors import DataError, ResourceError, UsageError

# One value per value representation, none of which may be found afterwards.
SECRETS: dict[str, Any] = {
    "DA": "20010203", "TM": "040506", "DT": "20010203040506", "AS": "031Y", "UI": "1.2.3.4.5",
    "DS": "77.25", "IS": "7725", "US": 7725, "UL": 7725, "SS": 7725, "SL": 7725, "FD": 77.25,
    "FL": 77.25, "CS": "SECRET", "PN": "Secret^Name", "AT": 0x00100010, "OB": b"secret",
    "OW": b"secret", "UN": b"secret", "UR": "http://secret",
}  # fmt: skip


def tags() -> Iterator[int]:
    text = (Path(__file__).parent / "confidential_tags.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if not line.startswith("#"):
            yield from (int(tag, 16) for tag in line.split())


def test_every_attribute_of_the_basic_profile_is_protected() -> None:
    """PS3.15 Table E.1-1, whole: removed, emptied or replaced, at the top and inside a sequence."""
    checked = 0
    for tag in tags():
        vr = dictionary_VR(tag).split(" ")[0]
        if tag >> 16 <= 2:  # file meta information is made anew
            continue
        inner = Dataset()
        inner.PatientComments = "secret"
        value = [inner] if vr == "SQ" else SECRETS.get(vr, "secret")
        header, outer = Dataset(), Dataset()
        header.add(DataElement(tag, vr, value))
        outer.AnatomicRegionSequence = [header]
        for made in (
            deidentify_dataset(header),
            deidentify_dataset(outer).AnatomicRegionSequence[0],
        ):
            left = made.get(tag)
            if left is not None and left.value:
                changed = left.value != value if vr != "SQ" else "secret" not in str(left.value)
                assert changed, pydicom.datadict.keyword_for_tag(tag)
        checked += 1
    assert checked > 600


def test_private_curve_overlay_and_unknown_elements_go() -> None:
    header = Dataset()
    header.Rows = 7
    block = header.private_block(0x0029, "MAKER", create=True)
    block.add_new(0x01, "LO", "secret")
    header.add_new(0x50003000, "OW", b"secret")
    header.add_new(0x60003000, "OW", b"secret")
    header.add_new(0x60000022, "LO", "secret")
    header.add_new(0x00181234, "LO", "secret")  # not in the dictionary
    made = deidentify_dataset(header)
    assert made.Rows == 7
    assert "secret" not in str(made)
    assert not any(tag.is_private or tag.group >= 0x5000 for tag in made.keys())  # noqa: SIM118


def test_what_the_voxels_mean_stays(series, tmp_path) -> None:
    file = series(tmp_path / "in", modality="CT", intercept=-1024.0).files[0]
    header = pydicom.dcmread(file)
    before = header.to_json()
    made = deidentify_dataset(header)
    for keyword in (
        "Rows", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "PixelData",
        "RescaleSlope", "RescaleIntercept", "Modality", "Manufacturer", "BodyPartExamined",
        "SliceThickness", "SOPClassUID", "SeriesNumber", "InstanceNumber",
    ):  # fmt: skip
        assert made[keyword].value == header[keyword].value, keyword
    assert header.to_json() == before  # the given one is left alone
    assert made.PatientIdentityRemoved == "YES"
    assert made.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert made.LongitudinalTemporalInformationModified == "REMOVED"
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
        assert made[keyword].value in ("", None)  # Type 2: empty, but there


def test_identifiers_are_replaced_consistently_and_irreversibly() -> None:
    one, again, other = Deidentifier("a"), Deidentifier(b"a"), Deidentifier()
    uid = "1.2.840.113619.2.55.3"
    assert one.uid(uid) == one.uid(uid) == again.uid(uid) != other.uid(uid)
    assert one.uid(uid) != one.uid(uid + ".1")
    assert re.fullmatch(r"2\.25\.[1-9]\d{30,38}", one.uid(uid))
    assert int(one.uid(uid)[5:]) < 2**128
    assert one.uid("1.2.840.10008.5.1.4.1.1.2") == "1.2.840.10008.5.1.4.1.1.2"
    assert Deidentifier().uid(uid) != other.uid(uid)
    headers = []
    for number in ("77", "78"):
        header = Dataset()
        header.PatientID, header.PatientName = number, "Same^Name"
        headers.append(one.dataset(header))
    assert headers[0].PatientID != headers[1].PatientID  # two patients stay two
    assert one.dataset(Dataset()).get("PatientID") is None


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm",
     "MR_small_implicit.dcm", "MR_small_jpeg_ls_lossless.dcm", "liver_expb_1frame.dcm"],
)  # fmt: skip
def test_pixels_stay_bit_for_bit_in_every_transfer_syntax(tmp_path, name) -> None:
    file = Path(str(get_testdata_file(name)))
    deidentify_folder(file, tmp_path / "out")
    (made,) = (tmp_path / "out").rglob("*.dcm")
    before, after = pydicom.dcmread(file), pydicom.dcmread(made)
    assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID
    assert after.PixelData == before.PixelData
    assert after.Rows == before.Rows
    if name != "liver_expb_1frame.dcm":
        assert np.array_equal(after.pixel_array, before.pixel_array)
    words = [str(before.get(k) or "") for k in ("PatientName", "PatientID", "StudyInstanceUID")]
    for word in filter(None, words):
        assert word.encode() not in made.read_bytes()


@pytest.fixture
def study(tmp_path: Path, series: Callable[..., Any]) -> Path:
    """Two series of one patient, one of another, and files that are not images."""
    folder = tmp_path / "Nobody Invented"
    series(folder / "a", number=1, description="Nobody's head", shape=(12, 11, 5))
    series(folder / "b", number=2, plane="sagittal", shape=(12, 11, 5))
    series(folder / "c", number=3, patient="78", study=2, shape=(12, 11, 5))
    return folder


def test_a_folder(command, tmp_path, study) -> None:
    code, report, _ = command("deidentify", study, "--out", tmp_path / "out")
    assert code == 0
    assert (report["written"], report["patients"], report["studies"], report["series"]) == (
        15, 2, 2, 3,
    )  # fmt: skip
    assert report["skipped"] == []
    assert "burned-in" in report["notice"]
    for file in (tmp_path / "out").rglob("*"):
        assert not re.search("nobody|invented", file.relative_to(tmp_path).as_posix(), re.I)
        if file.is_file():
            for secret in (
                b"Nobody",
                b"Doctor",
                b"20010203",
                b"A77",
                b"1.2.826.0.1.3680043.8.498.77",
            ):
                assert secret not in file.read_bytes(), (file.name, secret)
    kept = json.loads((tmp_path / "out" / "deidentified.json").read_text())
    assert kept["written"] == 15


def test_a_copy_reads_like_the_original(tmp_path, study) -> None:
    deidentify_folder(study, tmp_path / "out")
    before = {(i.number, i.shape): read_series(i) for i in list_series(study)}
    after = {(i.number, i.shape): read_series(i) for i in list_series(tmp_path / "out")}
    assert before.keys() == after.keys()
    for key, volume in before.items():
        assert np.array_equal(volume.array, after[key].array)
        assert np.array_equal(volume.affine, after[key].affine)
    stores = [volume.store.series for volume in after.values()]
    assert len({store.study_uid for store in stores}) == 2  # series of one study stay in one


@pytest.mark.parametrize("multiframe", [False, True])
def test_a_segmentation_still_belongs_to_its_series(
    tmp_path, series, phantom, names, multiframe
) -> None:
    series(tmp_path / "in", plane="oblique", multiframe=multiframe)
    (info,) = list_series(tmp_path / "in")
    volume = read_series(info)
    labels = phantom(volume.shape, volume.affine)
    algorithm = Algorithm(name="phantom finder", version="1")
    write_seg(tmp_path / "in" / "seg.dcm", labels, volume, names, algorithm=algorithm)
    deidentify_folder(tmp_path / "in", tmp_path / "out")
    found = {pydicom.dcmread(file).Modality: file for file in (tmp_path / "out").rglob("*.dcm")}
    (copied,) = [i for i in list_series(tmp_path / "out") if i.modality == "MR"]
    content = read_seg(found["SEG"], like=read_series(copied))
    assert np.array_equal(content.volume.array, labels)
    assert content.names == {1: names[1], 2: names[2]}
    assert content.series == (copied.uid,)
    assert set(content.instances) == set(read_series(copied).store.sop_uids)


def test_a_zip(tmp_path, study) -> None:
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in (study / "a").iterdir():
            archive.write(file, f"Nobody/{file.name}")
    report = deidentify_folder(tmp_path / "study.zip", tmp_path / "out")
    assert report["written"] == 5


def mark(keyword: str, value: Any) -> Callable[[Any, int], None]:
    def edit(dataset: Any, k: int) -> None:
        setattr(dataset, keyword, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (mark("BurnedInAnnotation", "YES"), "burned-in text"),
        (mark("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), "screen capture"),
        (mark("SOPClassUID", "1.2.840.10008.5.1.4.1.1.6.1"), "ultrasound"),
        (mark("ImageType", ["DERIVED", "SECONDARY", "SCREEN SAVE"]), "screen capture"),
        (lambda d, k: d.__delattr__("PixelData"), "holds no image"),
    ],
)
def test_pixels_that_may_show_names_are_left_out_by_name(
    tmp_path, series, study, edit, said
) -> None:
    series(study / "d", number=4, edit=edit, shape=(8, 8, 2))
    report = deidentify_folder(study, tmp_path / "out")
    assert (report["written"], len(report["skipped"])) == (15, 2)
    assert all(said in entry["reason"] for entry in report["skipped"])
    assert {Path(entry["file"]).parent.name for entry in report["skipped"]} == {"d"}


def test_reports_and_damaged_files_are_left_out(tmp_path, study) -> None:
    for name in ("reportsi.dcm", "rtplan.dcm", "image_dfl.dcm"):
        data = Path(str(get_testdata_file(name))).read_bytes()
        (study / name).write_bytes(data)
    data = next((study / "a").iterdir()).read_bytes()
    (study / "short.dcm").write_bytes(data[:300])
    report = deidentify_folder(study, tmp_path / "out")
    assert report["written"] == 15
    reasons = {Path(entry["file"]).name: entry["reason"] for entry in report["skipped"]}
    assert set(reasons) == {"reportsi.dcm", "rtplan.dcm", "image_dfl.dcm", "short.dcm"}
    assert "deflated" in reasons["image_dfl.dcm"]


def test_nothing_to_copy(tmp_path) -> None:
    file = Path(str(get_testdata_file("reportsi.dcm")))
    with pytest.raises(DataError, match="nothing could be de-identified"):
        deidentify_folder(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        deidentify_folder(tmp_path / "empty", tmp_path / "out")


def test_replaces_only_its_own_work_and_only_with_force(tmp_path, study) -> None:
    out = tmp_path / "out"
    deidentify_folder(study, out)
    with pytest.raises(UsageError, match="--force"):
        deidentify_folder(study, out)
    deidentify_folder(study, out, force=True)
    other = tmp_path / "holiday"
    other.mkdir()
    (other / "photo.txt").write_text("mine")
    with pytest.raises(UsageError, match="no earlier de-identified copy"):
        deidentify_folder(study, other, force=True)
    assert (other / "photo.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="lies inside"):
        deidentify_folder(study, study / "out")


def test_disk_full_leaves_nothing_half(tmp_path, study) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ResourceError, match="no space left"):
            deidentify_folder(study, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.iterdir()} == {study.name}


def test_real_studies(dicom_data, tmp_path) -> None:
    for name in ("brain-study", "prostate-study"):
        found = list_series(dicom_data / name)
        report = deidentify_folder(dicom_data / name, tmp_path / name)
        assert report["skipped"] == []
        again = list_series(tmp_path / name)
        assert sorted(i.shape for i in again) == sorted(i.shape for i in found)
        header = pydicom.dcmread(found[0].files[0], stop_before_pixels=True)
        words = [str(header.get(k) or "") for k in ("PatientName", "PatientID", "StudyInstanceUID")]
        for file in (tmp_path / name).rglob("*.dcm"):
            data = file.read_bytes()
            assert not any(word.encode() in data for word in words if len(word) > 3)
