"""Folders of this server for what it was given and what it made; the oldest go when it is too much.

All of them lie in one temporary folder that only this user may read and that goes when the server ends.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import RLock

LIMIT_BYTES = 4 * 2**30
LIMIT_FOLDERS = 64

_lock = RLock()
_used: dict[str, Path] = {}  # from the longest unused to the last used
_kept: set[str] = set()  # being written or read by work that runs
_listeners: list[Callable[[str], None]] = []


@lru_cache(maxsize=1)
def root() -> Path:
    """The server's own folder."""
    folder = Path(tempfile.mkdtemp(prefix="triptych-demo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def workspace(key: str) -> Path:
    """The folder of ``key``, made if it is not there. Asking for it counts as using it."""
    if not key or not all(letter.isalnum() or letter in "-_" for letter in key):
        raise ValueError(f"{key!r}: not a key")
    removed: list[str] = []
    with _lock:
        folder = _used.pop(key, None)
        if folder is None:
            folder = root() / key
            removed = _make_room()  # when there is a new one: to weigh them all takes a while
        folder.mkdir(parents=True, exist_ok=True)
        _used[key] = folder
    for old in removed:  # without the lock: a listener has locks of its own
        for listener in _listeners:
            listener(old)
    return folder


def clear(key: str) -> None:
    """Remove what is in the folder of ``key``."""
    with _lock:
        shutil.rmtree(root() / key, ignore_errors=True)
        _used.pop(key, None)


def keep(key: str, kept: bool) -> None:
    """Whether the folder of ``key`` must stay, however old: work in it is under way."""
    with _lock:
        (_kept.add if kept else _kept.discard)(key)


def on_removal(listener: Callable[[str], None]) -> None:
    """Call ``listener`` with the key of each folder that is removed to make room."""
    _listeners.append(listener)


def _make_room() -> list[str]:
    """Remove the longest unused folders until one more fits; returns their keys."""
    sizes = {key: _size(folder) for key, folder in _used.items()}
    removed = []
    for key in [key for key in _used if key not in _kept]:
        if len(_used) < LIMIT_FOLDERS and sum(sizes.values()) <= LIMIT_BYTES:
            break
        clear(key)
        del sizes[key]
        removed.append(key)
    return removed


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # a temporary file that was renamed just now
            continue
    return total
