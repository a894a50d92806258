"""Messages in pieces, wherever they are cut."""

from __future__ import annotations

import io
from email import message_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.medical.pacs.multipart import Upload, content_type, first_part
from apps.medical.pacs.service import ConnectionLost, Item
from core.errors import DataError

LIMIT = 2**15


def cut(data: bytes, size: int):
    return (data[i : i + size] for i in range(0, len(data), size))


def message(body: bytes, boundary: bytes = b"b-1", before: bytes = b"") -> bytes:
    head = b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n"
    return before + head + body + b"\r\n--" + boundary + b"--\r\n"


@given(
    # Bodies of the very bytes that delimiters are made of.
    st.lists(st.sampled_from([b"\r", b"\n", b"-", b"b", b"1", b"\r\n--b-", b"\x00"])).map(b"".join),
    st.integers(1, 40),
    st.sampled_from([b"", b"\r\n", b"preamble\r\n"]),
)
def test_the_part_comes_out_whole(body, size, before) -> None:
    if b"\r\n--b-1" in body:
        return
    assert b"".join(first_part(cut(message(body, before=before), size), b"b-1")) == body


@given(st.binary(min_size=1, max_size=200), st.integers(1, 64), st.data())
def test_a_message_that_ends_early_is_never_taken_for_a_whole_one(body, size, data) -> None:
    whole = message(body, b"unlikely-boundary")
    end = data.draw(st.integers(0, len(whole) - len(b"--\r\n") - 1))
    with pytest.raises(ConnectionLost, match="ended its answer"):
        list(first_part(cut(whole[:end], size), b"unlikely-boundary"))


def test_no_part_is_looked_for_without_end() -> None:
    endless = iter(lambda: b"x" * 1000, None)
    with pytest.raises(DataError, match="no DICOM part"):
        list(first_part(endless, b"b-1"))


@pytest.mark.parametrize(
    ("header", "kind", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary="a b"', "multipart/related", "a b"),
        ("Multipart/Related;BOUNDARY=x;type=application/dicom", "multipart/related", "x"),
        ("application/dicom", "application/dicom", None),
        ("text/html; charset=utf-8", "text/html", None),
        ("", "text/plain", None),
    ],
)
def test_content_types(header, kind, boundary) -> None:
    found, parameters = content_type(header)
    assert (found, parameters.get("boundary")) == (kind, boundary)


@pytest.mark.parametrize("size", [1, 7, 100, LIMIT, -1])
def test_an_upload_is_a_message_of_its_announced_length(tmp_path, size) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(bytes(range(256)) * 5 + b"\r\n--")
    item = Item(
        path=path, uid="1.2", sop_class="1.3", transfer_syntax="1.4", bytes=path.stat().st_size
    )
    stream = io.BytesIO()
    with Upload(item) as upload:
        while piece := upload.read(size):
            stream.write(piece)
    assert stream.tell() == len(upload)
    # The standard library's own reader of messages as the reference.
    head = f"Content-Type: {upload.content_type}\r\n\r\n".encode()
    (part,) = message_from_bytes(head + stream.getvalue()).get_payload()
    assert part.get_content_type() == "application/dicom"
    body = b"".join(first_part(iter([stream.getvalue()]), upload.content_type[-33:-1].encode()))
    assert body == path.read_bytes()
