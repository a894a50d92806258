"""How a file is read: what the application guessed, fields that say otherwise, and the panel."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from apps.timeseries.data.panel import Panel
from core.errors import TriptychError, UsageError
from demos.forecasting.sources import Source
from demos.forecasting.wording import FIELDS
from demos.shared.keys import key_of

GUESS = "as guessed"
ROWS_SHOWN = 8
REPAIRS = ("fill", "agg", "sentinels")
_DAYS = {GUESS: None, "day first": True, "month first": False}
_MARKS = {GUESS: None, ". (point)": ".", ", (comma)": ","}


@dataclass(frozen=True, eq=False)
class Read:
    """A file as it was read: what ``check_file`` says of it, and its panel, gaps and all."""

    report: dict[str, Any]
    panel: Panel


def read(path: Path, options: Mapping[str, Any]) -> Read:
    """The file of ``path``, read once for all sessions. Raises what ``read_panel`` raises.

    The result is shared: nobody may write into it.
    """
    return _read(key_of(path), str(path), json.dumps(options, sort_keys=True))


def columns(path: Path, encoding: str | None = None, sheet: str | None = None) -> list[str]:
    """The names of the file's columns; none where it cannot be read, which ``read`` says better."""
    try:
        return [str(name) for name in _head(key_of(path), str(path), encoding, sheet).columns]
    except TriptychError:
        return []


def fields(source: Source) -> dict[str, Any]:
    """Draw a field for each way to read a file otherwise; the options that say something.

    Raises UsageError for text in a field that is no number.
    """
    about = f"forecasting-{key_of(source.path, dict(source.options))}"
    given = source.options
    found: dict[str, Any] = {}

    def text(option: str, help: str) -> str | None:
        value = st.text_input(
            FIELDS[option], value=given.get(option, ""), key=f"{about}-{option}", help=help
        )
        return value.strip() or None

    def one(option: str, choices: list[str], first: str = GUESS, help: str | None = None) -> Any:
        options = [first, *choices]
        start = given.get(option, first)
        index = options.index(start) if start in options else 0
        value = st.selectbox(
            FIELDS[option], options, index=index, key=f"{about}-{option}", help=help
        )
        return None if value == first else value

    left, middle, right = st.columns(3)
    with right:
        st.markdown("**File**")
        found["encoding"] = text("encoding", "Of a CSV, such as utf-8 or latin-1.")
        found["sheet"] = text("sheet", "Of an Excel file; the first one unless named.")
        found["decimal"] = _MARKS[
            st.selectbox(FIELDS["decimal"], list(_MARKS), key=f"{about}-decimal")
        ]
        found["day_first"] = _DAYS[
            st.selectbox(FIELDS["day-first"], list(_DAYS), key=f"{about}-days")
        ]
        found["tz"] = text("tz", "Of stamps without one, such as Europe/Berlin.")
    names = columns(source.path, found["encoding"], found["sheet"])

    def many(option: str, role: str, help: str) -> list[str]:
        start = [name for name in given.get(role, ()) if name in names]
        return st.multiselect(
            FIELDS[option], names, default=start, key=f"{about}-{option}", help=help,
            placeholder=GUESS if option == "target" else "none",
        )  # fmt: skip

    with left:
        st.markdown("**Columns**")
        found["layout"] = one("layout", ["wide", "long"])
        found["time"] = one("time", names)
        found["id"] = one("id", names, help="Of a long file.")
        found["targets"] = many("target", "targets", "All number columns unless named.")
        found["known"] = many(
            "known", "known", "Such as holidays; the file holds them for the future, too."
        )
        found["past"] = many("past", "past", "Columns that help, but are not forecast.")
        found["static"] = many("static", "static", "The same number in all rows of a series.")
        found["multivariate"] = st.checkbox(
            FIELDS["multivariate"], value=given.get("multivariate", False), key=f"{about}-variates"
        )
    with middle:
        st.markdown("**Repairs**")
        found["fill"] = one("fill", ["ffill", "interpolate", "seasonal"], "none")
        longest = st.number_input(
            FIELDS["max-gap"], min_value=1, value=None, step=1, key=f"{about}-max-gap",
            placeholder="any", help="Rows; needs “Fill gaps”.",
        )  # fmt: skip
        found["max_gap"] = int(longest) if longest is not None and found["fill"] else None
        found["agg"] = one("agg", ["mean", "sum", "first", "last"], "none")
        found["freq"] = text(
            "freq", "Such as h, 15min, D, MS; with merging, rows are brought onto it."
        )
        found["sentinels"] = _numbers(
            text("sentinel", "Such as -9999; separate several by spaces.")
        )
    if names:
        st.markdown("**First rows**")
        st.dataframe(
            _head(key_of(source.path), str(source.path), found["encoding"], found["sheet"]),
            hide_index=True,
            key=f"{about}-rows",
            alt="The first rows of the file as they stand in it",
        )
    return {name: value for name, value in found.items() if value not in (None, [], False)} | (
        {"day_first": False} if found["day_first"] is False else {}
    )


def _numbers(text: str | None) -> list[float]:
    try:
        return [float(part) for part in re.split(r"[\s;]+", text or "") if part]
    except ValueError as error:
        raise UsageError(
            f"“{FIELDS['sentinel']}”: '{text}' is no number; write numbers with a point, separated by "
            "spaces"
        ) from error


@st.cache_resource(max_entries=4, show_spinner="Reading the file ...")
def _read(key: str, path: str, options: str) -> Read:
    from apps.timeseries.data.check import check_file
    from apps.timeseries.data.reading import read_panel

    given = json.loads(options)
    return Read(check_file(path, **given), read_panel(path, strict=False, **given))


@st.cache_resource(max_entries=4, show_spinner="Reading the file ...")
def _head(key: str, path: str, encoding: str | None, sheet: str | None) -> pd.DataFrame:
    from apps.timeseries.data.tables import read_table

    return read_table(path, encoding=encoding, sheet=sheet).frame.head(ROWS_SHOWN).copy()
