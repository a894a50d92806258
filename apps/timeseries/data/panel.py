"""What every part of this application is given: series with clocks, targets and covariates.

Letters: T observed stamps of a series, N targets, P covariates known up to the present, K covariates
known ahead, F >= 0 stamps after the last observed one for which the K are given.

A wide file is one series of N targets; a long file is many series of one target (or of several, if
it has several value columns).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from core.errors import DataError


@dataclass(frozen=True, eq=False)
class Series:
    """One series. Arrays are float64 and share the clock ``times``, which is strictly increasing.

    ``times`` has T + F stamps: a DatetimeIndex (with its time zone, if the file has one) or a
    RangeIndex where the file has no dates.
    """

    id: str
    times: pd.Index
    values: np.ndarray  # (T, N), NaN where missing
    past: np.ndarray  # (T, P)
    known: np.ndarray  # (T + F, K)
    static: dict[str, Any] = field(default_factory=dict)
    freq: str | None = None  # pandas alias of this series; None where it is not regular

    def __len__(self) -> int:
        """T, the number of observed stamps."""
        return len(self.values)

    @property
    def observed(self) -> pd.Index:
        """The T stamps that have values."""
        return self.times[: len(self)]

    def head(self, n: int) -> Series:
        """The first ``n`` observed stamps; the known covariates of what follows stay known."""
        return replace(self, values=self.values[:n], past=self.past[:n])


@dataclass(frozen=True, eq=False)
class Panel:
    """Series with the same targets and covariates."""

    series: tuple[Series, ...]
    targets: tuple[str, ...]
    past_names: tuple[str, ...] = ()
    known_names: tuple[str, ...] = ()
    static_names: tuple[str, ...] = ()
    layout: Literal["wide", "long"] = "wide"
    time_name: str | None = None
    source: str = ""  # the file's name, for messages
    sha256: str = ""  # of the file
    notes: tuple[str, ...] = ()  # how the file was read: mapping, encoding, repairs

    def __len__(self) -> int:
        return len(self.series)

    def __iter__(self) -> Iterator[Series]:
        return iter(self.series)

    @property
    def freq(self) -> str | None:
        """The frequency all series share; None where they do not or are irregular."""
        found = {s.freq for s in self.series}
        return found.pop() if len(found) == 1 else None

    @property
    def tz(self) -> str | None:
        """The time zone of the stamps, which all series share; None where they have none."""
        zone = next((getattr(s.times, "tz", None) for s in self.series), None)
        return None if zone is None else str(zone)

    def names(self, series: Series) -> list[str]:
        """``unique_id`` of each target of ``series`` in results.

        The target's name in a wide file, the series' in a long one, ``id/target`` where a long file
        has several targets.
        """
        if self.layout == "wide":
            return list(self.targets)
        if len(self.targets) == 1:
            return [series.id]
        return [f"{series.id}/{target}" for target in self.targets]

    def with_series(self, series: Sequence[Series]) -> Panel:
        """The same columns with other series."""
        return replace(self, series=tuple(series))

    def without_last(self, n: int) -> Panel:
        """Every series without its last ``n`` observed stamps (at least none are left)."""
        return self.with_series([s.head(max(0, len(s) - n)) for s in self.series])


def rows_until(series: Series, stamp: str | None) -> int:
    """How many observed rows are not after ``stamp``, which a model has learnt from; None: no row.

    Raises DataError where one has stamps and the other row numbers.
    """
    if stamp is None:
        return 0
    times = series.observed
    if not isinstance(times, pd.DatetimeIndex):
        try:
            return int(np.searchsorted(np.asarray(times), int(float(stamp)), side="right"))
        except ValueError as error:
            raise DataError(
                f"series {series.id}: has row numbers, the model was trained up to {stamp}; give "
                "the file with its column of stamps"
            ) from error
    try:
        at = pd.Timestamp(stamp)
    except ValueError as error:
        raise DataError(
            f"series {series.id}: has stamps, the model was trained up to row {stamp} of a file "
            "without; fit it again on a file with stamps"
        ) from error
    if at.tz is None and times.tz is not None:
        at = at.tz_localize(times.tz, ambiguous=True, nonexistent="shift_forward")
    elif at.tz is not None and times.tz is None:
        at = at.tz_localize(None)
    return int(times.searchsorted(at, side="right"))
