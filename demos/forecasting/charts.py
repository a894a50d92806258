"""The page's charts, as Plotly figures. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from apps.timeseries.plots import FORECAST, HISTORY, OTHERS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from apps.timeseries.decomposition import Parts

POINTS = 5000
"""Points of one line at most: more are slow to draw and too close to see."""
CONFIG = {"displaylogo": False, "scrollZoom": False}
NARROW = 0.02
"""Share of the width between two folds below which their numbers would overlap."""
COLOURS = (FORECAST, *OTHERS, "#56B4E9", "#8C564B", "#7F7F7F")
"""Of lines; the first is the one in front."""
_FOLD, _HELD = "rgba(0,114,178,0.10)", "rgba(230,159,0,0.14)"


def history_and_forecast(
    past: pd.Series, forecast: pd.DataFrame, front: str, levels: Sequence[float], name: str
) -> Figure:
    """The end of ``past`` (indexed by stamps) and every model's forecast, bands around the ``front``'s.

    ``forecast``: long, of one series: model, ds, yhat, lo-80, hi-80, ...
    """
    figure = _figure(name, legend_rows=2)
    past = past.iloc[-POINTS:]
    _line(figure, past.index, past.to_numpy(), "observed", HISTORY, width=1.3)
    mine = forecast[forecast["model"] == front]
    _bands(figure, mine, levels)
    others = [model for model in forecast["model"].unique() if model != front]
    for model, colour in zip(others, _cycle(len(others))):
        rows = forecast[forecast["model"] == model]
        _line(figure, rows["ds"], rows["yhat"], model, colour, width=1.2, dash="dot")
    _line(figure, mine["ds"], mine["yhat"], front, FORECAST, width=2.2)
    figure.update_xaxes(rangeslider={"visible": True, "thickness": 0.09})
    shown = past.index[-min(len(past), max(48, 3 * len(mine))) :]
    if len(shown) and len(mine):
        figure.update_xaxes(range=[_web(shown[:1])[0], _web(mine["ds"])[-1]])
        # Plotly fits the vertical axis to all points, also to those outside of the range.
        near = [past.iloc[-len(shown) :].to_numpy(), mine["yhat"].to_numpy()]
        near += [mine[f"{end}-{level:g}"].to_numpy() for level in levels for end in ("lo", "hi")]
        figure.update_yaxes(range=_span(np.concatenate(near)))
    return figure


def planned(
    past: pd.Series, starts: Sequence[Any], ends: Sequence[Any], held: Any, name: str
) -> Figure:
    """``past`` with the folds that will be forecast, and from where on nothing is learnt."""
    figure = _figure(name)
    shown = thinned(past)
    _line(figure, shown.index, shown.to_numpy(), "observed", HISTORY, width=1.1)
    figure.update_xaxes(rangeslider={"visible": True, "thickness": 0.09})
    if len(shown) == 0:
        return figure
    first = 0
    if starts:
        known = int(past.index.searchsorted(starts[0] if held is None else held))
        first = max(0, known - max(1, (len(past) - known) // 8))
        if held is not None:
            _held(figure, past.index[0], held, starts[0])
    figure.update_xaxes(range=[*_web(past.index[first : first + 1]), *_web(past.index[-1:])])
    if np.isfinite(past.iloc[first:]).any():
        figure.update_yaxes(range=_span(past.iloc[first:].to_numpy()))
    rows = past.index.get_indexer(pd.Index(starts))
    apart = (rows[-1] - rows[0]) / (len(rows) - 1) if len(rows) > 1 else len(past)
    _folds(figure, list(zip(starts, ends)), numbered=apart > NARROW * (len(past) - first))
    return figure


def folds(
    past: pd.Series,
    frame: pd.DataFrame,
    front: str,
    models: Sequence[str],
    level: float,
    held: Any,
    name: str,
) -> Figure:
    """What was, and what each model forecast in each fold; a band of ``level`` around the ``front``'s.

    ``frame``: long, of one series: model, cutoff, ds, y, yhat, lo-80, hi-80, ...
    """
    figure = _figure(name, legend_rows=2)
    first = frame["ds"].min()
    width = max(24, len(frame["ds"].unique()) // 2)
    at = int(past.index.searchsorted(first))
    shown = past.iloc[max(0, at - width) :].iloc[-POINTS:]
    _line(figure, shown.index, shown.to_numpy(), "observed", HISTORY, width=1.3)
    mine = frame[frame["model"] == front]
    for number, (_, rows) in enumerate(mine.groupby("cutoff", sort=True)):
        _bands(figure, rows, [level], legend=number == 0)
    for model, colour in zip(models, _cycle(len(models))):
        rows = _with_breaks(frame[frame["model"] == model])
        _line(figure, rows["ds"], rows["yhat"], model, colour, width=1.2, dash="dot")
    rows = _with_breaks(mine)
    _line(figure, rows["ds"], rows["yhat"], front, FORECAST, width=2)
    if len(shown):
        _held(figure, shown.index[0], held, first)
    spans = mine.groupby("cutoff", sort=True)["ds"].agg(["min", "max"])
    _folds(figure, list(zip(spans["min"], spans["max"])), numbered=len(spans) <= 12)
    figure.update_xaxes(rangeslider={"visible": True, "thickness": 0.09})
    return figure


def thinned(values: pd.Series, points: int = POINTS) -> pd.Series:
    """``values`` as they look from far: of each of equal stretches the least and the greatest."""
    if len(values) <= points:
        return values
    numbers = values.to_numpy()
    edges = np.linspace(0, len(numbers), points // 2 + 1).astype(int)
    kept: set[int] = {0, len(numbers) - 1}
    for start, end in pairwise(edges):
        part = numbers[start:end]
        if np.isfinite(part).any():
            kept |= {start + int(np.nanargmin(part)), start + int(np.nanargmax(part))}
        else:
            kept.add(start)  # a gap stays one
    return values.iloc[sorted(kept)]


def by_step(errors: Mapping[str, Sequence[float | None]], what: str) -> Figure:
    """The error of each model at each step ahead, the first in front."""
    figure = _figure(what, legend_rows=2)
    for i, (name, values) in reversed(list(enumerate(errors.items()))):
        colour = COLOURS[i % len(COLOURS)]
        steps = list(range(1, len(values) + 1))
        _line(figure, steps, values, name, colour, width=2.2 if i == 0 else 1.2)
    figure.update_xaxes(title_text="steps ahead")
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(legend={"traceorder": "reversed"})
    return figure


def parts(index: pd.Index, found: Parts, name: str) -> Figure:
    """A series over its trend, season and rest, on one clock."""
    from plotly.subplots import make_subplots

    titles = (name, "trend", f"season of {found.period} rows", "rest")
    figure = make_subplots(4, 1, shared_xaxes=True, vertical_spacing=0.06, subplot_titles=titles)
    lines = (found.observed, found.trend, found.season, found.rest)
    for row, (values, colour) in enumerate(zip(lines, (HISTORY, *COLOURS)), 1):
        figure.add_trace(_scatter(index, values, titles[row - 1], colour, 1.2), row=row, col=1)
    figure.update_layout(height=620, margin=_margin(30), showlegend=False, hovermode="x unified")
    figure.update_annotations(font_size=13)
    return figure


def weights(frame: pd.DataFrame, targets: int) -> Figure:
    """A heat map: each row, a variate that is forecast, and what it is mixed from."""
    import plotly.graph_objects as graph

    rows = frame.iloc[:targets]
    written = frame.shape[1] <= 14
    figure = graph.Figure(
        graph.Heatmap(
            z=rows.to_numpy(),
            x=[str(name) for name in rows.columns],
            y=[str(name) for name in rows.index],
            colorscale="Blues",
            zmin=0,
            texttemplate="%{z:.2f}" if written else None,
            hovertemplate="%{y} takes %{z:.3f} from %{x}<extra></extra>",
            colorbar={"title": {"text": "share"}, "thickness": 12},
        )
    )
    figure.update_yaxes(autorange="reversed", title_text="the forecast of", automargin=True)
    figure.update_xaxes(side="top", title_text="is mixed from", automargin=True)
    figure.update_layout(height=140 + 34 * max(4, len(rows)), margin=_margin(80))
    return figure


def _figure(name: str, legend_rows: int = 1) -> Figure:
    import plotly.graph_objects as graph

    figure = graph.Figure()
    figure.update_layout(
        height=440,
        hovermode="x unified",
        margin=_margin(24 + 22 * legend_rows),
        # Above the plot and from the left: it may take several lines on a narrow screen.
        legend={"orientation": "h", "y": 1.02, "x": 0, "yanchor": "bottom", "xanchor": "left"},
        yaxis={"title": {"text": name}, "automargin": True},
    )
    return figure


def _margin(top: int) -> dict[str, int]:
    return {"l": 10, "r": 10, "t": top, "b": 10}


def _cycle(count: int) -> list[str]:
    others = COLOURS[1:]
    return [others[i % len(others)] for i in range(count)]


def _line(
    figure: Figure, x: Any, y: Any, name: str, colour: str, width: float, dash: str | None = None
) -> None:
    figure.add_trace(_scatter(x, y, name, colour, width, dash))


def _scatter(x: Any, y: Any, name: str, colour: str, width: float, dash: str | None = None) -> Any:
    import plotly.graph_objects as graph

    numbers = _numbers(y)
    alone = sum(value is not None for value in numbers) < 3
    return graph.Scatter(
        x=_web(x), y=numbers, name=name, mode="lines+markers" if alone else "lines",
        line={"color": colour, "width": width, "dash": dash}, connectgaps=False,
    )  # fmt: skip


def _bands(
    figure: Figure, rows: pd.DataFrame, levels: Sequence[float], legend: bool = True
) -> None:
    """From the widest to the narrowest, so that the middle is darkest."""
    import plotly.graph_objects as graph

    for depth, level in enumerate(sorted(levels, reverse=True)):
        lo, hi = rows[f"lo-{level:g}"].to_numpy(), rows[f"hi-{level:g}"].to_numpy()
        if not np.isfinite(lo).any():
            continue
        edge = {"mode": "lines", "line": {"width": 0}, "legendgroup": f"{level:g} %"}
        x = _web(rows["ds"])
        figure.add_trace(
            graph.Scatter(x=x, y=_numbers(hi), showlegend=False, name=f"up to, {level:g} %", **edge)
        )
        figure.add_trace(
            graph.Scatter(
                x=x, y=_numbers(lo), name=f"{level:g} %", fill="tonexty", showlegend=legend,
                fillcolor=f"rgba(0,114,178,{0.16 + 0.12 * depth:.2f})", **edge,
            )
        )  # fmt: skip


def _held(figure: Figure, first: Any, held: Any, until: Any) -> None:
    """The rows between training and the folds, which make the intervals."""
    start = max(first, held)
    if start < until:
        figure.add_vrect(
            *_web(pd.Index([start, until])), fillcolor=_HELD, line_width=0, layer="below",
            annotation_text="makes the intervals", annotation_position="top left",
            annotation_font_size=11,
        )  # fmt: skip


def _folds(figure: Figure, spans: Sequence[tuple[Any, Any]], numbered: bool) -> None:
    """A box for each fold, a line at its cutoff, and its number."""
    for number, (start, end) in enumerate(spans, 1):
        left, right = _web(pd.Index([start, end]))
        figure.add_vrect(left, right, fillcolor=_FOLD, line_width=0, layer="below")
        figure.add_vline(left, line={"color": FORECAST, "width": 1, "dash": "dash"}, opacity=0.6)
        if numbered:
            figure.add_annotation(
                x=left,
                y=0,
                yref="paper",
                text=str(number),
                showarrow=False,
                xanchor="left",
                yanchor="bottom",
                font={"size": 11, "color": FORECAST},
            )


def _with_breaks(rows: pd.DataFrame) -> pd.DataFrame:
    """A row without a number after each fold, so that no line joins two of them."""
    pieces = []
    for _, fold in rows.groupby("cutoff", sort=True):
        pieces += [fold, fold.iloc[-1:].assign(yhat=np.nan)]
    return pd.concat(pieces) if pieces else rows


def _web(times: Any) -> list[Any]:
    """Stamps for Plotly, which knows no time zones: local clock time as text; numbers as they are."""
    index = pd.Index(times)
    if isinstance(index, pd.DatetimeIndex):
        return [stamp.isoformat() for stamp in index.tz_localize(None)]
    return [int(value) for value in index]


def _numbers(values: Any) -> list[float | None]:
    """Six digits are more than a screen shows, and JSON knows no NaN."""
    found = np.asarray([np.nan if value is None else value for value in values], dtype=float)
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in found]


def _span(values: np.ndarray) -> list[float]:
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    room = 0.06 * (high - low) or 1.0
    return [low - room, high + room]
