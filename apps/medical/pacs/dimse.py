"""The DICOM protocol itself (PS3.7, PS3.8): C-FIND, C-GET or C-MOVE, C-STORE, by pynetdicom.

Letters of the standard: an *association* is a connection on which both sides have agreed about
*presentation contexts*, pairs of a SOP class and a transfer syntax (PS3.8 section 9.3). We offer a
context per pair, so that the peer can send each image as it is stored and we can store each file as
it is: nothing is decoded or encoded again on the way, except uncompressed little endian files for
a peer that takes only the other kind of it.

C-GET (PS3.4 section C.4.3) sends images back on our own association, which also works behind a
firewall; C-MOVE (C.4.2) has the peer open one to us, at a host and port that it must know under our
AE title. The connection is neither encrypted nor authenticated, as most archives expect it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pydicom
import pynetdicom
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import _config, evt
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made when it is imported
    StudyRootQueryRetrieveInformationModelFind as FIND,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet as GET,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove as MOVE,
)

from apps.medical.pacs.config import Address, Bounds
from apps.medical.pacs.service import (
    INSTANCE_KEYS,
    SERIES_KEYS,
    STUDY_KEYS,
    ConnectionLost,
    Instance,
    Item,
    Pacs,
    Receiver,
    Sender,
    Series,
    plain_text,
)
from core.errors import DataError, ResourceError, TriptychError

PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
SYNTAXES = (
    *PLAIN, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGBaseline8Bit,
    JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless,
    JPEG2000Lossless, JPEG2000, HTJ2KLossless, RLELossless,
)  # fmt: skip
# Where an archive does not say what a series holds: what this project can read or has written.
USUAL_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1",  # CT, enhanced CT
    "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1",  # MR, enhanced MR
    "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.7",  # PET, secondary capture
    "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.104.1",  # segmentation, PDF
)  # fmt: skip
MOST_CONTEXTS = 128  # of one association: their numbers are the odd ones below 256
MOST_CLASSES = (MOST_CONTEXTS - 1) // len(SYNTAXES)
LEVEL_KEYS = {"STUDY": STUDY_KEYS, "SERIES": SERIES_KEYS, "IMAGE": INSTANCE_KEYS}
PENDING = (0xFF00, 0xFF01)
OUT_OF_RESOURCES, NOT_UNDERSTOOD, STORED = 0xA700, 0xC000, 0x0000  # PS3.4 table B.2-1

_Handler = tuple[Any, Callable[..., Any]]


class DimsePacs(Pacs):
    """A peer that speaks DICOM. ``aet`` is our own title, ``listen`` where C-MOVE shall send to."""

    def __init__(
        self,
        address: Address,
        bounds: Bounds,
        aet: str = "TRIPTYCH",
        listen: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(address, bounds)
        # Its errors come with tracebacks of its threads; ours say the same in a line.
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        self.aet, self.listen = aet, listen
        self._ae = self._entity()

    def _entity(self) -> pynetdicom.AE:
        entity = pynetdicom.AE(ae_title=self.aet)
        entity.connection_timeout = entity.acse_timeout = self.bounds.timeout
        entity.dimse_timeout = entity.network_timeout = self.bounds.timeout
        entity.maximum_pdu_size = 2**17  # 128 KiB: the default of 16 costs a switch of threads each
        return entity

    @contextmanager
    def _association(
        self,
        contexts: Sequence[PresentationContext],
        roles: Sequence[Any] = (),
        handlers: Sequence[_Handler] = (),
    ) -> Iterator[pynetdicom.association.Association]:
        """An open association, released at the end and aborted on an error.

        Raises ConnectionLost when nobody answers, ResourceError when the peer rejects us.
        """
        address = self.address
        association = self._ae.associate(
            address.host,
            address.port,
            contexts=list(contexts),
            ae_title=address.aet,
            ext_neg=list(roles),
            evt_handlers=list(handlers),
        )
        if not association.is_established:
            raise self._not_established(association)
        try:
            yield association
        except BaseException:
            association.abort()
            raise
        if association.is_established:
            association.release()

    def _not_established(self, association: pynetdicom.association.Association) -> ResourceError:
        if association.is_rejected:
            answer = association.acceptor.primitive
            why = getattr(answer, "reason_str", "") or "no reason given"
            return ResourceError(
                f"{self.address.url}: the PACS rejected the association as '{self.aet}' ({why}); "
                f"ask for this AE title to be registered there, and check the one after dicom://"
            )
        return ConnectionLost(
            f"{self.address.url}: no DICOM connection (no answer within {self.bounds.timeout:g} s, "
            "or refused); is the PACS running, and are host and port right?"
        )

    def _lost(self, doing: str) -> ConnectionLost:
        return ConnectionLost(f"{self.address.url}: the connection was lost while {doing}")

    # Search

    def _search(
        self, level: str, wanted: Mapping[str, str], limit: int
    ) -> Iterator[pydicom.Dataset]:
        identifier = _identifier(level, wanted, LEVEL_KEYS[level])
        with self._association([build_context(FIND, list(PLAIN))]) as association:
            self._need(association, FIND, "searches (C-FIND)")
            count = 0
            for status, answer in association.send_c_find(identifier, FIND):
                if status.get("Status") is None:
                    raise self._lost("searching")
                if status.Status in PENDING:
                    count += 1
                    if count > limit:
                        raise self._too_many({"STUDY": "studies", "SERIES": "series"}.get(
                            level, "instances"), limit)  # fmt: skip
                    if answer is None:
                        raise DataError(
                            f"{self.address.url}: an answer to the search is unreadable"
                        )
                    yield answer
                elif status.Status != STORED:
                    hint = ""
                    if level == "SERIES" and "StudyInstanceUID" not in wanted:
                        hint = "; this PACS may need --study beside --series"
                    raise DataError(
                        f"{self.address.url}: the PACS refused the search ({_said(status)}){hint}"
                    )

    def _need(self, association: pynetdicom.association.Association, model: str, what: str) -> None:
        if not any(context.abstract_syntax == model for context in association.accepted_contexts):
            raise ResourceError(f"{self.address.url}: this PACS does not take {what}")

    # Retrieve

    def retrieve(
        self, series: Series, wanted: Sequence[Instance], whole: bool, receiver: Receiver
    ) -> None:
        classes = sorted({item.sop_class for item in wanted} - {""})
        if not classes or any(not item.sop_class for item in wanted):
            classes = sorted({*classes, *USUAL_CLASSES})
        post = _Post(receiver, self.bounds)
        # One request for a whole series; after an interruption one for each that is missing.
        requests = [_identifier("SERIES", _of(series), ())] if whole else [
            _identifier("IMAGE", {**_of(series), "SOPInstanceUID": item.uid}, ()) for item in wanted
        ]  # fmt: skip
        if self.listen is not None:
            with self._listening(classes, post), self._association([_query(MOVE)]) as association:
                self._need(association, MOVE, "C-MOVE; leave --listen out to use C-GET")
                self._ask(
                    lambda r: association.send_c_move(r, self.aet, MOVE), requests, post, "C-MOVE"
                )
            return
        for start in range(0, len(classes), MOST_CLASSES):
            some = classes[start : start + MOST_CLASSES]
            contexts = [build_context(name, syntax) for name in some for syntax in SYNTAXES]
            roles = [build_role(name, scp_role=True) for name in some]
            with self._association([_query(GET), *contexts], roles, post.handlers) as association:
                self._need(
                    association, GET, "C-GET; give --listen PORT and have it registered for C-MOVE"
                )
                self._ask(lambda r: association.send_c_get(r, GET), requests, post, "C-GET")

    def _ask(
        self,
        send: Callable[[pydicom.Dataset], Iterable[tuple[pydicom.Dataset, Any]]],
        requests: Sequence[pydicom.Dataset],
        post: _Post,
        name: str,
    ) -> None:
        for request in requests:
            uid = request.get("SOPInstanceUID", "")
            if uid and not post.receiver.wants(uid):
                continue
            try:
                for status, _ in send(request):
                    post.check()
                    if status.get("Status") is None:
                        raise self._lost("retrieving")
                    if status.Status not in (STORED, *PENDING):
                        post.receiver.refuse(uid, f"{name}: {_said(status)}")
            except RuntimeError:  # the association ended between two requests
                post.check()
                raise self._lost("retrieving") from None
            post.check()

    @contextmanager
    def _listening(self, classes: Sequence[str], post: _Post) -> Iterator[None]:
        """Our own storage service, for as long as the block runs."""
        assert self.listen is not None
        entity = self._entity()
        entity.require_called_aet = True
        for name in classes:
            entity.add_supported_context(name, list(SYNTAXES))
        try:
            server = entity.start_server(
                self.listen,
                block=False,
                evt_handlers=post.handlers,  # type: ignore[arg-type]
            )
        except OSError as error:
            raise ResourceError(
                f"--listen {self.listen[0]}:{self.listen[1]}: cannot listen there "
                f"({error.strerror or error}); choose another port"
            ) from error
        assert server is not None  # it is, unless it blocks
        try:
            yield
        finally:
            server.shutdown()

    # Store

    def store(self, items: Sequence[Item], sender: Sender) -> None:
        # Global in pynetdicom, and without effect on data sets: files go as they are on disk.
        _config.STORE_SEND_CHUNKED_DATASET = True
        for group, contexts in _groups(items):
            with self._association(contexts) as association:
                for item in group:
                    self._store_one(association, item, sender)

    def _store_one(
        self, association: pynetdicom.association.Association, item: Item, sender: Sender
    ) -> None:
        accepted = {
            context.transfer_syntax[0]
            for context in association.accepted_contexts
            if context.abstract_syntax == item.sop_class
        }
        name = pydicom.uid.UID(item.transfer_syntax).name
        if not accepted:
            kind = pydicom.uid.UID(item.sop_class).name
            sender.refused(item, f"this PACS does not take objects of class '{kind}'")
            return
        try:
            if item.transfer_syntax in accepted:
                status = association.send_c_store(item.path)
            elif item.transfer_syntax in PLAIN and accepted & set(PLAIN):
                status = association.send_c_store(pydicom.dcmread(item.path))
            else:
                sender.refused(item, f"this PACS does not take '{name}'; decompress the file first")
                return
        except RuntimeError:
            raise self._lost(f"storing {item.path.name}") from None
        except (AttributeError, ValueError, OSError) as error:
            sender.refused(item, f"cannot be sent ({error})")
            return
        code = status.get("Status")
        if code is None:
            raise self._lost(f"storing {item.path.name}")
        if code == STORED:
            sender.stored(item)
        elif 0xB000 <= code <= 0xBFFF:  # stored, with a warning
            sender.stored(item, _said(status))
        else:
            sender.refused(item, _said(status))


class _Post:
    """Takes the images of C-STORE requests and gives them to the receiver.

    pynetdicom calls from threads of its own and swallows what a handler raises, so the first error
    is kept for ``check``. An image that was not asked for is refused.
    """

    def __init__(self, receiver: Receiver, bounds: Bounds) -> None:
        self.receiver, self._bounds = receiver, bounds
        self._lock = threading.Lock()
        self._error: TriptychError | OSError | None = None
        self._bytes: dict[int, int] = {}  # of the image under way, by association
        self.handlers: list[_Handler] = [
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
            if self._bytes[key] > self._bounds.instance_bytes + 2**20:  # and its wrapping
                self._error = self._error or DataError(
                    f"the PACS sends an image of more than {self._bounds.instance_bytes} bytes; "
                    "the transfer was ended"
                )
                # An orderly abort would wait until the peer pauses.
                socket = event.assoc.dul.socket
                if socket is not None:
                    socket.close()


def _groups(items: Sequence[Item]) -> Iterator[tuple[list[Item], list[PresentationContext]]]:
    """The files of one association each, with its contexts: as many as it can have."""
    group: list[Item] = []
    pairs: dict[tuple[str, str], None] = {}
    for item in items:
        new = {(item.sop_class, item.transfer_syntax): None}
        if item.transfer_syntax in PLAIN:
            new |= {(item.sop_class, syntax): None for syntax in PLAIN}
        if len(pairs | new) > MOST_CONTEXTS:
            yield group, [build_context(*pair) for pair in pairs]
            group, pairs = [], {}
        group.append(item)
        pairs |= new
    if group:
        yield group, [build_context(*pair) for pair in pairs]


def _query(model: str) -> PresentationContext:
    return build_context(model, list(PLAIN))


def _of(series: Series) -> dict[str, str]:
    return {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid}


def _identifier(level: str, wanted: Mapping[str, str], keys: Iterable[str]) -> pydicom.Dataset:
    """What a query asks for: ``wanted`` has values to match, ``keys`` are to be told."""
    identifier = pydicom.Dataset()
    identifier.QueryRetrieveLevel = level
    for key in keys:
        setattr(identifier, key, None if key == "NumberOfSeriesRelatedInstances" else "")
    for key, value in wanted.items():
        setattr(identifier, key, value)
    return identifier


def _said(status: pydicom.Dataset) -> str:
    comment = plain_text(status.get("ErrorComment", ""))
    failed = status.get("NumberOfFailedSuboperations")
    parts = [f"status 0x{status.Status:04X}"]
    parts += [f"{failed} failed"] if failed else []
    return ", ".join([*parts, comment] if comment else parts)
