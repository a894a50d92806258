"""The size a compressed frame itself declares, before any decoder allocates it.

A few bytes can claim 60000 x 60000 samples. JPEG and JPEG-LS say their size in the frame header SOF
(ITU-T T.81 B.2.2, T.87 C.2.2), JPEG 2000 in the SIZ marker (ITU-T T.800 A.5.1).
"""

from __future__ import annotations

import struct

_SOI, _SOC_SIZ = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Start of frame: SOF0 to SOF15 but for DHT, JPG and DAC, and JPEG-LS's SOF55.
_SOF = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA


def declared_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 frame declares; None where it says none."""
    if frame.startswith(_SOI):
        return _jpeg_size(frame)
    start = frame.find(_SOC_SIZ, 0, 4096)  # after the boxes of a JP2 file, which some embed
    if start < 0 or len(frame) < start + 24:
        return None
    # Lsiz, Rsiz, Xsiz, Ysiz, XOsiz, YOsiz
    _, _, x, y, x0, y0 = struct.unpack_from(">HHLLLL", frame, start + 4)
    return y - y0, x - x0


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    at = len(_SOI)
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == _START_OF_SCAN:
            return None
        if marker in _SOF and at + 9 <= len(frame):
            rows, columns = struct.unpack_from(">HH", frame, at + 5)
            return rows, columns
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
