"""What a drive that is under way looks like now."""

from __future__ import annotations

from contextlib import suppress

import streamlit as st

from apps.driving.evaluation.above import draw_above
from apps.driving.evaluation.trace import Trace
from core.errors import DataError
from demos.drives.choice import Choice
from demos.drives.pictures import strip
from demos.drives.running import trace_folder
from demos.shared import jobs

EVERY_S = 1.5
KMH = 3.6


@st.fragment(run_every=EVERY_S)
def live(choice: Choice, job: jobs.Job) -> None:
    """The newest picture of a drive that is being driven, every now and then."""
    if job.ended:
        return
    # the drive may end, or be begun anew, between any two of these lines
    with suppress(DataError, OSError):
        trace = _trace(choice)
        if trace is None or not len(trace):
            st.caption("The town is being built and the car put on the road ...")
            return
        tick = trace[-1]
        st.markdown(
            f"**{tick.time:.1f} s**, {KMH * tick.speed:.0f} km/h, "
            f"{tick.completion:.0f} % of {trace.meta.length:.0f} m"
        )
        left, right = st.columns([3, 1])
        picture = strip(trace, -1, "rgb")
        if picture is not None:
            left.image(picture, alt="What the cameras see now", width="stretch")
        right.image(
            draw_above(trace, len(trace) - 1), alt="The car from above now", width="stretch"
        )


def _trace(choice: Choice) -> Trace | None:
    """Read on where the last look ended."""
    folder = trace_folder(choice)
    if folder is None or not Trace.begun(folder):
        return None
    known: tuple[str, Trace] | None = st.session_state.get("drives-live")
    if known is not None and known[0] == str(folder):
        with suppress(DataError):  # begun anew: open it again
            known[1].refresh()
            return known[1]
    trace = Trace(folder)
    st.session_state["drives-live"] = (str(folder), trace)
    return trace
