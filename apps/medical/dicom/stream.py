"""What a DICOM file's bytes tell and the parser does not: how much pixel data follows the header, and
what a deflated file would inflate to."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import BinaryIO

from core.errors import DataError

DEFLATED = "1.2.840.10008.1.2.1.99"
MAX_INFLATED = 2**30


@dataclass(frozen=True)
class Pixels:
    """What follows the header: whether pixels, the length they declare, the bytes that are left."""

    present: bool
    declared: int
    left: int


def pixels_ahead(stream: BinaryIO) -> Pixels:
    """Whether the element the parser stopped at is pixel data, and how much of it there is."""
    start = stream.tell()
    head = stream.read(12)
    stream.seek(0, 2)
    size = stream.tell()
    for order in ("little", "big"):
        group = int.from_bytes(head[0:2], order)
        element = int.from_bytes(head[2:4], order)
        if len(head) >= 8 and group == 0x7FE0 and element == 0x0010:
            explicit = head[4:6] in (b"OB", b"OW", b"UN")
            length = int.from_bytes(head[8:12] if explicit else head[4:8], order)
            begins = start + (12 if explicit else 8)
            undefined = length == 0xFFFFFFFF
            left = max(0, size - begins)
            return Pixels(True, left if undefined else length, left)
    return Pixels(False, 0, 0)


def check_deflated(stream: BinaryIO) -> None:
    """Refuse a deflated file that would inflate beyond bounds: the parser inflates all at once."""
    from pydicom.filereader import read_dataset

    head = stream.read(132)
    start = 132 if head[128:132] == b"DICM" else 0
    stream.seek(start)
    meta = read_dataset(
        stream,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag.group != 2,
    )
    if str(meta.get("TransferSyntaxUID", "")) == DEFLATED:
        inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while chunk := stream.read(2**16):
            while chunk:
                total += len(inflate.decompress(chunk, 2**22))
                chunk = inflate.unconsumed_tail
                if total > MAX_INFLATED:
                    raise DataError(
                        f"{stream.name}: inflates to more than {MAX_INFLATED >> 20} MiB; "
                        "refused as a decompression bomb"
                    )
    stream.seek(0)
