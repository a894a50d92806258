"""Images that a peer sends us: C-STORE requests as C-GET and C-MOVE cause them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pynetdicom import evt

from apps.medical.pacs.association import Handler, entity, hang_up
from apps.medical.pacs.config import Bounds
from apps.medical.pacs.service import Receiver
from core.errors import DataError, ResourceError, TriptychError

STORED, OUT_OF_RESOURCES, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000  # PS3.4 table B.2-1
OVERHEAD = 2**20  # bytes: more than what the protocol wraps around an image


class Incoming:
    """Gives images to the receiver. What was not asked for is refused.

    pynetdicom calls the handlers from threads of its own and swallows what they raise, so the first
    error is kept for ``check``.
    """

    def __init__(self, receiver: Receiver, bounds: Bounds) -> None:
        self.receiver, self._bounds = receiver, bounds
        self._lock = threading.Lock()
        self._error: TriptychError | OSError | None = None
        self._bytes: dict[int, int] = {}  # of the image under way, by association
        self.handlers: list[Handler] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_DATA_RECV, self._count),
        ]

    def check(self) -> None:
        """Raise what went wrong while taking images."""
        if self._error is not None:
            raise self._error

    def _store(self, event: evt.Event) -> int:
        uid = str(getattr(event.request, "AffectedSOPInstanceUID", ""))
        with self._lock:
            self._bytes[id(event.assoc)] = 0
            if self._error is not None:
                return OUT_OF_RESOURCES
            if not self.receiver.wants(uid):
                return NOT_UNDERSTOOD
            try:
                self.receiver.keep(uid, [event.encoded_dataset()])
            except DataError as error:
                self.receiver.refuse(uid, str(error))
                return NOT_UNDERSTOOD
            except (TriptychError, OSError) as error:
                self._error = error
                return OUT_OF_RESOURCES
        return STORED

    def _count(self, event: evt.Event) -> None:
        """Hang up on an image that outgrows the bound: the protocol announces no size."""
        with self._lock:
            key = id(event.assoc)
            self._bytes[key] = self._bytes.get(key, 0) + len(event.data)
            if self._bytes[key] > self._bounds.instance_bytes + OVERHEAD:
                self._error = self._error or DataError(
                    f"the PACS sends an image of more than {self._bounds.instance_bytes} bytes; "
                    "the transfer was ended"
                )
                hang_up(event.assoc)


@contextmanager
def listening(
    place: tuple[str, int],
    aet: str,
    bounds: Bounds,
    classes: Sequence[str],
    syntaxes: Sequence[str],
    handlers: Sequence[Handler],
) -> Iterator[None]:
    """Our own storage service at ``place`` (host, port), for as long as the block runs.

    It takes associations for our title alone. ResourceError when the port is not free.
    """
    service = entity(aet, bounds)
    service.require_called_aet = True
    for name in classes:
        service.add_supported_context(name, list(syntaxes))
    try:
        server = service.start_server(place, block=False, evt_handlers=list(handlers))
    except OSError as error:
        raise ResourceError(
            f"--listen {place[0]}:{place[1]}: cannot listen there ({error.strerror or error}); "
            "choose another port"
        ) from error
    assert server is not None  # as it does not block
    try:
        yield
    finally:
        server.shutdown()
