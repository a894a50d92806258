"""The report's pictures as PNG: planes with and without the result, a row of slices, reliability.

Radiological convention and true proportions throughout, as in ``apps.medical.overlay``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.data.volume import Volume
from apps.medical.overlay import Plane, Turned, colour_of, draw_plane, planes, round_bar, slice_axis
from apps.medical.uncertainty import Bin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.1  # inches: the text width of an A4 page
DPI = 150
TALLEST = 6.5  # inches: what stays of a page for a picture with a heading and a caption
SLICES, ROW = 12, 1.4  # thumbnails, and the tallest of them in inches
HEAT = "inferno"


@dataclass(frozen=True)
class Picture:
    """A PNG, what it shows in words, and its size in inches on paper."""

    name: str
    png: bytes
    caption: str
    width: float
    height: float


def plane_pictures(
    image: Volume,
    labels: np.ndarray,
    legend: Mapping[int, str],
    uncertainty: np.ndarray | None = None,
    *,
    others: Mapping[str, np.ndarray] | None = None,
    instances: bool = False,
    tallest: float = TALLEST,
    marked: str = "segmentation",
) -> Picture:
    """Each plane three times: the image alone, with the segmentation, with the uncertainty.

    ``others`` are more label maps (*S) to show between the last two, by what to call them;
    ``tallest`` is the height in inches that the picture may have, ``marked`` what the labels are.
    """
    cuts = planes(image, labels)
    rows: list[tuple[str, list[Plane]]] = [
        ("image", [replace(cut, labels=np.zeros_like(cut.labels)) for cut in cuts]),
        (marked, cuts),
    ]
    for name, other in (others or {}).items():
        rows.append((name, planes(image, other, through=labels)))
    doubt: list[np.ndarray] = []
    if uncertainty is not None:
        shape = image.shape if image.physical else uncertainty.shape
        carrier = replace(image, array=uncertainty.reshape(shape))
        doubt = [cut.image for cut in planes(carrier, labels, (0.0, 1.0))]
        rows.append(("uncertainty", cuts))

    single = len(cuts) == 1
    names = [name for name, _ in rows]
    top, bottom, left = 0.28, 0.32, 0.08 if single else 0.3
    gap = 0.24 if single else 0.08  # of a flat image each picture has its own title
    side = 0.66 if doubt else 0.0

    def fit(grid: list[list[Plane]]) -> float:
        """Inches per mm at which these rows fit the page."""
        wide = sum(p.labels.shape[1] * p.edges[1] for p in grid[0])
        tall = max(p.labels.shape[0] * p.edges[0] for p in grid[0])
        room = WIDTH - left - 0.1 - gap * (len(grid[0]) - 1) - side
        high = tallest - top - bottom - gap * (len(grid) - 1)
        return min(room / wide, high / len(grid) / tall)

    grid = [row for _, row in rows]
    if single:
        flat = [plane for row in grid for plane in row]
        grid = max(
            ([flat[i : i + n] for i in range(0, len(flat), n)] for n in range(1, len(flat) + 1)),
            key=fit,
        )
    widths = [p.labels.shape[1] * p.edges[1] for p in grid[0]]
    tall = max(p.labels.shape[0] * p.edges[0] for p in grid[0])
    scale, room = fit(grid), WIDTH - left - 0.1 - gap * (len(widths) - 1) - side
    height = top + bottom + len(grid) * tall * scale + gap * (len(grid) - 1)
    figure = _figure(WIDTH, height)
    unit = "mm" if image.physical else "px"
    spare = (room - sum(widths) * scale) / 2
    for i, row in enumerate(grid):
        x = left + spare
        for j, cut in enumerate(row):
            name = names[i * len(grid[0]) + j] if single else names[i]
            w, h = widths[j] * scale, cut.labels.shape[0] * cut.edges[0] * scale
            y = height - top - (i + 1) * tall * scale - i * gap + (tall * scale - h) / 2
            axes = figure.add_axes((x / WIDTH, y / height, w / WIDTH, h / height))
            shown = cut if name != "uncertainty" else replace(cut, labels=np.zeros_like(cut.labels))
            draw_plane(axes, shown, round_bar(min(widths)), unit, instances)
            if name == "uncertainty":
                _heat(axes, cut, doubt[0 if single else j])
            axes.set_title(
                name if single else cut.title if i == 0 else "", color="white", fontsize=8
            )
            x += w + gap
        if not single:
            middle = height - top - (i + 0.5) * tall * scale - i * gap
            figure.text(
                0.12 / WIDTH, middle / height, names[i],
                color="white", fontsize=8, rotation=90, ha="center", va="center",
            )  # fmt: skip
    if doubt:
        _scale(figure, height, tall * scale, bottom)
    _legend(figure, legend, height, instances)
    also = "".join(f", {name}" for name in others or {})
    what = " and its entropy (bright: the model is undecided)" if doubt else ""
    return Picture(
        "planes",
        _png(figure),
        f"The image, the {marked}{also}{what}, in the planes through its largest sections. "
        + ("Radiological convention: the patient's right is on the left." if _sided(cuts) else ""),
        WIDTH,
        height,
    )


def slice_pictures(image: Volume, labels: np.ndarray, *, instances: bool = False) -> Picture | None:
    """Up to twelve slices through the segmentation, as acquired; None for a flat image.

    The slices lie along the axis of the longest voxel edge, the usual slice axis, else axial.
    """
    if not image.physical or image.rank != 3 or min(image.shape) < 2:
        return None
    turned = Turned.of(image, labels)
    edges = turned.edges
    axis = slice_axis(edges)
    others = tuple(a for a in range(3) if a != axis)
    used = np.flatnonzero((turned.labels > 0).any(axis=others))
    if used.size == 0:
        return None
    first, last = int(used[0]), int(used[-1])
    picks = np.unique(np.linspace(first, last, min(SLICES, last - first + 1)).round().astype(int))
    cuts = [replace(turned.cut(axis, n), title=str(n + 1)) for n in picks.tolist()]
    columns = 6 if len(cuts) > 8 else min(len(cuts), 4)
    rows = -(-len(cuts) // columns)
    wide = cuts[0].labels.shape[1] * cuts[0].edges[1]
    tall = cuts[0].labels.shape[0] * cuts[0].edges[0]
    gap, title, margin = 0.05, 0.22, 0.08
    scale = min(
        (WIDTH - 2 * margin - gap * (columns - 1)) / columns / wide,
        ROW / tall,
        (TALLEST - 2 * margin) / rows / tall - (title + gap) / tall,
    )
    height = 2 * margin + rows * (tall * scale + title) + gap * (rows - 1)
    figure = _figure(WIDTH, height)
    spare = (WIDTH - 2 * margin - columns * wide * scale - gap * (columns - 1)) / 2
    for n, cut in enumerate(cuts):
        i, j = divmod(n, columns)
        x = margin + spare + j * (wide * scale + gap)
        y = height - margin - (i + 1) * (tall * scale + title) - i * gap
        place = (x / WIDTH, y / height, wide * scale / WIDTH, tall * scale / height)
        ax = figure.add_axes(place)
        draw_plane(ax, cut, round_bar(wide), "mm", instances, wash=0.0, small=True)
        ax.set_title(cut.title, color="white", fontsize=6.5, pad=2)
    which = "every slice" if len(cuts) == last - first + 1 else f"{len(cuts)} slices evenly spaced"
    plane = ("sagittal", "coronal", "axial")[axis]
    return Picture(
        "slices",
        _png(figure),
        f"Outlines in {which} through the segmentation, {plane}, numbered as in the planes above.",
        WIDTH,
        height,
    )


def row_picture(name: str, cuts: Sequence[Plane], caption: str) -> Picture:
    """Planes side by side at one scale, each under its title: the same place in several series."""
    top, side, gap = 0.28, 0.08, 0.08
    wide = sum(cut.labels.shape[1] * cut.edges[1] for cut in cuts)
    tall = max(cut.labels.shape[0] * cut.edges[0] for cut in cuts)
    room = WIDTH - 2 * side - gap * (len(cuts) - 1)
    scale = min(room / wide, (TALLEST - top - side) / tall)
    height = top + tall * scale + side
    figure = _figure(WIDTH, height)
    x = side + (room - wide * scale) / 2
    for cut in cuts:
        w, h = (
            cut.labels.shape[1] * cut.edges[1] * scale,
            cut.labels.shape[0] * cut.edges[0] * scale,
        )
        axes = figure.add_axes((x / WIDTH, side / height, w / WIDTH, h / height))
        draw_plane(axes, cut, round_bar(w / scale), "mm", wash=0.0)
        x += w + gap
    return Picture(name, _png(figure), caption, WIDTH, height)


def reliability_picture(bins: Sequence[Bin]) -> Picture:
    """How often the model was right on held-out cases, against how sure it was."""
    from matplotlib.ticker import PercentFormatter

    size = 2.6
    figure = _figure(size, size, "white")
    ax = figure.add_axes((0.2, 0.17, 0.75, 0.77))
    ax.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle="--")
    shown = [b for b in bins if b.share > 0]
    x, y = [b.confidence for b in shown], [b.accuracy for b in shown]
    ax.plot(x, y, color="#0072B2", linewidth=1.2)
    ax.scatter(x, y, s=[6 + 60 * b.share for b in shown], color="#0072B2", zorder=3)
    low = min([0.9, *x, *y])
    ax.set(xlim=(max(0, low - 0.05), 1.02), ylim=(max(0, low - 0.05), 1.02))
    ax.set_xlabel("confidence of the model", fontsize=7)
    ax.set_ylabel("share that is right", fontsize=7)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.tick_params(labelsize=6.5)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return Picture(
        "reliability",
        _png(figure),
        "Held-out voxels by the confidence of the model; on the dashed line it is right as often "
        "as it says. Larger dots hold more voxels.",
        size,
        size,
    )


def _heat(axes: Any, cut: Plane, doubt: np.ndarray) -> None:
    """Entropy over the grey image, transparent where there is none."""
    from matplotlib import colormaps

    paint = colormaps[HEAT](0.15 + 0.85 * doubt)
    paint[..., 3] = np.clip(doubt * 3, 0, 0.95)
    rows, columns = cut.labels.shape
    width, height = columns * cut.edges[1], rows * cut.edges[0]
    axes.imshow(paint, extent=(0, width, height, 0), interpolation="nearest")


def _scale(figure: Figure, height: float, tall: float, bottom: float) -> None:
    """The colour scale beside the row of uncertainty, which is the last."""
    from matplotlib import colormaps

    size = min(tall, 1.6)
    place = ((WIDTH - 0.62) / WIDTH, (bottom + (tall - size) / 2) / height, 0.1 / WIDTH)
    axes = figure.add_axes((*place, size / height))
    ramp = np.linspace(0, 1, 64)[:, None]
    paint = colormaps[HEAT](0.15 + 0.85 * ramp)
    paint[..., :3] *= np.clip(ramp * 3, 0, 0.95)[..., None]  # on black, as over dark tissue
    axes.imshow(paint, aspect="auto", origin="lower", extent=(0, 1, 0, 1))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([0, 0.5, 1])
    axes.set_yticklabels(["0 certain", "0.5", "1 open"])
    axes.tick_params(colors="white", labelsize=6, length=2, pad=1.5)


def _legend(figure: Figure, legend: Mapping[int, str], height: float, instances: bool) -> None:
    from matplotlib.patches import Patch

    if instances or not legend:
        return
    handles = [Patch(color=colour_of(label), label=text) for label, text in legend.items()]
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.03, 0.03 / height),
        ncols=min(len(handles), 5), frameon=False, labelcolor="white", fontsize=7.5,
        handlelength=1.2, borderpad=0.1,
    )  # fmt: skip


def _figure(width: float, height: float, colour: str = "black") -> Figure:
    # Not pyplot: it keeps every figure alive and is not safe in the threads of a web application.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=colour, dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    stream = BytesIO()
    # No "Software" entry: the same case gives the same bytes with every build of matplotlib.
    figure.savefig(
        stream, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None}
    )
    return stream.getvalue()


def _sided(cuts: Sequence[Plane]) -> bool:
    return any(cut.letters and "R" in cut.letters for cut in cuts)
