"""Where a PACS is, who asks, what is asked for, and how much may come: checked before any request.

Secrets come from the environment alone, because a command line is seen by every process of the
machine and stays in the shell's history: ``TRIPTYCH_PACS_USER`` and ``TRIPTYCH_PACS_PASSWORD``.

Sources: application entity titles, dates and UIDs are value representations AE, DA and UI of DICOM
PS3.5 section 6.2; the forms of a query's values (wild card, range) are PS3.4 section C.2.2.2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from core.errors import UsageError

USER, PASSWORD = "TRIPTYCH_PACS_USER", "TRIPTYCH_PACS_PASSWORD"
FORMS = "http(s)://HOST[:PORT]/PATH for DICOMweb or dicom://AET@HOST:PORT for the DICOM protocol"
# Bytes that the system may hold back when sending: on a slow line several MB would take longer to
# leave than the silence that we bear.
SEND_BUFFER = 2**18
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class Address:
    """A PACS. ``url`` is DICOMweb's root; ``aet``, ``host`` and ``port`` a DICOM peer's."""

    kind: Literal["web", "dimse"]
    url: str
    host: str
    port: int
    aet: str = ""

    @property
    def scheme(self) -> str:
        """``http``, ``https`` or ``dicom``."""
        return self.url.partition(":")[0]

    @property
    def exposed(self) -> bool:
        """Whether what travels can be read on the way: unencrypted, and off this machine."""
        return self.scheme != "https" and self.host not in LOOPBACK


def parse_address(text: str) -> Address:
    """The PACS that ``--url`` names. UsageError for other forms and for a URL with a password."""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"--url '{text}': {error}; give {FORMS}") from None
    if parts.password is not None or (parts.scheme != "dicom" and parts.username is not None):
        # Not quoted: the message may end in a log.
        raise UsageError(
            f"--url holds a user name or password; set {USER} and {PASSWORD} in the environment "
            "and leave them out of the address"
        )
    if parts.scheme in ("http", "https"):
        if not host or parts.query or parts.fragment:
            raise UsageError(f"--url '{text}': is not the root of a DICOMweb service; give {FORMS}")
        url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        return Address(
            kind="web", url=url, host=host, port=port or {"http": 80, "https": 443}[parts.scheme]
        )
    if parts.scheme == "dicom":
        if not host or port is None or not parts.username or parts.path.strip("/"):
            raise UsageError(f"--url '{text}': needs dicom://AET@HOST:PORT")
        # urlsplit lowers the host's case and keeps the user's; titles are case-sensitive.
        aet = check_aet(parts.username, "--url")
        return Address(
            kind="dimse", url=f"dicom://{aet}@{host}:{port}", host=host, port=port, aet=aet
        )
    raise UsageError(f"--url '{text}': give {FORMS}")


def check_aet(title: str, option: str = "--aet") -> str:
    """``title`` if it is an application entity title (1 to 16 characters), else UsageError."""
    if not re.fullmatch(r"(?=.*\S)[ -\[\]-~]{1,16}", title):
        raise UsageError(
            f"{option} '{title}': an AE title has 1 to 16 characters of ASCII and no backslash"
        )
    return title


def parse_listen(text: str | None) -> tuple[str, int] | None:
    """``PORT`` or ``HOST:PORT`` to receive C-MOVE's images at; an empty host is every interface."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:(?P<host>[^:\s]+):)?(?P<port>\d{1,5})", text)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise UsageError(f"--listen '{text}': give PORT or HOST:PORT, such as 11112")
    return match["host"] or "", int(match["port"])


@dataclass(frozen=True, kw_only=True)
class Login:
    """Basic authentication of DICOMweb, and the certificates to trust (a PEM file)."""

    user: str = ""
    password: str = field(default="", repr=False)
    certificates: Path | None = None

    @classmethod
    def from_environment(
        cls, certificates: Path | None = None, environment: Mapping[str, str] = os.environ
    ) -> Login:
        """UsageError where one of the two variables is set alone, or the file is not there."""
        user, password = environment.get(USER, ""), environment.get(PASSWORD, "")
        if bool(user) != bool(password):
            raise UsageError(f"set both {USER} and {PASSWORD}, or neither")
        if certificates is not None and not certificates.is_file():
            raise UsageError(f"--ca {certificates}: no such file; give certificates in PEM form")
        return cls(user=user, password=password, certificates=certificates)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How long to wait, how often to try again, and how much to accept.

    ``timeout`` (s) is the longest silence, not a whole transfer's time. ``retries`` counts attempts
    after the first that bring nothing. ``instance_bytes`` bounds one image, since a peer announces
    its size only as it pleases; 4 GiB is what a DICOM element of known length can hold.
    """

    timeout: float = 30.0
    retries: int = 2
    pause: float = 1.0  # s before the first retry, doubled for each further one
    series: int = 100
    instances: int = 20_000  # of one series
    total_bytes: int = 50 * 2**30
    instance_bytes: int = 4 * 2**30
    answer_bytes: int = 64 * 2**20  # of a search's or a store's answer


@dataclass(frozen=True, kw_only=True)
class Query:
    """What to look for; empty is anything. ``patient`` and ``accession`` take ``*`` and ``?``."""

    patient: str = ""
    accession: str = ""
    study: str = ""
    series: str = ""
    date: str = ""
    modality: str = ""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if len(value) > 64 or re.search(r"[\\\x00-\x1f\x7f]", value):
                raise UsageError(f"--{item.name}: at most 64 characters, and no backslash")
        for name in ("study", "series"):
            value = getattr(self, name)
            if value and not is_uid(value):
                raise UsageError(f"--{name} '{value}': is not a DICOM UID (digits and dots)")
        if self.modality and not re.fullmatch(r"[A-Z0-9_]{1,16}", self.modality):
            raise UsageError(f"--modality '{self.modality}': give a code such as MR, CT or SEG")
        if self.date and not re.fullmatch(r"\d{8}|\d{8}-|-\d{8}|\d{8}-\d{8}", self.date):
            raise UsageError(
                f"--date '{self.date}': give YYYYMMDD, or a range such as 20240101-20240131"
            )
        narrow = (self.patient.strip("*? "), self.accession.strip("*? "), self.study, self.series)
        if not any((*narrow, self.date)):
            raise UsageError(
                "say what to look for: --patient, --accession, --study, --series or --date "
                "(--modality alone would be the whole archive)"
            )

    @property
    def of_studies(self) -> dict[str, str]:
        """The part that is matched at the level of studies, by DICOM keyword."""
        found = {
            "PatientID": self.patient,
            "AccessionNumber": self.accession,
            "StudyInstanceUID": self.study,
            "StudyDate": self.date,
        }
        return {keyword: value for keyword, value in found.items() if value}

    @property
    def of_series(self) -> dict[str, str]:
        """The part that is matched at the level of series."""
        found = {"SeriesInstanceUID": self.series, "Modality": self.modality}
        return {keyword: value for keyword, value in found.items() if value}


def admits(wanted: Mapping[str, str], found: Mapping[str, str]) -> bool:
    """Whether ``found`` is what was asked for, as far as it tells.

    A PACS may ignore a key that it does not support and answer with everything it has (PS3.4
    C.2.2.1.3), which would bring other patients' images; so every answer is matched here again.
    Matching of identifiers leaves case out, as many servers do.
    """
    for keyword, value in wanted.items():
        there = found.get(keyword, "").strip()
        if not there:
            continue
        if keyword == "StudyDate":
            first, dash, last = value.partition("-")
            if not (first or "0") <= there <= ((last or "9") if dash else first):
                return False
        elif keyword in ("PatientID", "AccessionNumber"):
            # fnmatch knows [..] as well, which DICOM does not.
            pattern = re.sub(r"\[", "[[]", value.strip().casefold())
            if not fnmatchcase(there.casefold(), pattern):
                return False
        elif there != value:
            return False
    return True


def is_uid(text: str) -> bool:
    """Digits and dots, at most 64: safe as a file's name, too. Leading zeros occur, and pass."""
    return re.fullmatch(r"\d+(\.\d+)*", text) is not None and len(text) <= 64
