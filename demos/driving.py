"""Driving: choose a town, a route and drivers, watch them drive, replay every moment, compare."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from demos.drives import results, running  # noqa: E402
from demos.drives.choice import Choice  # noqa: E402
from demos.drives.live import live  # noqa: E402
from demos.drives.setup import setup  # noqa: E402
from demos.shared import jobs  # noqa: E402
from demos.shared.words import escaped, guarded  # noqa: E402

KEPT = 12  # drives that a session lists


def main() -> None:
    """The page."""
    st.title("Driving")
    st.write(
        "Drivers steer a car through a town with traffic, in a simulated world that runs on this "
        "machine. Choose and press **Drive**; a first drive takes about a minute. Then look at "
        "each moment: what the cameras saw, where the driver meant to go, what it did wrong."
    )
    lacking = running.missing()
    if lacking:
        st.warning(lacking)
    choices, place = setup()
    drives: list[Choice] = st.session_state.setdefault("drives", [])
    if place.button("Drive", type="primary", disabled=bool(lacking) or not choices):
        for choice in choices:
            _start(choice)
        kept = [choice for choice in drives if choice not in choices]
        drives[:] = [*choices, *kept][:KEPT]
        st.session_state["drives-wanted"] = choices[0].key
    if not choices and not lacking:
        place.caption("Choose a town, a route and at least one driver.")
    if drives:
        _drives(drives)


def _start(choice: Choice) -> None:
    """Drive it, again if it failed or was cancelled before."""
    job = jobs.find(choice.key)
    if job is not None and job.state in ("failed", "cancelled"):
        jobs.forget(choice.key)
    running.start(choice)


def _drives(drives: list[Choice]) -> None:
    """Those under way, then the one that is looked at, then all in comparison."""
    finished: list[tuple[Choice, Path]] = []
    stopped: set[str] = st.session_state.setdefault("drives-stopped", set())
    for choice in drives:
        job = jobs.find(choice.key)
        if job is None and choice.key in stopped:  # forgotten so that it is tried again
            job = running.start(choice)
        stopped.discard(choice.key)
        if job is not None and job.state == "done":
            finished.append((choice, job.result))
            continue
        if job is None:
            st.info(
                f"{escaped(choice.label)}: was removed to make room. Press Drive to drive it again."
            )
            continue
        st.markdown(f"**{escaped(choice.label)}**")
        if job.state in ("failed", "cancelled"):  # its button forgets it
            stopped.add(choice.key)
        jobs.watch(job)
        if job.state == "running":
            live(choice, job)
    if not finished:
        return
    st.header("Replay")
    by_key = {choice.key: (choice, out) for choice, out in finished}
    if st.session_state.get("drives-wanted") in by_key:
        st.session_state["drives-shown"] = st.session_state.pop("drives-wanted")
    elif st.session_state.get("drives-shown") not in by_key:
        st.session_state["drives-shown"] = finished[0][0].key
    shown = st.selectbox(
        "Drive", list(by_key), format_func=lambda key: by_key[key][0].label, key="drives-shown"
    )
    with guarded("Showing the drive"):
        results.show(*by_key[str(shown)])
    if len(finished) > 1:
        st.header("Comparison")
        with guarded("The comparison"):
            results.compare(finished)


main()
