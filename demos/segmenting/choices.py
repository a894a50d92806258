"""Which models segment the image, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import streamlit as st

from apps.medical.data.volume import Volume
from apps.medical.store import ModelSpec, read_spec
from demos.segmenting import header
from demos.segmenting.images import Image
from demos.segmenting.runs import (
    IN_SERIES,
    MOST_PROBABILITIES,
    PATIENTS,
    STANDARD,
    WAYS,
    Run,
    models,
)
from demos.shared.words import guarded


def choose(image: Image, volume: Volume) -> list[Run]:
    """Ask for models and options; the runs to do, empty where no model can take the image."""
    known: dict[str, ModelSpec] = dict(models())
    fitting = [name for name, spec in known.items() if header.takes(spec, volume)]
    chosen = st.multiselect(
        "Models", list(known), default=fitting[:1], key=f"models-{image.key}",
        format_func=lambda name: _described(name, known),
        help="With several, their results can be compared.",
    )  # fmt: skip
    with st.expander("Options and models of your own"):
        way = st.radio(
            "How thoroughly", list(WAYS), key="way", captions=list(WAYS.values()), horizontal=True
        )
        repair = st.toggle(
            "Replace voxels that are not numbers", key="repair",
            help="NaN and infinite voxels become the lowest or highest value, with a warning.",
        )  # fmt: skip
        patient = IN_SERIES
        if image.series or getattr(volume.store, "series", None) is not None:
            patient = st.radio(
                "The patient in DICOM files and the report", list(PATIENTS), key="patient",
                captions=list(PATIENTS.values()),
            )  # fmt: skip
        own = st.text_input(
            "Folder of a model you trained", key="own model", placeholder="runs/medical/mine",
            help="A folder that `train` wrote, on the machine where this page runs.",
        )  # fmt: skip
    if own.strip():
        with guarded("This model"):
            known[own.strip()] = read_spec(own.strip())
            chosen = [*chosen, own.strip()]
    if not chosen:
        if not fitting:
            st.info("No model that comes with the program takes such images; give one you trained.")
        return []
    run = Run(model="", way=way or STANDARD, repair=repair, patient=patient or IN_SERIES)
    able = [name for name in chosen if header.check(image, name, known[name], volume, repair)]
    return [
        replace(run, model=name, probabilities=_keeps_probabilities(known[name], volume))
        for name in able
    ]


def _described(name: str, known: Mapping[str, ModelSpec]) -> str:
    spec = known[name]
    if spec.plan.target == "instances":
        what = "objects"
    else:
        what = ", ".join(text for label, text in sorted(spec.labels.items()) if label)
    return f"{name}: {what} in {', '.join(dict.fromkeys(spec.plan.channels))} ({spec.plan.rank}-D)"


def _keeps_probabilities(spec: ModelSpec, volume: Volume) -> bool:
    """For the threshold, where they are of a moderate size; objects are no matter of a threshold."""
    count = len(spec.plan.label_ids) * int(volume.array.size)
    return spec.plan.target != "instances" and count <= MOST_PROBABILITIES
