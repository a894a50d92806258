"""Values of a header that is not to be trusted: as plain Python values, or as absent.

What is malformed counts as absent, but for a slope or an intercept, where absent means something.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

Vector = tuple[float, ...]


@contextmanager
def quiet_reading() -> Iterator[None]:
    """No complaints about values that break the standard: many scanners' do, and we check ours."""
    from pydicom import config

    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def private_value(header: Dataset, tag: Any, creator: str) -> Any:
    """A private element's value, where its block's first reserver is ``creator``."""
    reserved = header.get((tag >> 16, 0x0010))
    if reserved is None or str(reserved.value).strip() != creator:
        return None
    element = header.get((tag >> 16, tag & 0xFFFF))
    value = None if element is None else element.value
    if isinstance(value, bytes):  # implicit VR knows no private types; these are text numbers
        return value.decode("ascii", "ignore").strip("\0 ").split("\\")
    return value


def private_int(header: Dataset, tag: int, creator: str) -> int | None:
    value = private_value(header, tag, creator)
    number = to_float(value[0] if isinstance(value, list) and value else value)
    return None if number is None else int(number)


def syntax_of(header: Dataset) -> str:
    """The transfer syntax; where the file does not say, the one the parser found by trying."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    uid = meta(header, "TransferSyntaxUID")
    if uid:
        return uid
    implicit, little = header.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little is not False else ExplicitVRBigEndian)


def meta(header: Dataset, keyword: str) -> str:
    return printable(getattr(header, "file_meta", {}).get(keyword))[:64]


def in_group(levels: Sequence[Dataset], macro: str, keyword: str) -> Any:
    """A functional group's attribute: the frame's own, else the shared one."""
    for level in levels:
        items = to_items(level, f"{macro}Sequence")
        if items and items[0].get(keyword) is not None:
            return items[0].get(keyword)
    return None


def to_items(header: Dataset, keyword: str) -> list[Dataset]:
    value = header.get(keyword)
    return list(value) if value is not None and not isinstance(value, bytes | str) else []


def to_list(header: Dataset, keyword: str) -> list[Any]:
    value = header.get(keyword)
    if value is None:
        return []
    return list(value) if is_multi(value) else [value]


def is_multi(value: Any) -> bool:
    from pydicom.multival import MultiValue

    return isinstance(value, MultiValue | list | tuple)


def to_text(header: Dataset, keyword: str) -> str:
    """A value as one printable line, at most 64 characters as the standard's LO and UI."""
    try:
        value = header.get(keyword)
    except Exception:  # an unknown character set, for one
        return ""
    return printable(value)[:64]


def printable(value: Any) -> str:
    if value is None:
        return ""
    text = "\\".join(str(v) for v in value) if is_multi(value) else str(value)
    return "".join(c if c.isprintable() else " " for c in text).strip()


def to_int(header: Dataset, keyword: str) -> int | None:
    try:
        value = header.get(keyword)
    except Exception:
        return None
    number = to_float(value)
    return None if number is None else int(number)


def to_float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def to_scale(value: Any, default: float) -> float:
    """A slope or intercept: ``default`` where there is none, NaN where it is there but no number."""
    if value is None or value == "":
        return default
    number = to_float(value)
    return math.nan if number is None else number


def to_vector(value: Any, length: int) -> Vector | None:
    if not is_multi(value) or len(value) != length:
        return None
    numbers = [to_float(v) for v in value]
    return None if any(n is None for n in numbers) else tuple(numbers)  # type: ignore[arg-type]
