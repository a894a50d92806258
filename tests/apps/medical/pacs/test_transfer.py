"""Files, bounds and interruptions, with a PACS made of a folder; and the verbs' manners."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pydicom
import pytest

import apps.medical.pacs.transfer
from apps.medical.pacs.config import Bounds, Query, parse_address
from apps.medical.pacs.service import ConnectionLost, Instance, Pacs, Series
from apps.medical.pacs.transfer import collect, pull, push
from core.errors import DataError, UsageError


class FolderPacs(Pacs):
    """Gives the files of ``made``; the connection is lost before the images in ``losses``."""

    def __init__(self, made: list, losses: tuple[int, ...] = (), **bounds) -> None:
        super().__init__(
            parse_address("http://folder/x"), Bounds(**{"pause": 0.0, "retries": 1, **bounds})
        )
        self.made, self.losses, self.count = made, list(losses), 0
        self.stored: list[Path] = []

    def _search(self, level, wanted, limit):
        raise NotImplementedError

    def find(self, query):
        return [Series(study=m.study, uid=m.series, count=len(m.files)) for m in self.made]

    def instances(self, series):
        (made,) = (m for m in self.made if m.series == series.uid)
        return [Instance(uid=uid) for uid in sorted(made.files)]

    def _step(self) -> None:
        if self.count in self.losses:
            self.losses.remove(self.count)
            raise ConnectionLost("gone")
        self.count += 1

    def retrieve(self, series, wanted, whole, receiver):
        (made,) = (m for m in self.made if m.series == series.uid)
        for item in wanted:
            self._step()
            data = made.files[item.uid].read_bytes()
            receiver.keep(item.uid, (data[i : i + 100] for i in range(0, len(data), 100)))

    def store(self, items, sender):
        for item in items:
            self._step()
            self.stored.append(item.path)
            sender.stored(item)


def files(folder: Path) -> list[Path]:
    """Everything below ``folder`` that is a file, temporary ones too."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("losses", "received"),
    [
        ((), 6),
        ((0,), 6),  # one attempt in vain is allowed
        ((0, 0), 0),
        ((1, 2, 3, 4, 5), 6),  # each attempt brings something
        ((3, 3), 6),  # the second one brings nothing, and there is a third
        ((3, 3, 3), 3),
    ],
)
def test_only_attempts_in_vain_count(make_series, tmp_path, losses, received) -> None:
    pacs = FolderPacs([make_series(slices=4), make_series("b", slices=2)], losses)
    report = pull(pacs, Query(patient="P1"), tmp_path / "out")
    assert report["received"] == len(files(tmp_path / "out")) == received
    assert report["missing"] == 6 - received
    assert (report["stopped"] is None) is (received == 6)


def test_a_push_goes_on_after_a_loss(make_series) -> None:
    made = make_series(slices=5)
    pacs = FolderPacs([], (2, 4))
    report = push(pacs, [made.folder])
    assert report["stored"] == 5
    assert sorted(pacs.stored) == sorted(made.files.values())
    report = push(FolderPacs([], (2, 2, 2)), [made.folder])
    assert (report["stored"], report["stopped"]) == (2, "gone")
    assert report["missing"] == [str(path) for path in sorted(made.files.values())[2:]]


def test_a_full_disk_keeps_what_is_complete_and_nothing_half(
    make_series, tmp_path, monkeypatch
) -> None:
    made = make_series(slices=4)
    pacs = FolderPacs([made])
    room = [sum(path.stat().st_size for path in made.files.values()) // 2 + 500]

    class Small:
        """A file on a disk with so much room."""

        def __init__(self, path, mode):
            self._file = open(path, mode)  # noqa: SIM115  closed by __exit__

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def write(self, data):
            room[0] -= len(data)
            if room[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
            self._file.write(data)

    monkeypatch.setattr(apps.medical.pacs.transfer, "open", Small, raising=False)
    report = pull(pacs, Query(patient="P1"), tmp_path / "out")
    assert "no space left" in report["stopped"]
    assert report["received"] == 2
    left = files(tmp_path / "out")
    assert [path.stem for path in left] == sorted(made.files)[:2]
    assert all(path.read_bytes() == made.files[path.stem].read_bytes() for path in left)
    monkeypatch.undo()
    report = pull(pacs, Query(patient="P1"), tmp_path / "out")
    assert (report["there"], report["received"]) == (2, 2)


def test_the_total_is_bounded(make_series, tmp_path) -> None:
    made = make_series(slices=4)
    size = next(iter(made.files.values())).stat().st_size
    report = pull(
        FolderPacs([made], total_bytes=2 * size + 50), Query(patient="P1"), tmp_path / "out"
    )
    assert "--max-gb" in report["stopped"]
    assert len(files(tmp_path / "out")) == report["received"] == 2
    assert report["bytes"] <= 2 * size + 50


def test_an_interruption_leaves_whole_files(make_series, tmp_path) -> None:
    made = make_series(slices=3)

    class Interrupted(FolderPacs):
        def retrieve(self, series, wanted, whole, receiver):
            super().retrieve(series, wanted[:1], whole, receiver)

            def half():
                yield made.files[wanted[1].uid].read_bytes()[:500]
                raise KeyboardInterrupt

            receiver.keep(wanted[1].uid, half())

    with pytest.raises(KeyboardInterrupt):
        pull(Interrupted([made]), Query(patient="P1"), tmp_path / "out")
    (left,) = files(tmp_path / "out")
    assert left.stem == min(made.files)


def test_a_count_that_the_list_contradicts_is_noted(make_series, tmp_path) -> None:
    made = make_series(slices=3)

    class Hiding(FolderPacs):
        def instances(self, series):
            return super().instances(series)[:2]

    report = pull(Hiding([made]), Query(patient="P1"), tmp_path / "out")
    assert "counts 3 but lists 2" in report["series"][0]["why"][0]


def test_an_output_that_is_a_file_is_refused(make_series, tmp_path) -> None:
    (tmp_path / "out").write_text("mine")
    pacs = FolderPacs([make_series()])
    with pytest.raises(UsageError, match="out"):
        pull(pacs, Query(patient="P1"), tmp_path / "out")
    assert pacs.count == 0
    assert (tmp_path / "out").read_text() == "mine"


# What is sent


def test_collect_takes_each_instance_once_and_dicom_only(make_series, tmp_path) -> None:
    made = make_series(slices=3)
    first = sorted(made.folder.iterdir())[0]
    (made.folder / "copy.dcm").write_bytes(first.read_bytes())
    (made.folder / "seg.nii.gz").write_bytes(b"\x1f\x8b")
    (made.folder / ".hidden").write_bytes(first.read_bytes())
    (made.folder / "link.dcm").symlink_to(first)
    items, ignored = collect([made.folder])
    assert {item.uid for item in items} == set(made.files)
    assert ignored == 2
    assert all(item.bytes == item.path.stat().st_size for item in items)


def damage(kind: str, path: Path) -> None:
    image = pydicom.dcmread(path)
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut in its header":
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "no class":
        del image.SOPClassUID
        image.save_as(path)
    elif kind == "two identities":
        image.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        image.save_as(path)
    else:
        path.unlink()


@pytest.mark.parametrize(
    "kind", ["text", "empty", "cut in its header", "no class", "two identities", "gone"]
)
def test_a_named_file_that_cannot_be_sent_is_an_error(make_series, command, kind) -> None:
    path = next(iter(make_series().files.values()))
    damage(kind, path)
    with pytest.raises(DataError, match=path.name):
        collect([path])
    code, report, _ = command("push", path, "--url", "http://127.0.0.1:1/x")
    assert (code, report["error"]["type"]) == (3, "DataError")


def test_a_folder_without_dicom_is_an_error(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="no DICOM file"):
        collect([tmp_path])


# The verbs


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (("pull", "--url", "http://127.0.0.1:1/x"), "--patient"),
        (("pull", "--patient", "P1"), "--url"),
        (("pull", "--url", "pacs", "--patient", "P1"), "--url"),
        (("pull", "--url", "http://u:geheim@127.0.0.1/x", "--patient", "P1"), "environment"),
        (("pull", "--url", "http://127.0.0.1/x", "--patient", "P", "--listen", "1"), "--listen"),
        (("pull", "--url", "dicom://A@127.0.0.1:1", "--patient", "P", "--aet", "A\\B"), "--aet"),
        (("push", "--url", "http://127.0.0.1/x"), "sources"),
    ],
)
def test_mistakes_on_the_command_line(command, line, word) -> None:
    code, report, errors = command(*line)
    assert code == 2
    assert word in report["error"]["message"]
    assert "geheim" not in errors


def test_what_travels_unencrypted_is_said(command, make_series) -> None:
    folder = make_series().folder
    for url, warned in (
        ("http://pacs.invalid/x", True),
        ("dicom://A@pacs.invalid:104", True),
        ("https://pacs.invalid/x", False),
        ("http://127.0.0.1/x", False),
    ):
        code, _, errors = command("push", folder, "--url", url, "--dry-run")
        assert code == 0
        assert ("unencrypted" in errors) is warned


def test_help_needs_none_of_the_packages(python) -> None:
    line = (
        "import sys; from core.cli import main; from apps.medical.run import app; "
        "code = main(app, ['pull', '--help']); "
        "heavy = {'pydicom', 'pynetdicom', 'requests', 'dicomweb_client', 'numpy'}; "
        "sys.exit(code or len(heavy & set(sys.modules)))"
    )
    done = python("-c", line)
    assert done.returncode == 0, done.stderr
    assert "--dry-run" in done.stdout


@pytest.mark.parametrize(
    ("package", "url"),
    [("pynetdicom", "dicom://A@127.0.0.1:1"), ("dicomweb_client", "http://127.0.0.1:1/x")],
)
def test_a_missing_package_names_its_extra(command, make_series, monkeypatch, package, url) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    code, report, _ = command("push", make_series().folder, "--url", url)
    assert code == 2
    assert ".[pacs]" in report["error"]["message"]


def test_what_a_person_reads(make_series, tmp_path, capsys) -> None:
    from apps.medical.commands.pacs import _print_pull, _print_push

    pacs = FolderPacs([make_series(slices=2)])
    _print_pull(pull(pacs, Query(patient="P1"), tmp_path / "out", dry_run=True))
    said = capsys.readouterr().out
    assert "2 images in 1 series; nothing was fetched" in said
    _print_pull(pull(pacs, Query(patient="P1"), tmp_path / "out"))
    said = capsys.readouterr().out
    assert "2 received" in said
    assert str(tmp_path / "out") in said
    _print_push(push(pacs, [tmp_path / "out"]))
    assert "2 files (" in capsys.readouterr().out
