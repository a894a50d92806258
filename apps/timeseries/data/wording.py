"""How messages write stamps and steps, and result files numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd

DIGITS = "%.15g"
"""All that a float64 holds for certain, without the tail of a binary fraction."""

_HOUR = 3_600_000_000_000
_DAY = 24 * _HOUR


def some(count: int, one: str, more: str) -> str:
    """``1 stamp is`` or ``3 stamps are``."""
    return f"{count:,} {one if count == 1 else more}"


def stamp(value: Any) -> str:
    """A stamp as a person writes it: no seconds where there are none."""
    if not isinstance(value, pd.Timestamp):
        return str(value)
    text = value.isoformat(sep=" ")
    zone = text[19:] if value.tz is not None else ""
    whole = value.tz_localize(None)
    if whole == whole.normalize():
        return whole.strftime("%Y-%m-%d") + zone
    return (whole.strftime("%Y-%m-%d %H:%M") if whole.second == 0 and whole.microsecond == 0 else whole.isoformat(sep=" ")) + zone  # fmt: skip


def example(step: int) -> str:
    """A frequency of about ``step`` nanoseconds, to show what a command looks like."""
    days = step / _DAY
    for least, freq in ((300, "YS"), (80, "QS"), (25, "MS"), (6, "W"), (0.9, "D"), (0.5 / 24, "h")):
        if days >= least:
            return freq
    return "min" if step >= _HOUR // 120 else "s"


def span(step: int) -> str:
    """Nanoseconds for a person."""
    days, rest = divmod(step, _DAY)
    clock = str(pd.Timedelta(rest, unit="ns")).removeprefix("0 days ").removesuffix(".000000000")
    if days == 0:
        return clock
    return f"{days} day{'s' * (days > 1)}" + (f" {clock}" if rest else "")
