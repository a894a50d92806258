"""From the column of stamps, of steps, or none at all, to the clock of a file."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas.api import types

from apps.timeseries.data import frequency, roles, stamps
from apps.timeseries.data.cells import numbers
from apps.timeseries.data.clocks import Clock
from apps.timeseries.data.roles import Roles
from apps.timeseries.data.tables import Table
from core.errors import DataError, UsageError


def check_options(freq: str | None, tz: str | None) -> None:
    """UsageError for a frequency or a time zone that there is not."""
    if freq is not None:
        frequency.normalise(freq)
    if tz is not None:
        stamps.localise(pd.DatetimeIndex(["2000-01-01"]), np.zeros(1, np.intp), tz, "", [])


def read_clock(
    table: Table, given: Roles, codes: np.ndarray, *, day_first: bool | None, tz: str | None
) -> Clock:
    """The stamps of all rows. Raises as ``stamps.parse``; DataError for numbers that are no steps."""
    named = given.id is not None
    if given.time is None:
        if tz is not None:
            raise UsageError(f"{table.name} has no stamps, so it has no --tz; leave it out")
        table.notes.append("no column of stamps: rows are counted from 0")
        steps = pd.Series(codes).groupby(codes).cumcount().to_numpy(np.int64)
        return Clock(pd.Index(steps), named, table.name)
    values, where = table.frame[given.time], f"{table.name}: column '{given.time}'"
    times: pd.DatetimeIndex | None
    if types.is_datetime64_any_dtype(values.dtype):
        if values.isna().any():
            row = int(values.isna().to_numpy().argmax()) + 1
            raise DataError(f"{where}: row {row} has no stamp; fill it in or remove the row")
        times = pd.DatetimeIndex(values)
    elif not roles.is_text(values):
        whole, _ = numbers(values, table.decimal)
        if not np.isfinite(whole).all() or (whole != np.floor(whole)).any():
            row = int((~np.isfinite(whole) | (whole != np.floor(whole))).argmax()) + 1
            raise DataError(
                f"{where}: row {row} is neither a stamp nor a whole number; correct it or name the "
                "right column with --time"
            )
        integers = whole.astype(np.int64)
        times = stamps.from_integers(integers, given.time, table.notes)
        if times is None:
            table.notes.append(
                f"'{given.time}' counts steps: no dates (of Excel's day numbers, format the cells as dates)"
                if integers.min() >= 20_000 and integers.max() <= 80_000
                else f"'{given.time}' counts steps: no dates"
            )
            if tz is not None:
                raise UsageError(f"{table.name} has no dates, so it has no --tz; leave it out")
            return Clock(pd.Index(integers), named, table.name)
    else:
        if given.time_of_day is not None:
            table.notes.append(f"stamps of '{given.time}' and '{given.time_of_day}' together")
            values = values.astype(str) + " " + table.frame[given.time_of_day].astype(str)
        times = stamps.parse(values, where, day_first, table.notes)
    # The range of nanoseconds in 64 bits; 9999-12-31 often means that there is no date.
    outside = (times.year < 1678) | (times.year > 2261)
    if outside.any():
        row = int(outside.argmax())
        raise DataError(
            f"{where}: row {row + 1}: {times[row].date()} is not between 1678 and 2261; correct it or "
            "remove the row"
        )
    if tz is not None:
        times = stamps.localise(times, codes, tz, where, table.notes)
    return Clock(times, named, table.name)
