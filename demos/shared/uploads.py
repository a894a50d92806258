"""Files a person gives to a page: bounded, named safely, kept under their content's hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from core.errors import DataError, UsageError
from core.files import atomic_path
from demos.shared.workspace import workspace

LONGEST_NAME = 80  # bytes


class Uploaded(Protocol):
    """What ``st.file_uploader`` gives."""

    name: str
    size: int

    def getbuffer(self) -> memoryview:
        """The content."""
        ...


def receive(uploaded: Uploaded, *, suffixes: Sequence[str], limit_mb: float = 200) -> Path:
    """Keep an uploaded file and return where; the same content and name give the same path.

    Raises UsageError for a kind of file that the page does not take, DataError for one that is empty
    or larger than ``limit_mb`` MiB.
    """
    name = safe_name(uploaded.name)
    if not name.lower().endswith(tuple(suffixes)):
        kinds = ", ".join(suffixes)
        raise UsageError(f"{name}: this page does not read such files; give one of {kinds}")
    if not uploaded.size:
        raise DataError(f"{name}: the file is empty; choose another")
    if uploaded.size > limit_mb * 2**20:
        raise DataError(
            f"{name}: {uploaded.size / 2**20:.0f} MiB are more than the {limit_mb:.0f} MiB that this "
            "page takes; use the command line for larger files"
        )
    path = workspace(f"upload-{_digest(uploaded)}") / name
    if not path.exists():
        with atomic_path(path, force=True) as temporary:
            temporary.write_bytes(uploaded.getbuffer())
    return path


def safe_name(name: str) -> str:
    """The last part of a path in either system's spelling, of harmless characters, not too long."""
    last = PurePosixPath(PureWindowsPath(name).name).name
    clean = re.sub(r"[^\w.+-]+", "_", last).strip("._") or "file"
    while len(clean.encode()) > LONGEST_NAME:  # what tells the kind of file stands at the end
        middle = max(1, len(clean) - 21)
        clean = clean[: middle - 1] + clean[middle:]
    return clean


_SEEN: dict[
    str, str
] = {}  # a page asks at each run of its script, and half a gigabyte takes a while


def _digest(uploaded: Uploaded) -> str:
    """The first 16 digits of the content's SHA-256. Streamlit names each upload once: ``file_id``."""
    name = getattr(uploaded, "file_id", None)
    digest = _SEEN.get(name, "") if name else ""
    if not digest:
        digest = hashlib.sha256(uploaded.getbuffer()).hexdigest()[:16]
        if name:
            if len(_SEEN) >= 256:
                _SEEN.clear()
            _SEEN[name] = digest
    return digest
