"""HTTP as it suits patients' images: nothing goes elsewhere, and nothing comes without a bound.

No proxy, no .netrc, no redirection, no compression. Answers are counted while they are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.connection import HTTPConnection

from apps.medical.pacs.config import SEND_BUFFER, Bounds, Login
from apps.medical.pacs.service import ConnectionLost, plain_text
from core.errors import DataError, ResourceError

CHUNK = 2**18  # bytes read and sent at once


class Explained:
    """Turns what requests raises in a block into our errors."""

    def __init__(self, url: str, doing: str, timeout: float) -> None:
        self._url, self._doing, self._timeout = url, doing, timeout

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, requests.exceptions.SSLError):
            raise ResourceError(
                f"{self._url}: its certificate cannot be verified ({_root(error)}); give the "
                "hospital's certificates with --ca FILE.pem"
            ) from error
        if isinstance(error, requests.TooManyRedirects):
            raise ResourceError(
                f"{self._url}: the PACS sends us elsewhere ({plain_text(error)}); if you trust "
                "that address, give it as --url"
            ) from error
        if isinstance(error, requests.Timeout):
            raise ConnectionLost(
                f"{self._url}: no answer within {self._timeout:g} s while {self._doing}"
            ) from error
        if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError):
            raise ConnectionLost(
                f"{self._url}: no connection while {self._doing} ({_root(error)})"
            ) from error


class Session(requests.Session):
    """No proxies, no .netrc, no redirections, no compression, bounded answers."""

    def __init__(self, bounds: Bounds, login: Login) -> None:
        super().__init__()
        self.trust_env = False
        self.headers["Accept-Encoding"] = "identity"  # small bodies could unfold to huge ones
        self._limit, self._timeout = bounds.answer_bytes, bounds.timeout
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())
        if login.user:
            # As UTF-8 (RFC 7617); requests would take Latin-1.
            self.auth = HTTPBasicAuth(login.user.encode(), login.password.encode())
        if login.certificates is not None:
            self.verify = str(login.certificates)

    def request(self, method: Any, url: Any, *args: Any, **options: Any) -> requests.Response:
        # dicomweb-client names the host without its port; requests knows better.
        (options.get("headers") or {}).pop("Host", None)
        # It also quotes wild cards, which RFC 3986 section 3.4 allows in a query as they are and
        # which Orthanc 1.10 takes for letters when quoted; and writes spaces as forms do.
        address, mark, query = str(url).partition("?")
        for quoted, plain in (("%2A", "*"), ("%3F", "?"), ("+", "%20")):
            query = query.replace(quoted, plain)
        url = address + mark + query
        options["timeout"] = self._timeout
        return super().request(method, url, *args, **options)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        in_pieces = options.pop("stream", False)
        options["allow_redirects"] = False
        response = super().send(request, stream=True, **options)
        if response.is_redirect:
            response.close()
            raise requests.TooManyRedirects(response.headers["Location"])
        if not in_pieces:
            with response:
                # What requests itself does, which knows no bound.
                response._content = b"".join(bounded(response.iter_content(CHUNK), self._limit))
                response._content_consumed = True
        return response


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        buffer = (SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)
        options["socket_options"] = [*HTTPConnection.default_socket_options, buffer]
        super().init_poolmanager(*args, **options)


def bounded(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """``chunks``, or DataError as soon as they are more than ``limit`` bytes."""
    count = 0
    for chunk in chunks:
        count += len(chunk)
        if count > limit:
            raise DataError(f"the PACS's answer is longer than the limit of {limit} bytes")
        yield chunk


def _root(error: BaseException) -> str:
    """The cause in a few words: these exceptions quote one another, and the whole address."""
    while True:
        inner = getattr(error, "reason", None) or next(
            (a for a in reversed(error.args) if isinstance(a, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = plain_text(getattr(error, "strerror", None) or error, 200)
    # urllib3 begins with its own object, "HTTPSConnection(host='pacs', port=443): ...".
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", text) or type(error).__name__
