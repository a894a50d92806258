"""What the cameras saw at one moment of a traced drive, and what of it the driver aimed for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from apps.driving.evaluation.trace import Tick, Trace

STRIPS = {
    "rgb": (
        "Cameras, with the points the driver aims for (green, half a second apart)",
        "Camera pictures",
    ),
    "depth": ("Depth: near is bright, 1 to 100 m", "Depth pictures"),
    "semantics": ("What the driver takes the pixels for", "Semantic classes as the driver sees"),
    "truth": ("What the pixels are, by the simulator", "True semantic classes"),
}
"""Kinds of pictures: caption and alternative text."""

CELL_PX = 4
AIM, EDGE = (40, 220, 120), (10, 40, 20)


def strip(trace: Trace, index: int, kind: str, view: int | None = None) -> np.ndarray | None:
    """(h, w, 3) uint8: the cameras side by side, or one of them; None where there is no picture.

    A picture may be a few decisions older than ``index``; the points aimed for are its own moment's.
    """
    found = trace.image(index, kind)
    if found is None:
        return None
    rig = trace.meta.rig
    width = found.shape[1] // len(rig.cameras)
    if kind == "rgb":
        found = _with_aims(found, trace, taken(trace, index), width)
    return found if view is None else found[:, view * width : (view + 1) * width]


def own_map(trace: Trace, index: int) -> np.ndarray | None:
    """(h, w, 3) uint8: the driver's own view from above, its cells large enough to be seen."""
    found = trace.image(index, "birdseye")
    return None if found is None else found.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)


def taken(trace: Trace, index: int) -> Tick:
    """The decision at which the picture was taken that is the last one at ``index``."""
    for tick in reversed(trace.ticks[: range(len(trace))[index] + 1]):
        if tick.pictures is not None:
            return tick
    return trace[index]


def _with_aims(picture: np.ndarray, trace: Trace, tick: Tick, width: int) -> np.ndarray:
    """Discs where the waypoints lie on the road, in every camera that sees them."""
    if not len(tick.waypoints):
        return picture
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    points = np.pad(tick.waypoints, ((0, 0), (0, 1)))
    for view, camera in enumerate(trace.meta.rig.cameras):
        pixels, depth = camera.project(points)
        pixels = pixels * (width / camera.width)
        for (u, v), far in zip(pixels, depth):
            if far > 0.5 and 0 <= u < width and 0 <= v < image.height:
                x, size = view * width + u, float(np.clip(40 / far, 2, 6))
                pen.ellipse((x - size, v - size, x + size, v + size), fill=AIM, outline=EDGE)
    return np.asarray(image)
