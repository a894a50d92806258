"""The three planes as one component of the page: JPEGs from the server, clicks and keys back."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from apps.medical.overlay import round_bar
from demos.viewer.paint import LONGEST, Style, jpeg, paint
from demos.viewer.scene import FLAT, NAMES, Cut, Position, Scene

HERE = Path(__file__).parent
ACROSS = 1400  # pixels for all planes side by side: sharp on a page of 1280 px
TALLEST = 620  # CSS pixels of a plane
TALLEST_ALONE = 820

_planes = st.components.v2.component(
    "triptych_planes",
    html='<div class="planes" role="group" aria-label="Planes of the image"></div>',
    css=(HERE / "planes.css").read_text(encoding="utf-8"),
    js=(HERE / "planes.js").read_text(encoding="utf-8"),
)


def draw(
    scene: Scene,
    cuts: Sequence[Cut],
    position: Position,
    style: Style,
    *,
    seq: int,
    key: str,
    on_moved: Callable[[], None],
) -> None:
    """Put the planes on the page; ``on_moved`` is called after ``session_state[key].moved`` is set
    to {"at": position, "seq": n}."""
    data = described(scene, cuts, position, style, seq) | {"id": key}
    _planes(key=key, data=data, on_moved_change=on_moved)


def described(
    scene: Scene, cuts: Sequence[Cut], position: Position, style: Style, seq: int
) -> dict[str, Any]:
    """What planes.js takes: pictures, geometry, words."""
    alone = len(cuts) == 1
    widths = [cut.plane.labels.shape[1] * cut.plane.edges[1] for cut in cuts]
    heights = [cut.plane.labels.shape[0] * cut.plane.edges[0] for cut in cuts]
    scale = ACROSS / sum(widths)
    # A fine grid keeps its own resolution, so that a magnified page shows more and not only larger.
    finest = max(max(1 / edge for edge in cut.plane.edges) for cut in cuts)
    scale = max(scale, min(finest, LONGEST / max(widths + heights)))
    unit = "px" if scene.flat else "mm"
    bar = round_bar(min(widths))
    tallest = TALLEST_ALONE if alone else TALLEST
    planes = [
        {
            "axis": cut.axis,
            "name": NAMES[cut.axis].lower(),
            "title": cut.plane.title.capitalize(),
            "alt": alt(scene, cut, position, style),
            "jpeg": base64.b64encode(jpeg(paint(cut, style, scale))).decode("ascii"),
            "across": cut.across,
            "up": cut.up,
            "mirrored": list(cut.mirrored),
            "first": list(cut.first),
            "count": list(cut.plane.labels.shape[::-1]),
            "letters": list(cut.letters) if cut.letters else None,
            # Widths in proportion to millimetres: one scale for all planes.
            "wide": width / height,
            "share": width / sum(widths),
            "stacked": width / max(widths),
            "tallest": tallest * height / max(heights),
            "bar": {"share": bar / width, "text": f"{bar:g} {unit}"},
        }
        for cut, width, height in zip(cuts, widths, heights)
    ]
    return {"planes": planes, "size": list(scene.size), "at": list(position), "seq": seq}


def alt(scene: Scene, cut: Cut, position: Position, style: Style) -> str:
    """What a plane shows, for whoever cannot see it, and which keys it answers to."""
    at = scene.describe(position)
    words = [cut.plane.title.capitalize() if cut.axis != FLAT else f"Picture, {cut.plane.title}"]
    if style.labels and at.name is not None:
        words.append(f"{at.name} under the crosshair")
    if cut.axis == FLAT:
        return "; ".join(words) + ". Arrow keys move the crosshair."
    return "; ".join(words) + ". Arrow keys move the crosshair, Page Up and Page Down the slice."
