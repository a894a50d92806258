"""Numbers of results: volumes and confidence, agreement with the reference and with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from apps.medical.data.volume import Volume
from apps.medical.evaluate import compare
from apps.medical.metrics import overlap
from apps.medical.tables import volume_rows
from core.errors import DataError
from demos.segmenting.shown import Shown
from demos.shared.words import escaped, sentence

# Below this confidence (mean probability of the voxels that got the label) a person should look.
LOW_CONFIDENCE = 0.75
SCORES = {"dice": "Dice", "hd95": "HD95", "nsd": "surface Dice"}
OBJECT_SCORES = {"dice": "Dice", "ap_50": "AP at IoU 0.5", "f1_50": "F1 at IoU 0.5", "pq": "PQ"}


def volumes(now: Shown, reference: Volume | None) -> None:
    """The table of a result, what to mind of it, and the reference's verdict."""
    _confidence(now)
    rows = volume_rows(now.stats)
    if not now.outcome.instances and now.unit == "mL" and not rows:
        st.info("This model has no structures to measure.")
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        column_config=_columns(rows),
        alt=f"Size, intensity and confidence of each structure in {now.title}",
    )
    if not now.edits.idle:
        st.caption("Sizes as corrected. Confidence is left out: it was of what the model marked.")
    elif any("confidence" in row for row in rows):
        st.caption(
            "Confidence: mean probability of the voxels that got the label. Expected Dice: the "
            "overlap with a perfect contour that these probabilities promise; at least and the range "
            "hold in 90 % of cases like the held-out ones."
        )
    if reference is None:
        return
    st.markdown("**Against the reference**")
    try:
        st.dataframe(
            pd.DataFrame(_agreement(now.key, now, reference)),
            hide_index=True,
            column_config=_columns([]),
            alt=f"Dice, HD95 and surface Dice of each structure in {now.title}",
        )
    except DataError as error:
        st.warning(escaped(sentence(error)))
        return
    unit = "mm" if reference.physical else "px"
    meant = (
        f"HD95 in {unit}, the larger of both directed 95th percentiles; surface Dice at 1 {unit}."
    )
    if now.outcome.instances:
        meant = (
            "Dice of all pixels together; AP, F1 and PQ of objects that overlap by more than half."
        )
    st.caption(f"{meant} One case says little about a model: its report shows the held-out cases.")


def compared(chosen: Sequence[Shown], reference: Volume | None) -> None:
    """Results side by side: sizes, agreement with the first, and with the reference."""
    first, rows = chosen[0], []
    for now in chosen:
        for entry in volume_rows(now.stats):
            row: dict[str, Any] = {"result": now.title, "structure": entry["structure"]}
            row |= {k: v for k, v in entry.items() if k in (now.unit, "count", "confidence")}
            row["Dice with the first"] = None if now is first else _overlap(first, now, entry)
            if reference is not None:
                row |= _against(now, reference, str(entry["structure"]))
            rows.append(row)
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        column_config=_columns(rows),
        alt="Sizes of each structure in every result, and how well the results agree",
    )
    if first.outcome.instances:
        st.caption("Dice of objects: of all their pixels together.")


def _confidence(now: Shown) -> None:
    """Warn of what the model was not sure of."""
    if not now.edits.idle:
        return
    unsure = [
        f"{name} ({entry['confidence']:.2f})"
        for name, entry in now.stats.get("labels", {}).items()
        if entry.get("confidence") is not None and entry["confidence"] < LOW_CONFIDENCE
    ]
    if unsure:
        st.warning(f"Low confidence: {', '.join(unsure)}. Check these contours with care.")


def _against(now: Shown, reference: Volume, structure: str) -> dict[str, Any]:
    try:
        rows = _agreement(now.key, now, reference)
    except DataError:
        return {}
    return next(({k: v for k, v in row.items() if k != "structure"}
                 for row in rows if row["structure"] == structure), {})  # fmt: skip


@st.cache_data(max_entries=32, show_spinner="Measuring against the reference ...")
def _measured(key: str, path: str, _now: Shown, _reference: Volume) -> list[dict[str, Any]]:
    instances = _now.outcome.instances
    found = compare(_now.labels, _reference, _now.outcome.names, instances=instances)
    scores = OBJECT_SCORES if instances else SCORES
    return [
        {"structure": name} | {title: row.get(metric) for metric, title in scores.items()}
        for name, row in found.items()
    ]


def _agreement(key: str, now: Shown, reference: Volume) -> list[dict[str, Any]]:
    # An upload lies under its content's hash, so that its path tells it from any other.
    return _measured(key, str(reference.path), now, reference)


def _overlap(first: Shown, now: Shown, entry: dict[str, Any]) -> float | None:
    """Dice of one structure in two results, matched by name; None where one lacks it."""
    if first.outcome.instances or now.outcome.instances:
        if not (first.outcome.instances and now.outcome.instances):
            return None
        return _number(overlap(first.labels > 0, now.labels > 0)[0])
    ids = {name: label for label, name in first.outcome.names.items()}
    other = ids.get(str(entry["structure"]))
    if other is None:
        return None
    return _number(overlap(first.labels == other, now.labels == entry["label"])[0])


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many digits each column shows."""
    number = st.column_config.NumberColumn
    columns = {
        title: number(format="%.3f") for title in (*SCORES.values(), *OBJECT_SCORES.values())
    }
    columns["HD95"] = number(format="%.2f")
    columns["Dice with the first"] = number(format="%.3f")
    for title in (key for row in rows for key in row):
        if title in ("confidence", "expected Dice", "Dice at least"):
            columns[title] = number(format="%.2f")
        elif title.startswith("mL"):
            largest = max((row.get(title) or 0 for row in rows), default=0)
            columns[title] = number(format="%.1f" if largest >= 100 else "%.3f")
        elif title.startswith(("mm2", "mean", "median")):
            columns[title] = number(format="%.4g")
    return columns
