"""From the rows of one series to the series: repairs that were asked for, and what remains wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apps.timeseries.data import clocks, problems, repair, roles, wording
from apps.timeseries.data.clocks import Clock
from apps.timeseries.data.options import Options
from apps.timeseries.data.panel import Series
from apps.timeseries.data.problems import Found
from apps.timeseries.data.repair import Rows


@dataclass
class Assembly:
    """From the rows of a series to the series: repairs, and what remains to be said."""

    clock: Clock
    found: Found
    options: Options
    names: dict[str, list[str]]
    deep: bool
    filled: int = 0
    trimmed: int = 0

    def series(self, rows: Rows) -> Series | None:
        """None where it has no value."""
        options, found = self.options, self.found
        id = rows.id if self.clock.named else None
        rows, freq = self.clock.repaired(rows, found, agg=options.agg, fill=options.fill)
        seen = ~np.isnan(rows.values).all(1)
        if not seen.any():
            found.add("empty", "has no number to forecast", "leave it out", series=id)
            return None
        # Where nothing is known ahead, what follows the last number is nothing at all.
        first, last = int(seen.argmax()), len(seen) - int(seen[::-1].argmax())
        end = len(seen) if rows.known.shape[1] else last
        self.trimmed += first + len(seen) - end
        rows = rows.take(slice(first, end))
        T, remedy = last - first, problems.FILL
        grid = self.clock.grid_of(rows.times, freq, rows.id)
        if options.fill == "none":
            problems.find_gaps(id, rows.times, grid, found)
        else:
            latest = rows.times[T - 1]
            rows = repair.complete(rows, grid)
            T = int(rows.times.get_loc(latest)) + 1
            rows, count = repair.fill_rows(rows, options.fill, freq, options.max_gap, T)
            self.filled += count
            remedy = "--fill seasonal finds nothing a season before; use another --fill"
            if options.max_gap is not None:
                remedy = f"it is more than --max-gap {options.max_gap} in a row; allow more, or cut the file"
            elif options.fill != "seasonal":
                remedy = f"--fill {options.fill} has nothing to go on from; cut the file"
        self._inspect(id, rows, T, remedy)
        if T < 3:
            found.add(
                "short",
                f"has {T} row{'s' * (T > 1)}",
                "give more history" + (", or leave it out" if id is not None else ""),
                series=id,
                count=T,
                level="warning" if self.clock.named else "error",
            )
        times = clocks.even(rows.times)
        return Series(rows.id, times, rows.values[:T], rows.past[:T], rows.known, rows.static, freq)

    def _inspect(self, id: str | None, rows: Rows, T: int, remedy: str) -> None:
        found, declared = self.found, tuple(self.options.sentinels or ())
        for role in ("values", "past", "known"):
            part, names = getattr(rows, role)[:T], self.names[role]
            target = role == "values"
            problems.inspect_values(
                id, rows.times, part, names, found, declared, target, self.deep, remedy
            )
        if len(absent := np.argwhere(~np.isfinite(rows.known[T:]))):
            row, column = map(int, absent[0])
            place = wording.stamp(rows.times[T + row])
            found.add(
                "missing",
                f"is known ahead, but missing at {place}, after the last target",
                "fill it in or remove the rows that follow",
                series=id,
                column=self.names["known"][column],
                count=len(absent),
                first=place,
            )
        if self.deep:
            targets, known = self.names["values"], self.names["known"]
            problems.find_copies(id, rows.values[:T], targets, rows.known, known, found)

    def notes(self, series: list[Series]) -> list[str]:
        """What was done, for a person."""
        notes = []
        if self.options.agg is not None and self.clock.merged:
            notes.append(
                f"{self.clock.merged:,} rows of repeated stamps merged ({self.options.agg})"
            )
        if self.clock.resampled:
            notes.append(
                f"rows brought onto {self.clock.declared} ({self.options.agg}); the first and the last "
                "of each series may stand for less than a whole step"
            )
        if self.filled:
            notes.append(f"{self.filled:,} missing numbers filled ({self.options.fill})")
        if self.trimmed:
            notes.append(f"{self.trimmed:,} rows without a target at the ends of series left out")
        if self.names["known"]:
            ahead = max(len(one.times) - len(one) for one in series)
            notes.append(f"covariates are known for {ahead} stamps after the last observed one")
        still = [p for p in self.found.problems if p.kind == "constant"]
        if still:
            names = list(dict.fromkeys(p.column if p.series is None else p.series for p in still))
            notes.append(f"always the same number: {roles.listed([str(name) for name in names])}")
        return notes
