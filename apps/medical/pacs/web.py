"""DICOMweb (PS3.18): QIDO-RS to search, WADO-RS to retrieve, STOW-RS to store.

dicomweb-client makes the searches. Images travel by requests alone, see ``multipart``: we want the
bytes that the PACS has. One image per request, because that is what can be resumed; the connection
stays open in between.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pydicom
import requests
from dicomweb_client.web import DICOMwebClient

from apps.medical.pacs.config import PASSWORD, USER, Address, Bounds, Login
from apps.medical.pacs.http import CHUNK, Explained, Session, bounded
from apps.medical.pacs.multipart import MOST_HEADERS, Upload, content_type, first_part
from apps.medical.pacs.service import (
    SERIES_KEYS,
    STUDY_KEYS,
    ConnectionLost,
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

PAGE = 1000  # results of one search request
# Come back later: overloaded, or a gateway whose archive is away (RFC 9110).
PASSING = (408, 425, 429, 502, 503, 504)
UID_OF = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class WebPacs(Pacs):
    """A DICOMweb service below ``address.url``."""

    def __init__(self, address: Address, bounds: Bounds, login: Login) -> None:
        super().__init__(address, bounds)
        self._session = Session(bounds, login)
        self._client = DICOMwebClient(address.url, session=self._session, permissive_uid=True)
        self._client.set_http_retry_params(retry=False)  # ``patiently`` does it
        self._accepts = [
            'multipart/related; type="application/dicom"; transfer-syntax=*',  # as it is stored
            'multipart/related; type="application/dicom"',
        ]

    def close(self) -> None:
        self._session.close()

    # Search

    def _search(
        self, level: str, wanted: Mapping[str, str], limit: int
    ) -> Iterator[pydicom.Dataset]:
        filters = dict(wanted)
        study = filters.pop("StudyInstanceUID", None) if level != "STUDY" else None
        call: Any = self._client.search_for_studies
        place: tuple[str | None, ...] = ()
        fields: tuple[str, ...] = STUDY_KEYS
        if level == "SERIES":
            call, place, fields = self._client.search_for_series, (study,), SERIES_KEYS
        elif level == "IMAGE":
            place = (study, filters.pop("SeriesInstanceUID"))
            call, fields = self._client.search_for_instances, ()
        seen: set[str] = set()
        while True:
            answers = self._answers(
                lambda: call(
                    *place,
                    search_filters=filters,
                    fields=fields,
                    limit=min(PAGE, limit + 1),
                    offset=len(seen) or None,
                )
            )
            before = len(seen)
            for answer in answers:
                uid = plain_text(answer.get(UID_OF[level], ""))
                if uid in seen:
                    continue
                seen.add(uid)
                if len(seen) > limit:
                    raise self._too_many(level, limit)
                yield answer
            # A server may give fewer than a page, and one that knows no offset the same again.
            if len(seen) == before or len(answers) > limit:
                return

    def _answers(self, call: Callable[[], Any]) -> list[pydicom.Dataset]:
        return patiently(self.bounds, lambda: self._ask(call))

    def _ask(self, call: Callable[[], Any]) -> list[pydicom.Dataset]:
        with self._explained("searching"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes bad values as they are
            try:
                found = call()
                if not isinstance(found, list):
                    raise ValueError("a list was expected")
                return [pydicom.Dataset.from_json(item) for item in found]
            except requests.HTTPError as error:
                raise self._failure(error.response, "the search") from error
            except requests.JSONDecodeError as error:
                raise DataError(
                    f"{self.address.url}: the answer to a search is not DICOM JSON; is this the "
                    "root of the DICOMweb service?"
                ) from error
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise DataError(
                    f"{self.address.url}: the answer to a search cannot be read ({error})"
                ) from error

    # Retrieve

    def retrieve(
        self, series: Series, wanted: Sequence[Instance], whole: bool, receiver: Receiver
    ) -> None:
        root = f"{self.address.url}/studies/{series.study}/series/{series.uid}/instances"
        for item in wanted:
            with self._explained("retrieving"):
                response = self._get(f"{root}/{item.uid}")
                with response:
                    if response.status_code != 200:
                        failure = self._failure(response, "an image")
                        if not isinstance(failure, DataError):
                            raise failure
                        receiver.refuse(item.uid, f"HTTP {response.status_code}")
                        continue
                    try:
                        receiver.keep(item.uid, self._image(response))
                    except DataError as error:
                        receiver.refuse(item.uid, str(error))

    def _get(self, url: str) -> requests.Response:
        while True:
            response = self._session.get(url, headers={"Accept": self._accepts[0]}, stream=True)
            if response.status_code in (400, 406, 415) and len(self._accepts) > 1:
                response.close()
                del self._accepts[0]  # an older server, which knows no wild card
                continue
            return response

    def _image(self, response: requests.Response) -> Iterator[bytes]:
        """The bytes of the one image in ``response``."""
        kind, parameters = content_type(response.headers.get("Content-Type", ""))
        limit = self.bounds.instance_bytes
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > limit + MOST_HEADERS:
            raise DataError(f"the PACS sends {length} bytes, more than the limit of {limit}")
        chunks = bounded(self._pieces(response), limit + MOST_HEADERS)
        if kind == "application/dicom":  # against the standard, but some servers do
            if not length and "chunked" not in response.headers.get("Transfer-Encoding", ""):
                raise DataError("the PACS announces no length, so that a part looks like the whole")
            return chunks
        if kind != "multipart/related" or not parameters.get("boundary"):
            raise DataError(
                f"the PACS answered with '{kind}' instead of DICOM; is this the root of the "
                "DICOMweb service?"
            )
        return first_part(chunks, parameters["boundary"].encode("latin-1", "replace"))

    def _pieces(self, response: requests.Response) -> Iterator[bytes]:
        # Explained here, because who writes the pieces to a disk takes an OSError for the disk's.
        with self._explained("retrieving"):
            yield from response.iter_content(CHUNK)

    # Store

    def store(self, items: Sequence[Item], sender: Sender) -> None:
        for item in items:
            with self._explained(f"storing {item.path.name}"):
                try:
                    body = Upload(item)
                except OSError as error:
                    sender.refused(item, f"cannot be read ({error.strerror or error})")
                    continue
                with body:
                    response = self._session.post(
                        f"{self.address.url}/studies",
                        data=body,
                        headers={
                            "Content-Type": body.content_type,
                            "Accept": "application/dicom+json",
                        },
                    )
            failed, note = _store_answer(response, item)
            if response.status_code in (200, 202) and not failed:
                sender.stored(item, note)
            elif response.status_code in (200, 202, 409):  # 409: none was stored
                sender.refused(item, failed or "HTTP 409")
            else:
                failure = self._failure(response, "an image")
                if not isinstance(failure, DataError):
                    raise failure
                sender.refused(item, f"HTTP {response.status_code}")

    # Errors

    def _failure(
        self, response: requests.Response | None, what: str
    ) -> ConnectionLost | ResourceError | DataError:
        """Which of our errors an HTTP status is: DataError concerns this one object only."""
        url = self.address.url
        if response is None:
            return ConnectionLost(f"{url}: no answer to {what}")
        code = response.status_code
        if code in PASSING:
            return ConnectionLost(f"{url}: the PACS is busy or away (HTTP {code})")
        if code in (401, 403, 407):
            return ResourceError(
                f"{url}: the PACS refuses access (HTTP {code}); set {USER} and {PASSWORD} in the "
                "environment, and check that this user may do so"
            )
        return DataError(f"{url}: the PACS answered HTTP {code} to {what}")

    def _explained(self, doing: str) -> Explained:
        return Explained(self.address.url, doing, self.bounds.timeout)


def _store_answer(response: requests.Response, item: Item) -> tuple[str, str]:
    """Why this file failed and what there is to note, both empty if all is well.

    PS3.18 table 10.5.3-1 and PS3.3 table C.12-1: FailedSOPSequence and ReferencedSOPSequence. A
    server that names the file in neither has not stored it, whatever the HTTP status says.
    """
    if response.status_code not in (200, 202, 409):
        return "", ""
    if "json" not in response.headers.get("Content-Type", ""):
        # Some servers answer in XML or with nothing, whatever is asked for.
        return "", "the PACS did not confirm it by name"
    try:
        found = response.json()
        answer = pydicom.Dataset.from_json(found[0] if isinstance(found, list) else found)
        for failed in answer.get("FailedSOPSequence") or []:
            if failed.get("ReferencedSOPInstanceUID", item.uid) == item.uid:
                return f"failure 0x{int(failed.get('FailureReason', 0)):04X}", ""
        for stored in answer.get("ReferencedSOPSequence") or []:
            if stored.get("ReferencedSOPInstanceUID") == item.uid:
                warning = stored.get("WarningReason")
                return "", f"warning 0x{int(warning):04X}" if warning is not None else ""
    except Exception:  # whatever pydicom raises on what is not DICOM JSON
        return "its answer cannot be read", ""
    return "its answer does not name this file among those stored", ""
