"""Correcting a result by hand: remove what is under the crosshair, clean up, threshold, undo."""

from __future__ import annotations

from collections import Counter

import streamlit as st

from apps.medical.data.volume import Volume
from apps.medical.edit import Clean, Component, Edits, component_at, components
from apps.medical.postprocess import Steps
from demos import viewer
from demos.segmenting import looking
from demos.segmenting.runs import probabilities
from demos.segmenting.shown import Shown, keep_edits
from demos.shared.words import guarded
from demos.viewer import Crosshair

SHORT = {"pixels": "px", "mm2": "mm²"}


def draw(volume: Volume, now: Shown, reference: Volume | None) -> None:
    """The viewer with its correction button, the tools beside it, and what was done so far."""
    _done(now)

    def under(at: Crosshair) -> None:
        name = at.name if at.label else "nothing"
        if st.button(
            f"Remove the part under the crosshair ({name})",
            disabled=not at.label,
            key=f"remove-{now.outcome.key}",
        ):
            with guarded("The correction"):
                step = component_at(now.labels, at.voxel, instances=now.outcome.instances)
                keep_edits(now.outcome.key, now.edits.then(step))
                st.rerun(scope="app")

    viewer.show(volume, looking.layers(now, reference), now.outcome.key, under)
    left, middle, right = st.columns(3, gap="medium")
    with left:
        _parts(now)
    with middle:
        _clean(now)
    with right:
        _threshold(now)


def _done(now: Shown) -> None:
    """What was done, with a way back."""
    key, edits = now.outcome.key, now.edits
    if edits.idle:
        st.caption(
            "Nothing is corrected yet. The model's own result stays as it is: every correction can "
            "be undone, and what is exported says that a person took part."
        )
        return
    for line in edits.words(now.outcome.names, SHORT.get(now.unit, now.unit)):
        st.markdown(f"- {line[:1].upper()}{line[1:]}")
    undo, over, _ = st.columns([1, 1, 3])
    if undo.button("Undo the last", disabled=not edits.steps, key=f"undo-{key}"):
        keep_edits(key, edits.undone())
        st.rerun()
    if over.button("Start over", key=f"over-{key}"):
        keep_edits(key, Edits())
        st.session_state.pop(f"own threshold-{key}", None)
        st.rerun()


def _parts(now: Shown) -> None:
    """Every component, to remove some by choice."""
    st.markdown("**Parts**")
    found = _components(now.key, now)
    if not found:
        st.caption("Nothing is segmented.")
        return
    names = _named(found, now)
    chosen = st.multiselect("Parts to remove", list(names), key=f"parts-{now.key}")
    if st.button("Remove these", disabled=not chosen, key=f"drop-{now.key}"):
        edits = now.edits
        for name in chosen:
            step = component_at(now.labels, names[name].at, instances=now.outcome.instances)
            edits = edits.then(step)
        keep_edits(now.outcome.key, edits)
        st.rerun()


@st.cache_data(max_entries=8, show_spinner="Looking for parts ...")
def _components(key: str, _now: Shown) -> list[Component]:
    return components(_now.labels, _now.voxel, instances=_now.outcome.instances)


def _named(found: list[Component], now: Shown) -> dict[str, Component]:
    """The components by what to call them: ``posterior, part 2 of 2: 0.012 mL``."""
    unit = SHORT.get(now.unit, now.unit)
    many = Counter(part.label for part in found)
    count: Counter[int] = Counter()
    names = {}
    for part in found:
        count[part.label] += 1
        if now.outcome.instances:
            name = f"object {part.label}"
        else:
            name = now.outcome.names.get(part.label, f"label {part.label}")
            name += f", part {count[part.label]} of {many[part.label]}"
        names[f"{name}: {part.size:.3g} {unit}"] = part
    return names


def _clean(now: Shown) -> None:
    """Rules for one structure or all."""
    st.markdown("**Clean up**")
    unit = SHORT.get(now.unit, now.unit)
    with st.form(f"clean-{now.outcome.key}", border=False):
        label, largest, holes = None, False, False
        if not now.outcome.instances:
            options = [None, *(label for label in now.outcome.names if label)]
            label = st.selectbox(
                "Structure", options,
                format_func=lambda one: "every structure" if one is None else now.outcome.names[one],
            )  # fmt: skip
            largest = st.checkbox("Keep only the largest part")
            holes = st.checkbox("Fill holes")
        step = now.voxel if now.voxel >= 1 else now.voxel * 10
        least = st.number_input(
            f"Remove parts smaller than ({unit})", min_value=0.0, step=float(step), format="%.4g"
        )
        if not st.form_submit_button("Clean"):
            return
    steps = Steps(keep_largest=largest, fill_holes=holes, min_size=least)
    if steps.idle:
        st.info("Choose what to clean first.")
        return
    keep_edits(now.outcome.key, now.edits.then(Clean(label=label, steps=steps)))
    st.rerun()


def _threshold(now: Shown) -> None:
    """Another threshold than the model's own choice of the likeliest class."""
    key = now.outcome.key
    st.markdown("**Threshold**")
    if now.outcome.instances:
        st.caption("Objects are separated from the probabilities; a threshold does not apply.")
        return
    if probabilities(key, now.outcome.folder) is None:
        st.caption("The probabilities of an image this large are not kept.")
        return
    own = st.toggle(
        "Choose the threshold yourself",
        value=now.edits.threshold is not None,
        key=f"own threshold-{key}",
        help="Without it a voxel gets the likeliest class, background included.",
    )
    wanted = None
    if own:
        wanted = st.slider(
            "Least probability of a structure", 0.05, 0.95,
            value=now.edits.threshold or 0.5, step=0.05, key=f"threshold-{key}",
        )  # fmt: skip
        st.caption("Higher takes away what the model was unsure of, lower adds it.")
    if wanted != now.edits.threshold:
        keep_edits(key, Edits(threshold=wanted, steps=now.edits.steps))
        st.rerun()
