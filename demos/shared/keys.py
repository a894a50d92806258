"""A key for a result: the same input and parameters give the same key, anything else another.

What a page shows is looked up by such a key, so that a mask made for one picture can never be drawn
over the next one that is uploaded.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from core.files import plain

DIGITS = 16


def key_of(*parts: Any) -> str:
    """16 hexadecimal digits of SHA-256 over ``parts``.

    A part is anything that JSON can hold, bytes, a dataclass, or a Path: a file counts by its name and
    content, a folder by the names and contents of all files below it. Containers of these, too.
    Raises DataError or OSError for a path that cannot be read.
    """
    digest = hashlib.sha256()
    for part in parts:
        text = json.dumps(_described(part), sort_keys=True, ensure_ascii=False)
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()[:DIGITS]


def _described(part: Any) -> Any:
    if isinstance(part, bytes | bytearray | memoryview):
        return {"bytes": hashlib.sha256(part).hexdigest()}
    if isinstance(part, Path):
        return _path(part)
    if is_dataclass(part) and not isinstance(part, type):
        return {"dataclass": type(part).__name__, "fields": _described(asdict(part))}
    if isinstance(part, dict):
        return {str(key): _described(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_described(value) for value in part]
    return plain(part)


def _path(path: Path) -> Any:
    if path.is_dir():
        files = sorted(place for place in path.rglob("*") if place.is_file())
        return {"folder": [[file.relative_to(path).as_posix(), _content(file)] for file in files]}
    return {"file": path.name, "content": _content(path)}


_SEEN: dict[tuple[str, int, int], str] = {}  # a file that did not change is not read again


def _content(path: Path) -> str:
    stat = path.stat()
    about = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if about not in _SEEN:
        with path.open("rb") as file:
            _SEEN[about] = hashlib.file_digest(file, "sha256").hexdigest()
    return _SEEN[about]
