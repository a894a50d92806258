"""What a PACS can be asked, whichever protocol it speaks, and how its answers are read.

A search goes down the levels study, series, instance of DICOM's Study Root model (PS3.4 section
C.6.2; PS3.18 section 10.6). Everything that comes back is untrusted: UIDs become file names only
when they are UIDs, texts lose their control characters, counts are bounded.
"""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from apps.medical.pacs.config import Address, Bounds, Login, Query, admits, is_uid
from core.errors import DataError, ResourceError, UsageError

if TYPE_CHECKING:
    import pydicom

T = TypeVar("T")
STUDY_KEYS = ("StudyInstanceUID", "PatientID", "AccessionNumber", "StudyDate")
SERIES_KEYS = (
    "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription",
    "NumberOfSeriesRelatedInstances",
)  # fmt: skip
INSTANCE_KEYS = ("SOPClassUID", "SOPInstanceUID")
PLURAL = {"STUDY": "studies", "SERIES": "series", "IMAGE": "instances"}


class ConnectionLost(ResourceError):
    """The PACS cannot be reached, went away or is overloaded: the same again may work later."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series as the PACS describes it. ``count`` of instances is None where it does not say."""

    study: str
    uid: str
    modality: str = ""
    number: str = ""
    description: str = ""
    date: str = ""
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One object: ``uid`` (SOP Instance UID) and ``sop_class``, empty where the PACS hides it."""

    uid: str
    sop_class: str = ""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file to store: what its header says it is."""

    path: Path
    uid: str
    sop_class: str
    transfer_syntax: str
    bytes: int


class Receiver(Protocol):
    """Who takes retrieved instances."""

    def wants(self, uid: str) -> bool:
        """Whether this instance was asked for and is not there yet."""
        ...

    def keep(self, uid: str, chunks: Iterable[bytes]) -> None:
        """Take one whole DICOM file. DataError when it is not that, ResourceError for the disk."""
        ...

    def refuse(self, uid: str, why: str) -> None:
        """Note that this instance cannot be had now."""
        ...


class Sender(Protocol):
    """Who hears what came of each stored file."""

    def stored(self, item: Item, note: str = "") -> None:
        """The PACS has it; ``note`` is its warning."""
        ...

    def refused(self, item: Item, why: str) -> None:
        """The PACS said no."""
        ...


class Pacs(ABC):
    """A PACS that can be searched, read and written."""

    def __init__(self, address: Address, bounds: Bounds) -> None:
        self.address, self.bounds = address, bounds

    def find(self, query: Query) -> list[Series]:
        """Every series that ``query`` admits, in order of study and number.

        Raises UsageError when there are more than ``bounds.series``, ResourceError when the PACS
        cannot be reached or refuses, DataError when its answer makes no sense.
        """
        found: dict[str, Series] = {}
        dates: dict[str | None, str] = {None: ""}
        if query.of_studies:
            dates = {}
            for answer in self._search("STUDY", query.of_studies, self.bounds.series):
                told = texts(answer, STUDY_KEYS)
                if admits(query.of_studies, told) and is_uid(told["StudyInstanceUID"]):
                    dates[told["StudyInstanceUID"]] = told["StudyDate"]
        for study, date in dates.items():
            wanted = {"StudyInstanceUID": study} if study else {}
            wanted |= query.of_series
            for answer in self._search("SERIES", wanted, self.bounds.series):
                series = _series(answer, study or "", date)
                told = texts(answer, SERIES_KEYS)
                if series is not None and admits(wanted, told):
                    found[series.uid] = series
            if len(found) > self.bounds.series:
                raise self._too_many("SERIES", self.bounds.series)
        return sorted(found.values(), key=lambda s: (s.date, s.study, _order(s.number), s.uid))

    def instances(self, series: Series) -> list[Instance]:
        """The instances of ``series``, in order of their UIDs. Raises as ``find``."""
        wanted = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid}
        found = {}
        for answer in self._search("IMAGE", wanted, self.bounds.instances):
            told = texts(answer, ("StudyInstanceUID", "SeriesInstanceUID", *INSTANCE_KEYS))
            uid, sop_class = told["SOPInstanceUID"], told["SOPClassUID"]
            if is_uid(uid) and admits(wanted, told):
                found[uid] = Instance(uid=uid, sop_class=sop_class if is_uid(sop_class) else "")
        return [found[uid] for uid in sorted(found)]

    @abstractmethod
    def _search(
        self, level: str, wanted: Mapping[str, str], limit: int
    ) -> Iterable[pydicom.Dataset]:
        """Matches of ``wanted`` at level STUDY, SERIES or IMAGE; UsageError beyond ``limit``."""

    @abstractmethod
    def retrieve(
        self, series: Series, wanted: Sequence[Instance], whole: bool, receiver: Receiver
    ) -> None:
        """Bring ``wanted`` of ``series`` (``whole``: that is all of it) to ``receiver``.

        Raises ConnectionLost when the PACS goes away, ResourceError when it refuses altogether; a
        single instance that it cannot give is refused at the receiver.
        """

    @abstractmethod
    def store(self, items: Sequence[Item], sender: Sender) -> None:
        """Store ``items``. Raises as ``retrieve``."""

    def close(self) -> None:
        """Let go of connections."""
        return

    def _too_many(self, level: str, limit: int) -> UsageError:
        what = PLURAL[level]
        more = "" if level == "IMAGE" else " or raise --limit"
        return UsageError(
            f"{self.address.url}: more than {limit} {what} match; narrow the search{more}"
        )


def connect(
    address: Address,
    *,
    aet: str = "TRIPTYCH",
    listen: tuple[str, int] | None = None,
    login: Login | None = None,
    bounds: Bounds | None = None,
) -> Pacs:
    """The PACS at ``address``; nothing is sent yet. UsageError when a package is missing.

    ``listen`` makes the DICOM protocol retrieve by C-MOVE to this place instead of C-GET.
    """
    from core.errors import need

    bounds = bounds or Bounds()
    if address.kind == "web":
        if listen is not None:
            raise UsageError("--listen is for C-MOVE, that is for a --url of dicom://AET@HOST:PORT")
        if login is not None and login.certificates is not None and address.scheme != "https":
            raise UsageError("--ca is for https://; this address is not encrypted")
        need("dicomweb_client", "pacs")
        from apps.medical.pacs.web import WebPacs

        return WebPacs(address, bounds, login or Login())
    if login is not None and login.certificates is not None:
        raise UsageError("--ca is for https://; dicom:// is not encrypted here")
    need("pynetdicom", "pacs")
    from apps.medical.pacs.dimse import DimsePacs

    return DimsePacs(address, bounds, aet, listen)


def patiently(bounds: Bounds, go: Callable[[], T], done: Callable[[], int] = lambda: 0) -> T:
    """``go``, and again when the connection was lost; ``retries`` counts those that did nothing.

    ``done`` says how much is done so far.
    """
    idle, before = 0, done()
    while True:
        try:
            return go()
        except ConnectionLost:
            idle = 0 if done() > before else idle + 1
            before = done()
            if idle > bounds.retries:
                raise
            time.sleep(bounds.pause * 2 ** max(0, idle - 1))


def texts(answer: pydicom.Dataset, keywords: Iterable[str]) -> dict[str, str]:
    """The answer's values as plain short text; empty where it has none. DataError if unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes bad values as they are
            return {keyword: plain_text(answer.get(keyword, "")) for keyword in keywords}
    except Exception as error:  # pydicom decodes lazily, and raises many kinds on bad values
        raise DataError(f"the PACS's answer cannot be read ({error})") from error


def plain_text(value: object, most: int = 64) -> str:
    """At most so many printable characters: a PACS may send a terminal's control sequences."""
    text = "" if value is None else str(value)[: 4 * most]
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[:most]


def _series(answer: pydicom.Dataset, study: str, date: str) -> Series | None:
    told = texts(answer, SERIES_KEYS)
    uid, study = told["SeriesInstanceUID"], told["StudyInstanceUID"] or study
    if not is_uid(uid) or not is_uid(study):
        return None
    count = told["NumberOfSeriesRelatedInstances"]
    return Series(
        study=study,
        uid=uid,
        modality=told["Modality"],
        number=told["SeriesNumber"],
        description=told["SeriesDescription"],
        date=date,
        count=int(count) if count.isdecimal() else None,
    )


def _order(number: str) -> tuple[int, str]:
    return (int(number), "") if number.isdecimal() else (2**31, number)
