"""Multipart messages (RFC 2046 section 5.1, as PS3.18 section 8.6.1.2 uses them), in pieces.

dicomweb-client would hold a whole message in memory, decode its images and encode them again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from email.message import Message
from typing import BinaryIO

from apps.medical.pacs.http import CHUNK
from apps.medical.pacs.service import ConnectionLost, Item, plain_text
from core.errors import DataError

MOST_HEADERS = 2**14  # bytes before an image in its part of a message


class Upload:
    """A file as the one part of a multipart body, read as it is sent; ``len`` is the body's."""

    def __init__(self, item: Item) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
        # Without the optional transfer-syntax: Orthanc 1.10 answers 200 to it and stores nothing.
        self._before = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._after = f"\r\n--{boundary}--\r\n".encode()
        self._file: BinaryIO = open(item.path, "rb")  # noqa: SIM115  closed by __exit__
        self._length = len(self._before) + item.bytes + len(self._after)

    def __len__(self) -> int:
        return self._length

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        size = CHUNK if size is None or size < 0 else size
        if self._before:
            piece, self._before = self._before[:size], self._before[size:]
            return piece
        piece = self._file.read(size)
        if not piece:
            piece, self._after = self._after[:size], self._after[size:]
        return piece


def first_part(chunks: Iterator[bytes], boundary: bytes) -> Iterator[bytes]:
    """The body of the first part of a multipart message (RFC 2046 section 5.1.1), in pieces.

    Raises DataError when it is none, ConnectionLost when it ends before its closing delimiter.
    """
    delimiter = b"--" + boundary
    data = b""
    for chunk in chunks:
        data += chunk
        start = data.find(delimiter)
        end = data.find(b"\r\n\r\n", start) if start >= 0 else -1
        if end >= 0:
            data = data[end + 4 :]
            break
        if len(data) > MOST_HEADERS:
            raise DataError("the PACS's answer holds no DICOM part")
    else:
        raise ConnectionLost("the PACS ended its answer before an image began")
    delimiter = b"\r\n" + delimiter
    while True:
        end = data.find(delimiter)
        if end >= 0:
            yield data[:end]
            return
        # The delimiter may straddle two chunks.
        keep = len(delimiter) - 1
        if len(data) > keep:
            yield data[:-keep]
            data = data[-keep:]
        try:
            data += next(chunks)
        except StopIteration:
            raise ConnectionLost("the PACS ended its answer in the middle of an image") from None


def content_type(header: str) -> tuple[str, dict[str, str]]:
    """The media type and its parameters, such as ``multipart/related`` and its boundary."""
    message = Message()
    message["Content-Type"] = header
    parameters = {str(key).lower(): str(value) for key, value in message.get_params() or []}
    return plain_text(message.get_content_type()), parameters
