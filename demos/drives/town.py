"""Maps of towns and ways through them, as Plotly figures. North (the map's -y) is up."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from demos.drives.choice import PROCEDURAL

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from apps.driving.routes.files import RouteSpec

STEP_M = 4.0  # along a road
EDGE, INK, GOAL, START = "#b8c2c9", "#1c2a33", "#b3541e", "#1f5f8b"
INSIDE = ("driving", "shoulder", "biking", "parking", "bidirectional")


@lru_cache(maxsize=8)
def edges(town: str, content: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y (n,) m of the borders of a town's lanes, NaN between lines.

    ``content`` tells two files of one name apart. Raises DataError for a file that is no OpenDRIVE
    map that can be driven.
    """
    del content
    from apps.driving.world.maps.opendrive import check_opendrive, flatten, read_opendrive
    from apps.driving.world.maps.procedural import generate

    if town.startswith(PROCEDURAL):
        text = generate(int(town.removeprefix(PROCEDURAL)))
    else:
        text = read_opendrive(town)
    roads = check_opendrive(flatten(text), Path(town).name)
    lines: list[np.ndarray] = []
    for road in roads.roads.values():
        for section in road.sections:
            s = np.linspace(section.s, section.end, max(2, round(section.length / STEP_M) + 1))
            borders = road.borders(section, s)
            for lane, sides in borders.items():
                if lane and section.lanes[lane].type in INSIDE:
                    line = road.place(s, sides[:, 1])[0]
                    lines += [line, np.full((1, 2), np.nan)]
    points = np.concatenate(lines) if lines else np.zeros((0, 2))
    return points[:, 0], points[:, 1]


def picture(
    town: str, content: str, route: RouteSpec | None = None, height: int = 300
) -> go.Figure:
    """The town, with a route's first and last point; DataError as ``edges``."""
    import plotly.graph_objects as go

    x, y = edges(town, content)
    figure = go.Figure(layout=_layout(height))
    figure.add_scatter(
        x=x, y=y, mode="lines", line={"color": EDGE, "width": 1}, hoverinfo="skip", name="lanes"
    )
    if route is not None:
        ends = np.array([route.waypoints[0][:2], route.waypoints[-1][:2]])
        figure.add_scatter(
            x=ends[:, 0],
            y=ends[:, 1],
            mode="markers+text",
            marker={"size": 11, "color": [START, GOAL]},
            text=["start", "goal"],
            textposition="top center",
            hovertemplate="%{text}: x %{x:.0f} m, y %{y:.0f} m<extra></extra>",
            name="route",
        )
    return figure


def _layout(height: int) -> dict[str, Any]:
    axis = {"visible": False}
    return {
        "height": height,
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "showlegend": False,
        "xaxis": axis,
        "yaxis": {**axis, "autorange": "reversed", "scaleanchor": "x", "scaleratio": 1},
        "dragmode": "pan",
        "plot_bgcolor": "white",
    }
