"""The clock of a file: its stamps, and the frequency that its series share or do not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas.api import types

from apps.timeseries.data import frequency, problems, repair, roles, stamps
from apps.timeseries.data.problems import Found
from apps.timeseries.data.repair import Rows
from apps.timeseries.data.roles import Roles
from apps.timeseries.data.tables import Table, numbers
from core.errors import DataError, UsageError


def check_options(freq: str | None, tz: str | None) -> None:
    """UsageError for a frequency or a time zone that there is not."""
    if freq is not None:
        frequency.normalise(freq)
    if tz is not None:
        stamps.localise(pd.DatetimeIndex(["2000-01-01"]), np.zeros(1, np.intp), tz, "", [])


@dataclass
class Clock:
    """Stamps of all rows of a file, and once ``settle`` has seen the series, their frequencies."""

    times: pd.Index
    named: bool  # whether messages name the series
    raw: pd.DatetimeIndex | None = None  # in the file's order, before sorting
    freqs: dict[str, str | None] = field(default_factory=dict)
    declared: str | None = None
    steps: dict[str, int] = field(default_factory=dict)  # of integer clocks
    refused: set[str] = field(default_factory=set)  # series without a grid

    @property
    def numbers(self) -> np.ndarray:
        """The stamps as integers."""
        if isinstance(self.times, pd.DatetimeIndex):
            return self.times.asi8
        return np.asarray(self.times)

    @property
    def dated(self) -> bool:
        """Whether stamps are dates."""
        return isinstance(self.times, pd.DatetimeIndex)

    def settle(self, blocks: list[Rows], table: Table, found: Found, *, freq: str | None, agg: str | None) -> None:  # fmt: skip
        """Find the frequency of every series, and what is wrong with it."""
        if not self.dated:
            if freq is not None:
                raise UsageError(f"{table.name} has no dates, so it has no --freq; leave it out")
            self._settle_steps(blocks, found)
            return
        if freq is not None:
            self.declared = frequency.normalise(freq)
            self.freqs = {rows.id: self.declared for rows in blocks}
            if agg is None:
                self._check_declared(blocks, found)
            return
        cache: dict[bytes, str | None] = {}
        for rows in blocks:
            # Many series have the same clock.
            key = rows.times.asi8.tobytes()
            if key not in cache:
                cache[key] = frequency.nearest(rows.times.unique())
            self.freqs[rows.id] = cache[key]
        self._agree(blocks)
        for rows in blocks:
            if self.freqs[rows.id] is None:
                self._irregular(rows, found)
        counts = Counter(f for f in self.freqs.values() if f is not None)
        if len(counts) > 1:
            listed = ", ".join(f"{f} ({n:,})" for f, n in counts.most_common(5))
            usual = counts.most_common(1)[0][0]
            odd = next(rows for rows in blocks if self.freqs[rows.id] not in (usual, None))
            coarsest = min(counts, key=lambda f: _per_year(f))
            found.add(
                "mixed-frequencies",
                f"series of different frequencies: {listed}",
                f"bring all to one with --freq {coarsest} --agg mean (or sum), or split the file",
                series=odd.id,
                count=len(counts),
                first=problems.stamp(odd.times[0]),
            )

    def _settle_steps(self, blocks: list[Rows], found: Found) -> None:
        for rows in blocks:
            step = problems.step_of(rows.times) or 1
            self.steps[rows.id] = step
            off = np.flatnonzero((np.asarray(rows.times) - int(rows.times[0])) % step)
            if len(off):
                self.refused.add(rows.id)
                found.add(
                    "irregular",
                    f"step {rows.times[off[0]]} is no multiple of {step} after {rows.times[0]}",
                    "number the rows evenly, or give dates",
                    series=rows.id if self.named else None,
                    count=len(off),
                    first=str(rows.times[off[0]]),
                )

    def _agree(self, blocks: list[Rows]) -> None:
        """Series too short to tell, or regular in another way too, have the frequency of most."""
        counts = Counter(f for f in self.freqs.values() if f is not None)
        if not counts:
            return
        usual = counts.most_common(1)[0][0]
        for rows in blocks:
            own, clock = self.freqs[rows.id], rows.times.unique()
            if own == usual:
                continue
            if (own is None and len(clock) < 3) or own is not None:
                fits = not problems.off_grid(clock, usual).any()
                if fits and (own is None or frequency.is_regular(clock, usual)):
                    self.freqs[rows.id] = usual

    def _irregular(self, rows: Rows, found: Found) -> None:
        self.refused.add(rows.id)
        clock = rows.times.unique()
        about = {"series": rows.id if self.named else None, "first": problems.stamp(rows.times[0])}
        if len(clock) < 3:
            found.add(
                "short",
                f"has {len(clock)} stamp{'s' * (len(clock) > 1)}, too few to tell a frequency from",
                "declare it with --freq, or give more history",
                count=len(clock),
                **about,
            )
            return
        step = problems.step_of(clock) or 1
        if clock.tz is None and (zone := problems.daylight_zone(self._in_file_order(rows), step)):
            self._tell_daylight(rows, zone, step, found)
            return
        ns = clock.as_unit("ns").asi8
        jumps = np.diff(ns) != step
        first = problems.stamp(clock[int(jumps.argmax()) + 1])
        likely = pd.Timedelta(int(np.median(np.diff(ns))), unit="ns")
        hint = "; offsets that change need --tz" if str(clock.tz) == "UTC" else ""
        found.add(
            "irregular",
            f"stamps follow no frequency: most steps are not alike (the middle one is {likely}), see {first}",
            f"bring them onto a grid with, for example, --freq h --agg mean{hint}",
            series=about["series"],
            count=int(jumps.sum()),
            first=first,
        )

    def _in_file_order(self, rows: Rows) -> pd.DatetimeIndex:
        # A wide file's order tells the two runs of a repeated hour apart; sorting mixes them.
        return self.raw if self.raw is not None and not self.named else rows.times

    def _tell_daylight(self, rows: Rows, zone: str, step: int, found: Found) -> None:
        clock = rows.times
        ns = clock.as_unit("ns").asi8
        odd = np.flatnonzero(np.diff(ns) != step)
        at = clock[int(odd[0]) + 1]
        found.add(
            "daylight-saving",
            f"local time without a zone: the clock was put forward or back {_changes(clock, step)} "
            f"times, first at {problems.stamp(at)}, as in {zone}",
            f"give the zone with --tz {zone}",
            series=rows.id if self.named else None,
            count=_changes(clock, step),
            first=problems.stamp(at),
        )

    def _check_declared(self, blocks: list[Rows], found: Found) -> None:
        assert self.declared is not None
        for rows in blocks:
            clock = rows.times.unique()
            off = problems.off_grid(clock, self.declared)
            if not off.any():
                continue
            self.refused.add(rows.id)
            own = frequency.nearest(clock)
            looks = f"they look like {own}" if own else "they follow none"
            found.add(
                "off-grid",
                f"{int(off.sum()):,} stamps are not of --freq {self.declared} ({looks}), the first "
                f"{problems.stamp(clock[int(off.argmax())])}",
                "declare the right one, or bring them onto it with --agg mean (or sum)",
                series=rows.id if self.named else None,
                count=int(off.sum()),
                first=problems.stamp(clock[int(off.argmax())]),
            )

    def repaired(self, rows: Rows, found: Found, *, agg: str | None) -> tuple[Rows, str | None]:
        """Rows with strictly increasing stamps, and their frequency."""
        freq = self.freqs.get(rows.id)
        id = rows.id if self.named else None
        stamp = rows.times.asi8 if isinstance(rows.times, pd.DatetimeIndex) else np.asarray(rows.times)  # fmt: skip
        again = np.concatenate([[False], np.diff(stamp) == 0])
        if again.any():
            if agg is not None:
                rows = repair.merge(rows, agg)
            else:
                self._tell_duplicates(id, rows, again, found)
                rows = rows.take(~again)
        if self.declared is not None and agg is not None and self.dated:
            if problems.off_grid(rows.times, self.declared).any():
                rows = repair.resample(rows, self.declared, agg)
        elif isinstance(rows.times, pd.DatetimeIndex) and freq is None:
            pass
        if not self.dated:
            rows.times = _integer_index(rows.times)
        return rows, freq if rows.id not in self.refused else None

    def _tell_duplicates(self, id: str | None, rows: Rows, again: np.ndarray, found: Found) -> None:
        at = int(again.argmax())
        first = problems.stamp(rows.times[at])
        if id is None and self.raw is not None and self.raw.tz is None:
            step = problems.step_of(rows.times)
            if step and (zone := problems.daylight_zone(self.raw, step)):
                if all(p.kind != "daylight-saving" for p in found.problems):
                    self._tell_daylight(rows, zone, step, found)
                return
        same = all(
            np.array_equal(part[at - 1], part[at], equal_nan=True)
            for part in (rows.values, rows.past, rows.known)
        )
        found.add(
            "duplicates",
            f"{int(again.sum()):,} stamps occur more than once, the first {first} "
            f"({'with the same' if same else 'with different'} numbers)",
            "merge them with --agg mean, sum, first or last"
            + ("" if self.named else ", or name the series with --id"),
            series=id,
            count=int(again.sum()),
            first=first,
        )

    def grid_of(self, times: pd.Index, freq: str | None, id: str = "") -> pd.Index:
        """All stamps from the first to the last of ``times``; these where there is no grid."""
        if isinstance(times, pd.DatetimeIndex):
            if freq is None or len(times) == 0:
                return times
            return frequency.grid(times[0], times[-1], freq, times)
        if len(times) < 2 or id in self.refused:
            return times
        step = problems.step_of(times) or 1
        return pd.RangeIndex(int(times[0]), int(times[-1]) + step, step)


def _changes(times: pd.DatetimeIndex, step: int) -> int:
    """How often daylight saving began or ended: runs of doubled stamps and single gaps."""
    jumps = np.diff(times.as_unit("ns").asi8)
    doubled = np.flatnonzero(jumps == 0)
    runs = int((np.diff(doubled) > 2).sum()) + 1 if len(doubled) else 0
    return int((jumps > step).sum()) + runs


def _per_year(freq: str) -> float:
    """About how many steps a year has."""
    step = frequency.absolute_step(freq)
    if step is not None:
        return 365.25 * 86_400e9 / step
    n, base = frequency.split(freq)
    kind = base.removeprefix("B")[:1] or "B"
    return {"D": 365.25, "B": 261.0, "W": 52.2, "S": 24.0, "M": 12.0, "Q": 4.0, "Y": 1.0}.get(kind, 12.0) / n  # fmt: skip


def _integer_index(times: pd.Index) -> pd.Index:
    """A RangeIndex where the steps are even."""
    found = np.asarray(times, dtype=np.int64)
    steps = np.diff(found)
    if len(found) == 0 or (steps != steps[:1].sum()).any() or (len(steps) and steps[0] < 1):
        return pd.Index(found)
    step = int(steps[0]) if len(steps) else 1
    return pd.RangeIndex(int(found[0]), int(found[-1]) + step, step)


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
        return Clock(pd.Index(steps), named)
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
            table.notes.append(f"'{given.time}' counts steps: no dates")
            if tz is not None:
                raise UsageError(f"{table.name} has no dates, so it has no --tz; leave it out")
            return Clock(pd.Index(integers), named)
    else:
        used = (*given.targets, *given.past, *given.known, *given.static)
        other = roles.time_of_day(table, given.time, used)
        if other is not None:
            table.notes.append(f"stamps of '{given.time}' and '{other}' together")
            values = values.astype(str) + " " + table.frame[other].astype(str)
        times = stamps.parse(values, where, day_first, table.notes)
    raw = times
    if tz is not None:
        times = stamps.localise(times, codes, tz, where, table.notes)
        raw = times
    return Clock(times, named, raw=raw)
