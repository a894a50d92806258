"""Chronological borders: the past trains, what follows chooses, what follows that is measured.

A window belongs to the part that all its H future rows lie in; its L past rows may reach back into
the part before, whose values are known by then.  So no future row is ever in two parts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from apps.timeseries.data.panel import Panel
from apps.timeseries.data.protocols import PROTOCOLS
from core.errors import DataError, UsageError, unknown

# Rows of an hour: 12, 4 and 4 months of 30 days (Zhou et al., Informer, AAAI 2021). The rest of the
# files, rows 14,400 to 17,419, is never used.
_ETT = (12 * 30 * 24, 16 * 30 * 24, 20 * 30 * 24)


@dataclass(frozen=True)
class Borders:
    """Future rows of training lie in [0, train), of validation in [train, val), of test in [val, test)."""

    train: int
    val: int
    test: int

    def text(self) -> str:
        """For a person."""
        return f"train rows 0-{self.train - 1}, validation {self.train}-{self.val - 1}, " + (
            f"test {self.val}-{self.test - 1}" if self.test > self.val else "no test rows"
        )

    def report(self) -> dict[str, int]:
        """For a machine."""
        return asdict(self)


def protocol_borders(protocol: str, rows: int, source: str = "") -> Borders:
    """The borders that published results use; ``source`` is the file's name, for messages.

    Raises UsageError for an unknown protocol, DataError for a file with too few rows.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(unknown("protocol", protocol, PROTOCOLS))
    if protocol == "7-1-2":
        return Borders(int(rows * 0.7), rows - int(rows * 0.2), rows)
    borders = Borders(*(b * (4 if protocol == "ett-minute" else 1) for b in _ETT))
    if rows < borders.test:
        raise DataError(
            f"{source + ': ' * bool(source)}{rows} rows: protocol {protocol} needs {borders.test:,}; "
            "use 7-1-2 for another file"
        )
    return borders


def chronological(rows: int, lookback: int, horizon: int, test: bool = True) -> Borders:
    """80, 10 and 10 % of the rows, and at least one window in each part.

    Without ``test``, or where the rows do not suffice for one, 85 and 15 % and no test part.  Raises
    DataError where not even a training and a validation window exist.
    """
    least = lookback + 2 * horizon
    if rows < least:
        raise DataError(
            f"{rows} rows: lookback {lookback} and horizon {horizon} need at least {least} (one "
            f"window of {lookback} + {horizon} to learn from, {horizon} more to check); give more "
            "rows or a smaller --lookback or --horizon"
        )
    if not test or rows < least + horizon:
        val = max(horizon, int(rows * 0.15))
        return Borders(max(lookback + horizon, rows - val), rows, rows)
    part = max(horizon, int(rows * 0.1))
    end = min(part, (rows - lookback - horizon) // 2)
    return Borders(rows - 2 * end, rows - end, rows)


def chronological_each(
    panel: Panel, lookback: int, horizon: int, test: bool = True
) -> dict[str, Borders]:
    """``chronological`` of every series that is long enough, by its id.

    Raises DataError, naming file and series, where none is.
    """
    parts: dict[str, Borders] = {}
    problem: DataError | None = None
    for series in panel:
        try:
            parts[series.id] = chronological(len(series), lookback, horizon, test)
        except DataError as error:
            problem = DataError(f"{panel.source}: series {series.id}: {error}")
    if not parts:
        raise problem or DataError(f"{panel.source}: holds no series")
    return parts


def origins(first: int, last: int, lookback: int, horizon: int) -> np.ndarray:
    """Origins o with o >= lookback whose future rows o .. o+H-1 lie in [first, last)."""
    return np.arange(max(first, lookback), last - horizon + 1)
