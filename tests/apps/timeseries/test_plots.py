"""Pictures show what they were given, and pages need no network."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest

from apps.timeseries import plots
from apps.timeseries.plots import Fan


def fan(name="a", H=6, tz=None, numbered=False, past=48):
    times = pd.date_range("2024-03-29", periods=past + H, freq="h", tz=tz)
    if numbered:
        times = pd.RangeIndex(past + H)
    y = np.arange(H, dtype=float)
    return Fan(
        name, times[:past], np.sin(np.arange(past)), times[past:], y,
        {80.0: (y - 1, y + 1), 90.0: (y - 2, y + 2)},
    )  # fmt: skip


def traces(page: str) -> list[dict]:
    """What plotly is asked to draw, from the page's own script."""
    start = page.index("Plotly.newPlot(")
    text = page[page.index("[", start) :]
    return json.JSONDecoder().raw_decode(text)[0]


@pytest.mark.parametrize("options", [{}, {"tz": "Europe/Berlin"}, {"numbered": True}, {"H": 1}])
@pytest.mark.parametrize("count", [1, 5, 12])
def test_png_of_any_clock_and_number(options, count) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.draw_forecast([fan(f"s{i} $x", **options) for i in range(count)], "title")
        data = plots.png(figure)
    assert data[:4] == b"\x89PNG"
    assert len(figure.axes) == min(count, plots.PANELS)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"observed", "80 %", "90 %", "forecast"} <= set(labels)
    first = figure.axes[0].get_lines()
    np.testing.assert_array_equal(first[1].get_ydata(), fan(**options).yhat)


def test_html_draws_the_numbers_and_a_menu() -> None:
    page = plots.forecast_html([fan("a"), fan("<b>&")], "T <1>", ["note <i>"])
    found = traces(page)
    assert len(found) == 2 * 6  # observed, two edges for each of two levels, forecast
    assert [t["visible"] for t in found] == [True] * 6 + [False] * 6
    forecast = found[5]
    assert forecast["y"] == list(range(6))
    assert forecast["x"][0] == "2024-03-31T00:00:00"
    upper = next(t for t in found if t["name"] == "hi 90 %")
    assert upper["y"] == [2, 3, 4, 5, 6, 7]
    assert "<title>T &lt;1&gt;</title>" in page
    assert "note &lt;i&gt;" in page
    assert '"label":"\\u003cb\\u003e&"' in page or '"label":"<b>&"' in page


def test_html_asks_no_network() -> None:
    page = plots.forecast_html([fan()], "t")
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", page)
    assert page.count("<script>") >= 2
    assert len(page) > 1_000_000, "plotly's script is in it"


def test_wall_clock_of_a_zone_and_missing_numbers() -> None:
    one = fan(tz="Europe/Berlin")
    assert plots._web(one.times)[0] == "2024-03-31T00:00:00"
    assert plots._numbers(np.array([1.23456789, np.nan, np.inf])) == [1.23457, None, None]
    assert plots._web(fan(numbered=True).times) == [48, 49, 50, 51, 52, 53]


def test_autocorrelation() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=5000)
    assert np.abs(plots.autocorrelation(noise, 20)[1:]).max() < 0.06
    x = np.zeros(5000)
    for t in range(1, 5000):  # AR(1): the autocorrelation at lag k is 0.8 ** k
        x[t] = 0.8 * x[t - 1] + noise[t]
    np.testing.assert_allclose(plots.autocorrelation(x, 5), 0.8 ** np.arange(6), atol=0.05)
    gappy = x.copy()
    gappy[::10] = np.nan
    np.testing.assert_allclose(
        plots.autocorrelation(gappy, 3)[1:], plots.autocorrelation(x, 3)[1:], atol=0.05
    )
    assert plots.autocorrelation(np.ones(50), 3).tolist() == [1, 0, 0, 0]
    assert plots.autocorrelation(np.array([1.0, 2.0]), 5).shape == (6,)


def test_report_figures() -> None:
    figure = plots.draw_by_horizon({"model": np.ones(5), "naive": np.full(5, 2.0)}, "MAE")
    lines = figure.axes[0].get_lines()
    assert {tuple(line.get_ydata()) for line in lines} == {(1.0,) * 5, (2.0,) * 5}
    plots.png(figure)
    covered = plots.draw_coverage([80.0, 90.0], [np.full(4, 0.79), np.full(4, 0.91)])
    assert max(covered.axes[0].get_lines()[0].get_ydata()) == 79
    plots.png(covered)
    text = plots.embedded(
        plots.png(plots.draw_autocorrelation(np.arange(50.0), 10, "x")), 'say "x"'
    )
    assert text.startswith('<img alt="say &quot;x&quot;" src="data:image/png;base64,')
