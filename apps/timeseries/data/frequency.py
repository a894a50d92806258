"""Frequencies: finding one in a clock, continuing a clock, and the length of a season.

A frequency is a pandas alias in its full form (``h``, ``15min``, ``D``, ``B``, ``W-SUN``, ``MS``,
``ME``, ``QS-JAN``, ``YS-JAN``).  Two kinds differ where a time zone has daylight saving: hours and
what is shorter are *absolute* (a day may have 23 or 25 of them), days and what is longer follow the
*wall clock* (midnight to midnight).  ``24h`` is therefore not ``D``.

Differs from ``pandas.infer_freq``: it knows wall-clock days, names quarters by their first (QS-JAN)
or last (QE-DEC) month and not by an equivalent one, prefers months to 31 days, and ``nearest``
finds the grid of a clock that has gaps.
"""

from __future__ import annotations

import re
from functools import cache
from math import gcd

import numpy as np
import pandas as pd

from core.errors import UsageError

_NS = {"h": 3_600_000_000_000, "min": 60_000_000_000, "s": 1_000_000_000, "ms": 1_000_000,
       "us": 1_000, "ns": 1}  # fmt: skip
_DAY = 24 * _NS["h"]
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# What people know from pandas before 2.2, or write out.
_OLD = {"H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "M": "ME", "Q": "QE", "Y": "YE",
        "A": "YE", "BM": "BME", "BQ": "BQE", "hourly": "h", "daily": "D", "weekly": "W",
        "monthly": "MS", "quarterly": "QS", "yearly": "YS"}  # fmt: skip


@cache
def normalise(freq: str) -> str:
    """The full form of an alias; old ones (``H``, ``T``, ``M``, ``Q``, ``Y``) are understood.

    Raises UsageError for what is no frequency, or not a positive one.
    """
    text = str(freq).strip()
    if text in _OLD:
        text = _OLD[text]
    elif found := re.fullmatch(r"(\d*)\s*([A-Za-z]+)(-[A-Za-z]{3})?", text):
        text = found[1] + _OLD.get(found[2], found[2]) + (found[3] or "").upper()
    try:
        offset = pd.tseries.frequencies.to_offset(text)
    except ValueError:
        offset = None
    if offset is None or offset.n < 1:
        raise UsageError(
            f"frequency '{freq}' is unknown; use a pandas alias: s, min, 15min, h, D, B, W, MS "
            "(month start), ME (month end), QS, QE, YS, YE"
        )
    base, n = offset.base.freqstr, offset.n
    if base in _NS:
        return _tick(n * _NS[base])
    return f"{n}{base}" if n > 1 else base


def _tick(step: int) -> str:
    """Alias of an absolute step in nanoseconds, in the largest unit that divides it."""
    for unit, size in _NS.items():
        if step % size == 0:
            return unit if step == size else f"{step // size}{unit}"
    raise AssertionError(step)


def split(freq: str) -> tuple[int, str]:
    """``15min`` -> (15, "min"), ``W-SUN`` -> (1, "W-SUN")."""
    found = re.fullmatch(r"(\d*)(.+)", normalise(freq))
    assert found is not None
    return int(found[1] or 1), found[2]


def absolute_step(freq: str) -> int | None:
    """Nanoseconds of an absolute frequency; None for days and what is longer."""
    n, base = split(freq)
    return n * _NS[base] if base in _NS else None


def _wall(times: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """The stamps as the clock on the wall shows them."""
    return times.tz_localize(None)


def _ns(times: pd.DatetimeIndex) -> np.ndarray:
    return times.as_unit("ns").asi8


def infer(times: pd.Index) -> str | None:
    """The frequency on whose grid ``times`` lie without a gap; None where there is none.

    Three stamps at least.  An integer clock has no alias: None.
    """
    found = nearest(times)
    if found is None or not isinstance(times, pd.DatetimeIndex):
        return None
    return found if is_regular(times, found) else None


def is_regular(times: pd.DatetimeIndex, freq: str) -> bool:
    """Whether every stamp follows the one before it by exactly one step of ``freq``."""
    if len(times) == 0:
        return True
    step = absolute_step(freq)
    if step is not None:
        return bool((np.diff(_ns(times)) == step).all())
    return times.equals(grid(times[0], times[-1], freq, times))


def nearest(times: pd.Index) -> str | None:
    """The coarsest frequency on whose grid all ``times`` lie, gaps allowed; None: irregular.

    A clock is irregular when its grid would be less than half full, or when fewer than half of its
    steps are one step of the grid: a stamp at 09:37 among hourly ones is no minutely series.
    """
    if not isinstance(times, pd.DatetimeIndex) or len(times) < 3:
        return None
    steps = np.diff(_ns(times))
    if not (steps > 0).all():
        return None
    wall = _wall(times)
    wall_steps = np.diff(_ns(wall))
    usual = int(np.median(steps))
    candidates = []
    if usual > 20 * _DAY:
        candidates.append(_months(wall))
    if (wall_steps % _DAY == 0).all():
        candidates.append(_days(wall, wall_steps // _DAY))
    candidates.append(_ticks(steps))
    for freq in candidates:
        if freq is not None:
            return freq
    return None


def _usual(steps: np.ndarray) -> int | None:
    """The step of the grid all lie on, if at least half of ``steps`` are that one step."""
    found, counts = np.unique(steps, return_counts=True)
    step = int(found[counts.argmax()])
    if (steps % step).any() or counts.max() * 2 < len(steps):
        return None
    return step


def _ticks(steps: np.ndarray) -> str | None:
    step = _usual(steps)
    return None if step is None else _tick(step)


def _days(wall: pd.DatetimeIndex, steps: np.ndarray) -> str | None:
    """Days, business days or weeks, of a wall clock whose steps are whole days."""
    weekdays = np.unique(wall.dayofweek)
    if len(weekdays) == 1:
        weeks = _usual(steps // 7)
        if weeks is None:
            return None
        return f"{weeks if weeks > 1 else ''}W-{_WEEKDAYS[weekdays[0]]}"
    if weekdays.max() < 5 and ((wall.dayofweek[:-1] == 4) & (steps == 3)).any():
        days = wall.normalize().to_numpy().astype("datetime64[D]")
        if _usual(np.busday_count(days[:-1], days[1:])) == 1:
            return "B"
    step = _usual(steps)
    return None if step is None else f"{step if step > 1 else ''}D"


def _months(wall: pd.DatetimeIndex) -> str | None:
    """Starts or ends of months, quarters or years, of the calendar or of business days."""
    month = np.asarray(wall.year * 12 + wall.month - 1)
    if len(np.unique(_ns(wall) % _DAY)) > 1 or (np.diff(month) < 1).any():
        return None
    step = _usual(np.diff(month))
    if step is None:
        return None
    midnight = wall.normalize()
    days = midnight.to_numpy().astype("datetime64[D]")
    first = days.astype("datetime64[M]").astype("datetime64[D]")
    after = (days.astype("datetime64[M]") + 1).astype("datetime64[D]")
    if (days == first).all():
        kind = "S"
    elif (days == after - 1).all():
        kind = "E"
    elif (days == np.busday_offset(first, 0, roll="forward")).all():
        kind = "BS"
    elif (days == np.busday_offset(after, -1, roll="forward")).all():
        kind = "BE"
    else:
        return None
    prefix, end = ("B" if len(kind) == 2 else ""), kind[-1]
    n, unit = (step // 12, "Y") if step % 12 == 0 else (step // 3, "Q") if step % 3 == 0 else (step, "M")  # fmt: skip
    anchor = int(month[0]) % 12
    if unit == "Q":
        # QS-JAN, QS-FEB, QS-MAR; QE-DEC, QE-JAN, QE-FEB
        anchor = anchor % 3 if end == "S" else (anchor % 3, 11)[anchor % 3 == 2]
    name = f"{prefix}{unit}{end}" + ("" if unit == "M" else f"-{_MONTHS[anchor]}")
    return f"{n if n > 1 else ''}{name}"


def _localise(wall: pd.DatetimeIndex, like: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Wall-clock stamps in the zone of ``like``.

    A stamp that a clock put forward skips moves to the first that exists; one that occurs twice is
    the earlier of the two.
    """
    wall = wall.as_unit(like.unit)
    if like.tz is None:
        return wall
    earlier = np.ones(len(wall), bool)
    return wall.tz_localize(like.tz, ambiguous=earlier, nonexistent="shift_forward")


def grid(first: pd.Timestamp, last: pd.Timestamp, freq: str, like: pd.DatetimeIndex) -> pd.DatetimeIndex:  # fmt: skip
    """Every stamp of ``freq`` from ``first``, which lies on it, to ``last``; zone and unit of ``like``."""
    step = absolute_step(freq)
    if step is not None:
        start, end = (int(pd.Timestamp(t).as_unit("ns").value) for t in (first, last))
        # arange(start, end + 1, step) counts its items in floating point, and may lose the last.
        return _from_ns(start + step * np.arange((end - start) // step + 1), like)
    wall_first, wall_last = first.tz_localize(None), last.tz_localize(None)
    usual = _time_of_day(like)
    if usual is not None:
        wall_first, wall_last = wall_first.normalize() + usual, wall_last.normalize() + usual
    wall = pd.date_range(wall_first, wall_last, freq=freq)
    return _localise(wall, like)._with_freq(None)


def _time_of_day(times: pd.DatetimeIndex) -> pd.Timedelta | None:
    """The time of day of wall-clock stamps. Where daylight saving moved one, the others decide."""
    if len(times) == 0:
        return None
    wall = _wall(times[-3:])
    found, counts = np.unique(_ns(wall) % _DAY, return_counts=True)
    return pd.Timedelta(int(found[counts.argmax()]), unit="ns")


def _from_ns(stamps: np.ndarray, like: pd.DatetimeIndex) -> pd.DatetimeIndex:
    found = pd.DatetimeIndex(stamps.astype("datetime64[ns]"))
    if like.tz is not None:
        found = found.tz_localize("UTC").tz_convert(like.tz)
    return found.as_unit(like.unit)


def future_index(times: pd.Index, freq: str | None, n: int) -> pd.Index:
    """The ``n`` stamps that follow the last of ``times``, in its time zone.

    An integer clock goes on with its own step, whatever ``freq``.  Raises UsageError where a clock
    of dates has no frequency.
    """
    if not isinstance(times, pd.DatetimeIndex):
        step = times.step if isinstance(times, pd.RangeIndex) else 1
        if not isinstance(times, pd.RangeIndex) and len(times) > 1:
            step = int(times[-1]) - int(times[-2])
        start = int(times[-1]) + step if len(times) else 0
        return pd.RangeIndex(start, start + n * step, step)
    if freq is None:
        raise UsageError("the stamps have no frequency to go on with; declare it with --freq")
    if len(times) == 0:
        raise UsageError("there is no last stamp to go on from")
    step = absolute_step(freq)
    if step is not None:
        if int(_ns(times[-1:])[0]) + step * n > pd.Timestamp.max.value:
            raise _too_far(n, freq, times)
        return _from_ns(_ns(times[-1:]) + step * np.arange(1, n + 1), times)
    usual = _time_of_day(times)
    last = _wall(times[-1:])[0].normalize() + usual
    try:
        wall = pd.date_range(last, periods=n + 1, freq=freq)
    except (OverflowError, pd.errors.OutOfBoundsDatetime) as error:
        raise _too_far(n, freq, times) from error
    # A last stamp that is not on the grid: date_range begins with the next one that is.
    return _localise(wall[wall > last][:n], times)._with_freq(None)


def _too_far(n: int, freq: str, times: pd.DatetimeIndex) -> UsageError:
    return UsageError(
        f"{n:,} steps of {freq} after {times[-1]} end beyond the year {pd.Timestamp.max.year}, the "
        "last that a stamp can have; choose a smaller --horizon"
    )


def season(freq: str | None) -> int:
    """Steps of the season that people expect: of a day below a day, of a week or a year above.

    s 3600, min 1440, 15min 96, h 24, 6h 4, D 7, B 5, W 52, MS and ME 12, QS and QE 4; 1 where there
    is none (years, an integer clock, a step that does not divide it).
    """
    if freq is None:
        return 1
    n, base = split(freq)
    if base in _NS:
        step = n * _NS[base]
        whole = _NS["h"] if step < _NS["min"] else _DAY if step < _DAY else 7 * _DAY
        return whole // step if whole % step == 0 and step >= _NS["s"] else 1
    if base == "D" and n == 7:
        return 52
    for prefix, length in (("D", 7), ("B", 5), ("W", 52), ("SM", 24), ("M", 12), ("Q", 4)):
        name = base[1:] if base[0] == "B" and base != "B" else base
        if name.startswith(prefix):
            return length // gcd(length, n) if length % n == 0 else 1
    return 1
