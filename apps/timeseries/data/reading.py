"""From a file to a panel: the one way into this application.

table (``tables``, ``frames``) -> roles of columns (``roles``) -> stamps (``clock_column``)
-> rows grouped by series -> repairs that were asked for (``repair``) -> problems (``problems``) -> ``Panel``.

Rows are sorted and grouped once and series are slices of the result: 1,000 series of 1,000 stamps
take two seconds, and 1,000 series of memory no more than one of the same rows.  What is done without
being asked is harmless and a note: rows are sorted; rows without any target at the beginning of a
series are left out, and those at its end are its future, F stamps with the known covariates.

Text covariates become columns of 0 and 1 (``roles.encode``), static ones among them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from apps.timeseries.data import clock_column, repair, roles, wording
from apps.timeseries.data.assembly import Assembly
from apps.timeseries.data.cells import numbers
from apps.timeseries.data.clocks import Clock
from apps.timeseries.data.frames import frame_table
from apps.timeseries.data.options import Options
from apps.timeseries.data.panel import Panel
from apps.timeseries.data.problems import Found
from apps.timeseries.data.repair import Rows
from apps.timeseries.data.roles import Roles
from apps.timeseries.data.tables import Table, read_table
from core.errors import DataError, UsageError

MAX_SERIES = 200_000
"""A file that names more series is split, or has the wrong column for their names."""


@dataclass(frozen=True)
class Reading:
    """A file as it was read: the panel and everything that was found on the way."""

    panel: Panel
    roles: Roles
    found: Found
    rows: int


def read_panel(
    path: Path | str | pd.DataFrame | pd.Series,
    *,
    layout: Literal["auto", "wide", "long"] = "auto",
    time: str | None = None,
    id: str | None = None,
    targets: Sequence[str] | None = None,
    past: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
    static: Sequence[str] | None = None,
    freq: str | None = None,
    tz: str | None = None,
    decimal: str | None = None,
    day_first: bool | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
    fill: str = "none",
    agg: str | None = None,
    max_gap: int | None = None,
    sentinels: Sequence[float] | None = None,
    multivariate: bool = False,
    strict: bool = True,
) -> Panel:
    """The series of a CSV (also .gz), Parquet or Excel file, or of a data frame (see ``frames``).

    A wide file has one row for each stamp and is one series, its number columns the targets; a long
    file has a column that names the series (``unique_id``) and is one series for each name, with the
    target ``y``.  ``targets`` (several make a long file's series multivariate), ``past``, ``known``
    and ``static`` name columns; ``multivariate`` makes the series of a long file the targets of one.

    ``freq`` declares the frequency; with ``agg``, rows are brought onto its grid.  ``tz`` is the zone
    of stamps without one, or the zone that stamps with an offset are shown in.  ``agg`` merges rows
    of the same stamp; ``fill`` completes the grid and fills gaps of at most ``max_gap`` stamps;
    ``sentinels`` are numbers that mean missing (NaN among them: there are none to look for).

    Raises UsageError for data of another type and for options that do not fit the file, DataError for
    a file that cannot be read; with ``strict`` also for one that no model can be fitted on, naming
    the file, the first place and the option that repairs it.  Without it gaps and missing numbers
    stay, and only the first row of a repeated stamp.
    """
    options = Options(
        layout=layout, time=time, id=id, targets=targets, past=past, known=known, static=static,
        freq=freq, tz=tz, decimal=decimal, day_first=day_first, encoding=encoding, sheet=sheet,
        fill=fill, agg=agg, max_gap=max_gap, sentinels=sentinels, multivariate=multivariate,
    )  # fmt: skip
    reading = read(path, options)
    _give_back()
    if strict and (errors := reading.found.errors()):
        first, more = errors[0], len({problem.kind for problem in errors}) - 1
        others = f" ({more} other {'kind' if more == 1 else 'kinds'} of problem: run check)"
        raise DataError(f"{reading.panel.source}: {first.text()}" + (others if more else ""))
    return reading.panel


def _give_back() -> None:
    """Return to the system what Arrow keeps for its next table: 50 kB for each series of 1,000 rows."""
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()


def read(
    path: Path | str | pd.DataFrame | pd.Series, options: Options, deep: bool = False
) -> Reading:
    """The panel of a file, and what was found; ``deep``: look for outliers and copies, too.

    Raises as ``read_panel`` without ``strict``.
    """
    table, given = _assigned(path, options)
    if options.multivariate and given.layout == "wide":
        raise UsageError(f"{table.name}: --multivariate is for long files; this one is wide")
    table.notes.insert(0, given.note())
    found = Found()
    codes, ids = _series(table, given.id)
    clock = clock_column.read_clock(table, given, codes, day_first=options.day_first, tz=options.tz)
    columns = _columns(table, given, found)
    blocks = _blocks(table, clock, codes, ids, columns, tuple(options.sentinels or ()))
    clock.settle(blocks, table, found, freq=options.freq, agg=options.agg)
    assembly = Assembly(clock, found, options, columns.names, deep)
    series = [one for rows in blocks if (one := assembly.series(rows)) is not None]
    if not series:
        raise DataError(f"{table.name}: no series has a number to forecast")
    table.notes += assembly.notes(series)
    panel = Panel(
        series=tuple(series),
        targets=tuple(columns.names["values"]),
        past_names=tuple(columns.names["past"]),
        known_names=tuple(columns.names["known"]),
        static_names=tuple(columns.names["static"]),
        layout=given.layout,
        time_name=given.time,
        source=table.name,
        sha256=table.sha256,
        notes=tuple(table.notes),
    )
    if options.multivariate:
        panel = _as_variates(panel)
    return Reading(panel, given, found, len(table.frame))


def _assigned(path: Path | str | pd.DataFrame | pd.Series, options: Options) -> tuple[Table, Roles]:
    """The table, and the roles of its columns."""
    if isinstance(path, pd.DataFrame | pd.Series):
        table = frame_table(path, options.decimal)
        return table, _roles(table, options)
    if not isinstance(path, str | os.PathLike):
        raise UsageError(
            f"data of type {type(path).__name__} is not read; give the path of a file, or a data frame "
            "or series of pandas"
        )
    table = _table(Path(path), options)
    given = _roles(table, options)
    if (named := _emptied(table, given, options)) is not None:
        again = _table(Path(path), options, named)
        second = _roles(again, options)
        if second.id == named:
            return again, second
    return table, given


def _table(path: Path, options: Options, id: str | None = None) -> Table:
    return read_table(
        path,
        text=lambda name: name == id or options.is_id(name),
        decimal=options.decimal,
        encoding=options.encoding,
        sheet=options.sheet,
    )


def _roles(table: Table, options: Options) -> Roles:
    return roles.assign(
        table, layout=options.layout, time=options.time, id=options.id, **options.roles
    )


def _emptied(table: Table, given: Roles, options: Options) -> str | None:
    """The text column that names series, or may, and lacks cells: ids such as NA (Namibia) are some."""
    frame = table.frame
    if given.id is not None:
        maybe = [given.id]
    elif options.layout == "wide" or given.time is None or frame[given.time].is_unique:
        return None
    else:  # without those ids it may have repeated its stamps
        maybe = [name for name in given.left_out if roles.is_category(frame[name], table.decimal)]
    if len(maybe) != 1 or options.is_id(maybe[0]) or not frame[maybe[0]].hasnans:
        return None
    return maybe[0]


@dataclass
class _Columns:
    """The columns of a file as arrays (rows, columns), and their names, by role."""

    arrays: dict[str, np.ndarray]
    names: dict[str, list[str]]


def _series(table: Table, id: str | None) -> tuple[np.ndarray, list[str]]:
    """The number of each row's series, and the series' names in the order of the file."""
    if id is None:
        return np.zeros(len(table.frame), np.intp), [table.name.partition(".")[0]]
    codes, unique = pd.factorize(table.frame[id])
    names = [str(name).strip() for name in unique]
    nameless = (codes < 0) | np.isin(codes, [i for i, name in enumerate(names) if not name])
    if nameless.any():
        row = int(nameless.argmax()) + 1
        raise DataError(f"{table.name}: row {row} names no series in '{id}'; fill it in")
    if len(names) > MAX_SERIES:
        raise DataError(
            f"{table.name}: '{id}' names {len(names):,} series, more than {MAX_SERIES:,}; is it the "
            "right --id? Else split the file"
        )
    if len(set(names)) < len(names):  # 'a' and 'a '
        codes, names = pd.factorize(np.asarray(names, object)[codes])[0], list(dict.fromkeys(names))
    return codes, names


def _columns(table: Table, given: Roles, found: Found) -> _Columns:
    """All columns as numbers; cells that are none are missing and a problem."""
    arrays, names = {}, {}
    for role, wanted in (
        ("values", given.targets),
        ("past", given.past),
        ("known", given.known),
        ("static", given.static),
    ):
        if role == "values":
            parsed = [numbers(table.frame[name], table.decimal) for name in wanted]
            named, bad = list(wanted), [wrong for _, wrong in parsed]
            columns = [values for values, _ in parsed]
        else:
            named, columns, bad = roles.encode(table, wanted, role)
        for name, wrong in zip(named, bad):
            if wrong is not None:
                row = int(wrong.argmax())
                found.add(
                    "not-a-number",
                    f"{wording.some(int(wrong.sum()), 'cell is no number', 'cells are no numbers')}, the first "
                    f"'{table.frame[name].iloc[row]}' in row {row + 1}",
                    "correct them, or leave them empty and use --fill, or leave the column out",
                    column=name,
                    count=int(wrong.sum()),
                    first=f"row {row + 1}",
                )
        names[role] = named
        arrays[role] = np.column_stack(columns) if columns else np.empty((len(table.frame), 0))
    return _Columns(arrays, names)


def _blocks(
    table: Table,
    clock: Clock,
    codes: np.ndarray,
    ids: list[str],
    columns: _Columns,
    sentinels: tuple[float, ...],
) -> list[Rows]:
    """The rows of each series in the order of its clock, as slices of the same arrays."""
    stamps = clock.numbers
    back = (np.diff(stamps) < 0) & (np.diff(codes) == 0)
    if back.any():
        row = int(back.argmax()) + 2
        table.notes.append(f"rows were not in the order of time (row {row} is the first): sorted")
    arrays = dict(columns.arrays)
    for role in ("values", "past", "known"):
        arrays[role] = repair.without_sentinels(arrays[role], sentinels)
    times = clock.times
    if back.any() or (np.diff(codes) < 0).any():
        order = np.lexsort((stamps, codes))
        arrays = {role: part[order] for role, part in arrays.items()}
        times = times[order]
    edges = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(ids)))])
    blocks = []
    for i, name in enumerate(ids):
        at = slice(edges[i], edges[i + 1])
        blocks.append(
            Rows(
                id=name,
                times=times[at],
                values=arrays["values"][at],
                past=arrays["past"][at],
                known=arrays["known"][at],
                static=_static(table, name, arrays["static"][at], columns.names["static"]),
            )
        )
    return blocks


def _static(table: Table, id: str, values: np.ndarray, names: list[str]) -> dict[str, Any]:
    """The one number of each static column (R, columns) of a series."""
    found: dict[str, Any] = {}
    for name, column in zip(names, values.T):
        seen = column[~np.isnan(column)]
        where = f"{table.name}: series '{id}': static column '{name}'"
        if len(seen) == 0:
            raise DataError(f"{where} has no value; fill it in")
        if (other := seen[seen != seen[0]]).size:
            raise DataError(
                f"{where} changes from {seen[0]:g} to {other[0]:g}; name it with --past or --known"
            )
        found[name] = float(seen[0])
    return found


def _as_variates(panel: Panel) -> Panel:
    """The series of a long file as targets of one, which they all must have the same stamps for."""
    first = panel.series[0]
    for other in panel.series[1:]:
        if not other.times.equals(first.times) or len(other) != len(first):
            start = max(one.times[0] for one in panel)
            end = min(one.observed[-1] for one in panel)
            raise DataError(
                f"{panel.source}: series '{other.id}' has other stamps than '{first.id}', and variates "
                f"share one clock; cut the file to {wording.stamp(start)} - {wording.stamp(end)}, or "
                "leave out --multivariate"
            )
        if panel.past_names or not np.array_equal(other.known, first.known, equal_nan=True):
            raise UsageError(
                f"{panel.source}: with --multivariate all series must have the same known covariates "
                "and none of the past; leave them out"
            )
    one = replace(
        first,
        id=panel.source.partition(".")[0],
        values=np.concatenate([one.values for one in panel], 1),
        static={},
    )
    names = tuple(name for one in panel for name in panel.names(one))
    return replace(
        panel,
        series=(one,),
        targets=names,
        static_names=(),
        layout="wide",
        notes=(*panel.notes, f"{len(panel)} series as {len(names)} targets of one"),
    )
