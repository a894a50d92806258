"""SIGINT and SIGTERM during a run: finish the step, write a checkpoint, then go."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class SignalWatch:
    """Notes the first signal in ``received``; a second one acts at once, as it would have before."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._raise = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch during the block. In a thread (a web page's, say) Python allows no handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for each, handler in before.items():
                signal.signal(each, handler)

        def note(number: int, frame: Any) -> None:
            del frame
            self.received = signal.Signals(number)
            restore()
            if self._raise:
                raise KeyboardInterrupt

        try:
            for each in before:
                signal.signal(each, note)
            yield
        finally:
            restore()

    @contextmanager
    def interruptible(self, then: Callable[[], None]) -> Iterator[None]:
        """A block that a signal may end anywhere; ``then`` is called if it does.

        For work that takes minutes and changes nothing, such as a validation.
        """
        self._raise = True
        try:
            yield
        except KeyboardInterrupt:
            self._raise = False
            if self.received is not None:
                then()
            raise
        finally:
            self._raise = False
