"""Segment a medical image: choose it, check it, run models on it, look, measure, correct, export.

    streamlit run demos/medical.py

Everything is done by ``apps.medical``; results are kept under a hash of image and options.
"""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from apps.medical.data.volume import Volume  # noqa: E402
from apps.medical.store import read_spec  # noqa: E402
from demos.segmenting import (  # noqa: E402
    choices,
    correcting,
    exporting,
    header,
    images,
    looking,
    measuring,
    runs,
)
from demos.segmenting.images import Image  # noqa: E402
from demos.segmenting.runs import Outcome, Run  # noqa: E402
from demos.segmenting.shown import Shown, shown  # noqa: E402
from demos.shared import jobs  # noqa: E402
from demos.shared.keys import key_of  # noqa: E402
from demos.shared.words import DISCLAIMER, escaped, guarded  # noqa: E402

VIEWS = ("View", "Before and after", "Volumes", "Compare", "Correct", "Export")


def main() -> None:
    """Draw the page."""
    st.title("Segment a medical image")
    st.warning(f"**{DISCLAIMER}**")
    image = images.choose()
    if image is None:
        return
    with guarded("Reading the image"):
        volume = images.read(image.key, image)
        reference = _reference(image)
        with st.container(border=True):
            header.draw(image, volume)
        _work(image, volume, reference)


def _reference(image: Image) -> Volume | None:
    if image.reference is None:
        return None
    with guarded("Reading the reference"):
        return images.reference_of(key_of(image.key, image.reference), image)
    return None


def _work(image: Image, volume: Volume, reference: Volume | None) -> None:
    """Models, the button, and what came of it."""
    wanted = choices.choose(image, volume)
    done: list[Run] = st.session_state.setdefault(f"runs/{image.key}", [])
    if st.button("Segment", type="primary", disabled=not wanted):
        for run in wanted:
            runs.again(image, run)
            if run not in done:
                done.append(run)
            st.session_state["asked for"] = run.title
    outcomes = [one for run in done if (one := _outcome(image, run)) is not None]
    if outcomes:
        _results(volume, reference, [shown(one, volume) for one in outcomes])
    elif not done:
        st.subheader("The image")
        looking.alone(volume, reference, _names(wanted), image.key)


def _names(wanted: list[Run]) -> dict[int, str]:
    """What the models chosen call their labels, as far as they agree on it."""
    found: dict[int, str] = {}
    for run in wanted:
        for label, name in read_spec(run.model).labels.items():
            if found.setdefault(label, name) != name:
                return {}
    return found


def _outcome(image: Image, run: Run) -> Outcome | None:
    """What came of a run, or its bars meanwhile."""
    job = runs.submit(image, run)
    return runs.outcome(job, run) if jobs.watch(job) else None


def _results(volume: Volume, reference: Volume | None, found: list[Shown]) -> None:
    st.subheader("The result")
    now = found[-1]
    if len(found) > 1:
        titles = [one.outcome.run.title for one in found]
        if st.session_state.get("asked for") in titles:  # what was asked for last comes first
            st.session_state["result"] = st.session_state.pop("asked for")
        if st.session_state.get("result") not in titles:
            st.session_state["result"] = titles[-1]
        now = found[titles.index(str(st.radio("Result", titles, horizontal=True, key="result")))]
    outcome = now.outcome
    st.caption(
        f"{outcome.run.title}, {outcome.seconds:.1f} s. Automatic; a person has to check it."
    )
    for text in outcome.warnings:
        st.warning(escaped(text))
    view = st.segmented_control("Show", VIEWS, default=VIEWS[0], required=True, key="view")
    if view == "View":
        looking.view(volume, now, reference)
    elif view == "Before and after":
        looking.before_and_after(volume, now, reference, {})
    elif view == "Volumes":
        measuring.volumes(now, reference)
    elif view == "Compare":
        _compare(volume, reference, now, found)
    elif view == "Correct":
        correcting.draw(volume, now, reference)
    else:
        exporting.draw(now)


def _compare(volume: Volume, reference: Volume | None, now: Shown, found: list[Shown]) -> None:
    others = {one.title: one for one in found if one is not now}
    if not others:
        st.info(
            "Segment with another model, or in another way under the options, and its result is "
            "shown beside this one."
        )
    measuring.compared([now, *others.values()], reference)
    looking.before_and_after(volume, now, reference, others)


main()
