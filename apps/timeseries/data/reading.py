"""From a file to a panel: the one way into this application.

table (``tables``) -> roles of columns (``roles``) -> stamps (``stamps``) -> rows grouped by series
-> repairs that were asked for (``repair``) -> problems (``problems``) -> ``Panel``.

Rows are sorted and grouped once and series are slices of the result: 1,000 series of 1,000 stamps
take about three seconds and no memory per series.  What is done without being asked is harmless and
a note: rows are sorted; rows without any target at the beginning of a series are left out, and those
at its end are its future, F stamps with the known covariates.

Text covariates become columns of 0 and 1 (``roles.encode``), static ones among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from apps.timeseries.data import clocks, problems, repair, roles
from apps.timeseries.data.clocks import Clock
from apps.timeseries.data.panel import Panel, Series
from apps.timeseries.data.problems import Found
from apps.timeseries.data.repair import Rows
from apps.timeseries.data.roles import Roles
from apps.timeseries.data.tables import Table, column, digest_of, numbers, read_table
from core.errors import DataError, UsageError

MAX_SERIES = 200_000


@dataclass(frozen=True)
class Reading:
    """A file as it was read: the panel and everything that was found on the way."""

    panel: Panel
    roles: Roles
    found: Found
    rows: int


def read_panel(
    path: Path | str | pd.DataFrame,
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
    """The series of a CSV (also .gz), Parquet or Excel file, or of a data frame.

    A wide file has one row for each stamp and is one series, its number columns the targets; a long
    file has a column that names the series (``unique_id``) and is one series for each name, with the
    target ``y``.  ``targets`` (several make a long file's series multivariate), ``past``, ``known``
    and ``static`` name columns; ``multivariate`` makes the series of a long file the targets of one.

    ``freq`` declares the frequency; with ``agg``, rows are brought onto its grid.  ``tz`` is the zone
    of stamps without one, or the zone that stamps with an offset are shown in.  ``agg`` merges rows
    of the same stamp; ``fill`` completes the grid and fills gaps of at most ``max_gap`` stamps;
    ``sentinels`` are numbers that mean missing (NaN among them: there are none to look for).

    Raises UsageError for options that do not fit the file, DataError for a file that cannot be read;
    with ``strict`` also for one that no model can be fitted on, naming the file, the first place and
    the option that repairs it.  Without it gaps and missing numbers stay, and only the first row of
    a repeated stamp.
    """
    reading = read(
        path,
        layout=layout,
        time=time,
        id=id,
        targets=targets,
        past=past,
        known=known,
        static=static,
        freq=freq,
        tz=tz,
        decimal=decimal,
        day_first=day_first,
        encoding=encoding,
        sheet=sheet,
        fill=fill,
        agg=agg,
        max_gap=max_gap,
        sentinels=sentinels,
        multivariate=multivariate,
    )
    if strict and (errors := reading.found.errors()):
        first, more = errors[0], len({p.kind for p in errors}) - 1
        others = f" ({more} other {'kind' if more == 1 else 'kinds'} of problem: run check)"
        raise DataError(f"{reading.panel.source}: {first.text()}" + (others if more else ""))
    return reading.panel


def read(
    path: Path | str | pd.DataFrame,
    *,
    layout: str = "auto",
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
    deep: bool = False,
) -> Reading:
    """As ``read_panel`` without ``strict``, and what was found; ``deep``: look for outliers, too."""
    repair.check_options(fill, agg, max_gap)
    clocks.check_options(freq, tz)
    named = [tuple(wanted or ()) for wanted in (targets, past, known, static)]
    texts = {*roles.ID_NAMES, *([id] if id else [])} - {name for names in named for name in names}
    if isinstance(path, pd.DataFrame):
        frame = path.copy(deep=False)
        frame.columns = [str(name) for name in frame.columns]
        table = Table(frame, "data frame", digest_of(frame))
    else:
        table = read_table(path, text=texts, decimal=decimal, encoding=encoding, sheet=sheet)
    given = roles.assign(
        table, layout=layout, time=time, id=id, targets=named[0], past=named[1], known=named[2],
        static=named[3],
    )  # fmt: skip
    if multivariate and given.layout == "wide":
        raise UsageError(f"{table.name}: --multivariate is for long files; this one is wide")
    table.notes.insert(0, given.note())
    found = Found()
    codes, ids = _series(table, given.id)
    clock = clocks.read_clock(table, given, codes, day_first=day_first, tz=tz)
    columns = _columns(table, given, found)
    blocks = _sorted_blocks(table, clock, codes, ids, columns, sentinels)
    clock.settle(blocks, table, found, freq=freq, agg=agg)
    series, filled = [], 0
    for block in blocks:
        one, count = _series_of(block, clock, found, fill, agg, max_gap, sentinels, columns, deep)
        filled += count
        if one is not None:
            series.append(one)
    if filled:
        table.notes.append(f"{filled:,} numbers filled ({fill})")
    if not series:
        raise DataError(f"{table.name}: no series has a number to forecast")
    _note_futures(series, blocks, table, columns)
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
    if multivariate:
        panel = _as_variates(panel, found)
    return Reading(panel, given, found, len(table.frame))


@dataclass
class _Columns:
    """The columns of a file as arrays (rows, columns), and their names, by role."""

    arrays: dict[str, np.ndarray]
    names: dict[str, list[str]]


def _series(table: Table, id: str | None) -> tuple[np.ndarray, list[str]]:
    """The number of each row's series, and the series' names in the order of the file."""
    if id is None:
        return np.zeros(len(table.frame), np.intp), [table.name.partition(".")[0]]
    codes, unique = pd.factorize(table.frame[column(table.frame, id, table.name, "--id")])
    if (codes < 0).any():
        raise DataError(
            f"{table.name}: row {int((codes < 0).argmax()) + 1} names no series in '{id}'; fill it in"
        )
    if len(unique) > MAX_SERIES:
        raise DataError(
            f"{table.name}: '{id}' names {len(unique):,} series, more than {MAX_SERIES:,}; is it the "
            "right --id? Else split the file"
        )
    return codes, [str(name) for name in unique]


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
                    f"{int(wrong.sum()):,} cells are no numbers, the first '{table.frame[name].iloc[row]}' in row {row + 1}",
                    "correct them, leave them empty and use --fill, or leave the column out",
                    column=name,
                    count=int(wrong.sum()),
                    first=f"row {row + 1}",
                )
        names[role] = named
        # Wide tables have more columns than rows are long: one pass, columns into a matrix.
        arrays[role] = np.column_stack(columns) if columns else np.empty((len(table.frame), 0))
    return _Columns(arrays, names)


def _sorted_blocks(
    table: Table,
    clock: Clock,
    codes: np.ndarray,
    ids: list[str],
    columns: _Columns,
    sentinels: Sequence[float] | None,
) -> list[Rows]:
    """The rows of each series in the order of its clock."""
    stamp = clock.numbers
    step_back = (np.diff(stamp) < 0) & (np.diff(codes) == 0)
    if step_back.any():
        row = int(step_back.argmax()) + 2
        table.notes.append(f"rows were not in the order of time (row {row} is the first): sorted")
    arrays = {
        role: repair.without_sentinels(part, tuple(sentinels or ())) if role != "static" else part
        for role, part in columns.arrays.items()
    }
    times = clock.times
    if step_back.any() or (np.diff(codes) < 0).any():
        order = np.lexsort((stamp, codes))
        arrays = {role: part[order] for role, part in arrays.items()}
        times, codes = times[order], codes[order]
    edges = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(ids)))])
    blocks = []
    for i, name in enumerate(ids):
        rows = slice(edges[i], edges[i + 1])
        blocks.append(
            Rows(
                id=name,
                times=times[rows],
                values=arrays["values"][rows],
                past=arrays["past"][rows],
                known=arrays["known"][rows],
                static=dict.fromkeys(columns.names["static"]),
            )
        )
        for j, label in enumerate(columns.names["static"]):
            seen = arrays["static"][rows, j]
            seen = seen[~np.isnan(seen)]
            if len(seen) and (seen != seen[0]).any():
                raise DataError(
                    f"{table.name}: series '{name}': static column '{label}' changes from "
                    f"{seen[0]:g} to {seen[seen != seen[0]][0]:g}; name it with --past or --known"
                )
            if len(seen) == 0:
                raise DataError(
                    f"{table.name}: series '{name}': static column '{label}' has no value; fill it in"
                )
            blocks[-1].static[label] = float(seen[0])
    return blocks


def _series_of(
    rows: Rows,
    clock: Clock,
    found: Found,
    fill: str,
    agg: str | None,
    max_gap: int | None,
    sentinels: Sequence[float] | None,
    columns: _Columns,
    deep: bool,
) -> tuple[Series | None, int]:
    """One series after the repairs, and how many numbers were filled. None: it has no value."""
    id = rows.id if clock.named else None
    rows, freq = clock.repaired(rows, found, agg=agg)
    seen = ~np.isnan(rows.values).all(1)
    if not seen.any():
        found.add("empty", "has no number to forecast", "leave it out", series=id)
        return None, 0
    # Where nothing is known ahead, what follows the last number is nothing at all.
    first, last = int(seen.argmax()), len(seen) - int(seen[::-1].argmax())
    rows = rows.take(slice(first, len(seen) if rows.known.shape[1] else last))
    T, count = last - first, 0
    grid = clock.grid_of(rows.times, freq)
    if fill != "none":
        observed = rows.times[T - 1]
        rows = repair.complete(rows, grid)
        T = int(rows.times.get_loc(observed)) + 1
        rows, count = repair.fill_rows(rows, fill, freq, max_gap, T)
    else:
        problems.find_gaps(id, rows.times, grid, found)
    declared, future = tuple(sentinels or ()), rows.known[T:]
    for part, names, target in (
        (rows.values[:T], columns.names["values"], True),
        (rows.past[:T], columns.names["past"], False),
        (rows.known[:T], columns.names["known"], False),
    ):
        problems.inspect_values(id, rows.times, part, names, found, declared, target, deep)
    if len(future) and not np.isfinite(future).all():
        row, at = (int(i[0]) for i in np.nonzero(~np.isfinite(future)))
        found.add(
            "missing",
            f"known ahead, but missing at {problems.stamp(rows.times[T + row])}",
            "fill it in or remove the rows that follow",
            series=id,
            column=columns.names["known"][at],
            first=problems.stamp(rows.times[T + row]),
        )
    if T < 3:
        found.add(
            "short",
            f"has {T} row{'s' * (T > 1)}",
            "leave it out or give more history",
            series=id,
            count=T,
            level="error" if not clock.named else "warning",
        )
    if deep:
        problems.find_copies(id, rows.values[:T], columns.names["values"], rows.known, columns.names["known"], found)  # fmt: skip
    return Series(rows.id, rows.times, rows.values[:T], rows.past[:T], rows.known, rows.static, freq), count  # fmt: skip


def _note_futures(series: list[Series], blocks: list[Rows], table: Table, columns: _Columns) -> None:  # fmt: skip
    ahead = Counter(len(s.times) - len(s) for s in series)
    if columns.names["known"]:
        longest = max(ahead)
        table.notes.append(f"covariates known for {longest} stamps after the last observed one")
    first = {rows.id: rows for rows in blocks}
    trimmed = sum(max(0, int(np.isnan(first[s.id].values).all(1).sum())) for s in series)
    if trimmed and not columns.names["known"]:
        kept = sum(int(np.isnan(s.values).all(1).sum()) for s in series)
        if trimmed > kept:
            table.notes.append("rows without a number at the beginning or end of series left out")


def _as_variates(panel: Panel, found: Found) -> Panel:
    """The series of a long file as targets of one, which they all must have the same stamps for."""
    first = panel.series[0]
    for other in panel.series[1:]:
        if not other.observed.equals(first.observed):
            start = max(s.times[0] for s in panel)
            end = min(s.observed[-1] for s in panel)
            raise DataError(
                f"{panel.source}: series '{other.id}' has other stamps than '{first.id}', and variates "
                f"share one clock; cut the file to {problems.stamp(start)} - {problems.stamp(end)}, or "
                "leave out --multivariate"
            )
        same = other.known.shape == first.known.shape and np.array_equal(other.known, first.known, equal_nan=True)  # fmt: skip
        if panel.past_names or not same:
            raise UsageError(
                f"{panel.source}: with --multivariate all series must share one known covariate, and "
                "have none of the past; leave them out"
            )
    one = Series(
        id=panel.source.partition(".")[0],
        times=first.times,
        values=np.concatenate([s.values for s in panel], 1),
        past=np.empty((len(first), 0)),
        known=first.known,
        freq=first.freq,
    )
    names = tuple(name for s in panel for name in panel.names(s))
    note = f"{len(panel)} series as {len(names)} targets of one"
    return Panel(
        series=(one,),
        targets=names,
        known_names=panel.known_names,
        layout="wide",
        time_name=panel.time_name,
        source=panel.source,
        sha256=panel.sha256,
        notes=(*panel.notes, note),
    )
