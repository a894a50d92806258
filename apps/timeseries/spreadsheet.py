"""Tables as an Excel file that says exactly what they say.

A spreadsheet runs text that begins with "=": here it stays text.  It knows no time zones, and no days
before 1900: such stamps are written as text in ISO 8601, with their offset.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.errors import DataError, UsageError
from core.files import atomic_path, require_absent

MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384
_NAME = 31
_FORBIDDEN = str.maketrans(dict.fromkeys("[]:*?/\\", "_"))


def write_xlsx(path: Path, sheets: Mapping[str, pd.DataFrame], force: bool = False) -> None:
    """Write each frame, without its index, as the sheet of that name (cut to 31 characters).

    Raises UsageError for no sheet, for names that are the same once cut, and where ``path`` exists;
    DataError for a frame that a sheet has no room for.
    """
    from openpyxl import Workbook

    titles = {name: name.translate(_FORBIDDEN)[:_NAME] or "sheet" for name in sheets}
    if not sheets or len({title.lower() for title in titles.values()}) < len(sheets):
        raise UsageError(f"sheets {', '.join(sheets) or 'none'}: one or more of different names")
    for name, frame in sheets.items():
        if len(frame) + 1 > MAX_ROWS or frame.shape[1] > MAX_COLUMNS:
            raise DataError(
                f"{name}: {len(frame):,} rows and {frame.shape[1]:,} columns are more than an Excel "
                "sheet holds; use the CSV"
            )
    require_absent(Path(path), force)
    book = Workbook(write_only=True)
    for name, frame in sheets.items():
        sheet = book.create_sheet(titles[name])
        sheet.append([_cell(sheet, str(column)) for column in frame.columns])
        columns = [frame.iloc[:, i].astype(object) for i in range(frame.shape[1])]
        for row in zip(*columns):
            sheet.append([_cell(sheet, value) for value in row])
    with atomic_path(Path(path), force=force) as temporary:
        book.save(temporary)


def _cell(sheet: Any, value: Any) -> Any:
    """A value as openpyxl writes it: numbers and stamps as such, any text as text."""
    if value is None or value is pd.NaT or (isinstance(value, float) and not np.isfinite(value)):
        return None
    if isinstance(value, pd.Timestamp):
        if value.tz is None and value.year >= 1900:
            return value.to_pydatetime(warn=False)
        value = value.isoformat(sep=" ")
    if isinstance(value, np.generic):
        return _cell(sheet, value.item())
    if isinstance(value, bool | int | float | datetime.date):
        return value
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    text = ILLEGAL_CHARACTERS_RE.sub("", str(value))
    if not text.startswith("="):
        return text
    cell = WriteOnlyCell(sheet, text)
    cell.data_type = "s"  # else it would be run as a formula
    return cell
