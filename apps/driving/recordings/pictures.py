"""A frame's three pictures as PNG files, the cameras' views side by side, and back.

Colours as they are; tags as one channel; depth as CARLA's 24 bits of 1000 m with the most
significant byte in the file's red channel, the least in blue: so TransFuser's recorder leaves it
(OpenCV turns CARLA's blue-green-red around once more than it seems), and so its loaders expect it.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import DataError

_STEPS = (1 << 24) - 1
FAR = 1000.0  # metres, the largest depth


def write_png(path: Path, picture: np.ndarray) -> None:
    """(h, w) or (h, w, 3) uint8. Raises OSError as the file system does.

    Rows without PNG's filters, then zlib's fastest level: a frame's three pictures take 3.8 ms, where
    Pillow, which tries every filter on each row, takes 9.5; files are as large and are read in half
    the time. (PNG: ISO/IEC 15948.)
    """
    height, width = picture.shape[:2]
    colour = 0 if picture.ndim == 2 else 2  # grey, or red-green-blue
    rows = np.zeros(
        (height, 1 + picture.size // height), np.uint8
    )  # each begins with its filter: 0
    rows[:, 1:] = picture.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    with open(path, "wb") as stream:
        stream.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows.data, 1)), (b"IEND", b"")):
            crc = struct.pack(">I", zlib.crc32(kind + data))
            stream.write(struct.pack(">I", len(data)) + kind + data + crc)


def read_png(path: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """(h, w) or (h, w, 3) uint8 of exactly ``size`` = (h, w).

    DataError, naming the file, where it is missing, cut short, no PNG, of another size or kind.
    """
    want = {1: "L", 3: "RGB"}[channels]
    try:
        with open(path, "rb") as stream, Image.open(stream, formats=("PNG",)) as image:
            if image.size != (size[1], size[0]):  # before decoding: a bound on memory
                raise DataError(
                    f"{path}: {image.size[0]} x {image.size[1]} pixels, not the {size[1]} x {size[0]} "
                    "of its cameras; give the rig it was recorded with"
                )
            if image.mode != want:
                raise DataError(f"{path}: pixels are {image.mode}, not {want}; write it anew")
            return np.asarray(image)
    except FileNotFoundError:
        raise DataError(f"{path}: is missing; copy the route again or leave it out") from None
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: not a whole PNG picture ({error}); copy the route again or leave it out"
        ) from None


def pack_depth(metres: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 from metres (h, w): the file's bytes. Not finite counts as far."""
    far = np.where(np.isfinite(metres), metres, FAR)
    n = np.clip(far * (_STEPS / FAR) + 0.5, 0, _STEPS).astype(np.uint32)
    return np.stack([n >> 16, n >> 8 & 0xFF, n & 0xFF], axis=-1).astype(np.uint8)


def unpack_depth(picture: np.ndarray) -> np.ndarray:
    """Metres (h, w) float32 from the file's bytes (h, w, 3)."""
    n = picture[..., 0].astype(np.uint32) << 16
    n |= picture[..., 1].astype(np.uint32) << 8
    n |= picture[..., 2]
    return n.astype(np.float32) * np.float32(FAR / _STEPS)  # float32 holds 24 bits


def side_by_side(views: np.ndarray) -> np.ndarray:
    """(h, V*w, ...) from (V, h, w, ...)."""
    return np.concatenate(list(views), axis=1)


def apart(panorama: np.ndarray, views: int) -> np.ndarray:
    """(V, h, w, ...) from (h, V*w, ...)."""
    height, width, *rest = panorama.shape
    split = panorama.reshape(height, views, width // views, *rest)
    return np.ascontiguousarray(np.moveaxis(split, 1, 0))
