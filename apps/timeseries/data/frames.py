"""From a data frame or a series of pandas to a table; what its index says becomes columns in front.

Those are the levels with a name, and stamps and periods.  Of the others, whole numbers count rows and
are left out; in a MultiIndex only as the last level, after keys as ``pandas.concat`` makes them.
"""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd
from pandas.api import types

from apps.timeseries.data import stamps
from apps.timeseries.data.tables import Table, digest_of
from core.errors import DataError

_NAME = "data frame"


def frame_table(data: pd.DataFrame | pd.Series, decimal: str | None = None) -> Table:
    """The table of a data frame, or of a series as its one column (``y`` where it has no name).

    Raises DataError for one without rows, for two columns of one name, and for an index called like
    a column that holds something else.
    """
    if isinstance(data, pd.Series):
        data = data.to_frame("y" if data.name is None else data.name)
    frame = data.copy(deep=False)
    frame.columns = [str(name) for name in frame.columns]
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise DataError(f"{_NAME}: two columns are called '{repeated[0]}'; rename one")
    if len(frame) == 0:
        raise DataError(f"the {_NAME} has no rows; add some")
    levels = _levels(frame)
    frame.index = pd.RangeIndex(len(frame))
    for name, values in reversed(levels.items()):
        frame.insert(0, name, values)
    return Table(frame, _NAME, digest_of(frame), decimal or ".")


def _levels(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """The levels of a frame's index that become columns, by name."""
    index = frame.index
    found: dict[str, pd.Series] = {}
    for at in range(index.nlevels):
        level = index.get_level_values(at)
        if isinstance(level, pd.PeriodIndex):
            level = level.to_timestamp(how="start")
        values = pd.Series(level.array)
        name = level.name
        if name is None:
            taken = {*frame.columns, *map(str, index.names), *found}
            name = _name(values, at, at == index.nlevels - 1, taken)
            if name is None:
                continue
        name = str(name)
        if name in found:
            raise DataError(f"{_NAME}: two levels of its index are called '{name}'; rename one")
        if name not in frame.columns:
            found[name] = values
        elif not values.equals(frame[name].reset_index(drop=True)):  # set_index(..., drop=False)
            raise DataError(
                f"{_NAME}: its index and a column are both called '{name}' and differ; rename one, "
                "or leave the index out with reset_index(drop=True)"
            )
    return found


def _name(values: pd.Series, at: int, last: bool, taken: Collection[str]) -> str | None:
    """A name for a level that has none; None where it counts rows, or labels each on its own."""
    number = types.is_numeric_dtype(values.dtype)
    if types.is_datetime64_any_dtype(values.dtype) or (
        not number and stamps.looks_like_stamps(values)
    ):
        names = ["ds", "date"]
    elif last and (number or values.is_unique):
        return None
    else:
        names = ["unique_id"]
    return next((name for name in names if name not in taken), f"level_{at}")
