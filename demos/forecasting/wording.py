"""The application's sentences name options of the command line; a page has fields instead."""

from __future__ import annotations

import re

FIELDS = {
    "agg": "Merge rows of the same stamp",
    "day-first": "Order of 03/04/2024",
    "decimal": "Decimal mark",
    "encoding": "Encoding",
    "fill": "Fill gaps",
    "freq": "Frequency",
    "horizon": "Steps ahead",
    "id": "Column naming the series",
    "known": "Covariates known ahead",
    "layout": "Layout",
    "lookback": "Rows a trained model looks at",
    "max-gap": "Longest gap to fill",
    "month-first": "Order of 03/04/2024",
    "multivariate": "Series of a long file are variates",
    "past": "Covariates known up to now",
    "season": "Rows of a season",
    "sentinel": "Numbers that mean missing",
    "sheet": "Sheet",
    "static": "Columns that describe a series",
    "step": "Rows between folds",
    "target": "Columns to forecast",
    "time": "Column of stamps",
    "tz": "Time zone",
    "windows": "Folds",
}
"""Option -> label of the field that sets it."""

_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)(=?)")


def in_page(text: str) -> str:
    """``text`` with the names of fields where it has options: ``--fill ffill`` is “Fill gaps” ffill."""

    def field(found: re.Match[str]) -> str:
        label = FIELDS.get(found[1])
        return found[0] if label is None else f"“{label}”" + (" " if found[2] else "")

    return _OPTION.sub(field, text)
