"""Writing files so that a reader never sees half of one, and a person never loses one.

``atomic_path`` is the only way the project writes results: the bytes go to a temporary sibling,
which takes the final name in one step, and only when everything succeeded. A killed process leaves
at most a file called ``.tmp-...``; the previous version of the target is untouched.

``read_bounded`` and ``read_json`` read a small file that somebody else may have made.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from core.errors import DataError, ResourceError, TriptychError, UsageError

MAX_JSON_BYTES = 16 * 2**20
"""Descriptions are text: a plan with thousands of case hashes stays below 1 MiB."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def require_absent(path: Path, force: bool = False) -> None:
    """UsageError when something already has this name and ``force`` was not given."""
    # lexists: a dangling link is something, too.
    if not force and os.path.lexists(path):
        raise UsageError(
            f"{path} already exists; choose another output or pass --force to replace it"
        )


@contextmanager
def atomic_path(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary path to write to; it becomes ``path`` when the block ends without an error.

    The temporary name ends with the whole final name (``.tmp-3f9c01ab-seg.nii.gz``), because image
    libraries choose the format and the compression by suffix. Missing parent folders are created.

    Raises UsageError when ``path`` exists and ``force`` is false or when a parent is not a folder,
    ResourceError when the disk is full or the place may not be written to. On any error the
    temporary file is removed and ``path`` is as it was.
    """
    path = Path(path)
    require_absent(path, force)
    # 255 bytes is the longest file name common file systems take; keep the end, it has the suffix.
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name[-120:]}")
    try:
        _make_folder(path.parent)
        yield temporary
        _flush_to_disk(temporary)
        require_absent(path, force)  # someone else may have written it meanwhile
        os.replace(temporary, path)
    except OSError as error:
        raise _explain(error, path, temporary) from error
    finally:
        with suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink(missing_ok=True)


def leftovers(folder: Path, pattern: str) -> Iterator[Path]:
    """What writers of ``folder / pattern`` that were killed left behind; ``pattern`` as for glob."""
    return folder.glob(f".tmp-????????-{pattern}")


def require_writable(folder: Path, names: Sequence[str], force: bool = False) -> None:
    """Refuse, before any work, a folder of results that ``results_folder`` could not write.

    Raises UsageError where one of ``names`` is in it already and ``force`` is false, or where it is
    a file; ResourceError where the place may not be written to.
    """
    place = Path(folder).absolute()
    if place.is_dir():
        for name in names:
            require_absent(Path(folder) / name, force)
    elif not place.exists():  # but perhaps a dangling link; what exists is told below
        require_absent(folder)
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{place}: is a file; --out needs a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ResourceError(f"{place}: no permission to write here; choose another --out")


@contextmanager
def results_folder(folder: Path, names: Sequence[str], *, force: bool = False) -> Iterator[Path]:
    """A temporary folder to fill; its files are ``folder``'s when the block ends without an error.

    A folder that does not exist appears whole or not at all; into one that exists the files move one
    by one, other files in it stay.  ``names`` are what will be written.

    Raises as ``require_writable`` and ``atomic_path``.
    """
    folder = Path(folder)
    require_writable(folder, names, force)
    if not folder.is_dir():
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            yield temporary
        return
    temporary = folder / f".tmp-{secrets.token_hex(4)}"
    try:
        temporary.mkdir()
        yield temporary
        for name in names:
            require_absent(folder / name, force)
        for file in sorted(temporary.iterdir()):
            _flush_to_disk(file)
            os.replace(file, folder / file.name)
    except OSError as error:
        raise _explain(error, folder, temporary) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str, force: bool = False) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, obj: Any, force: bool = False) -> None:
    """Write strict, indented JSON atomically (see ``plain`` for what is converted)."""
    write_text(path, json.dumps(plain(obj), indent=2, ensure_ascii=False) + "\n", force)


def read_bounded(path: Path, limit: int, advice: str) -> bytes:
    """A whole file of at most ``limit`` bytes, whoever made it.

    DataError, which ends with ``advice``, when it is missing, cannot be read or is longer.
    """
    try:
        if not path.is_file():  # nor a folder, nor a pipe that would keep us waiting
            raise DataError(f"{path}: no such file; {advice}")
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); {advice}") from error
    if len(content) > limit:
        raise DataError(f"{path}: over {limit // 2**20} MB; {advice}")
    return content


def read_json(
    path: Path, *, limit: int = MAX_JSON_BYTES, advice: str = "copy it again"
) -> dict[str, Any]:
    """The object in a JSON file; as ``read_bounded``, and DataError when it holds none."""
    content = read_bounded(path, limit, advice)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}); {advice}") from error
    if not isinstance(value, dict):
        found = type(value).__name__
        raise DataError(f"{path}: must hold one JSON object, found {found}; {advice}")
    return value


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes. DataError when it cannot be read."""
    import hashlib

    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def plain(obj: Any) -> Any:
    """``obj`` as JSON's own types: paths become strings, arrays lists, NaN and infinities null.

    Strict JSON has no NaN, and a metric that is undefined (HD95 of an empty mask) is just that: no
    number. Raises TypeError for what has no obvious form.
    """
    if obj is None or isinstance(obj, bool | str | int):
        return obj
    if isinstance(obj, float):
        return float(obj) if isfinite(obj) else None
    if isinstance(obj, dict):
        return {str(key): plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [plain(value) for value in obj]
    if isinstance(obj, set | frozenset):
        return sorted(plain(value) for value in obj)
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if is_dataclass(obj) and not isinstance(obj, type):
        return plain(asdict(obj))
    if hasattr(obj, "model_dump"):  # pydantic
        return plain(obj.model_dump())
    if hasattr(obj, "tolist"):  # NumPy and torch, scalars and arrays alike
        return plain(obj.tolist())
    raise TypeError(f"{type(obj).__name__} has no JSON form")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # where nothing can be made, such as in /proc
        raise ResourceError(
            f"{folder}: this folder cannot be created; choose another output folder"
        ) from error


def _flush_to_disk(path: Path) -> None:
    """Ask the system to write ``path`` out, so that a power cut cannot leave an empty file behind."""
    if path.is_file():
        with open(path, "rb") as stream, suppress(OSError):
            os.fsync(stream.fileno())


def _explain(error: OSError, path: Path, temporary: Path) -> TriptychError | OSError:
    """The error a person can act on, or ``error`` itself when it is none of the known kinds."""
    named = Path(os.fsdecode(error.filename)) if error.filename else path
    where = path if named == temporary else named
    if error.errno in _FULL:
        return ResourceError(f"{where}: no space left to write it; free some disk space and rerun")
    if error.errno in _FORBIDDEN:
        return ResourceError(f"{where}: no permission to write here; choose another output folder")
    if isinstance(error, NotADirectoryError | FileExistsError):
        return UsageError(f"{path}: a parent of it is a file, not a folder; choose another output")
    if isinstance(error, IsADirectoryError):
        return UsageError(f"{path}: is a folder; give the name of a file")
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(f"{path}: the name is too long; choose a shorter output")
    return error
