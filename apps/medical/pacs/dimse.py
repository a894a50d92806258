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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pydicom
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
from pynetdicom import _config
from pynetdicom.association import Association
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

from apps.medical.pacs.association import Caller, Watch
from apps.medical.pacs.config import Address, Bounds
from apps.medical.pacs.incoming import STORED, Incoming, listening
from apps.medical.pacs.service import (
    INSTANCE_KEYS,
    SERIES_KEYS,
    STUDY_KEYS,
    Instance,
    Item,
    Pacs,
    Receiver,
    Sender,
    Series,
    patiently,
    plain_text,
)
from core.errors import DataError, ResourceError

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
        self.aet, self.listen = aet, listen
        self._caller = Caller(address, bounds, aet)

    # Search

    def _search(self, level: str, wanted: Mapping[str, str], limit: int) -> list[pydicom.Dataset]:
        return patiently(self.bounds, lambda: list(self._find(level, wanted, limit)))

    def _find(self, level: str, wanted: Mapping[str, str], limit: int) -> Iterator[pydicom.Dataset]:
        identifier = _identifier(level, wanted, LEVEL_KEYS[level])
        with self._caller.call([_query(FIND)]) as association:
            self._need(association, FIND, "searches (C-FIND)")
            count = 0
            for status, answer in association.send_c_find(identifier, FIND):
                if status.get("Status") is None:
                    raise self._caller.lost("searching")
                if status.Status in PENDING:
                    count += 1
                    if count > limit:
                        raise self._too_many(level, limit)
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

    def _need(self, association: Association, model: str, what: str) -> None:
        if not any(context.abstract_syntax == model for context in association.accepted_contexts):
            raise ResourceError(f"{self.address.url}: this PACS does not take {what}")

    # Retrieve

    def retrieve(
        self, series: Series, wanted: Sequence[Instance], whole: bool, receiver: Receiver
    ) -> None:
        classes = sorted({item.sop_class for item in wanted} - {""})
        if not classes or any(not item.sop_class for item in wanted):
            classes = sorted({*classes, *USUAL_CLASSES})
        incoming = Incoming(receiver, self.bounds)
        # One request for a whole series; after an interruption one for each that is missing.
        if whole:
            requests = [_identifier("SERIES", _of(series))]
        else:
            one = (_of(series) | {"SOPInstanceUID": item.uid} for item in wanted)
            requests = [_identifier("IMAGE", keys) for keys in one]
        if self.listen is not None:
            self._move(self.listen, classes, requests, incoming)
            return
        for start in range(0, len(classes), MOST_CLASSES):
            some = classes[start : start + MOST_CLASSES]
            contexts = [build_context(name, syntax) for name in some for syntax in SYNTAXES]
            roles = [build_role(name, scp_role=True) for name in some]
            with self._caller.call(
                [_query(GET), *contexts], roles=roles, handlers=incoming.handlers
            ) as association:
                self._need(
                    association, GET, "C-GET; give --listen PORT and have it registered for C-MOVE"
                )
                send = partial(association.send_c_get, query_model=GET)
                self._ask(send, requests, incoming, "C-GET")

    def _move(
        self,
        place: tuple[str, int],
        classes: Sequence[str],
        requests: Sequence[pydicom.Dataset],
        incoming: Incoming,
    ) -> None:
        # The peer need not report on the way, but what it sends elsewhere is a sign of life, too.
        watch = Watch(self.bounds.timeout)
        handlers = [*watch.handlers, *incoming.handlers]
        with (
            listening(place, self.aet, self.bounds, classes, SYNTAXES, handlers),
            self._caller.call([_query(MOVE)], watch=watch) as association,
        ):
            self._need(association, MOVE, "C-MOVE; leave --listen out to use C-GET")
            send = partial(association.send_c_move, move_aet=self.aet, query_model=MOVE)
            self._ask(send, requests, incoming, "C-MOVE")

    def _ask(
        self,
        send: Callable[[pydicom.Dataset], Iterable[tuple[pydicom.Dataset, Any]]],
        requests: Sequence[pydicom.Dataset],
        incoming: Incoming,
        name: str,
    ) -> None:
        for request in requests:
            uid = request.get("SOPInstanceUID", "")
            if uid and not incoming.receiver.wants(uid):
                continue
            try:
                for status, _ in send(request):
                    incoming.check()
                    if status.get("Status") is None:
                        raise self._caller.lost("retrieving")
                    if status.Status not in (STORED, *PENDING):
                        incoming.receiver.refuse(uid, f"{name}: {_said(status)}")
            except RuntimeError:  # the association ended between two requests
                incoming.check()
                raise self._caller.lost("retrieving") from None
            incoming.check()

    # Store

    def store(self, items: Sequence[Item], sender: Sender) -> None:
        # Global in pynetdicom, and without effect on data sets: files go as they are on disk.
        _config.STORE_SEND_CHUNKED_DATASET = True
        for group, contexts in _groups(items):
            with self._caller.call(contexts) as association:
                for item in group:
                    self._store_one(association, item, sender)

    def _store_one(self, association: Association, item: Item, sender: Sender) -> None:
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
            raise self._caller.lost(f"storing {item.path.name}") from None
        except (AttributeError, ValueError, OSError) as error:
            sender.refused(item, f"cannot be sent ({error})")
            return
        code = status.get("Status")
        if code is None:
            raise self._caller.lost(f"storing {item.path.name}")
        if code == STORED:
            sender.stored(item)
        elif 0xB000 <= code <= 0xBFFF:  # stored, with a warning
            sender.stored(item, _said(status))
        else:
            sender.refused(item, _said(status))


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


def _identifier(level: str, wanted: Mapping[str, str], keys: Iterable[str] = ()) -> pydicom.Dataset:
    """What a query asks for: ``wanted`` has values to match, ``keys`` are to be told."""
    identifier = pydicom.Dataset()
    if not "".join(wanted.values()).isascii():
        identifier.SpecificCharacterSet = "ISO_IR 192"  # UTF-8
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
