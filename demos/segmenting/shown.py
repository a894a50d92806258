"""What the page shows of a run now: the segmentation as the model made it, or as a person corrected it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from apps.medical import edit
from apps.medical.data.volume import Volume
from apps.medical.edit import Edits
from apps.medical.results import statistics
from demos.segmenting.runs import Outcome, probabilities
from demos.shared.keys import key_of


@dataclass(frozen=True, eq=False)
class Shown:
    """A run's labels (*S) and statistics after ``edits``, and the run itself."""

    outcome: Outcome
    edits: Edits
    labels: np.ndarray
    stats: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Of the run and the edits."""
        return key_of(self.outcome.key, self.edits.model_dump(mode="json"))

    @property
    def title(self) -> str:
        return self.outcome.run.title + ("" if self.edits.idle else ", corrected")

    @property
    def unit(self) -> str:
        return str(self.stats["unit"])

    @property
    def voxel(self) -> float:
        """Size of a voxel in ``unit``."""
        return float(self.stats["voxel_size"])


def edits_of(key: str) -> Edits:
    """The corrections of a run in this session."""
    found = st.session_state.get(f"edits/{key}", Edits())
    assert isinstance(found, Edits)
    return found


def keep_edits(key: str, edits: Edits) -> None:
    """Make these the corrections of a run."""
    st.session_state[f"edits/{key}"] = edits


def shown(outcome: Outcome, volume: Volume) -> Shown:
    """A run with this session's corrections. Raises UsageError for edits that cannot be done."""
    edits = edits_of(outcome.key)
    if edits.idle:
        return Shown(outcome, edits, outcome.labels, outcome.stats)
    text = edits.model_dump_json()
    labels, stats = _edited(outcome.key, text, outcome, volume)
    return Shown(outcome, edits, labels, stats)


@st.cache_resource(max_entries=6, show_spinner="Correcting ...")
def _edited(
    key: str, text: str, _outcome: Outcome, _volume: Volume
) -> tuple[np.ndarray, Mapping[str, Any]]:
    edits = Edits.model_validate_json(text)
    known = probabilities(key, _outcome.folder) if edits.threshold is not None else None
    labels = edit.apply(
        _outcome.labels,
        edits,
        float(_outcome.stats["voxel_size"]),
        instances=_outcome.instances,
        probabilities=known,
        ids=sorted(_outcome.names),
    )
    labels.flags.writeable = False
    stats = statistics(
        labels,
        _volume,
        _outcome.names,
        images=[_volume],
        instances=_outcome.instances,
        case=_outcome.result.case,
    )
    return labels, stats
