"""One DICOM association (PS3.8): opened, watched, closed; what went wrong in a person's words.

pynetdicom bounds the time until a whole message is there, which a large image over a slow line
exceeds though all is well. A ``Watch`` bounds the silence instead: it hangs up when neither side
has sent a byte for that long.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

import pynetdicom
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.presentation import PresentationContext

from apps.medical.pacs.config import SEND_BUFFER, Address, Bounds
from apps.medical.pacs.service import ConnectionLost
from core.errors import ResourceError

Handler = tuple[Any, Callable[[evt.Event], Any]]


def entity(aet: str, bounds: Bounds) -> pynetdicom.AE:
    """Our application entity, without contexts yet."""
    # Its errors come with tracebacks of its threads; ours say the same in a line.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    made = pynetdicom.AE(ae_title=aet)
    made.connection_timeout = made.acse_timeout = bounds.timeout
    made.dimse_timeout = made.network_timeout = None  # see Watch
    made.maximum_pdu_size = 2**17  # 128 KiB: with the default of 16 four times as many messages
    return made


class Watch:
    """Hangs up after ``timeout`` seconds without a byte. ``handlers`` tell it of each."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._last = time.monotonic()
        self.handlers: list[Handler] = [
            (evt.EVT_DATA_RECV, self._heard),
            (evt.EVT_DATA_SENT, self._heard),
        ]

    def _heard(self, event: evt.Event) -> None:
        del event
        self._last = time.monotonic()

    @contextmanager
    def over(self, association: Association) -> Iterator[None]:
        """Watch ``association`` for as long as the block runs."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(min(1.0, self._timeout / 4)):
                if time.monotonic() - self._last > self._timeout:
                    hang_up(association)
                    return

        self._last = time.monotonic()
        thread = threading.Thread(target=look, name="pacs-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def hang_up(association: Association) -> None:
    """Close the connection at once: an orderly abort would wait until the peer pauses."""
    socket = association.dul.socket
    if socket is not None:
        socket.close()


class Caller:
    """Opens associations from us, ``aet``, to ``address``."""

    def __init__(self, address: Address, bounds: Bounds, aet: str) -> None:
        self.address, self.bounds, self.aet = address, bounds, aet
        self._entity = entity(aet, bounds)

    @contextmanager
    def call(
        self,
        contexts: Sequence[PresentationContext],
        *,
        roles: Sequence[Any] = (),
        handlers: Sequence[Handler] = (),
        watch: Watch | None = None,
    ) -> Iterator[Association]:
        """An open association, released at the end and aborted on an error.

        Raises ConnectionLost when nobody answers, ResourceError when the peer rejects us.
        """
        watch = watch or Watch(self.bounds.timeout)
        try:
            association = self._entity.associate(
                self.address.host,
                self.address.port,
                contexts=list(contexts),
                ae_title=self.address.aet,
                ext_neg=list(roles),
                evt_handlers=[*watch.handlers, *handlers],
            )
        except OSError as error:  # the name of the host, before anything is sent
            raise ConnectionLost(
                f"{self.address.url}: no connection ({error.strerror or error})"
            ) from error
        except BaseException:
            self._close_all()  # an interrupt: its threads would keep the process alive
            raise
        if not association.is_established:
            raise self._refusal(association)
        connection = association.dul.socket.socket if association.dul.socket else None
        if connection is not None:
            connection.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)
        with watch.over(association):
            try:
                yield association
            except BaseException:
                association.abort()
                raise
            if association.is_established:
                association.release()

    def _close_all(self) -> None:
        for thread in threading.enumerate():
            if isinstance(thread, DULServiceProvider) and thread.assoc.ae is self._entity:
                hang_up(thread.assoc)
                thread.kill_dul()

    def _refusal(self, association: Association) -> ResourceError:
        if association.is_rejected:
            answer = association.acceptor.primitive
            why = getattr(answer, "reason_str", "") or "no reason given"
            return ResourceError(
                f"{self.address.url}: the PACS rejected the association as '{self.aet}' ({why}); "
                "ask for this AE title to be registered there, and check the one after dicom://"
            )
        if association.rejected_contexts:
            names = {UID(str(c.abstract_syntax)).name for c in association.rejected_contexts}
            return ResourceError(
                f"{self.address.url}: this PACS takes none of: {', '.join(sorted(names))}"
            )
        return ConnectionLost(
            f"{self.address.url}: no DICOM connection (no answer within {self.bounds.timeout:g} s, "
            "or refused); is the PACS running, and are host and port right?"
        )

    def lost(self, doing: str) -> ConnectionLost:
        """The error for a connection that ended while ``doing`` something."""
        return ConnectionLost(f"{self.address.url}: the connection was lost while {doing}")
