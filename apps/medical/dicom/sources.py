"""Where DICOM comes from: a folder, a zip, a DICOMDIR or one file. Here it becomes files on disk.

Nothing in a source is trusted. A folder is walked without following links to folders. A zip's
members are checked before any is unpacked (no absolute name, no "..", no link, no password), only
those that begin like DICOM are unpacked, under names of our own, and the bytes are counted while
they are written: what the archive says about its sizes is not believed. The unpacked files lie in a
folder that only this user can read and that is removed when the process ends. A DICOMDIR (PS3.3
F.3, PS3.10 8) may name only files below its own folder.
"""

from __future__ import annotations

import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from core.errors import DataError, ResourceError

# Bounds on what is taken in. A study of 4000 CT slices is 2 GiB; medical images deflate about 2:1,
# a constant one about 1000:1, so a ratio says nothing about small archives.
MAX_FILES = 100_000
MAX_BYTES = 8 * 2**30
MAX_RATIO, RATIO_FROM = 200, 64 * 2**20
MAX_DICOMDIR = 64 * 2**20
HEAD = 140  # preamble, "DICM" and the first element's tag, enough to tell
_CHUNK = 2**20
_NOT_IMAGES = ("__MACOSX",)


@dataclass(frozen=True)
class Source:
    """``files`` that begin like DICOM, sorted; ``names`` is what to call those that were unpacked."""

    path: Path
    kind: str  # folder, zip, DICOMDIR or file
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    names: dict[Path, str] = field(default_factory=dict)

    def name_of(self, file: Path) -> str:
        """The name by which a person knows ``file``, control characters removed."""
        if file in self.names:
            return f"{self.path}:{self.names[file]}"
        return str(file)


def open_source(path: Path | str) -> Source:
    """The DICOM files of a folder (all levels), zip, DICOMDIR, or the one file.

    Raises DataError where there is nothing, nothing of DICOM, or where an archive or a DICOMDIR is
    damaged, hostile or beyond the bounds; ResourceError where an archive does not fit the disk.
    """
    path = Path(path)
    try:
        if path.is_dir():
            found = Source(path, "folder", tuple(_walk(path)))
        elif not path.exists():
            raise DataError(f"{path}: no such file or folder")
        elif path.name.casefold() == "dicomdir":
            found = _dicomdir(path)
        elif _head(path).startswith(b"PK"):
            found = _unpacked(path)
        else:
            found = Source(path, "file", (path,) if looks_like_dicom(_head(path)) else ())
    except PermissionError as error:
        raise DataError(f"{error.filename or path}: not readable (permission denied)") from error
    if not found.files:
        raise DataError(f"{path}: no DICOM in it; give the folder, zip or DICOMDIR of a study")
    return found


def has_dicom(folder: Path) -> bool:
    """Whether a folder holds a DICOM file at any level."""
    try:
        return next(_walk(folder), None) is not None
    except (OSError, DataError):
        return False


def is_source(path: Path) -> bool:
    """Whether a file (not a folder) is a DICOM source: a zip, a DICOMDIR or a DICOM file."""
    try:
        if not path.is_file():
            return False
        head = _head(path)
    except OSError:
        return False
    return (
        path.name.casefold() == "dicomdir" or head.startswith(b"PK\3\4") or looks_like_dicom(head)
    )


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins with ``head`` can be DICOM: PS3.10's "DICM" after 128 bytes.

    Older files lack the preamble. They begin with an element of group 0002 or 0008, in either byte
    order, and a sensible value representation or length.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    for order in ("little", "big"):
        group = int.from_bytes(head[0:2], order)
        element = int.from_bytes(head[2:4], order)
        if group in (2, 8) and element <= 0x0100:
            explicit = head[4:6].isalpha() and head[4:6].isupper()
            implicit = int.from_bytes(head[4:8], order) <= 0x80
            if explicit or implicit:
                return True
    return False


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEAD)


def _walk(folder: Path) -> Iterator[Path]:
    """Regular files below ``folder`` that begin like DICOM; hidden ones and DICOMDIRs left out."""
    seen = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _NOT_IMAGES)
        for name in sorted(names):
            seen += 1
            if seen > MAX_FILES:
                raise DataError(f"{folder}: more than {MAX_FILES} files; give one study's folder")
            file = Path(place, name)
            if name.startswith(".") or name.casefold() == "dicomdir":
                continue
            # A pipe or a device would block or never end.
            if stat.S_ISREG(_mode(file)) and looks_like_dicom(_head(file)):
                yield file


def _mode(file: Path) -> int:
    try:
        return file.stat().st_mode
    except OSError:  # a dangling link
        return 0


# An archive is unpacked once per process; the folders go when the process ends.
_UNPACKED: dict[tuple[str, int, int], tuple[tempfile.TemporaryDirectory[str], Source]] = {}


def release(path: Path | str | None = None) -> None:
    """Remove what was unpacked from ``path``, or from all archives, before the process ends.

    For programs that run on: what was read from there can no longer be read again.
    """
    wanted = None if path is None else str(Path(path).resolve())
    for key in [key for key in _UNPACKED if wanted in (None, key[0])]:
        _UNPACKED.pop(key)[0].cleanup()


def _unpacked(path: Path) -> Source:
    about = path.stat()
    key = (str(path.resolve()), about.st_mtime_ns, about.st_size)
    if key not in _UNPACKED:
        _UNPACKED[key] = _unpack(path, about.st_size)
    return _UNPACKED[key][1]


def _unpack(path: Path, size: int) -> tuple[tempfile.TemporaryDirectory[str], Source]:
    folder = tempfile.TemporaryDirectory(prefix="triptych-dicom-")  # mode 0700
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(path, archive)
            names = _write_members(path, archive, members, Path(folder.name), size)
    except BaseException as error:
        folder.cleanup()
        if isinstance(error, zipfile.BadZipFile | zlib.error | EOFError | NotImplementedError):
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise DataError(f"{path}: a damaged zip ({reason}); copy or make it again") from error
        if isinstance(error, OSError) and not isinstance(error, PermissionError):
            raise ResourceError(
                f"{tempfile.gettempdir()}: {path.name} cannot be unpacked there"
                f" ({error.strerror or error}); free some space or set TMPDIR"
            ) from error
        raise
    return folder, Source(path, "zip", tuple(names), names=names)


def _checked_members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > MAX_FILES:
        raise DataError(f"{path}: more than {MAX_FILES} members; zip one study")
    kept = []
    for member in members:
        shown = _printable(member.orig_filename)
        parts = PurePosixPath(member.orig_filename.replace("\\", "/")).parts
        absolute = bool(parts) and (parts[0] == "/" or parts[0][1:2] == ":")
        if absolute or ".." in parts or "\0" in member.orig_filename:
            raise DataError(
                f"{path}: member '{shown}' points outside the archive; do not trust this file"
            )
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(
                f"{path}: member '{shown}' is a link or a device; zip the files themselves"
            )
        if member.is_dir() or not parts or parts[-1].startswith("."):
            continue
        if any(part in _NOT_IMAGES for part in parts) or parts[-1].casefold() == "dicomdir":
            continue
        if member.flag_bits & 0x1:
            raise DataError(f"{path}: is protected by a password; unpack it and give the folder")
        kept.append(member)
    return kept


def _write_members(
    path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, size: int
) -> dict[Path, str]:
    """Unpack what begins like DICOM, counting; returns each file's name in the archive."""
    allowed = min(MAX_BYTES, max(RATIO_FROM, MAX_RATIO * size))
    names: dict[Path, str] = {}
    written = 0
    for number, member in enumerate(members):
        with archive.open(member) as stream:
            chunk = stream.read(HEAD)
            if not looks_like_dicom(chunk):
                continue
            file = folder / f"{number:06d}.dcm"
            with file.open("wb") as target:
                while chunk:
                    written += len(chunk)
                    if written > allowed:
                        raise DataError(
                            f"{path}: unpacks to more than {allowed / 2**20:.0f} MiB from"
                            f" {size / 2**20:.1f} MiB (a decompression bomb?); unpack it yourself"
                            " and give the folder if you trust it"
                        )
                    target.write(chunk)
                    chunk = stream.read(_CHUNK)
            names[file] = _printable(member.filename)
    return names


def _dicomdir(path: Path) -> Source:
    """The files that a DICOMDIR's records name, each below its folder."""
    import pydicom

    from apps.medical.dicom.values import quiet_reading

    if path.stat().st_size > MAX_DICOMDIR:
        raise DataError(f"{path}: larger than {MAX_DICOMDIR >> 20} MiB, not a DICOMDIR")
    if not looks_like_dicom(_head(path)):
        raise DataError(f"{path}: is no DICOM file; give the study's folder instead")
    try:
        with quiet_reading():
            records = list(pydicom.dcmread(path).get("DirectoryRecordSequence") or [])
            named = [_file_id(record) for record in records]
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(
            f"{path}: cannot be read ({reason}); give the study's folder instead"
        ) from error
    if len(named) > MAX_FILES:
        raise DataError(f"{path}: names more than {MAX_FILES} files; give one study's folder")
    root = path.parent.resolve()
    files, missing = [], 0
    for parts in named:
        if not parts:
            continue
        shown = _printable("/".join(parts))
        if any(part in ("", ".", "..") or set(part) & set('/\\:"\0') for part in parts):
            raise DataError(f"{path}: names the file '{shown}' outside its folder; do not trust it")
        file = _find(path.parent, parts)
        if file is None:
            missing += 1
        elif not file.resolve().is_relative_to(root):
            raise DataError(f"{path}: '{shown}' leads outside its folder; do not trust it")
        elif stat.S_ISREG(_mode(file)) and looks_like_dicom(_head(file)):
            files.append(file)
    notes = (f"the DICOMDIR names {missing} files that are not there",) if missing else ()
    if missing and not files:
        raise DataError(
            f"{path}: none of the {missing} files it names is there; copy the whole medium"
        )
    return Source(path, "DICOMDIR", tuple(dict.fromkeys(files)), notes)


def _file_id(record: object) -> list[str]:
    """A record's Referenced File ID (0004,1500) as path components; inactive records have none."""
    get = record.get  # type: ignore[attr-defined]
    value = get("ReferencedFileID")
    if value is None or get("RecordInUseFlag") == 0:
        return []
    return [str(value)] if isinstance(value, str) else [str(part) for part in value]


def _find(folder: Path, parts: list[str]) -> Path | None:
    """The file of these components, in any case: media are often copied in lower case."""
    for part in parts:
        exact = folder / part
        if not os.path.lexists(exact):
            try:
                names = os.listdir(folder)
            except OSError:
                return None
            same = [n for n in names if n.casefold().removesuffix(";1") == part.casefold()]
            if not same:
                return None
            exact = folder / sorted(same)[0]
        folder = exact
    return folder


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:120]
