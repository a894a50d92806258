"""Pictures of forecasts, errors and coverage: PNG for paper and print, HTML to look closer.

Everything drawn was handed in; nothing here reads files or computes forecasts.  The HTML carries its
own copy of plotly's script and asks no network for anything.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito's palette, which is told apart with every common colour vision.
HISTORY, FORECAST, OTHERS = "#444444", "#0072B2", ("#D55E00", "#009E73", "#CC79A7", "#E69F00")
PANELS = 9
"""Series on one PNG at most: more are too small to read."""
POINTS = 1000
"""Past stamps of a series that are drawn at most: a fan of 96 steps beside more is a line."""
DPI = 110


@dataclass(frozen=True)
class Fan:
    """One series as drawn: its recent past, the forecast, and bounds (lo, hi) by level."""

    name: str
    past_times: pd.Index
    past: np.ndarray  # (T',)
    times: pd.Index
    yhat: np.ndarray  # (H,)
    bounds: Mapping[float, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def draw_forecast(fans: Sequence[Fan], title: str) -> Figure:
    """A panel for each of the first ``PANELS`` series: the past, the forecast and its fan."""
    shown = list(fans[:PANELS])
    columns = 1 if len(shown) <= 3 else 2 if len(shown) <= 6 else 3
    rows = -(-len(shown) // columns)
    figure = new_figure(max(9.0, 5.2 * columns), 0.8 + 2.7 * rows)
    for i, fan in enumerate(shown):
        ax = figure.add_subplot(rows, columns, i + 1)
        _draw_fan(ax, fan)
    more = f"   (first {len(shown)} of {len(fans)})" if len(fans) > len(shown) else ""
    figure.suptitle(title + more, fontsize=11, x=0.01, ha="left")
    if shown:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower left", ncols=len(labels), frameon=False, fontsize=8
        )
    return figure


def forecast_html(fans: Sequence[Fan], title: str, notes: Sequence[str] = ()) -> str:
    """One page: a chart with a menu of series, zoom and range slider; ``notes`` below it."""
    import plotly.graph_objects as graph

    figure = graph.Figure()
    owner: list[int] = []  # of each trace, which series it draws
    for i, fan in enumerate(fans):
        traces = _traces(graph, fan, visible=i == 0)
        figure.add_traces(traces)
        owner += [i] * len(traces)
    menu = [
        {
            "label": fan.name,
            "method": "update",
            "args": [{"visible": [o == i for o in owner]}, {"yaxis.title.text": fan.name}],
        }
        for i, fan in enumerate(fans)
    ]
    figure.update_layout(
        template="plotly_white",
        height=560,
        hovermode="x unified",
        margin={"l": 60, "r": 20, "t": 70, "b": 40},
        legend={"orientation": "h", "y": 1.02, "x": 1, "xanchor": "right", "yanchor": "bottom"},
        yaxis={"title": {"text": fans[0].name if fans else ""}},
        xaxis={"rangeslider": {"visible": True, "thickness": 0.08}},
    )
    if len(fans) > 1:
        spot = {"x": 0, "xanchor": "left", "y": 1.16, "yanchor": "top"}
        figure.update_layout(updatemenus=[{"buttons": menu, "active": 0, **spot}])
    return page(title, chart(figure) + _list(notes), script=True)


def page(title: str, body: str, script: bool = False) -> str:
    """A whole HTML document; with ``script``, plotly's is in it, once."""
    head = ""
    if script:
        from plotly.offline import get_plotlyjs

        source = get_plotlyjs()
        head = f"<script>window.PlotlyConfig={{MathJaxConfig:'local'}};</script>\n<script>{source}</script>"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 24px auto; padding: 0 16px;
  color: #222; }}
h1 {{ font-size: 1.4em; }} h2 {{ font-size: 1.15em; margin-top: 1.8em; }}
table {{ border-collapse: collapse; margin: 8px 0; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #ddd; padding: 3px 12px 3px 0; text-align: left;
  vertical-align: top; }}
td.number, th.number {{ text-align: right; }}
code {{ font-size: 0.92em; overflow-wrap: anywhere; }}
img {{ max-width: 100%; }}
</style>
{head}
</head>
<body>
<h1>{html.escape(title)}</h1>
{body}
</body>
</html>
"""


def chart(figure: Any) -> str:
    """A plotly figure as a piece of a ``page`` that has the script."""
    config = {"displaylogo": False, "responsive": True}
    return figure.to_html(full_html=False, include_plotlyjs=False, config=config)


def draw_by_horizon(errors: Mapping[str, np.ndarray], unit: str) -> Figure:
    """The error of each model at each step ahead, the first model in front."""
    figure = new_figure(9.0, 3.6)
    ax = figure.add_subplot()
    for i, (name, values) in reversed(list(enumerate(errors.items()))):
        steps = np.arange(1, len(values) + 1)
        marker = "o" if len(values) < 3 else ""
        colour = FORECAST if i == 0 else OTHERS[(i - 1) % len(OTHERS)]
        ax.plot(steps, values, marker=marker, color=colour, lw=2 if i == 0 else 1.2, label=name)
    ax.set(xlabel="steps ahead", ylabel=unit, title="Error by horizon")
    ax.set_ylim(bottom=0)
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", frameon=False, fontsize=8)
    return figure


def draw_coverage(nominal: Sequence[float], by_step: Sequence[np.ndarray]) -> Figure:
    """The share of truths inside each level's band, step by step; dashed what was promised."""
    figure = new_figure(9.0, 3.2)
    ax = figure.add_subplot()
    for i, (level, measured) in enumerate(zip(nominal, by_step)):
        colour = (FORECAST, *OTHERS)[i % (1 + len(OTHERS))]
        steps = np.arange(1, len(measured) + 1)
        marker = "o" if len(measured) < 3 else ""
        ax.plot(steps, 100 * measured, marker=marker, color=colour, label=f"{level:g} %")
        ax.axhline(level, color=colour, lw=0.8, ls="--")
    ax.set(xlabel="steps ahead", ylabel="% inside", title="Coverage by horizon, pointwise")
    ax.set_ylim(top=101)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def autocorrelation(values: np.ndarray, lags: int) -> np.ndarray:
    """Sample autocorrelation of (T,) at lags 0 .. ``lags``, NaN left out in pairs; 0 if constant."""
    x = values - np.nanmean(values)
    seen = np.isfinite(x)
    x = np.where(seen, x, 0.0)
    variance = float(x @ x) / max(1, int(seen.sum()))
    found = np.zeros(lags + 1)
    found[0] = 1.0
    if variance <= 0:
        return found
    for lag in range(1, min(lags, len(x) - 1) + 1):
        pairs = int((seen[lag:] & seen[:-lag]).sum())
        # The usual estimator shrinks by (T - lag) / T: its sequence stays positive definite.
        if pairs:
            mean = float(x[lag:] @ x[:-lag]) / pairs
            found[lag] = mean / variance * (1 - lag / len(x))
    return found


def draw_autocorrelation(values: np.ndarray, lags: int, what: str) -> Figure:
    """Bars of the autocorrelation and the band in which 95 % lie where there is none (Bartlett)."""
    figure = new_figure(9.0, 3.2)
    ax = figure.add_subplot()
    found = autocorrelation(values, lags)
    ax.vlines(np.arange(1, lags + 1), 0, found[1:], color=FORECAST, lw=2)
    band = 1.96 / np.sqrt(max(1, int(np.isfinite(values).sum())))
    ax.axhspan(-band, band, color=FORECAST, alpha=0.12, lw=0)
    ax.axhline(0, color=HISTORY, lw=0.8)
    ax.set(xlabel="lag", ylabel="autocorrelation", title=f"Autocorrelation of {what}")
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches that draws itself without a screen."""
    # Not pyplot: it keeps every figure alive and is not safe in the threads of a web application.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def embedded(data: bytes, text: str) -> str:
    """A PNG as an HTML image that carries its bytes; ``text`` says what it shows."""
    code = base64.b64encode(data).decode("ascii")
    return f'<img alt="{html.escape(text, quote=True)}" src="data:image/png;base64,{code}">'


def _draw_fan(ax: Axes, fan: Fan) -> None:
    past_x, x = _axis(fan.past_times), _axis(fan.times)
    ax.plot(past_x, fan.past, color=HISTORY, lw=1, label="observed")
    for i, level in enumerate(sorted(fan.bounds, reverse=True)):
        lo, hi = fan.bounds[level]
        alpha = 0.16 + 0.14 * i / max(1, len(fan.bounds) - 1)
        if len(x) > 1:
            ax.fill_between(x, lo, hi, color=FORECAST, alpha=alpha, lw=0, label=f"{level:g} %")
        else:
            ax.vlines(x, lo, hi, color=FORECAST, alpha=2 * alpha, lw=5, label=f"{level:g} %")
    marker = "o" if len(x) < 3 else ""
    ax.plot(x, fan.yhat, marker=marker, color=FORECAST, lw=1.5, ms=4, label="forecast")
    ax.set_title(_short(fan.name), fontsize=9, loc="left")
    ax.tick_params(labelsize=7.5)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if isinstance(fan.times, pd.DatetimeIndex):
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=3, maxticks=9)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        ax.xaxis.get_offset_text().set_fontsize(7.5)


def _traces(graph: Any, fan: Fan, visible: bool) -> list[Any]:
    common = {"visible": visible}
    past_x, x = _web(fan.past_times), _web(fan.times)
    found = [
        graph.Scatter(
            x=past_x, y=_numbers(fan.past), name="observed", mode="lines",
            line={"color": HISTORY, "width": 1.2}, **common,
        )
    ]  # fmt: skip
    for level in sorted(fan.bounds, reverse=True):
        lo, hi = fan.bounds[level]
        edge = {"mode": "lines", "line": {"width": 0}, "legendgroup": f"{level:g}", **common}
        found += [
            graph.Scatter(x=x, y=_numbers(hi), name=f"hi {level:g} %", showlegend=False, **edge),
            graph.Scatter(
                x=x, y=_numbers(lo), name=f"{level:g} %", fill="tonexty",
                fillcolor="rgba(0,114,178,0.18)", **edge,
            ),
        ]  # fmt: skip
    found.append(
        graph.Scatter(
            x=x, y=_numbers(fan.yhat), name="forecast", mode="lines+markers",
            line={"color": FORECAST, "width": 2}, marker={"size": 3}, **common,
        )
    )  # fmt: skip
    return found


def _axis(times: pd.Index) -> np.ndarray:
    """For matplotlib: local clock time, for the time zone only shifts the labels."""
    if isinstance(times, pd.DatetimeIndex):
        return times.tz_localize(None).to_numpy()
    return np.asarray(times)


def _web(times: pd.Index) -> list[Any]:
    """For plotly, which knows no time zones: local clock time as text."""
    if isinstance(times, pd.DatetimeIndex):
        return [stamp.isoformat() for stamp in times.tz_localize(None)]
    return [int(stamp) for stamp in times]


def _numbers(values: np.ndarray) -> list[float | None]:
    """Six digits are more than a screen shows, and JSON knows no NaN."""
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values]


def _short(name: str) -> str:
    # matplotlib would read "$...$" as mathematics.
    text = name if len(name) <= 48 else f"{name[:45]}..."
    return text.replace("$", r"\$")


def _list(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return "<ul>\n" + "\n".join(f"<li>{html.escape(line)}</li>" for line in lines) + "\n</ul>\n"
