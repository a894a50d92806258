"""What came of a run: the forecast, how it would have done before, what made it, files to keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from apps.timeseries import catalog
from apps.timeseries.calibrate import sentence
from core.errors import TriptychError
from demos.forecasting import charts, files
from demos.forecasting.scores import METRICS, by_fold, by_series, ranked, steps, table
from demos.forecasting.settings import LEVELS
from demos.forecasting.wording import in_page
from demos.forecasting.work import Result
from demos.shared.words import escaped

TOKENS = 40
"""Variates of a heat map at most: more cannot be read."""
SEASONS = 28
"""Of a decomposition at first: four weeks of days."""


def show(result: Result) -> None:
    """Draw the tabs."""
    for note in result.notes:
        st.warning(escaped(note))
    forecast, folds, inside, downloads = st.tabs(
        ["Forecast", "Past folds", "Variates and seasons", "Downloads"]
    )
    with forecast:
        _forecast(result)
    with folds:
        _folds(result)
    with inside:
        _decomposition(result)
        _attention(result)
    with downloads:
        _downloads(result)


@st.fragment
def _forecast(result: Result) -> None:
    one, two = st.columns(2)
    name = _series(result, one, "forecast")
    models = _by_error(result)
    front = two.selectbox("Intervals of", models, key=_key(result, "forecast-front"))
    rows = result.frame[result.frame["unique_id"] == name]
    mine = rows[rows["model"] == front]
    if len(mine) == 0:
        front = str(rows["model"].iloc[0])
        st.info(
            f"This model does not forecast {escaped(name)}; the intervals are those of {front}."
        )
    figure = charts.history_and_forecast(_past(result, name), rows, front, LEVELS, name)
    st.plotly_chart(
        figure,
        config=charts.CONFIG,
        key=_key(result, "forecast-chart"),
        alt=f"{name}: the observed past and {result.settings.horizon} steps of forecast by {front} "
        "with intervals of 50, 80 and 95 %",
    )
    report = result.forecasts[front].report
    if report["coverage"]:
        st.markdown(
            "**How often such intervals held before**, on past rows that made none of them:"
        )
        _coverage(report, name)
    for note in report["notes"]:
        if note not in result.panel.notes:  # those stand beside the file already
            st.caption(escaped(in_page(note)))


def _coverage(report: Mapping[str, Any], name: str) -> None:
    columns = st.columns(len(report["coverage"]))
    for column, entry in zip(columns, report["coverage"]):
        column.metric(
            f"{entry['level']:g} % interval", f"{entry['measured']:.1f} %", border=True,
            help=sentence(entry),
        )  # fmt: skip
    mine = [
        f"{entry['by_series']['series'][name]['measured']:.1f} % of {entry['level']:g} %"
        for entry in report["coverage"]
        if name in entry["by_series"]["series"]
    ]
    if mine and len(report["coverage"][0]["by_series"]["series"]) > 1:
        st.caption(
            f"Over all series; of {escaped(name)} alone: {', '.join(mine)}. Each step counts for "
            "itself: a whole path lies inside far less often."
        )


@st.fragment
def _folds(result: Result) -> None:
    if result.backtest is None:
        st.warning(f"No fold could be forecast: {escaped(result.lacking)}")
        return
    report, whole = result.backtest.report, result.backtest.frame
    verdict = escaped(_sentence(in_page(report["verdict"])))
    named = [report["scores"][name]["vs_seasonal_naive"] for name in report["named"]]
    beats = any(found and found["outcome"] == "beats" for found in named)
    (st.success if beats else st.info)(verdict)
    st.dataframe(
        table(report),
        hide_index=True,
        key=_key(result, "scores"),
        column_config=_formats(),
        placeholder="–",
        alt=f"Errors and coverage of each model over {report['windows']} folds, beside seasonal naive",
    )
    st.caption(
        "Best first. Skill is the share of seasonal naive's error that is saved, with a 95 % interval "
        "over the folds; p and verdict by Diebold and Mariano's test. MASE is the error over the mean "
        "change from one season to the next before the folds. In 80 %: the values inside that "
        "interval, in %."
    )
    one, two = st.columns(2)
    name = _series(result, one, "folds", set(whole["unique_id"]))
    order = [model for model in _by_error(result) if model in report["scores"]]
    front = two.selectbox("In front", order, key=_key(result, "folds-front"))
    rows = whole[whole["unique_id"] == name]
    clock = result.panel.series[0].observed
    held = type(clock[0])(report["trained_until"])
    st.plotly_chart(
        charts.folds(
            _past(result, name), rows, front, [m for m in order if m != front], 80.0, held, name
        ),
        config=charts.CONFIG,
        key=_key(result, "folds-chart"),
        alt=f"{name}: what was, and what each model forecast in {report['windows']} past folds",
    )
    _figures(result, report)
    with st.expander("How it was done"):
        for line in [*report["verdicts"].values(), *report["notes"]]:
            st.markdown(f"- {escaped(in_page(line))}")
        for word, rule in report["rules"].items():
            st.markdown(f"- **{escaped(word)}**: {escaped(rule)}")


def _figures(result: Result, report: Mapping[str, Any]) -> None:
    """Errors by fold, by series and by step ahead."""
    one, two = st.columns(2)
    by = one.selectbox("Figures by", ["fold", "series", "step ahead"], key=_key(result, "by"))
    title = two.selectbox("Measure", list(METRICS), key=_key(result, "measure"))
    if by == "fold":
        frame = by_fold(report, METRICS[title])
    elif by == "series":
        frame = by_series(report, METRICS[title])
    else:
        errors = {name: steps(s, METRICS[title]) for name, s in ranked(report)}
        st.plotly_chart(
            charts.by_step({n: e for n, e in errors.items() if e}, title),
            config=charts.CONFIG,
            key=_key(result, "steps-chart"),
            alt=f"{title} of each model at each step ahead",
        )
        return
    share = METRICS[title].startswith("coverage")
    numbers = {
        name: st.column_config.NumberColumn(format="percent" if share else "%.3f")
        for name in report["scores"]
    }
    st.dataframe(
        frame,
        hide_index=True,
        column_config=numbers,
        placeholder="–",
        key=_key(result, f"by-{by}"),
        alt=f"{title} of each model in each {by}",
    )


@st.fragment
def _decomposition(result: Result) -> None:
    from apps.timeseries.decomposition import decompose

    st.subheader("Trend, season and rest")
    one, two = st.columns(2)
    name = _series(result, one, "parts")
    period = result.settings.season
    past = _past(result, name)
    if period < 2 or len(past) < 2 * period:
        st.info("There is no season to show: it wants 2 rows or more, and two of it in the data.")
        return
    most = len(past) // period
    count = two.number_input(
        "Seasons, the last", 2, most, min(SEASONS, most), key=_key(result, "seasons"),
        help=f"Of {period} rows each; the season is one shape for all of them.",
    )  # fmt: skip
    past = past.iloc[-min(int(count) * period, charts.POINTS) :]
    try:
        found = decompose(past.to_numpy(), period)
    except TriptychError as error:
        st.info(escaped(in_page(str(error))))
        return
    st.plotly_chart(
        charts.parts(past.index, found, name),
        config=charts.CONFIG,
        key=_key(result, "parts-chart"),
        alt=f"{name} taken apart into trend, season of {period} rows and rest",
    )
    strengths = {"trend": found.trend_strength, "season": found.season_strength}
    told = [f"{what} {value:.2f}" for what, value in strengths.items() if math.isfinite(value)]
    if told:
        st.caption(
            f"Strength from 0 to 1: {', '.join(told)}. Classical additive decomposition; the first "
            "and last half season have no trend."
        )


@st.fragment
def _attention(result: Result) -> None:
    st.subheader("What each variate's forecast is mixed from")
    if not result.attention:
        st.info(
            "No model of this run mixes variates by weights that can be shown. Train iTransformer or "
            "OLinear on data of several variates to see them."
        )
        return
    one, two = st.columns(2)
    name = one.selectbox("Model", list(result.attention), key=_key(result, "attention"))
    found = result.attention[name]
    layers = ["mean of all", *(str(i + 1) for i in range(len(found.weights)))]
    layer = two.selectbox("Layer", layers, key=_key(result, "layer"))
    frame = found.frame(None if layer == layers[0] else int(layer) - 1)
    frame = frame.iloc[:TOKENS, :TOKENS]
    st.plotly_chart(
        charts.weights(frame, min(found.targets, TOKENS)),
        config=charts.CONFIG,
        key=_key(result, "attention-chart"),
        alt=f"Weights of {name} among the variates: a row for each forecast, a column for what it takes",
    )
    if found.kind == "attention":
        what = "Attention in the window before the forecast, a mean over heads."
    else:
        what = "A matrix that was learnt once, the same for every window (NormLin)."
    st.caption(
        f"{what} Rows add up to 1. It says what was mixed, not what causes what; the path around the "
        "layer carries each variate's own past as well."
    )


def _downloads(result: Result) -> None:
    stem = (result.panel.source or "data").partition(".")[0] or "data"
    best = _by_error(result)[0]
    wanted: list[tuple[str, str, Callable[[], Path]]] = [
        ("Forecast (CSV)", f"{stem}-forecast.csv", lambda: files.csv(result)),
        ("Forecast (Excel)", f"{stem}-forecast.xlsx", lambda: files.xlsx(result)),
        (
            f"Forecast of {best}, to look closer (HTML)",
            f"{stem}-forecast.html",
            lambda: files.page(result, best),
        ),
        ("Report of the past folds (HTML)", f"{stem}-report.html", lambda: files.report(result)),
        ("Everything of this run (zip)", f"{stem}-run.zip", lambda: files.archive(result)),
    ]
    if len(result.frame) >= files.EXCEL_ROWS:
        wanted.pop(1)
    if result.backtest is None:
        wanted.pop(-2)
    for label, name, make in wanted:
        st.download_button(
            label, _content(make), name, key=_key(result, name), on_click="ignore",
            mime=_MIME[name.rpartition(".")[2]],
        )  # fmt: skip
    st.caption(
        "The zip holds each model's forecast, the folds, the reports, trained models (for "
        "`forecast --model FOLDER`), and the settings with the hash of the data. It takes some seconds."
    )


_MIME = {
    "csv": "text/csv",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "html": "text/html",
    "zip": "application/zip",
}


def _content(make: Callable[[], Path]) -> Callable[[], bytes]:
    return lambda: make().read_bytes()


def _series(result: Result, place: Any, where: str, among: set[str] | None = None) -> str:
    """The choice of one series or variate."""
    names = [str(name) for name in result.frame["unique_id"].unique()]
    if among is not None:
        names = [name for name in names if name in among]
    word = "Variate" if result.panel.layout == "wide" else "Series"
    # The last column of the published sets is what they are about: ETT's oil temperature.
    start = len(names) - 1 if result.panel.layout == "wide" and len(names) <= 20 else 0
    return str(place.selectbox(word, names, index=start, key=_key(result, f"{where}-series")))


def _past(result: Result, name: str) -> pd.Series:
    """The observed rows of ``name``, an id in the results."""
    for series in result.panel:
        for n, one in enumerate(result.panel.names(series)):
            if one == name:
                return pd.Series(series.values[:, n], index=series.observed)
    raise KeyError(name)


def _by_error(result: Result) -> list[str]:
    """The models that forecast: those that were asked for first, by their error in the folds."""
    order = [name for name, _ in ranked(result.backtest.report)] if result.backtest else []
    asked = [name for name in order if name in result.settings.all_models]
    found = [*asked, *order, *result.settings.all_models, catalog.REFERENCE]
    return [name for name in dict.fromkeys(found) if name in result.forecasts]


def _formats() -> dict[str, Any]:
    number = st.column_config.NumberColumn
    formats: dict[str, Any] = {title: number(format="%.3g") for title in METRICS}
    formats |= {f"In {level:g} %": number(format="%.1f") for level in LEVELS}
    formats["sMAPE, %"] = number(format="%.1f")
    formats["p"] = number(format="%.3f")
    formats["Model"] = st.column_config.TextColumn(pinned=True)
    return formats


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _key(result: Result, what: str) -> str:
    return f"forecasting-{result.folder.name}-{what}"
