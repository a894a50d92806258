"""The box that says what a file holds and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from demos.forecasting.reading import Read
from demos.forecasting.wording import in_page
from demos.shared.words import escaped

SHOWN = 4
"""Problems told in full; a table holds all."""


def show(found: Read, repaired: bool) -> bool:
    """Draw it; whether a model can be fitted on the file as it is read now.

    ``repaired``: gaps were filled, rows merged or numbers taken for missing on the way.
    """
    report = found.report
    with st.container(border=True):
        st.markdown(f"**{_headline(report, repaired)}**")
        st.caption(" · ".join(_facts(report)))
        for problem in [p for p in report["problems"] if p["level"] == "error"][:SHOWN]:
            st.error(_sentence(problem))
        for problem in [p for p in report["problems"] if p["level"] == "warning"][:SHOWN]:
            st.warning(_sentence(problem))
        if len(report["problems"]) > SHOWN:
            with st.expander(f"All {len(report['problems'])} findings"):
                st.dataframe(
                    _table(report["problems"]),
                    hide_index=True,
                    key="forecasting-problems",
                    alt="What is wrong with the file: level, kind, series, column, what and remedy",
                )
        st.caption("Read as " + escaped("; ".join(in_page(note) for note in report["notes"])))
    return bool(report["ok"])


def _headline(report: dict[str, Any], repaired: bool) -> str:
    name = escaped(report["file"])
    errors = sum(problem["level"] == "error" for problem in report["problems"])
    if errors:
        kinds = "One thing keeps" if errors == 1 else f"{errors} things keep"
        return f"{name}: {kinds} models from being fitted; “How the file is read” has the repairs."
    if report["problems"]:
        return f"{name} can be forecast; look at the warnings."
    if repaired:
        return f"{name} can be forecast with the repairs that you asked for."
    return f"{name}: no gaps, no duplicates, nothing missing, a regular clock."


def _facts(report: dict[str, Any]) -> list[str]:
    length = report["length"]
    rows = f"{length['min']:,}"
    if length["max"] != length["min"]:
        rows += f" to {length['max']:,}"
    many = f"{report['series']:,} series of " if report["layout"] == "long" else ""
    targets = report["targets"]
    named = ", ".join(map(escaped, targets[:8])) + (" ..." if len(targets) > 8 else "")
    clock = report["freq"] or (
        "no regular frequency" if report["clock"] == "dates" else "row numbers"
    )
    found = [
        f"{many}{rows} rows",
        f"{len(targets)} to forecast: {named}",
        f"{escaped(report['start'])} to {escaped(report['end'])}",
        f"frequency {clock}" if report["freq"] else clock,
        f"season {report['season']} rows",
    ]
    if report["tz"]:
        found.append(escaped(report["tz"]))
    if report["missing"]:
        found.append(f"{report['missing']:,} missing values")
    return found


def _sentence(problem: dict[str, Any]) -> str:
    where = [
        f"{kind} '{problem[kind]}'" for kind in ("series", "column") if problem[kind] is not None
    ]
    text = f"{', '.join(where)}: " if where else ""
    return escaped(f"{text}{problem['says']}; {in_page(problem['fix'])}")


def _table(problems: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(problems)[["level", "kind", "series", "column", "count", "says", "fix"]]
    return frame.assign(fix=frame["fix"].map(in_page))
