"""What each column of a file is: the clock, the name of the series, targets, covariates.

Named columns are what they are named.  The rest is decided by names that are usual in the field
(``unique_id``, ``ds``, ``y``) and by what the columns hold, and the decision is a note.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api import types

from apps.timeseries.data import stamps
from apps.timeseries.data.cells import numbers
from apps.timeseries.data.tables import Table, column
from core.errors import DataError, UsageError

TIME_NAMES = ("ds", "timestamp", "datetime", "date_time", "date", "time", "time_stamp", "day",
              "week", "month", "quarter", "year", "period", "datum", "time_idx", "step")  # fmt: skip
ID_NAMES = ("unique_id", "series_id", "item_id", "ts_id", "series", "id", "item")
TARGET_NAMES = ("y", "target", "value", "values")
MAX_LEVELS = 20
"""A text covariate with more values than these is not encoded."""
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")
_SHOWN = 8


@dataclass(frozen=True)
class Roles:
    """The columns of a file by role."""

    layout: Literal["wide", "long"]
    time: str | None
    id: str | None
    targets: tuple[str, ...]
    past: tuple[str, ...]
    known: tuple[str, ...]
    static: tuple[str, ...]
    left_out: tuple[str, ...]
    time_of_day: str | None = None  # in a column of its own, beside one of dates

    def mapping(self) -> dict[str, Any]:
        """For a machine."""
        names = ("layout", "time", "id", "targets", "past", "known", "static", "left_out")
        found = {name: getattr(self, name) for name in names}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()}

    def note(self) -> str:
        """For a person, in one line."""
        parts = [f"{self.layout}: time '{self.time}'" if self.time else f"{self.layout}: no clock"]
        if self.id:
            parts.append(f"series by '{self.id}'")
        for name in ("targets", "past", "known", "static"):
            if found := getattr(self, name):
                parts.append(f"{name} {listed(found)}")
        return ", ".join(parts)


def listed(names: Sequence[str]) -> str:
    """``a, b, c and 5 more``."""
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def is_text(values: pd.Series) -> bool:
    """Neither numbers, truth values nor stamps."""
    dtype = values.dtype
    plain = types.is_numeric_dtype(dtype) or types.is_bool_dtype(dtype)
    return not (plain or types.is_datetime64_any_dtype(dtype))


def is_category(values: pd.Series, decimal: str) -> bool:
    """Text of which less than half are numbers."""
    if not is_text(values):
        return False
    parsed, _ = numbers(values, decimal)
    return bool(np.isfinite(parsed).sum() * 2 < values.notna().sum())


def assign(
    table: Table,
    *,
    layout: str,
    time: str | None,
    id: str | None,
    targets: Sequence[str],
    past: Sequence[str],
    known: Sequence[str],
    static: Sequence[str],
) -> Roles:
    """The roles. Raises UsageError for columns that are not there or named twice, DataError for a
    file whose roles cannot be told.
    """
    if layout not in ("auto", "wide", "long"):
        raise UsageError(f"layout '{layout}': must be auto, wide or long")
    frame, name = table.frame, table.name
    if time is not None:
        column(frame, time, name, "--time")
    if id is not None:
        column(frame, id, name, "--id")
    for one in targets:
        column(frame, one, name, "--target")
    # A model's covariate `weather=rain` is one value of the text column `weather`.
    for option, wanted in (("--past", past), ("--known", known), ("--static", static)):
        for one in wanted:
            if one not in frame.columns:
                column(frame, one.rpartition("=")[0] or one, name, option)
    named = [*targets, *past, *known, *static, *([time] if time else []), *([id] if id else [])]
    twice = [one for one in named if named.count(one) > 1]
    if twice:
        raise UsageError(f"column '{twice[0]}' is given two roles; give it one")
    if time is None:
        time = _find_time(table, set(named))
    hour = None if time is None else _time_of_day(table, time, named)
    used = {*named, time, hour}
    if id is None and layout != "wide":
        id = _find_id(table, used, time)
    if layout == "long" and id is None:
        raise DataError(
            f"{name}: no column names the series of a long file; give it with --id, or say --layout wide"
        )
    found: Literal["wide", "long"] = "wide" if id is None else "long"
    used.add(id)
    used.update(
        one.rpartition("=")[0] for one in (*past, *known, *static) if one not in frame.columns
    )
    others = [one for one in map(str, frame.columns) if one not in used]
    if not targets:
        targets = _find_targets(table, others, found, bool(past or known or static))
    left_out = tuple(one for one in others if one not in targets)
    if left_out:
        text = any(is_category(table.frame[one], table.decimal) for one in left_out)
        hint = " (--target, --past, --known or --static uses them)"
        if found == "wide":
            hint = " (--past or --known encodes text)" if text else ""
        table.notes.append(f"columns left out: {listed(left_out)}{hint}")
    return Roles(
        layout=found,
        time=time,
        id=id,
        targets=tuple(targets),
        past=tuple(past),
        known=tuple(known),
        static=tuple(static),
        left_out=left_out,
        time_of_day=hour,
    )


def _find_time(table: Table, used: set[str]) -> str | None:
    frame = table.frame
    by_lower = {str(c).lower(): str(c) for c in reversed(frame.columns) if c not in used}
    for wanted in TIME_NAMES:
        if wanted in by_lower and not _has_fractions(frame[by_lower[wanted]]):
            values = frame[by_lower[wanted]]
            if wanted == "time" and is_text(values) and _all_match(values, _TIME_OF_DAY):
                continue  # the time of day, of a date in another column
            if wanted in TIME_NAMES[7:13] and not (
                (is_text(values) and stamps.looks_like_stamps(values))
                or types.is_datetime64_any_dtype(values.dtype)
                or (wanted == "year" and _increases(values))
            ):
                continue  # `day` and `month` are often covariates
            return by_lower[wanted]
    for one in by_lower.values():
        if types.is_datetime64_any_dtype(frame[one].dtype):
            return one
    for one in reversed(by_lower.values()):
        if is_text(frame[one]) and stamps.looks_like_stamps(frame[one]):
            return one
    return None


def _has_fractions(values: pd.Series) -> bool:
    if not types.is_float_dtype(values.dtype):
        return False
    seen = values.dropna().to_numpy()
    return len(seen) == 0 or not (np.isfinite(seen).all() and (seen == np.floor(seen)).all())


def _increases(values: pd.Series) -> bool:
    return types.is_integer_dtype(values.dtype) and bool((np.diff(values.to_numpy()) != 0).all())


def _all_match(values: pd.Series, pattern: re.Pattern[str]) -> bool:
    sample = values.dropna().head(1000)
    return len(sample) > 0 and bool(sample.astype(str).str.strip().str.fullmatch(pattern.pattern).all())  # fmt: skip


def _time_of_day(table: Table, time: str, used: Sequence[str]) -> str | None:
    """The column of the time of day, where the column of stamps has dates only."""
    frame = table.frame
    for one in map(str, frame.columns):
        if one.lower() in ("time", "hour", "uhrzeit") and one != time and one not in used:
            values = frame[one]
            dates = frame[time].head(1000).astype(str)
            if is_text(values) and _all_match(values, _TIME_OF_DAY) and not dates.str.contains(":").any():  # fmt: skip
                return one
    return None


def _find_id(table: Table, used: set[Any], time: str | None) -> str | None:
    frame = table.frame
    by_lower = {str(c).lower(): str(c) for c in reversed(frame.columns) if c not in used}
    for wanted in ID_NAMES:
        if wanted in by_lower and not _has_fractions(frame[by_lower[wanted]]):
            one = by_lower[wanted]
            # `id` may be the number of the row.
            if wanted == "unique_id" or not frame[one].is_unique:
                return one
    if time is None:
        return None
    texts = [c for c in by_lower.values() if is_category(frame[c], table.decimal)]
    if len(texts) != 1 or not frame[time].duplicated().any():
        return None
    return texts[0] if not frame.duplicated([texts[0], time]).any() else None


def _find_targets(table: Table, others: list[str], layout: str, told: bool) -> list[str]:
    frame = table.frame
    usable = []
    for one in others:
        values = frame[one]
        if types.is_datetime64_any_dtype(values.dtype) or is_category(values, table.decimal):
            continue
        unnamed = re.fullmatch(r"Unnamed: \d+", one) is not None
        if unnamed and values.isna().all():
            continue
        if (unnamed or one.lower() in ID_NAMES) and _counts_rows(values, table.decimal):
            continue
        usable.append(one)
    if not usable:
        raise DataError(
            f"{table.name} has no column of numbers to forecast"
            + (f" (text: {listed(others)})" if others else "")
            + "; check the delimiter and --decimal"
        )
    if layout == "wide":
        return usable
    for wanted in TARGET_NAMES:
        for one in usable:
            if one.lower() == wanted:
                return [one]
    if len(usable) == 1:
        return usable
    raise DataError(
        f"{table.name}: any of {listed(usable)} may be what to forecast; name it with --target"
    )


def _counts_rows(values: pd.Series, decimal: str) -> bool:
    """0, 1, 2, ... or 1, 2, 3, ...: the row numbers that tables are often saved with."""
    found, _ = numbers(values, decimal)
    return bool(found[0] in (0, 1) and (np.diff(found) == 1).all())


def encode(
    table: Table, wanted: Sequence[str], kind: str
) -> tuple[list[str], list[np.ndarray], list[np.ndarray | None]]:
    """Covariates as columns of numbers: names, values, and masks of cells that are no numbers.

    A text column `weather` becomes one column of 0 and 1 for each of its values (`weather=rain`,
    ...), so that a file with other values cannot be taken for one with the same; where `weather=rain`
    itself is asked for, for that value alone.  An empty cell is missing in each of them.
    Raises DataError for a text with more than ``MAX_LEVELS`` values, and where several values are
    asked for and no cell holds one of them.
    """
    names: list[str] = []
    found: list[np.ndarray] = []
    wrong: list[np.ndarray | None] = []
    asked: dict[str, list[str]] = {}  # values by the text they are of
    for one in wanted:
        if one in table.frame.columns and not is_category(table.frame[one], table.decimal):
            values, bad = numbers(table.frame[one], table.decimal)
            names.append(one)
            found.append(values)
            wrong.append(bad)
            continue
        source, level = (one, None) if one in table.frame.columns else one.rpartition("=")[::2]
        texts = table.frame[source].astype("object")
        missing = texts.isna().to_numpy()
        texts = texts.astype(str).str.strip()
        levels = sorted(texts[~missing].unique()) if level is None else [level]
        if len(levels) > MAX_LEVELS:
            raise DataError(
                f"{table.name}: {kind} covariate '{one}' is text with {len(levels):,} values, and "
                f"at most {MAX_LEVELS} are encoded; give numbers instead or leave it out"
            )
        for text in levels:
            names.append(f"{source}={text}")
            found.append(np.where(missing, np.nan, (texts == text).to_numpy(np.float64)))
            wrong.append(None)
        if level is None:
            table.notes.append(f"'{one}' is encoded as {listed([f'{one}={t}' for t in levels])}")
        else:
            asked.setdefault(source, []).append(level)
    _check_levels(table, asked, kind)
    return names, found, wrong


def _check_levels(table: Table, asked: Mapping[str, Sequence[str]], kind: str) -> None:
    """Say which values of a text were not asked for, where several of its values were.

    One value asked for (`weather=rain`) is a choice; several are those that a model was trained with.
    """
    for source, levels in asked.items():
        cells = table.frame[source].dropna().astype(str).str.strip()
        other = cells[~cells.isin(levels)]
        if len(levels) < 2 or other.empty:
            continue
        what = f"{kind} covariate '{source}'"
        values = listed(sorted(other.unique()))
        if len(other) == len(cells):
            raise DataError(
                f"{table.name}: {what} holds {values}, and none of the values that are asked for "
                f"({listed(levels)}); write them as they were in training"
            )
        table.notes.append(
            f"{what}: {len(other):,} of {len(cells):,} cells hold {values}, which was not asked for "
            "and counts as none of its values"
        )
