from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from core.errors import DataError, ResourceError, UsageError
from core.files import (
    atomic_path,
    plain,
    read_bounded,
    read_json,
    require_absent,
    require_writable,
    results_folder,
    sha256,
    write_json,
    write_text,
)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "name", ["seg.nii.gz", "a b.c.d.nii.gz", "x" * 240 + ".mha", "ünïcode.png"]
)
def test_written_whole_under_the_final_name_only(tmp_path, name):
    target = tmp_path / "new" / "folders" / name
    with atomic_path(target) as temporary:
        assert "".join(Path(name).suffixes[-2:]) in temporary.name
        assert temporary.parent == target.parent
        temporary.write_bytes(b"all")
        assert not target.exists()
    assert listing(target.parent) == [name]
    assert target.read_bytes() == b"all"


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")

    def interrupted():
        with atomic_path(target, force=True) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert listing(tmp_path) == ["a.json"]
    assert target.read_text() == "old"


def test_existing_output_needs_force(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(UsageError, match=r"a\.txt already exists.*--force"):
        write_text(target, "new")
    assert target.read_text() == "old"
    write_text(target, "new", force=True)
    assert target.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    target = tmp_path / "a.txt"

    def race():
        with atomic_path(target) as temporary:
            temporary.write_text("mine")
            target.write_text("theirs")

    with pytest.raises(UsageError):
        race()
    assert target.read_text() == "theirs"
    assert listing(tmp_path) == ["a.txt"]


def test_a_dangling_link_counts_as_existing(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError):
        require_absent(link)
    require_absent(link, force=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_resource_error_that_names_the_target(tmp_path, code):
    target = tmp_path / "seg.nii.gz"

    def full():
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"part")
            raise OSError(code, os.strerror(code), str(temporary))

    with pytest.raises(ResourceError, match=r"seg\.nii\.gz: no space left") as caught:
        full()
    assert ".tmp-" not in str(caught.value)
    assert listing(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_really_full_device(tmp_path):
    def full():
        with atomic_path(tmp_path / "a.bin"), open("/dev/full", "wb", buffering=0) as stream:
            stream.write(b"x")

    with pytest.raises(ResourceError, match="no space left"):
        full()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_no_permission_is_a_resource_error(tmp_path, code):
    def refused():
        with atomic_path(tmp_path / "a"):
            raise OSError(code, os.strerror(code))

    with pytest.raises(ResourceError, match="no permission"):
        refused()


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_a_parent_that_cannot_be_made(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)  # as /proc does
    with pytest.raises(ResourceError, match="new: this folder cannot be created"):
        write_text(tmp_path / "new" / "a.txt", "x")


def test_other_errors_pass_unchanged(tmp_path):
    def fails():
        with atomic_path(tmp_path / "a"):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fails()


def test_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert sha256(path) == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(DataError, match="gone: cannot be read"):
        sha256(tmp_path / "gone")


def test_a_file_is_read_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert read_bounded(path, 3, "shorten it") == b"abc"
    with pytest.raises(DataError, match="a: over 0 MB; shorten it"):
        read_bounded(path, 2, "shorten it")
    for name in (".", "gone"):
        with pytest.raises(DataError, match="no such file; find it"):
            read_bounded(tmp_path / name, 2, "find it")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: no such file"):
        read_bounded(tmp_path / "pipe", 2, "find it")


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a").write_bytes(b"abc")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a: cannot be read \(Permission denied\); ask"):
        read_bounded(tmp_path / "a", 3, "ask")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b"[1]", "one JSON object, found list"),
        (b" " * 2000, "over 0 MB"),
    ],
)
def test_what_is_no_json_object_is_named(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    limit = 1000 if message.startswith("over") else 2**20
    with pytest.raises(DataError, match=rf"a\.json: .*{message}.*; make it again"):
        read_json(path, limit=limit, advice="make it again")
    path.write_text('{"a": [1, null]}')
    assert read_json(path) == {"a": [1, None]}


@dataclass
class Point:
    x: float
    where: Path


def test_json_is_strict_and_takes_what_results_are_made_of(tmp_path):
    write_json(
        tmp_path / "a.json",
        {
            1: np.float32(0.5),
            "nan": float("nan"),
            "inf": [np.inf, -np.inf],
            "array": np.arange(3),
            "point": Point(1.5, Path("a/b")),
            "set": {2, 1},
            "flag": np.bool_(True),
            "text": "ü",
        },
    )
    text = (tmp_path / "a.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == {
        "1": 0.5,
        "nan": None,
        "inf": [None, None],
        "array": [0, 1, 2],
        "point": {"x": 1.5, "where": "a/b"},
        "set": [1, 2],
        "flag": True,
        "text": "ü",
    }


def test_plain_refuses_what_has_no_json_form():
    with pytest.raises(TypeError, match="object has no JSON form"):
        plain(object())


def _interrupted(out: Path, force: bool = False) -> None:
    with results_folder(out, ["a.txt"], force=force) as folder:
        (folder / "a.txt").write_text("half")
        raise KeyboardInterrupt


def test_a_results_folder_appears_whole_or_not_at_all(tmp_path) -> None:
    out = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt):
        _interrupted(out)
    assert list(tmp_path.iterdir()) == []
    with results_folder(out, ["a.txt", "b.txt"]) as folder:
        (folder / "a.txt").write_text("whole")
        assert not out.exists()
    assert [p.name for p in out.iterdir()] == ["a.txt"]


def test_a_results_folder_spares_what_is_not_its_own(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(UsageError, match="--force"), results_folder(tmp_path, ["a.txt"]):
        pass
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path, force=True)
    assert (tmp_path / "a.txt").read_text() == "old"
    with results_folder(tmp_path, ["a.txt"], force=True) as folder:
        (folder / "a.txt").write_text("new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "mine.txt": "mine", "a.txt": "new",
    }  # fmt: skip


def test_a_results_folder_is_refused_before_any_work(tmp_path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for force in (False, True):  # which replaces files in a folder, and no file by a folder
        with pytest.raises(UsageError, match="is a file; --out needs a folder"):
            require_writable(file, ["a"], force)
    with pytest.raises(UsageError, match="is a file"):
        require_writable(file / "below", ["a"])
    require_writable(tmp_path / "not" / "yet", ["a"])


def test_a_result_that_appears_meanwhile_is_kept(tmp_path) -> None:
    def race() -> None:
        with results_folder(tmp_path, ["c"]) as folder:
            (folder / "c").write_text("ours")
            (tmp_path / "c").write_text("theirs")

    with pytest.raises(UsageError, match="exists"):
        race()
    assert listing(tmp_path) == ["c"]
    assert (tmp_path / "c").read_text() == "theirs"
