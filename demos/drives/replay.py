"""One moment of a traced drive, chosen by a slider, a click in the plots or an infraction.

Everything here is one fragment: moving the slider draws the moment anew and nothing else of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import streamlit as st

from apps.driving.evaluation.above import draw_above
from apps.driving.evaluation.palette import PALETTE
from apps.driving.world.tags import Tag
from demos.drives import plots
from demos.drives.pictures import STRIPS, own_map, strip
from demos.shared.words import escaped

if TYPE_CHECKING:
    from apps.driving.evaluation.trace import Tick, Trace

PLAY_S = (
    0.5  # between two moments of a film that the page plays: what a small machine draws in time
)
ALL = "all three"
KMH = 3.6


def replay(trace: Trace, key: str) -> None:
    """The slider, and what the car saw, meant and did at its moment. ``key`` of the drive."""
    if len(trace) < 2:
        st.info("The drive ended before the driver decided anything; there is nothing to replay.")
        return
    playing = f"playing-{key}"
    state = st.session_state
    on = bool(state.get(playing, False))
    st.fragment(_moment, run_every=PLAY_S if on else None)(trace, key, playing, on)


def _moment(trace: Trace, key: str, playing: str, on: bool) -> None:
    state, times = st.session_state, trace.columns["time"]
    at = f"moment-{key}"
    first, last, step = float(times[0]), float(times[-1]), trace.meta.interval
    # A slider counts its steps from its first value; decisions lie on them to a rounding error.
    end = first + math.ceil(round((last - first) / step, 6)) * step

    def go(to: float) -> None:
        state[at] = min(max(first + round((to - first) / step) * step, first), end)

    if at not in state:
        go(first)
    elif on:
        go(state[at] + PLAY_S)
        if state[at] >= end:
            state[playing] = False
    # Else nothing is set: that would undo what a person does with the slider in the meantime.
    _controls(trace, at, playing, (first, end, step), go)
    if bool(state[playing]) != on:
        st.rerun()  # as a fragment that refreshes itself, or does not
    index = trace.at(float(state[at]))
    tick = trace[index]
    _facts(trace, tick)
    _views(trace, index, key)
    if "semantics" in trace.kinds or "truth" in trace.kinds:
        with st.expander("What the colours of the classes mean"):
            st.html(_colours())
    st.caption("Click into a plot to go to that moment.")
    chart = f"chart-{key}"
    st.plotly_chart(
        plots.over_time(trace, tick.time),
        key=chart,
        on_select=lambda: _clicked(state.get(chart), go),
        selection_mode="points",
        config={"displayModeBar": False, "scrollZoom": False},
        alt=_alt(trace, tick),
    )


def _controls(
    trace: Trace,
    at: str,
    playing: str,
    span: tuple[float, float, float],
    go: Callable[[float], None],
) -> None:
    first, end, step = span
    state = st.session_state
    st.slider(
        "Moment, seconds since the start", first, end, step=step, format="%.1f", key=at,
        help="With the keyboard: arrow keys move by one decision.",
    )  # fmt: skip
    with st.container(horizontal=True):
        for name, to in (
            ("Start", first),
            ("1 s back", state[at] - 1.0),
            ("1 s on", state[at] + 1.0),
            ("End", end),
        ):
            st.button(name, key=f"{name}-{at}", on_click=go, args=(to,))
        st.toggle("Play", key=playing)
    found = trace.infractions
    if not found:
        st.caption("No infraction in this drive.")
        return
    st.caption("Infractions; press one to go there:")
    with st.container(horizontal=True):
        for number, one in enumerate(found):
            st.button(
                escaped(plots.summary(one)),
                key=f"infraction-{number}-{at}",
                on_click=go,
                args=(one.time,),
            )


def _facts(trace: Trace, tick: Tick) -> None:
    """The moment in words: a line that a screen reader can read, too."""
    said = [
        f"**{tick.time:.1f} s**",
        f"{KMH * tick.speed:.0f} km/h of {KMH * tick.limit:.0f} allowed"
        if math.isfinite(tick.limit)
        else f"{KMH * tick.speed:.0f} km/h",
        f"{tick.completion:.0f} % of {trace.meta.length:.0f} m",
        f"next: {tick.command.name.replace('_', ' ').lower()}",
        f"throttle {tick.throttle:.2f}, brake {tick.brake:.2f}, steering {tick.steer:+.2f}",
    ]
    if math.isfinite(tick.red_light):
        said.append(f"red light {tick.red_light:.0%}")
    if math.isfinite(tick.stop_sign):
        said.append(f"stop sign {tick.stop_sign:.0%}")
    if tick.hazards:
        said.append(f"waits for {', '.join(tick.hazards)}")
    if tick.interventions:
        said.append(f"**overruled: {', '.join(tick.interventions)}**")
    st.markdown("  ·  ".join(said))
    if tick.parts:
        blended = "; ".join(
            f"{name}: throttle {throttle:.2f}, steering {steer:+.2f}, brake {brake:.2f}"
            for name, (throttle, steer, brake) in tick.parts.items()
        )
        st.caption(f"Decided from  {escaped(blended)}")


def _views(trace: Trace, index: int, key: str) -> None:
    cameras = [ALL, *(camera.name for camera in trace.meta.rig.cameras)]
    chosen = st.segmented_control(
        "Cameras", cameras, default=ALL, required=True, key=f"cameras-{key}",
        help="One camera fills the width.",
    )  # fmt: skip
    view = None if chosen in (None, ALL) else cameras.index(chosen) - 1
    left, right = st.columns([3, 2])
    with left:
        for kind, (title, alt) in STRIPS.items():
            picture = strip(trace, index, kind, view)
            if picture is not None:
                st.image(picture, caption=title, alt=f"{alt}, {chosen}", width="stretch")
    with right:
        st.image(
            draw_above(trace, index),
            caption="From above: the roads, the route, the points the driver aims for, "
            "who is near, and infractions so far",
            alt=f"Bird's-eye view at {trace[index].time:.1f} seconds",
            width="stretch",
        )
        own = own_map(trace, index)
        if own is not None:
            st.image(
                own,
                caption="The driver's own map: what it takes the pixels for, laid on the ground by "
                "their depth",
                alt="The driver's semantic depth cloud",
                width="stretch",
            )


def _colours() -> str:
    """A patch and a name for each semantic class, as HTML."""
    chips = []
    for tag in Tag:
        red, green, blue = PALETTE[tag].tolist()
        patch = f"background:rgb({red},{green},{blue});border:1px solid #8a949b"
        chips.append(
            '<span style="display:inline-block;white-space:nowrap;margin:0 1em 0.3em 0">'
            f'<span style="display:inline-block;width:1em;height:1em;vertical-align:-0.1em;{patch}">'
            f"</span> {tag.name.replace('_', ' ').lower()}</span> "
        )
    return "".join(chips)


def _clicked(event: Any, go: Callable[[float], None]) -> None:
    points = (event or {}).get("selection", {}).get("points", [])
    if points and isinstance(points[0].get("x"), int | float):
        go(float(points[0]["x"]))


def _alt(trace: Trace, tick: Tick) -> str:
    return (
        f"Speed, steering and pedals over {trace[-1].time:.0f} seconds with {len(trace.infractions)} "
        f"infractions; the line is at {tick.time:.1f} seconds"
    )
