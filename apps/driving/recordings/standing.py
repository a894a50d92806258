"""What to keep of a long wait."""

from __future__ import annotations

from collections import deque
from typing import Any

STAND = 10  # frames of standing, 5 s, are kept
WAITING = 8  # and 4 s before it goes on


class Standing:
    """Of a long wait keeps the beginning and the end: sixty pictures of one red light teach little."""

    def __init__(self, begin: int = STAND, end: int = WAITING) -> None:
        self._begin = begin
        self._stood = 0
        self._held: deque[Any] = deque(maxlen=end)

    def sift(self, frame: Any, stands: bool) -> list[Any]:
        """Frames that are to be kept, now that this one has come."""
        if not stands:
            self._stood = 0
            return [*self.rest(), frame]
        self._stood += 1
        if self._stood <= self._begin:
            return [frame]
        self._held.append(frame)
        return []

    def rest(self) -> list[Any]:
        """Those that were held back."""
        held = list(self._held)
        self._held.clear()
        return held

    def forget(self) -> None:
        """They are not wanted."""
        self._held.clear()
