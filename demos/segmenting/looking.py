"""Looking at a result: the viewer, and the planes before and after."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import streamlit as st

from apps.medical.data.volume import Volume
from apps.medical.results import legend
from demos import viewer
from demos.segmenting.shown import Shown
from demos.shared.keys import key_of
from demos.viewer import Layers


def alone(volume: Volume, reference: Volume | None, names: Mapping[int, str], key: str) -> None:
    """The viewer of an image that has not been segmented; ``names`` are those of the models chosen."""
    known = {label: name for label, name in names.items() if label}
    if reference is None or not set(np.unique(reference.array).tolist()) - {0} <= set(known):
        known = {}  # nothing to name, other structures, or numbered objects
    layers = Layers(reference=_labels(reference), names=known)
    viewer.show(volume, layers, f"{key}-alone")


def layers(now: Shown, reference: Volume | None) -> Layers:
    """A result as the viewer takes it."""
    return Layers(
        labels=now.labels,
        names={label: name for label, name in now.outcome.names.items() if label},
        reference=_labels(reference),
        uncertainty=now.outcome.uncertainty,
        instances=now.outcome.instances,
    )


def view(volume: Volume, now: Shown, reference: Volume | None) -> None:
    """The viewer of a result."""
    if not now.edits.idle:
        st.caption("Shown as you corrected it. The uncertainty is the model's.")
    viewer.show(volume, layers(now, reference), now.outcome.key)


def before_and_after(
    volume: Volume, now: Shown, reference: Volume | None, others: Mapping[str, Shown]
) -> None:
    """The planes through the largest sections: image, result, what else there is, uncertainty."""
    rows: dict[str, np.ndarray] = {}
    if not now.edits.idle:
        rows["before correction"] = now.outcome.labels
    rows |= {title: other.labels for title, other in others.items()}
    if reference is not None:
        rows["reference"] = reference.array
    place = None if reference is None else str(reference.path)  # under its content's hash
    key = key_of(now.key, list(rows), [other.key for other in others.values()], place)
    png, caption = _planes(key, volume, now, rows)
    st.image(png, caption=caption, alt=caption, width="stretch")


def _labels(reference: Volume | None) -> np.ndarray | None:
    return None if reference is None else reference.array


@st.cache_data(max_entries=16, show_spinner="Drawing the planes ...")
def _planes(
    key: str, _volume: Volume, _now: Shown, _rows: Mapping[str, np.ndarray]
) -> tuple[bytes, str]:
    from apps.medical.report.figures import plane_pictures

    picture = plane_pictures(
        _volume,
        _now.labels,
        legend(_now.stats),
        _now.outcome.uncertainty,
        others=_rows,
        instances=_now.outcome.instances,
        tallest=2.4 * (len(_rows) + 3) + 0.6,  # a page scrolls
    )
    return picture.png, picture.caption
