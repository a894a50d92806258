"""What the image is, and whether the chosen models know such images, before anything is segmented."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from math import ceil, prod

import numpy as np
import streamlit as st

from apps.medical.data.volume import Volume
from apps.medical.intake import fit, image_facts
from apps.medical.store import ModelSpec
from core.errors import DataError
from demos.segmenting.images import Image
from demos.shared.words import escaped, sentence

# Larger images are brought onto a model's grid once only, when they are segmented.
MOST_CHECKED = 2**25
MANY_WINDOWS = 60


def facts(image: Image, volume: Volume) -> list[tuple[str, str]]:
    """Name and text of what a person compares with what the file should be."""
    array = volume.array
    pairs = [("File", image.title)]
    series = getattr(volume.store, "series", None)
    if series is not None and series.title:
        pairs.append(("Series", series.title[:60]))
    pairs += image_facts([volume])
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if finite.size:
        pairs.append(("Values", f"{finite.min():g} to {finite.max():g}, {array.dtype}"))
    if finite.size < array.size:
        pairs.append(("Not numbers", f"{array.size - finite.size} voxels are NaN or infinite"))
    return pairs


def draw(image: Image, volume: Volume) -> None:
    """The header panel: facts, and what the reader of the file had to decide."""
    st.html(definitions(facts(image, volume)))
    for note in volume.notes.values():
        st.info(escaped(f"{note[:1].upper()}{note[1:]}."))


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Pairs as a definition list that fits any width."""
    rows = "".join(
        f'<div><dt style="font-size:.8rem;opacity:.75;margin:0;padding:0">{escape(name)}</dt>'
        '<dd style="margin:0;padding:0;font-weight:600;overflow-wrap:anywhere">'
        f"{escape(text)}</dd></div>"
        for name, text in pairs
    )
    columns = "repeat(auto-fill,minmax(9rem,1fr))"
    return (
        f'<dl style="display:grid;grid-template-columns:{columns};gap:.7rem 1.2rem;margin:0;'
        f'padding:0">{rows}</dl>'
    )


def takes(spec: ModelSpec, volume: Volume) -> bool:
    """Whether a model's input is of this kind at all: rank, and colours or channels."""
    thin = volume.rank == 3 and 1 in volume.shape
    rank = 2 if volume.rank == 2 or (thin and spec.plan.rank == 2) else 3
    if rank != spec.plan.rank or volume.physical != (spec.plan.spacing is not None):
        return False
    grey = not volume.physical and volume.channels == 1 and len(spec.plan.channels) == 3
    return grey or volume.channels == len(spec.plan.channels)


def check(image: Image, name: str, spec: ModelSpec, volume: Volume, repair: bool) -> bool:
    """Tell what to mind of ``volume`` for this model; False where the model cannot take it."""
    if volume.array.size > MOST_CHECKED:
        st.caption(
            f"{name}: this image is large; it is compared with the training as it is segmented."
        )
        return True
    key = f"{image.key}/{spec.name}/{spec.plan.fingerprint}/{repair}"
    refusal, unlike, windows = _checked(key, volume, spec, repair)
    if refusal:
        st.error(escaped(f"{name}: {refusal}"))
    elif unlike:
        lines = "\n".join(f"- {escaped(text)}" for text in unlike)
        st.warning(f"**{escaped(name)}** was not trained on such images:\n{lines}")
    else:
        st.caption(
            f"{escaped(name)}: nothing in this image is unlike those that it was trained on, as far "
            "as can be told beforehand."
        )
    if windows > MANY_WINDOWS:
        st.info(
            f"{escaped(name)} looks at this image through about {windows} windows: on a processor "
            "that takes minutes. The bar says how long, and you can cancel."
        )
    return not refusal


@st.cache_data(max_entries=64, show_spinner="Comparing the image with the model's training ...")
def _checked(
    key: str, _volume: Volume, _spec: ModelSpec, _repair: bool
) -> tuple[str, list[str], int]:
    """Why the model cannot take the image, how it is unlike the training's, how many windows it is."""
    seen = _spec.calibration.seen if _spec.calibration is not None else None
    try:
        found = fit([_volume], _spec.plan, seen, repair=_repair)
    except DataError as error:
        return sentence(error), [], 0
    # Windows that overlap by half, as ``sliding`` lays them; its own function would import torch.
    counts = [
        1 + max(0, ceil((size - side) / max(1, side // 2)))
        for size, side in zip(found.prepared.shape, _spec.plan.patch)
    ]
    return "", found.unlike, prod(counts)
