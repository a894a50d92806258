"""The clock of a file: the frequency that its series share or do not, and the grid it makes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from apps.timeseries.data import frequency, problems, repair, wording
from apps.timeseries.data.problems import Found
from apps.timeseries.data.repair import Rows
from apps.timeseries.data.tables import Table
from core.errors import DataError, UsageError

_HOUR = 3_600_000_000_000
_DAY = 24 * _HOUR
MAX_GRID = 20_000_000
"""Steps from the first to the last stamp of a series: 38 years of minutes."""


@dataclass
class Clock:
    """Stamps of all rows of a file, and once ``settle`` has seen the series, their frequencies."""

    times: pd.Index
    named: bool  # whether messages name the series
    source: str = ""  # the file's name, for messages
    freqs: dict[str, str | None] = field(default_factory=dict)
    declared: str | None = None
    refused: set[str] = field(default_factory=set)  # series without a grid
    merged: int = 0  # rows
    resampled: bool = False
    _zones: dict[bytes, str | None] = field(default_factory=dict)

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
                f"has frequency {self.freqs[odd.id]}, and most series {usual}: {listed}",
                f"bring all to one with --freq {coarsest} --agg mean (or sum), or split the file",
                series=odd.id,
                count=len(counts),
                first=wording.stamp(odd.times[0]),
            )

    def _settle_steps(self, blocks: list[Rows], found: Found) -> None:
        for rows in blocks:
            step = problems.step_of(rows.times) or 1
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
        id = rows.id if self.named else None
        if len(clock) < 3:
            found.add(
                "short",
                f"has {len(clock)} stamp{'s' * (len(clock) > 1)}, too few to tell a frequency from",
                "declare it with --freq, or give more history",
                series=id,
                count=len(clock),
                first=wording.stamp(clock[0]),
            )
            return
        steps = np.diff(clock.as_unit("ns").asi8)
        usual = problems.step_of(clock) or 1
        odd = steps % usual != 0 if (steps == usual).sum() * 2 >= len(steps) else steps != usual
        first = wording.stamp(clock[int(odd.argmax()) + 1])
        middle = int(np.median(steps))
        fix = (
            f"bring them onto a grid, for example with --freq {wording.example(middle)} --agg mean"
        )
        if str(clock.tz) == "UTC" and middle >= _DAY:
            fix = f"if these are days of a place, name its zone with --tz; else {fix}"
        found.add(
            "irregular",
            f"stamps follow no frequency: the middle step is {wording.span(middle)}, the first odd one "
            f"leads to {first}",
            fix,
            series=id,
            count=int(odd.sum()),
            first=first,
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
                f"{wording.some(int(off.sum()), 'stamp is', 'stamps are')} not of --freq {self.declared} ({looks}), the first "
                f"{wording.stamp(clock[int(off.argmax())])}",
                "declare the right one, or bring them onto it with --agg mean (or sum)",
                series=rows.id if self.named else None,
                count=int(off.sum()),
                first=wording.stamp(clock[int(off.argmax())]),
            )

    def repaired(
        self, rows: Rows, found: Found, *, agg: str | None, fill: str
    ) -> tuple[Rows, str | None]:
        """Rows with strictly increasing stamps, and their frequency."""
        freq = None if rows.id in self.refused else self.freqs.get(rows.id)
        id = rows.id if self.named else None
        times = rows.times
        stamps = times.asi8 if isinstance(times, pd.DatetimeIndex) else np.asarray(times)
        again = np.concatenate([[False], np.diff(stamps) == 0])
        if again.any() and agg is not None:
            self.merged += int(again.sum())
            rows = repair.merge(rows, agg)
            again = again[:1]
        if (again.any() or fill == "none") and self._daylight(rows, id, found):
            freq = None  # its gaps are explained
        elif again.any():
            _tell_duplicates(id, rows, again, found)
        if again.any():
            rows = rows.take(~again)
        onto = self.declared if agg is not None else None
        if onto is not None and problems.off_grid(rows.times, onto).any():
            self._bounded(rows.times, onto)
            rows = repair.resample(rows, onto, agg or "mean")
            self.resampled = True
        return rows, freq

    def _daylight(self, rows: Rows, id: str | None, found: Found) -> bool:
        """Whether naive stamps lack and repeat what daylight saving does; if so, it is a problem."""
        times = rows.times
        if not isinstance(times, pd.DatetimeIndex) or times.tz is not None or self.resampled:
            return False
        key = times.asi8.tobytes()
        if key not in self._zones:
            self._zones[key] = problems.daylight_zone(times)
        zone = self._zones[key]
        if zone is None:
            return False
        step = problems.step_of(times) or 1
        jumps = np.diff(times.as_unit("ns").asi8)
        changes = int((jumps > step).sum() + (jumps == 0).sum() / max(1, _HOUR // step))
        first = wording.stamp(times[int((jumps != step).argmax()) + 1])
        found.add(
            "daylight-saving",
            f"local time without a zone: the clock was put forward or back {changes} "
            f"time{'s' * (changes > 1)}, first about {first}, as in {zone}",
            f"name the zone with --tz {zone}",
            series=id,
            count=changes,
            first=first,
        )
        return True

    def grid_of(self, times: pd.Index, freq: str | None, id: str = "") -> pd.Index:
        """All stamps from the first to the last of ``times``; these where there is no grid."""
        if isinstance(times, pd.DatetimeIndex):
            if freq is None or len(times) == 0:
                return times
            self._bounded(times, freq)
            return frequency.grid(times[0], times[-1], freq, times)
        if len(times) < 2 or id in self.refused:
            return times
        step = problems.step_of(times) or 1
        self._bounded(times, None, step)
        return pd.RangeIndex(int(times[0]), int(times[-1]) + step, step)

    def _bounded(self, times: pd.Index, freq: str | None, step: int = 1) -> None:
        """DataError for a clock of which one stamp lies so far away that the grid has no end."""
        if len(times) == 0:
            return
        if isinstance(times, pd.DatetimeIndex):
            ns = times[[0, -1]].as_unit("ns").asi8.astype(float)  # 300 years overflow as integers
            count = (ns[1] - ns[0]) / (365.25 * _DAY) * _per_year(freq or "D")
        else:
            count = (int(times[-1]) - int(times[0])) / step
        if count > MAX_GRID:
            every = f"--freq {freq}" if freq else f"{step}"
            raise DataError(
                f"{self.source}: from {wording.stamp(times[0])} to {wording.stamp(times[-1])} there are "
                f"{count:,.0f} steps of {every}, more than {MAX_GRID:,}; correct the first or last stamp, "
                "or use a coarser --freq with --agg"
            )


def _tell_duplicates(id: str | None, rows: Rows, again: np.ndarray, found: Found) -> None:
    at = int(again.argmax())
    first = wording.stamp(rows.times[at])
    parts = (rows.values, rows.past, rows.known)
    same = all(np.array_equal(part[at - 1], part[at], equal_nan=True) for part in parts)
    found.add(
        "duplicates",
        f"{wording.some(int(again.sum()), 'stamp occurs', 'stamps occur')} more than once, the first {first} "
        f"({'with the same' if same else 'with different'} numbers)",
        "merge them with --agg mean, sum, first or last"
        + (", or name the series with --id" if id is None else ""),
        series=id,
        count=int(again.sum()),
        first=first,
    )


def _per_year(freq: str) -> float:
    """About how many steps a year has."""
    step = frequency.absolute_step(freq)
    if step is not None:
        return 365.25 * 86_400e9 / step
    n, base = frequency.split(freq)
    kind = base.removeprefix("B")[:1] or "B"
    return {"D": 365.25, "B": 261.0, "W": 52.2, "S": 24.0, "M": 12.0, "Q": 4.0, "Y": 1.0}.get(kind, 12.0) / n  # fmt: skip


def even(times: pd.Index) -> pd.Index:
    """A RangeIndex where an integer clock has even steps; anything else as it is."""
    if isinstance(times, pd.DatetimeIndex):
        return times
    found = np.asarray(times, dtype=np.int64)
    steps = np.diff(found)
    if len(steps) and (steps[0] < 1 or (steps != steps[0]).any()):
        return pd.Index(found)
    step = int(steps[0]) if len(steps) else 1
    return pd.RangeIndex(int(found[0]), int(found[-1]) + step, step)
