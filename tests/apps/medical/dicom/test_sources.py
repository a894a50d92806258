"""Folders, zips and DICOMDIRs that are not to be trusted."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from apps.medical.dicom import sources
from apps.medical.dicom.series import list_series
from apps.medical.dicom.sources import looks_like_dicom, open_source
from apps.medical.dicom.values import quiet_reading
from core.errors import DataError, ResourceError


@pytest.fixture(scope="module")
def study(tmp_path_factory, series) -> Path:
    """Two slices; enough to be told from what is none."""
    return series(tmp_path_factory.mktemp("sources") / "study", (8, 6, 3)).folder


def make_zip(path: Path, members: dict[str, bytes | Path], method: int = zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def test_a_folder_is_searched_at_all_levels_but_not_hidden_files(tmp_path, study) -> None:
    files = sorted(study.iterdir())
    deep = tmp_path / "s" / "a b" / "c"
    deep.mkdir(parents=True)
    shutil.copy(files[0], deep / "IM0001")  # without a suffix
    shutil.copy(files[1], tmp_path / "s" / "x.ima")
    shutil.copy(files[2], tmp_path / "s" / "._x.dcm")
    (tmp_path / "s" / ".trash").mkdir()
    shutil.copy(files[2], tmp_path / "s" / ".trash" / "y.dcm")
    (tmp_path / "s" / "notes.txt").write_text("DICM")
    (tmp_path / "s" / "empty.dcm").write_bytes(b"")
    found = open_source(tmp_path / "s")
    assert found.kind == "folder"
    assert {file.name for file in found.files} == {"IM0001", "x.ima"}


def test_an_empty_folder_and_what_is_not_there(tmp_path) -> None:
    with pytest.raises(DataError, match="no DICOM in it"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        open_source(tmp_path / "absent")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG" + bytes(200))
    with pytest.raises(DataError, match="no DICOM in it"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="no DICOM in it"):
        open_source(tmp_path / "picture.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.timeout(20)
def test_a_pipe_does_not_block_the_search(tmp_path, study) -> None:
    shutil.copy(next(study.iterdir()), tmp_path / "a.dcm")
    os.mkfifo(tmp_path / "b.dcm")
    os.symlink("/nowhere/at/all", tmp_path / "c.dcm")
    assert [file.name for file in open_source(tmp_path).files] == ["a.dcm"]


def test_a_loop_of_links_ends(tmp_path, study) -> None:
    shutil.copy(next(study.iterdir()), tmp_path / "a.dcm")
    os.symlink(tmp_path, tmp_path / "again", target_is_directory=True)
    assert len(open_source(tmp_path).files) == 1


def test_too_many_files(tmp_path, study, monkeypatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILES", 2)
    with pytest.raises(DataError, match="more than 2 files"):
        open_source(study)
    archive = make_zip(tmp_path / "many.zip", {f"{n}": b"" for n in range(3)})
    with pytest.raises(DataError, match="more than 2 members"):
        open_source(archive)


def test_files_without_a_preamble_are_recognised() -> None:
    explicit = struct.pack("<HH2sH", 8, 5, b"CS", 10) + b"ISO_IR 100" + bytes(20)
    implicit = struct.pack("<HHL", 8, 0x16, 26) + b"1.2.840.10008.5.1.4.1.1.4" + bytes(9)
    big = struct.pack(">HH2sH", 8, 5, b"CS", 10) + b"ISO_IR 100" + bytes(20)
    assert all(looks_like_dicom(head) for head in (explicit, implicit, big))
    for other in (b"", b"\x08\x00", b"\x1f\x8b" + bytes(200), b"text " * 40, b"PK\3\4" + bytes(99)):
        assert not looks_like_dicom(other)


def test_a_zip_lists_what_the_folder_lists(tmp_path, study) -> None:
    members = {f"export/deep/{file.name}": file for file in study.iterdir()}
    archive = make_zip(tmp_path / "study.zip", members | {"export/readme.txt": b"hello"})
    (zipped,), (plain,) = list_series(archive), list_series(study)
    assert zipped.uid == plain.uid
    assert zipped.shape == plain.shape
    assert not zipped.refusal
    assert zipped.source == archive
    assert all(not file.is_relative_to(tmp_path) for file in zipped.files)
    folder = zipped.files[0].parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.iterdir())) == 3  # the text was not unpacked
    assert list_series(archive)[0].files == zipped.files  # and not unpacked twice
    sources.release(archive)
    assert not folder.exists()
    assert list_series(archive)[0].slices == 3
    sources.release()
    assert not sources._UNPACKED


@pytest.mark.parametrize(
    "name",
    ["../evil.dcm", "a/../../evil.dcm", "/etc/evil.dcm", "..\\evil.dcm", "C:\\evil.dcm", "C:/x"],
)
def test_names_that_leave_the_archive(tmp_path, study, name) -> None:
    good = sorted(study.iterdir())
    archive = make_zip(tmp_path / "bad.zip", {"ok.dcm": good[0], name: good[1]})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="points outside the archive"):
        open_source(archive)
    assert set(tmp_path.rglob("*")) == before


def test_a_link_in_a_zip(tmp_path) -> None:
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"'link\.dcm' is a link"):
        open_source(tmp_path / "link.zip")


def test_a_zip_bomb_stops_at_the_bound_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sources, "RATIO_FROM", 2**20)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    head = bytes(128) + b"DICM"
    archive = make_zip(tmp_path / "bomb.zip", {"a.dcm": head + bytes(2**24)})
    assert archive.stat().st_size * sources.MAX_RATIO < 2**24
    with pytest.raises(DataError, match=r"unpacks to more than .* bomb"):
        open_source(archive)
    assert list((tmp_path / "tmp").iterdir()) == []
    # What the archive declares does not matter: a lie about the size is caught by counting.
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        at = data.find(signature)
        data[at + offset : at + offset + 4] = struct.pack("<L", 1000)
    (tmp_path / "lie.zip").write_bytes(data)
    with pytest.raises(DataError):
        open_source(tmp_path / "lie.zip")


def test_many_members_add_up_to_a_bomb(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 2**20)
    head = bytes(128) + b"DICM"
    members = {f"{n}.dcm": head + os.urandom(2**18) for n in range(5)}
    with pytest.raises(DataError, match="more than 1 MiB"):
        open_source(make_zip(tmp_path / "many.zip", members))


def test_an_archive_in_an_archive_is_not_opened(tmp_path, study) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"a.dcm": next(study.iterdir())})
    with pytest.raises(DataError, match="no DICOM in it"):
        open_source(make_zip(tmp_path / "outer.zip", {"inner.zip": inner}))


def test_damaged_and_protected_zips(tmp_path, study) -> None:
    whole = make_zip(tmp_path / "whole.zip", {file.name: file for file in study.iterdir()})
    data = whole.read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="damaged zip"):
        open_source(tmp_path / "cut.zip")
    flipped = bytearray(data)
    flipped[300:340] = bytes(b ^ 0xFF for b in flipped[300:340])
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(DataError, match="damaged zip"):
        open_source(tmp_path / "flipped.zip")
    locked = bytearray(data)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = -1
        while (at := locked.find(signature, at + 1)) >= 0:
            locked[at + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(DataError, match="password"):
        open_source(tmp_path / "locked.zip")


def test_a_full_disk_is_the_machines_fault(tmp_path, study, monkeypatch) -> None:
    archive = make_zip(tmp_path / "s.zip", {file.name: file for file in study.iterdir()})
    real = Path.open

    def full(self, mode="r", *args, **kwargs):
        if mode == "wb":
            raise OSError(28, "No space left on device")
        return real(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ResourceError, match="cannot be unpacked"):
        open_source(archive)


def write_dicomdir(path: Path, files: list[list[str]]) -> Path:
    """A DICOMDIR by hand: pydicom's FileSet would refuse to write most of these."""
    from pydicom.dataset import Dataset, FileMetaDataset

    with quiet_reading():
        directory = Dataset()
        directory.FileSetID = "TEST"
        directory.DirectoryRecordSequence = []
        for parts in files:
            record = Dataset()
            record.DirectoryRecordType = "IMAGE"
            record.RecordInUseFlag = 0xFFFF
            record.ReferencedFileID = parts
            directory.DirectoryRecordSequence.append(record)
        directory.file_meta = FileMetaDataset()
        directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
        directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        directory.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        directory.save_as(path, enforce_file_format=True)
    return path


def test_a_dicomdir_names_files_in_any_case(tmp_path, study) -> None:
    disk = tmp_path / "disk"
    shutil.copytree(study, disk / "dicom" / "st0")
    names = [file.name.upper() for file in sorted((disk / "dicom" / "st0").iterdir())]
    (disk / "other.dcm").write_bytes(next(study.iterdir()).read_bytes())
    path = write_dicomdir(disk / "DICOMDIR", [["DICOM", "ST0", name] for name in names])
    found = open_source(path)
    assert found.kind == "DICOMDIR"
    assert len(found.files) == 3
    assert list_series(path)[0].slices == 3


def test_a_dicomdir_with_files_missing_says_so(tmp_path, study) -> None:
    shutil.copytree(study, tmp_path / "disk")
    names = [[file.name] for file in sorted((tmp_path / "disk").iterdir())]
    path = write_dicomdir(tmp_path / "disk" / "DICOMDIR", [*names, ["GONE"]])
    assert "names 1 files that are not there" in list_series(path)[0].notes[0]
    path = write_dicomdir(tmp_path / "DICOMDIR", [["GONE"]])
    with pytest.raises(DataError, match="none of the 1 files it names is there"):
        open_source(path)


@pytest.mark.parametrize(
    "parts", [["..", "secret.dcm"], ["/etc", "passwd"], ["A", "..", "..", "X"], ["C:", "X"], ["."]]
)
def test_a_dicomdir_that_points_outside(tmp_path, study, parts) -> None:
    (tmp_path / "disk").mkdir()
    shutil.copy(next(study.iterdir()), tmp_path / "secret.dcm")
    path = write_dicomdir(tmp_path / "disk" / "DICOMDIR", [parts])
    with pytest.raises(DataError, match="outside its folder"):
        open_source(path)


def test_a_dicomdir_that_leads_outside_by_a_link(tmp_path, study) -> None:
    (tmp_path / "disk").mkdir()
    shutil.copy(next(study.iterdir()), tmp_path / "secret.dcm")
    os.symlink(tmp_path, tmp_path / "disk" / "LINK", target_is_directory=True)
    path = write_dicomdir(tmp_path / "disk" / "DICOMDIR", [["LINK", "SECRET.DCM"]])
    with pytest.raises(DataError, match="leads outside"):
        open_source(path)


def test_pydicoms_own_dicomdir() -> None:
    from pydicom.data import get_testdata_file

    found = list_series(get_testdata_file("dicomdirtests/DICOMDIR"))
    by_title = {info.title: info for info in found}
    assert by_title["Scout"].refusal.startswith("is a localizer")
    assert by_title["T/S/C RF FAST PILOT"].refusal.startswith("has slices in 3 orientations")
    assert by_title["SmartScore - Gated 0.5 sec"].refusal == ""
    assert len({info.patient_id for info in found}) > 1


def test_a_file_named_dicomdir_that_is_none(tmp_path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(b"nothing of it" * 20)
    with pytest.raises(DataError, match="is no DICOM file"):
        open_source(tmp_path / "DICOMDIR")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\xff" * 300)
    with pytest.raises(DataError):
        open_source(tmp_path / "DICOMDIR")
