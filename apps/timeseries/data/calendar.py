"""Calendar features: where a stamp lies in the hour, the day, the week, the month and the year.

The encoding of the published benchmarks: each feature is linear in [-0.5, 0.5], and the frequency
decides which there are (GluonTS, ``time_features_from_frequency_str``; the same in Informer,
Autoformer and iTransformer as ``utils/timefeatures.py``).  Deviates from them: a feature is of the
wall clock where the stamps have a time zone; below a second the features are those of seconds; and
semi-months have those of months and days of the month.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from apps.timeseries.data import frequency


def _week(times: pd.DatetimeIndex) -> np.ndarray:
    return times.isocalendar().week.to_numpy(dtype=np.float64)


# name: what to read off the wall clock, and the greatest value it takes counted from 0
_FEATURES: dict[str, tuple[Callable[[pd.DatetimeIndex], np.ndarray], int]] = {
    "second of minute": (lambda t: t.second, 59),
    "minute of hour": (lambda t: t.minute, 59),
    "hour of day": (lambda t: t.hour, 23),
    "day of week": (lambda t: t.dayofweek, 6),
    "day of month": (lambda t: t.day - 1, 30),
    "day of year": (lambda t: t.dayofyear - 1, 365),
    "week of year": (lambda t: _week(t) - 1, 52),
    "month of year": (lambda t: t.month - 1, 11),
}

_OF_DAYS = ("day of week", "day of month", "day of year")
_BY_BASE = {
    "s": ("second of minute", "minute of hour", "hour of day", *_OF_DAYS),
    "min": ("minute of hour", "hour of day", *_OF_DAYS),
    "h": ("hour of day", *_OF_DAYS),
    "D": _OF_DAYS,
    "B": _OF_DAYS,
    "C": _OF_DAYS,
    "W": ("day of month", "week of year"),
    "SM": ("day of month", "month of year"),
    "M": ("month of year",),
    "Q": ("month of year",),
    "Y": (),
}


def names(freq: str | None) -> list[str]:
    """The M features of a frequency; none where there is no frequency, or one of years."""
    if freq is None:
        return []
    _, base = frequency.split(freq)
    if base in ("ms", "us", "ns"):
        base = "s"
    if base in _BY_BASE:
        return list(_BY_BASE[base])
    if base.lower() in ("bh", "cbh"):
        return list(_BY_BASE["h"])
    kind = base.removeprefix("C").removeprefix("B")
    for prefix, found in _BY_BASE.items():
        if kind.startswith(prefix) and prefix.isupper():
            return list(found)
    return []


def features(times: pd.Index, freq: str | None) -> np.ndarray:
    """(T, M) float32 in [-0.5, 0.5] of ``times``, in the order of ``names(freq)``."""
    columns = names(freq)
    if not columns:
        return np.zeros((len(times), 0), np.float32)
    wall = pd.DatetimeIndex(times).tz_localize(None)
    found = np.empty((len(times), len(columns)), np.float32)
    for i, name in enumerate(columns):
        read, greatest = _FEATURES[name]
        found[:, i] = np.asarray(read(wall), np.float64) / greatest - 0.5
    return found
