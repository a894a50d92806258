"""From texts to stamps: dates, times of day, UTC offsets, quarters and months by name.

A column has one order of day, month and year.  Where a number above 12 does not show which, it is
ambiguous and refused unless declared.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from core.errors import DataError, UsageError

_TIME = r"(?:[T ]\s*(?P<h>\d{1,2}):(?P<min>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?)?\s*(?P<ap>[AaPp]\.?[Mm]\.?)?)?"
_ZONE = r"\s*(?P<z>Z|UTC|[+-]\d{2}(?::?\d{2})?)?"
_END = _TIME + _ZONE
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_NAME = r"(?P<b>(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*)\.?"
# Year first; two numbers and a year; with a month by name; quarters; digits alone.
_LAYOUTS = {
    "ymd": re.compile(r"(?P<y>\d{4})[-/.](?P<m>\d{1,2})(?:[-/.](?P<d>\d{1,2}))?" + _END),
    "xxy": re.compile(r"(?P<p>\d{1,2})[-/.](?P<q>\d{1,2})[-/.](?P<y>\d{4}|\d{2})" + _END),
    "dby": re.compile(r"(?:(?P<d>\d{1,2})[-/. ]+)?" + _NAME + r"[-/., ]+(?P<y>\d{4})" + _END),
    "bdy": re.compile(_NAME + r"\s+(?P<d>\d{1,2}),?\s+(?P<y>\d{4})" + _END),
    "yq": re.compile(r"(?P<y>\d{4})[-/ ]?[Qq](?P<k>[1-4])"),
    "ymd8": re.compile(r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})" + _END),
}


def looks_like_stamps(values: pd.Series) -> bool:
    """Whether a text column's first thousand texts are stamps (empty ones aside)."""
    sample = values.dropna().head(1000).unique()
    texts = [str(value).strip() for value in sample]
    return bool(texts) and any(all(map(p.fullmatch, texts)) for p in _LAYOUTS.values())


def parse(values: pd.Series, where: str, day_first: bool | None, notes: list[str]) -> pd.DatetimeIndex:  # fmt: skip
    """Stamps of a text column; naive, or in UTC, a fixed offset or UTC for offsets that change.

    ``where`` opens messages.  Raises DataError for an empty cell, for what is no stamp, and for an
    ambiguous order of day and month.
    """
    codes, unique = pd.factorize(values)
    if (codes < 0).any():
        raise DataError(
            f"{where}: row {int((codes < 0).argmax()) + 1} has no stamp; fill it in or remove the row"
        )
    texts = pd.Series(unique, dtype="object").astype(str).str.strip()
    stamps = _iso(texts)
    if stamps is None:
        stamps = _by_layout(texts, codes, where, day_first, notes)
    return stamps.take(codes)


def _iso(texts: pd.Series) -> pd.DatetimeIndex | None:
    """The fast way for `2020-01-31[ 12:00[:00[.000]]]` without an offset: 20 times faster."""
    if not texts.head(100).str.fullmatch(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?").all():  # fmt: skip
        return None
    try:
        found = pd.DatetimeIndex(pd.to_datetime(texts, format="ISO8601"))
    except (ValueError, TypeError):
        return None
    return found if found.tz is None else None


def _by_layout(texts: pd.Series, codes: np.ndarray, where: str, day_first: bool | None, notes: list[str]) -> pd.DatetimeIndex:  # fmt: skip
    def row(wrong: np.ndarray) -> str:
        at = int(np.flatnonzero(wrong)[0])
        return f"{where}: row {int((codes == at).argmax()) + 1}: '{texts.iloc[at]}'"

    best, parts = "", pd.DataFrame()
    for layout, pattern in _LAYOUTS.items():
        if pattern.fullmatch(texts.iloc[0]):
            best, parts = layout, texts.str.extract(f"^(?:{pattern.pattern})$")
            break
    if not best:
        raise DataError(
            f"{row(np.ones(1, bool))} is not a stamp; write stamps as 2020-01-31 or 2020-01-31 12:00"
        )
    wrong = parts["y"].isna().to_numpy()
    if wrong.any():
        raise DataError(
            f"{row(wrong)} is not written as the first stamp, '{texts.iloc[0]}', is; write all "
            "stamps in one way"
        )

    def number(key: str, default: int) -> np.ndarray:
        if key not in parts:
            return np.full(len(parts), default, np.int64)
        return pd.to_numeric(parts[key]).fillna(default).to_numpy(np.int64)

    year, month, day = number("y", 0), number("m", 1), number("d", 1)
    if best == "xxy":
        first, second = number("p", 1), number("q", 1)
        by_day = _order(first, second, day_first, where, texts, row)
        day, month = (first, second) if by_day else (second, first)
        notes.append(f"dates are {'day' if by_day else 'month'}-first")
        if (year < 100).any():
            year = np.where(year < 69, year + 2000, year + 1900)  # as POSIX strptime's %y
    elif "b" in parts:
        month = parts["b"].str[:3].str.lower().map(_MONTHS.index).to_numpy(np.int64) + 1
    elif "k" in parts:
        month = 3 * number("k", 1) - 2
    hour = number("h", 0)
    if "ap" in parts:
        half = parts["ap"].str[0].str.lower().to_numpy(dtype=object)
        hour = np.where(half == "p", hour % 12 + 12, np.where(half == "a", hour % 12, hour))
    minute, second = number("min", 0), number("s", 0)
    wrong = (month < 1) | (month > 12) | (day < 1) | (day > 31) | (hour > 24) | (minute > 59) | (second > 59)  # fmt: skip
    start = (np.clip(year, 1, 9999) - 1970) * 12 + np.clip(month, 1, 12) - 1
    days = start.astype("datetime64[M]").astype("datetime64[D]") + (day - 1)
    wrong |= days.astype("datetime64[M]").astype(np.int64) != start
    wrong |= (hour == 24) & ((minute > 0) | (second > 0))
    if wrong.any():
        raise DataError(f"{row(wrong)} is no date of the calendar; correct it")
    wall = days.astype("datetime64[us]") + ((hour * 60 + minute) * 60 + second).astype("timedelta64[s]")  # fmt: skip
    if "f" in parts:
        micro = parts["f"].fillna("0").str.ljust(6, "0").str[:6].astype(int).to_numpy()
        wall = wall + micro.astype("timedelta64[us]")
    return _zoned(pd.DatetimeIndex(wall), parts.get("z"), where, notes)


def _order(first: np.ndarray, second: np.ndarray, day_first: bool | None, where: str, texts: pd.Series, row) -> bool:  # type: ignore[no-untyped-def]  # fmt: skip
    """Whether the first number is the day: as declared, or as a number above 12 shows."""
    if day_first is not None:
        return day_first
    day, month = bool((first > 12).any()), bool((second > 12).any())
    if day and month:
        raise DataError(f"{row(second > 12)} is month-first and '{texts[first > 12].iloc[0]}' day-first; write all dates in one order")  # fmt: skip
    if not day and not month:
        raise DataError(
            f"{where}: '{texts.iloc[-1]}' may be day-first or month-first; say --day-first or "
            "--month-first, or write dates as 2020-01-31"
        )
    return day


def _zoned(wall: pd.DatetimeIndex, zone: pd.Series | None, where: str, notes: list[str]) -> pd.DatetimeIndex:  # fmt: skip
    if zone is None or zone.isna().all():
        return wall
    if zone.isna().any():
        raise DataError(f"{where}: some stamps have a UTC offset and some have none; give all one")
    found = zone.unique()
    minutes = {z: 0 if z in ("Z", "UTC") else int(z[0] + "1") * (int(z[1:3]) * 60 + int(z[3:].lstrip(":") or 0)) for z in found}  # fmt: skip
    offset = zone.map(minutes).to_numpy(np.int64)
    times = (wall - pd.to_timedelta(offset, unit="min")).tz_localize("UTC").as_unit("us")
    if len(set(minutes.values())) > 1:
        listed = ", ".join(sorted(map(str, found))[:4])
        notes.append(f"UTC offsets change ({listed}): read as UTC")
        return times
    only = next(iter(minutes.values()))
    return times.tz_convert(pd.Timestamp(0, tz="UTC").tz if only == 0 else _fixed(only))


def _fixed(minutes: int):  # type: ignore[no-untyped-def]
    from datetime import timedelta, timezone

    return timezone(timedelta(minutes=minutes))


def from_integers(values: np.ndarray, name: str, notes: list[str]) -> pd.DatetimeIndex | None:
    """Dates written as integers: 20200131, years in a column called so, or Unix time; else None."""
    if len(values) == 0:
        return None
    low, high = int(values.min()), int(values.max())
    if low >= 19000101 and high <= 21001231:
        month, day = values // 100 % 100, values % 100
        if ((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all():
            texts = pd.Series(values.astype(str))
            found = pd.to_datetime(texts, format="%Y%m%d", errors="coerce")
            if found.notna().all():
                return pd.DatetimeIndex(found).as_unit("us")
    if low >= 1700 and high <= 2300 and name.lower() in ("year", "years", "date", "ds", "yr"):
        notes.append(f"'{name}' holds years")
        return pd.DatetimeIndex(pd.to_datetime(pd.Series(values.astype(str)), format="%Y")).as_unit("us")  # fmt: skip
    if name.lower() in ("step", "index", "t", "time_idx", "idx"):
        return None
    # 1973 to 2100, in seconds, milliseconds, microseconds or nanoseconds
    for unit, size in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        if 10**8 * size <= low and high <= 4_102_444_800 * size:
            notes.append(f"'{name}' holds Unix time in {unit}: read as UTC")
            return pd.DatetimeIndex(pd.to_datetime(values, unit=unit, utc=True)).as_unit("us")
    return None


def localise(
    times: pd.DatetimeIndex, groups: np.ndarray, tz: str, where: str, notes: list[str]
) -> pd.DatetimeIndex:
    """Naive stamps of ``groups`` of rows as those of the clock on the wall in ``tz``.

    Of an hour that daylight saving repeats, the first row of a group is summer time and the second
    winter time (the other way round where the group runs backwards).  Raises DataError for a stamp
    that a clock put forward skips, UsageError for an unknown zone.
    """
    try:
        if times.tz is not None:
            return times.tz_convert(tz)
        earlier = np.ones(len(times), bool)
        summer = times.tz_localize(tz, ambiguous=earlier, nonexistent="NaT")
        winter = times.tz_localize(tz, ambiguous=~earlier, nonexistent="NaT")
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(
            f"time zone '{tz}' is unknown; use a name such as Europe/Berlin or UTC"
        ) from error
    absent = np.asarray(summer.isna())
    if absent.any():
        raise DataError(
            f"{where}: row {int(absent.argmax()) + 1}: {times[absent][0]} does not exist in {tz}, "
            "whose clock skips it; give the right --tz, or UTC"
        )
    twice = np.flatnonzero(np.asarray(summer != winter))
    if len(twice) == 0:
        return summer
    rows = pd.DataFrame({"group": groups[twice], "wall": times[twice].asi8})
    second = rows.groupby(["group", "wall"]).cumcount().to_numpy() > 0
    # One row alone of a repeated hour is no evidence that the series runs backwards.
    edges = pd.DataFrame({"group": groups, "wall": times.asi8}).groupby("group")["wall"]
    backwards = (edges.last() < edges.first()).reindex(rows["group"]).to_numpy(bool)
    paired = rows.groupby(["group", "wall"])["wall"].transform("size").to_numpy() > 1
    choose = twice[np.where(paired, second ^ backwards, False)]
    stamps = summer.asi8.copy()
    stamps[choose] = winter.asi8[choose]
    notes.append(f"{len(twice)} stamps of hours that {tz} has twice told apart by their order")
    found = pd.DatetimeIndex(stamps.view(f"datetime64[{summer.unit}]")).tz_localize("UTC")
    return found.tz_convert(summer.tz)
