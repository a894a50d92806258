"""Drives of this session: scores, comparison, downloads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from apps.driving.evaluation.report import SHORT
from apps.driving.evaluation.scores import KINDS
from apps.driving.evaluation.trace import Trace
from core.errors import DataError
from demos.drives import exports, plots
from demos.drives.choice import Choice
from demos.drives.replay import replay
from demos.drives.running import trace_folder
from demos.shared.words import escaped, guarded

METRIC_PX = 150  # two beside each other on a telephone, five on a desk
REPLAY = "replay.html"
FORMULAE = (
    "The Leaderboard's formula since 2.1: completion divided by one plus the coefficients of all "
    "infractions.",
    "The Leaderboard's first formula: completion times a factor for each infraction. Figures of "
    "one formula are not figures of the other.",
)


@st.cache_resource(max_entries=12, show_spinner=False)
def _opened(folder: str, written: int) -> Trace:
    """A whole trace, read once; ``written`` tells a drive that was repeated from the one before."""
    del written
    return Trace(folder)


def trace_of(choice: Choice) -> Trace:
    """The trace of a drive that has ended. DataError where there is none."""
    folder = trace_folder(choice)
    result = None if folder is None else folder / "result.json"
    if folder is None or result is None or not result.is_file():
        raise DataError(f"{choice.who}: nothing was driven, so there is nothing to replay")
    return _opened(str(folder), result.stat().st_mtime_ns)


def result_of(out: Path) -> dict[str, Any]:
    """What became of the route of a drive's folder: ``RouteResult.as_dict``."""
    summary = json.loads((out / exports.SUMMARY).read_text(encoding="utf-8"))
    row: dict[str, Any] = summary["routes"][0]
    return row


def show(choice: Choice, out: Path) -> None:
    """Everything about one drive."""
    row = result_of(out)
    _scores(row)
    with guarded("The replay"):
        replay(trace_of(choice), choice.key)
    film = exports.film(out)
    if film is not None:
        with st.expander("Film"):
            st.video(film.read_bytes(), alt="The drive as a film")
    with guarded("The downloads"):
        _downloads(choice, out, film)


def _scores(row: dict[str, Any]) -> None:
    count = sum(len(found) for found in row["infractions"].values())
    figures = (
        ("Driving score 2.1", f"{row['driving_score_2_1']:.1f}", FORMULAE[0]),
        ("Driving score 1.0", f"{row['driving_score_1_0']:.1f}", FORMULAE[1]),
        ("Completion", f"{row['route_completion']:.1f} %", f"Of {row['length_m']:.0f} m."),
        ("Infractions", str(count), counted(row) or "None of any kind."),
        ("Driven", f"{row['duration_s']:.1f} s", "In the simulator's time."),
    )
    with st.container(horizontal=True):
        for name, value, told in figures:
            st.metric(name, value, help=told, width=METRIC_PX)
    status = str(row["status"])
    said = f"How it ended: **{status}**."
    if row["error"]:
        said += f" {escaped(row['error'])}"
    if row["interventions"]:
        listed = ", ".join(f"{name} {count}" for name, count in row["interventions"].items())
        said += f" Decisions that the supervisor changed: {listed}."
    pace = row["decision_ms"].get("mean")
    if pace is not None:
        said += f" A decision took {pace:.1f} ms."
    (st.warning if status.startswith("failed") else st.caption)(said)


def counted(row: dict[str, Any]) -> str:
    """``red lights 2, vehicles hit 1``."""
    found = ((SHORT[kind], len(row["infractions"].get(kind, ()))) for kind in KINDS)
    return ", ".join(f"{name} {count}" for name, count in found if count)


def compare(drives: Sequence[tuple[Choice, Path]]) -> None:
    """A table of all drives; those of one route also on one map and over its metres."""
    rows = [_row(choice, result_of(out)) for choice, out in drives]
    st.dataframe(rows, hide_index=True, alt="Scores of the drives of this session, a row each")
    st.caption(
        "One route and one seed say little about a driver: `python apps/driving/run.py evaluate` "
        "compares them over many, with intervals."
    )
    st.download_button(
        "Comparison (CSV)", _table(rows), "drives.csv", "text/csv", on_click="ignore"
    )
    places = list(dict.fromkeys(choice.where for choice, _ in drives))
    shared = [place for place in places if sum(c.where == place for c, _ in drives) > 1]
    if not shared:
        return
    place = st.selectbox("Drives of the same route", shared) if len(shared) > 1 else shared[0]
    alike = [choice for choice, _ in drives if choice.where == place]
    labels = _told_apart(alike)
    with guarded("The comparison"):
        traces = [
            (label, trace)
            for label, choice in zip(labels, alike)
            if len(trace := trace_of(choice)) > 1
        ]
        if len(traces) < 2:
            return
        names = ", ".join(name for name, _ in traces)
        quiet = {"displayModeBar": False, "scrollZoom": False}
        left, right = st.columns(2, gap="large")
        with left:
            st.markdown(f"Ways taken: {escaped(place)}")
            st.plotly_chart(
                plots.on_the_ground(traces),
                config=quiet,
                key="drives-ground",
                alt=f"The ways of {names} from above, crosses where infractions happened",
            )
        with right:
            st.markdown("Speed over the route")
            st.plotly_chart(
                plots.along_the_route(traces),
                config=quiet,
                key="drives-speeds",
                alt=f"The speeds of {names} over the metres of the route",
            )


def _told_apart(choices: Sequence[Choice]) -> list[str]:
    """Short labels; where two drives have the same driver, what else they differ in."""
    names = [choice.who for choice in choices]
    return [
        name
        if names.count(name) == 1
        else f"{name} ({choice.traffic} + {choice.walkers}, {choice.weather.lower()}, {choice.seed})"
        for name, choice in zip(names, choices)
    ]


def _row(choice: Choice, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "driver": choice.who,
        "score 2.1": round(row["driving_score_2_1"], 1),
        "score 1.0": round(row["driving_score_1_0"], 1),
        "completion %": round(row["route_completion"], 1),
        "ended": row["status"],
        "infractions": counted(row) or "none",
        "seconds": round(row["duration_s"], 1),
        "ms a decision": round(row["decision_ms"].get("mean", 0.0), 1),
        "where": choice.where,
        "vehicles": choice.traffic,
        "walkers": choice.walkers,
        "weather": choice.weather,
        "seed": choice.seed,
    }


def _table(rows: Sequence[dict[str, Any]]) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def _downloads(choice: Choice, out: Path, film: Path | None) -> None:
    """Made when they are asked for, except what is small."""
    name = f"drive-{Path(choice.driver).name}-{choice.key[:6]}"
    with st.container(horizontal=True):
        if film is not None:
            st.download_button(
                "Film (MP4)", film.read_bytes, f"{name}.mp4", "video/mp4", on_click="ignore"
            )
        st.download_button(
            "Decisions (CSV)",
            partial(_decisions, choice),
            f"{name}.csv",
            "text/csv",
            on_click="ignore",
        )
        st.download_button(
            "Result (JSON)",
            (out / exports.SUMMARY).read_bytes,
            f"{name}.json",
            "application/json",
            on_click="ignore",
        )
        st.download_button(
            "Replay (HTML)",
            partial(_replay, choice, out),
            f"{name}.html",
            "text/html",
            help="A page of its own with a slider, to be passed on: nothing is fetched by it.",
            on_click="ignore",
        )
        st.download_button(
            "Everything (ZIP)",
            partial(exports.archive, out),
            f"{name}.zip",
            "application/zip",
            help="Result, film, and the trace with its pictures, as docs/driving-agent.md describes.",
            on_click="ignore",
        )


def _decisions(choice: Choice) -> bytes:
    return exports.decisions_csv(trace_of(choice))


def _replay(choice: Choice, out: Path) -> bytes:
    page = out / REPLAY
    if not page.is_file():
        trace_of(choice).replay().save(page)
    return page.read_bytes()
