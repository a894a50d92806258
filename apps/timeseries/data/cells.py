"""From cells to numbers: decimal marks, marks of thousands, and what means that there is none."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from core.errors import DataError

MISSING = ("", "NA", "N/A", "#N/A", "n/a", "na", "NaN", "nan", "NAN", "-nan", "NULL", "null",
           "None", "none", "<NA>", "NaT", "?", "-", "--", "NULL ")  # fmt: skip
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d*),\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")


def decimal_mark(rows: list[list[str]], mark: str, name: str) -> str:
    """The decimal mark. DataError where `1,234` may be either of two numbers."""
    cells = [cell.strip() for row in rows for cell in row if "," in cell]
    commas = [cell for cell in cells if _COMMA.fullmatch(cell)]
    if not commas:
        return "."
    thousands = [cell for cell in cells if _THOUSANDS.fullmatch(cell)]
    if len(thousands) == len(cells):
        points = any("." in cell for cell in thousands)
        if points:
            return "."
        if mark == ",":
            raise DataError(
                f"{name}: '{cells[0]}' may be a decimal comma or mark thousands; say --decimal ',' "
                "or --decimal '.'"
            )
    return ","


def numbers(values: pd.Series, decimal: str) -> tuple[np.ndarray, np.ndarray | None]:
    """float64 of a column, and a mask of the cells that hold something that is no number."""
    if pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_numeric_dtype(values.dtype):
        return values.to_numpy(dtype="float64", na_value=float("nan")), None
    # Many rows share few texts; the rest of the work is on those.
    codes, unique = pd.factorize(values, use_na_sentinel=True)
    text = pd.Series(unique, dtype="object").astype(str).str.strip()
    if decimal == ",":
        text = text.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
    elif len(text) and text.str.fullmatch(_THOUSANDS.pattern).any():
        text = text.where(
            ~text.str.fullmatch(_THOUSANDS.pattern), text.str.replace(",", "", regex=False)
        )
    text = text.where(~text.isin(MISSING))
    parsed = pd.to_numeric(text, errors="coerce")
    wrong = (parsed.isna() & text.notna() & ~text.str.lower().isin(["nan"])).to_numpy(bool)
    table = parsed.to_numpy("float64").copy()
    good = np.isfinite(table)
    # to_numeric tells what is a number, but may miss its last bit.
    table[good] = text[good].astype("float64")
    if len(table) == 0:
        return np.full(len(values), np.nan), None
    found = table[codes]
    found[codes < 0] = float("nan")
    bad = wrong[codes] & (codes >= 0)
    return found, bad if bad.any() else None
