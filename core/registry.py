"""A typed table of named things, with an error that names the nearest entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from core.errors import UsageError, unknown

T = TypeVar("T")


def canonical(name: str) -> str:
    """``Swin-T``, ``swin_t`` and ``swint`` are one name."""
    return name.lower().replace("_", "").replace("-", "")


class Registry(Generic[T]):
    """Maps names to values of one type.  ``kind`` is the word used in errors, e.g. ``"mixer"``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files its argument under ``name``; a second use of a name is an error."""

        def add(value: T) -> T:
            self[name] = value
            return value

        return add

    def __setitem__(self, name: str, value: T) -> None:
        if canonical(name) in map(canonical, self._entries):
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = value

    def name_of(self, name: str) -> str:
        """The registered spelling of ``name``.  Raises UsageError naming the nearest entry."""
        for known in self._entries:
            if canonical(known) == canonical(name):
                return known
        raise UsageError(unknown(self.kind, name, self._entries))

    def __getitem__(self, name: str) -> T:
        return self._entries[self.name_of(name)]

    def __contains__(self, name: str) -> bool:
        return canonical(name) in map(canonical, self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
