"""From a plane to a JPEG: grey or colour, uncertainty, structures, outlines, in this order.

Drawn at the size it is seen in rather than the file's, so that outlines stay lines however few voxels
there are. The image is interpolated, labels are not: a step of an outline is a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

from apps.medical.overlay import COLOURS
from demos.viewer.scene import Cut

LONGEST = 1024  # pixels of a picture's longer side at most
QUALITY = 90
LINE = 2  # pixels
REFERENCE = (255, 255, 255)


@dataclass(frozen=True)
class Style:
    """How layers are drawn. ``fill`` and ``heat`` are opacities; ``hidden`` holds label ids."""

    labels: bool = True
    fill: float = 0.35
    reference: bool = True
    uncertainty: bool = False
    heat: float = 0.8
    hidden: frozenset[int] = frozenset()
    instances: bool = False


def size_of(cut: Cut, scale: float) -> tuple[int, int]:
    """(width, height) in pixels at ``scale`` pixels a millimetre, never above LONGEST."""
    rows, columns = cut.plane.labels.shape
    height, width = rows * cut.plane.edges[0] * scale, columns * cut.plane.edges[1] * scale
    shrink = min(1.0, LONGEST / max(height, width))
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def paint(cut: Cut, style: Style, scale: float) -> np.ndarray:
    """RGB (height, width, 3), uint8."""
    size = size_of(cut, scale)
    canvas = _base(cut.plane.image, size)
    if style.uncertainty and cut.uncertainty is not None:
        doubt = _enlarged(cut.uncertainty.astype(np.float32), size)
        colours, opacity = heat_colours()
        level = np.clip(np.nan_to_num(doubt) * 255, 0, 255).astype(np.uint8)
        canvas = _mixed(canvas, colours[level], opacity[level] * style.heat)
    if style.labels:
        labels = _enlarged(_without(cut.plane.labels, style), size)
        if not style.instances:
            canvas = _mixed(canvas, _palette()[labels], (labels > 0) * style.fill)
        canvas = _mixed(canvas, _palette()[labels], _rim(labels) * 1.0)
    if style.reference and cut.reference is not None:
        rim = _rim(_enlarged(_without(cut.reference, style), size))
        canvas = _mixed(canvas, np.array(REFERENCE, np.float32), rim * 1.0)
    return np.rint(canvas).astype(np.uint8)


def jpeg(picture: np.ndarray) -> bytes:
    """``picture`` (height, width, 3) as JPEG with its colours at full resolution."""
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return stream.getvalue()


def _base(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    whole = Image.fromarray(np.ascontiguousarray(np.rint(image * 255).astype(np.uint8)))
    drawn = np.asarray(whole.resize(size, Image.Resampling.BILINEAR), np.float32)
    return drawn if drawn.ndim == 3 else np.repeat(drawn[..., None], 3, axis=2)


def _enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``values`` (rows, columns) at ``size`` by the nearest voxel, in any type."""
    width, height = size
    rows, columns = values.shape
    r = (np.arange(height) * rows // height).clip(max=rows - 1)
    c = (np.arange(width) * columns // width).clip(max=columns - 1)
    return values[r[:, None], c]


def _without(labels: np.ndarray, style: Style) -> np.ndarray:
    hidden = [label for label in style.hidden if not style.instances]
    return np.where(np.isin(labels, hidden), 0, labels) if hidden else labels


def _rim(labels: np.ndarray) -> np.ndarray:
    """The inner border of every label, LINE pixels wide, the edge of the picture excepted."""
    rim = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for step in range(1, LINE + 1):
            a = labels[step:] if axis == 0 else labels[:, step:]
            b = labels[:-step] if axis == 0 else labels[:, :-step]
            differ = a != b
            if axis == 0:
                rim[step:] |= differ
                rim[:-step] |= differ
            else:
                rim[:, step:] |= differ
                rim[:, :-step] |= differ
    return rim & (labels > 0)


def _mixed(canvas: np.ndarray, colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """``colour`` over ``canvas``; opacity (height, width) in 0..1."""
    share = opacity[..., None].astype(np.float32)
    return canvas + share * (colour - canvas)


class _Palette:
    """Colours by label id; as in every other picture, they repeat."""

    def __init__(self) -> None:
        whole = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS]
        self.table = np.array(whole, np.float32)

    def __getitem__(self, labels: np.ndarray) -> np.ndarray:
        return self.table[(labels.astype(np.int64) - 1) % len(self.table)]


@cache
def _palette() -> _Palette:
    return _Palette()


@cache
def heat_colours() -> tuple[np.ndarray, np.ndarray]:
    """Colour (256, 3) and opacity (256,) of an uncertainty, as in the reports."""
    from matplotlib import colormaps

    from apps.medical.report.figures import HEAT

    doubt = np.linspace(0, 1, 256)
    colours = np.asarray(colormaps[HEAT](0.15 + 0.85 * doubt))[:, :3] * 255
    return colours.astype(np.float32), np.clip(doubt * 3, 0, 0.95).astype(np.float32)
