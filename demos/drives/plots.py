"""Plots of a traced drive over time, and of several over the ground, as Plotly figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.evaluation.report import SHORT
from apps.driving.evaluation.trace import spans
from demos.drives.town import EDGE, INK

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from apps.driving.evaluation.scores import Infraction
    from apps.driving.evaluation.trace import Trace

SPEED, WANTED, LIMIT = "#1f5f8b", "#b3541e", "#8a949b"
STEER, THROTTLE, BRAKE = "#1f5f8b", "#2f7d4f", "#b3261e"
HELD, OVERRULED, BAD = "#c98a00", "#7a3fa0", "#b3261e"
EVENTS = ("infraction", "supervisor", "waits for")  # the rows of the first plot, from the top
RUNS = ("#1f5f8b", "#b3541e", "#2f7d4f", "#7a3fa0", "#c98a00", "#5a6b75")
KMH = 3.6


def summary(one: Infraction) -> str:
    """``12.3 s: red lights - ran a red light``: kind and message of an infraction."""
    return f"{one.time:.1f} s: {SHORT[one.kind]} ({one.message})"


def over_time(trace: Trace, now: float) -> go.Figure:
    """What happened, speed, steering and pedals over seconds, with a line at ``now``."""
    from plotly.subplots import make_subplots

    columns, time = trace.columns, trace.columns["time"]
    figure = make_subplots(
        rows=4, cols=1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.2, 0.35, 0.2, 0.25]
    )
    _events(figure, trace)
    lines = (
        (2, "limit", KMH * columns["limit"], LIMIT, "dot", "km/h"),
        (2, "wanted", KMH * columns["target_speed"], WANTED, "dash", "km/h"),
        (2, "speed", KMH * columns["speed"], SPEED, "solid", "km/h"),
        (3, "steering", columns["steer"], STEER, "solid", ""),
        (4, "throttle", columns["throttle"], THROTTLE, "solid", ""),
        (4, "brake", columns["brake"], BRAKE, "solid", ""),
    )
    for row, name, values, colour, dash, unit in lines:
        if not np.isfinite(values).any():
            continue
        line = {"color": colour, "width": 1.6, "dash": dash}
        # The legend gets a line of its own: the curve's invisible points, which a click selects,
        # would be seen there.
        figure.add_scatter(
            x=[None], y=[None], mode="lines", line=line, name=name, legendgroup=name, row=row, col=1
        )
        figure.add_scatter(
            x=time,
            y=values,
            name=name,
            legendgroup=name,
            showlegend=False,
            mode="lines+markers",
            marker={"size": 9, "opacity": 0},
            line=line,
            hovertemplate=f"%{{y:.2f}} {unit}<extra>{name}</extra>",
            row=row,
            col=1,
            **_never_dimmed(0),
        )
    for row, (title, span) in enumerate(
        (("", (-0.6, 2.6)), ("km/h", None), ("steering", (-1.05, 1.05)), ("pedals", (-0.05, 1.05))),
        start=1,
    ):
        figure.update_yaxes(title_text=title, title_standoff=4, row=row, col=1)
        if span:
            figure.update_yaxes(range=span, row=row, col=1)
    figure.update_yaxes(
        tickvals=list(range(len(EVENTS))), ticktext=EVENTS[::-1], zeroline=False, row=1, col=1
    )
    figure.update_xaxes(range=_span(time))
    figure.update_xaxes(title_text="seconds", row=4, col=1)
    figure.add_vline(x=now, line={"color": INK, "width": 1.5}, row="all", col=1)
    figure.update_layout(
        height=520,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        hovermode="x",
        clickmode="event+select",
        dragmode="pan",
        legend={"orientation": "h", "y": -0.14, "x": 0},
    )
    return figure


def _events(figure: go.Figure, trace: Trace) -> None:
    """Infractions as marks, what the supervisor changed and what held the car back as bars."""
    row = {name: len(EVENTS) - 1 - at for at, name in enumerate(EVENTS)}
    for since, until, reason, name, colour in (
        *((a, b, why, "supervisor", OVERRULED) for a, b, why in trace.interventions),
        *((a, b, why, "waits for", HELD) for a, b, why in hazards(trace)),
    ):
        figure.add_scatter(
            x=[since, until],
            y=[row[name]] * 2,
            mode="lines+markers",
            line={"color": colour, "width": 9},
            marker={"size": 9, "color": colour, "symbol": "square"},
            hovertemplate=f"{name} {reason}, {since:.1f} to {until:.1f} s<extra></extra>",
            showlegend=False,
            row=1,
            col=1,
            **_never_dimmed(1),
        )
    found = trace.infractions
    figure.add_scatter(
        x=[one.time for one in found],
        y=[row["infraction"]] * len(found),
        mode="markers",
        marker={"size": 13, "color": BAD, "symbol": "x"},
        text=[f"{SHORT[one.kind]}: {one.message}" for one in found],
        hovertemplate="%{x:.1f} s: %{text}<extra></extra>",
        name="infraction",
        showlegend=False,
        row=1,
        col=1,
        **_never_dimmed(1),
    )


def hazards(trace: Trace) -> list[tuple[float, float, str]]:
    """What held the car back, by the driver's word: (from, until, what) s."""
    return spans(trace.ticks, lambda tick: tick.hazards)


def on_the_ground(traces: Sequence[tuple[str, Trace]], height: int = 380) -> go.Figure:
    """The ways that several drives of one route took, with the places of their infractions."""
    import plotly.graph_objects as go

    meta = traces[0][1].meta
    figure = go.Figure()
    gap = np.full((1, 2), np.nan)
    lanes = [part for lane in meta.lanes for part in (lane.points, gap)]
    if lanes:
        x, y = np.concatenate(lanes).T
        figure.add_scatter(
            x=x, y=y, mode="lines", line={"color": EDGE, "width": 1}, hoverinfo="skip", name="lanes"
        )
    figure.add_scatter(
        x=meta.plan[:, 0],
        y=meta.plan[:, 1],
        mode="lines",
        line={"color": "#dfe6ea", "width": 12},
        hoverinfo="skip",
        name="route",
    )
    for (name, trace), colour in zip(traces, _colours(len(traces))):
        columns = trace.columns
        figure.add_scatter(
            x=columns["x"],
            y=columns["y"],
            mode="lines",
            line={"color": colour, "width": 2.5},
            customdata=np.stack([columns["time"], KMH * columns["speed"]], -1),
            hovertemplate="%{customdata[0]:.1f} s, %{customdata[1]:.0f} km/h<extra>"
            f"{_plain(name)}</extra>",
            name=name,
        )
        if trace.infractions:
            places = np.array([one.position for one in trace.infractions])
            figure.add_scatter(
                x=places[:, 0],
                y=places[:, 1],
                mode="markers",
                marker={"size": 12, "color": colour, "symbol": "x"},
                text=[summary(one) for one in trace.infractions],
                hovertemplate="%{text}<extra></extra>",
                name=f"{name}: infractions",
            )
    around = np.concatenate([meta.plan, *(_path(trace) for _, trace in traces)])
    low, high = around.min(0) - 15, around.max(0) + 15
    figure.update_layout(
        height=height,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        dragmode="pan",
        plot_bgcolor="white",
        xaxis={"visible": False, "range": [low[0], high[0]]},
        yaxis={
            "visible": False,
            "range": [high[1], low[1]],
            "scaleanchor": "x",
            "scaleratio": 1,
        },
        legend={"orientation": "h", "y": -0.02, "x": 0},
    )
    return figure


def along_the_route(traces: Sequence[tuple[str, Trace]], height: int = 380) -> go.Figure:
    """Speeds of several drives over the metres of their route."""
    import plotly.graph_objects as go

    meta = traces[0][1].meta
    figure = go.Figure()
    figure.add_scatter(
        x=meta.s - meta.s[0],
        y=KMH * meta.speed_limit,
        mode="lines",
        line={"color": LIMIT, "dash": "dot"},
        name="limit",
    )
    for (name, trace), colour in zip(traces, _colours(len(traces))):
        figure.add_scatter(
            x=trace.columns["completion"] / 100 * meta.length,
            y=KMH * trace.columns["speed"],
            mode="lines",
            line={"color": colour, "width": 2},
            name=name,
        )
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis_title="metres along the route",
        yaxis_title="km/h",
        dragmode="pan",
        legend={"orientation": "h", "y": -0.2, "x": 0},
    )
    return figure


def _path(trace: Trace) -> np.ndarray:
    return np.stack([trace.columns["x"], trace.columns["y"]], -1)


def _span(time: np.ndarray) -> list[float]:
    room = 0.02 * float(time[-1] - time[0]) + 0.05
    return [float(time[0]) - room, float(time[-1]) + room]


def _colours(count: int) -> list[str]:
    return [RUNS[at % len(RUNS)] for at in range(count)]


def _plain(text: str) -> str:
    """Plotly takes < for markup."""
    return text.replace("<", "").replace(">", "")


def _never_dimmed(opacity: float) -> dict[str, Any]:
    """A click selects a point, and what is not selected must stay as it is."""
    return {
        "selected": {"marker": {"opacity": opacity}},
        "unselected": {"marker": {"opacity": opacity}},
    }
