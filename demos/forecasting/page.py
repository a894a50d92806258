"""The page from top to bottom: data, its quality, settings, the run, what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from apps.timeseries.data.panel import Panel
from core.errors import TriptychError
from demos.forecasting import charts, quality, reading, settings, sources
from demos.forecasting.settings import Settings
from demos.forecasting.sources import Source
from demos.forecasting.wording import in_page
from demos.shared import jobs
from demos.shared.keys import key_of
from demos.shared.words import escaped, sentence

ASKED = "forecasting-asked"


def main() -> None:
    """Draw the page."""
    st.title("Forecasting")
    st.markdown(
        "Forecast a file's series with intervals whose coverage was measured, and see first whether a "
        "model beats the simplest forecast: the value one season ago."
    )
    source = sources.choose()
    if source is None:
        return
    try:
        _page(source)
    except Exception as error:
        st.error(escaped(in_page(sentence(error, "This page"))))


def _page(source: Source) -> None:
    box = st.container()
    with st.expander("How the file is read"):
        options = reading.fields(source)
    with box:
        try:
            found = reading.read(source.path, options)
        except TriptychError as error:
            st.error(escaped(in_page(sentence(error))))
            return
        ready = quality.show(found, repaired=not options.keys().isdisjoint(reading.REPAIRS))
    panel = found.panel
    if not ready:
        _preview(panel, None)
        return
    about = key_of(source.path, found.report["mapping"], panel.freq, found.report["length"])
    wanted = settings.fields(panel, about)
    key = key_of("forecasting", source.path, options, wanted)
    place = st.container()
    asked = st.session_state.setdefault(ASKED, set())
    with place:
        if st.button("Forecast", type="primary", key="forecasting-run"):
            asked.add(key)
        elif asked and key not in asked:
            st.caption("Data or settings have changed: press the button for new results.")
    if key not in asked:
        _preview(panel, wanted)
        return
    _result(key, source, options, panel, wanted)


def _result(
    key: str, source: Source, options: Mapping[str, Any], panel: Panel, wanted: Settings
) -> None:
    from core.progress import Progress

    def work(progress: Progress) -> Any:
        from demos.forecasting.work import run

        return run(source.path, options, panel, wanted, jobs.workspace(key), progress)

    job = jobs.submit(key, "The forecast", work)
    if jobs.watch(job):
        from demos.forecasting.results import show

        jobs.workspace(key)  # it is used: what is not used goes first
        show(job.result)


@st.fragment
def _preview(panel: Panel, wanted: Settings | None) -> None:
    """The series and, once it can be forecast, where the folds will lie."""
    names = {name: (series, n) for series in panel for n, name in enumerate(panel.names(series))}
    word = "Variate" if panel.layout == "wide" else "Series"
    wide = panel.layout == "wide" and len(names) <= 20
    name = st.selectbox(
        f"{word} to look at", list(names), index=len(names) - 1 if wide else 0,
        key=f"forecasting-look-{key_of(list(names)[:1000])}",
    )  # fmt: skip
    series, n = names[name]
    past = pd.Series(series.values[:, n], index=series.observed)
    starts: list[Any] = []
    ends: list[Any] = []
    held = None
    if wanted is not None:
        try:
            plan = settings.plan(panel, wanted)
        except TriptychError as error:
            st.warning(escaped(in_page(sentence(error))))
        else:
            rows = plan.windows(series)[1]
            starts = list(series.observed[rows])
            ends = list(series.observed[rows + plan.horizon - 1])
            if len(plan.grid):
                held = series.observed[
                    min(len(series) - 1, int(plan.rows(series, plan.grid[:1])[0]))
                ]
    figure = charts.planned(past, starts, ends, held, name)
    st.plotly_chart(
        figure,
        config=charts.CONFIG,
        key="forecasting-preview",
        alt=f"{name} over time" + (f", with {len(starts)} folds to be forecast" if starts else ""),
    )
    if starts:
        st.caption(
            f"Each of the {len(starts)} blue folds is forecast from what lies before it. Models learn "
            "from the rows before the yellow part, whose errors make the intervals."
        )
