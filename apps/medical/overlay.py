"""One picture per case: the image, the segmentation on it, and what a reader must know to read it.

A volume is shown in the three planes through the largest cross-section of the segmentation, with
millimetres to scale and letters for the directions: R right, L left, A anterior, P posterior,
S superior, I inferior of the patient. Radiological convention: the patient's right is on the left
of the picture. On an oblique grid the planes are the grid's own and the letters the nearest
directions. A picture without a physical grid is shown as it is, with contours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nibabel import orientations

from apps.medical.data.volume import Volume
from apps.medical.shipped import DISCLAIMER
from core.errors import UsageError
from core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every common colour vision.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2", "#999999")
INCHES = 11.0
DPI = 110


@dataclass(frozen=True)
class Plane:
    """One cut: image (rows, columns) or RGB, labels, millimetres per row and column, letters."""

    title: str
    image: np.ndarray
    labels: np.ndarray
    edges: tuple[float, float]  # height of a row, width of a column
    letters: tuple[str, str, str, str] | None  # left, right, top, bottom


def save_overlay(
    path: Path,
    image: Volume,
    labels: np.ndarray,
    legend: Mapping[int, str],
    *,
    title: str = "",
    instances: bool = False,
    force: bool = False,
) -> None:
    """Write the picture of ``labels`` (*S) on ``image`` as PNG, atomically.

    ``legend`` gives the text of each label id, for instance "anterior, 1.53 mL"; with ``instances``
    the ids number objects and its one text, under id 0, describes them all.
    """
    figure = draw_labels(image, labels, legend, title=title, instances=instances)
    with atomic_path(path, force=force) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor=figure.get_facecolor())


def draw_labels(
    image: Volume,
    labels: np.ndarray | None = None,
    legend: Mapping[int, str] | None = None,
    *,
    title: str = "",
    instances: bool = False,
    window: tuple[float, float] | None = None,
) -> Figure:
    """The picture of ``labels`` (*S) on ``image``, or of the image alone, to show or to save.

    ``legend``, ``instances`` as ``save_overlay`` has them, ``window`` as ``planes``. Raises UsageError
    where the labels have another shape.
    """
    marked = np.zeros(image.shape, np.uint8) if labels is None else np.asarray(labels)
    if marked.shape != image.shape:
        raise UsageError(
            f"labels of shape {marked.shape} do not fit {image.path.name} of shape {image.shape}; "
            "are they of this image?"
        )
    cuts = planes(image, marked, window)
    return draw(cuts, legend or {}, title=title, unit=_unit(image), instances=instances)


def planes(
    image: Volume,
    labels: np.ndarray,
    window: tuple[float, float] | None = None,
    *,
    through: np.ndarray | None = None,
) -> list[Plane]:
    """The cuts to show: axial, coronal, sagittal of a volume; the one plane of anything flat.

    ``window`` is what becomes black and white; by default the image's own range decides. The slices
    are those with most labels of ``through`` (*S), so that several maps can be cut alike; by default
    of ``labels`` themselves.
    """
    array = image.channel_first
    if not image.physical:
        flat = labels.reshape(array.shape[1:])
        shown = _grey_or_colour(array) if window is None else _stretched(array[0], window)
        return [Plane("", shown, flat, (1.0, 1.0), None)]
    turned = Turned.of(image, labels, window)
    chosen = turned if through is None else Turned.of(image, through, turned.window)
    shape = turned.labels.shape
    cuts = []
    for axis in (2, 1, 0):
        across, up = (a for a in range(3) if a != axis)
        if min(shape[across], shape[up]) == 1 and max(shape) > 1:
            continue  # seen from the side a single slice is a line
        cuts.append(turned.cut(axis, largest_section(chosen.labels, axis)))
    return cuts


@dataclass(frozen=True)
class Turned:
    """A volume and its labels with axes to the patient's right, anterior, superior: views of both."""

    values: np.ndarray
    labels: np.ndarray
    edges: tuple[float, ...]
    window: tuple[float, float]

    @classmethod
    def of(
        cls, image: Volume, labels: np.ndarray, window: tuple[float, float] | None = None
    ) -> Turned:
        """The first channel of ``image``, which may be a slice in space, and its labels (*S)."""
        volume, spacing = image.channel_first[0], list(image.spacing)
        if volume.ndim == 2:
            volume, spacing = volume[..., None], [*spacing, 1.0]
        axes = orientations.io_orientation(image.affine)
        labels = np.asarray(labels).reshape(volume.shape)
        edges = tuple(spacing[axis] for axis in np.argsort(axes[:, 0]))
        volume = orientations.apply_orientation(volume, axes)
        turned = orientations.apply_orientation(labels, axes)
        return cls(volume, turned, edges, window or grey_window(volume))

    def cut(self, axis: int, index: int) -> Plane:
        """The plane across ``axis``: 0 sagittal, 1 coronal, 2 axial."""
        across, up = (a for a in range(3) if a != axis)
        # Rows run from superior (or anterior) down; columns from the patient's right, or anterior.
        turn = (slice(None, None, -1), slice(None, None, -1))
        letters = ("A", "P", "S", "I") if axis == 0 else ("R", "L", *("SI" if axis == 1 else "AP"))
        title = ("sagittal", "coronal", "axial")[axis]
        return Plane(
            f"{title}, slice {index + 1} of {self.labels.shape[axis]}",
            _stretched(np.take(self.values, index, axis), self.window)[turn].T,
            np.take(self.labels, index, axis)[turn].T,
            (self.edges[up], self.edges[across]),
            letters,
        )


def draw(
    cuts: Sequence[Plane],
    legend: Mapping[int, str],
    *,
    title: str = "",
    unit: str = "mm",
    instances: bool = False,
) -> Figure:
    """The figure of some planes, all to one scale where the page allows it."""
    # Not pyplot: it keeps every figure alive and is not safe in the threads of a web application.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    widths = [cut.labels.shape[1] * cut.edges[1] for cut in cuts]
    heights = [cut.labels.shape[0] * cut.edges[0] for cut in cuts]
    scale = INCHES * 0.92 / sum(widths)
    height = float(np.clip(max(heights) * scale, 2.0, 9.0))
    page = height + 1.75
    figure = Figure(figsize=(INCHES, page), facecolor="black")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        1, len(cuts), width_ratios=widths, left=0.03, right=0.97, wspace=0.08,
        bottom=1.15 / page, top=1 - 0.6 / page,
    )  # fmt: skip
    for i, cut in enumerate(cuts):
        draw_plane(figure.add_subplot(grid[0, i]), cut, round_bar(min(widths)), unit, instances)
    figure.text(0.03, 1 - 0.22 / page, title, color="white", fontsize=11, va="center")
    _draw_legend(figure, legend, page, instances)
    note = "Radiological convention: the patient's right is on the left of the picture. "
    figure.text(
        0.03, 0.18 / page, (note if cuts[0].letters else "") + DISCLAIMER,
        color="#bbbbbb", fontsize=8, va="center",
    )  # fmt: skip
    return figure


def draw_plane(
    ax: Axes,
    cut: Plane,
    bar: float,
    unit: str,
    instances: bool = False,
    wash: float = 0.28,
    small: bool = False,
) -> None:
    """One plane with its outlines, letters and a bar of ``bar`` units, into ``ax``.

    ``wash`` is the opacity of the labels' colour; ``small`` is for thumbnails.
    """
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2.5, foreground="black")]  # legible on bright tissue, too
    rows, columns = cut.labels.shape
    height, width = rows * cut.edges[0], columns * cut.edges[1]
    box = (0, width, height, 0)
    ax.imshow(cut.image, cmap="gray", vmin=0, vmax=1, extent=box, interpolation="bilinear")
    ax.imshow(_painted(cut.labels, instances, wash), extent=box, interpolation="nearest")
    if not instances:
        x = (np.arange(-1, columns + 1) + 0.5) * cut.edges[1]
        y = (np.arange(-1, rows + 1) + 0.5) * cut.edges[0]
        for label in np.unique(cut.labels[cut.labels > 0]):
            # A rim of nothing around the plane closes the contours that reach its border.
            mask = np.pad(cut.labels == label, 1).astype(float)
            colour = colour_of(int(label))
            ax.contour(x, y, mask, [0.5], colors=[colour], linewidths=0.8 if small else 1.2)
    ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.set_title(cut.title, color="white", fontsize=9)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if cut.letters:
        spots = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
        sides = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
        for letter, (u, v), (ha, va) in zip(cut.letters, spots, sides):
            ax.text(
                u, v, letter, transform=ax.transAxes, ha=ha, va=va,
                color="#ffe066", fontsize=6 if small else 11, fontweight="bold",
                path_effects=outline,
            )  # fmt: skip
    if small:
        return
    x, y = width * 0.05, height * 0.93
    ax.plot([x, x + bar], [y, y], color="white", linewidth=2, path_effects=outline)
    ax.text(
        x, y - height * 0.02, f"{bar:g} {unit}",
        color="white", fontsize=8, va="bottom", path_effects=outline,
    )  # fmt: skip


def _draw_legend(figure: Figure, legend: Mapping[int, str], page: float, instances: bool) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color="none" if instances else colour_of(label), label=text)
        for label, text in legend.items()
    ]
    if handles:
        figure.legend(
            handles=handles, loc="center left", bbox_to_anchor=(0.02, 0.68 / page),
            ncols=min(len(handles), 5), frameon=False, labelcolor="white", fontsize=9,
            handlelength=0.0 if instances else 1.4,
        )  # fmt: skip


def colour_of(label: int) -> str:
    """The colour of a label id, the same in every picture."""
    return COLOURS[(label - 1) % len(COLOURS)]


def _painted(labels: np.ndarray, instances: bool, wash: float = 0.28) -> np.ndarray:
    """RGBA: labels as a light wash, or the outlines of numbered objects."""
    from matplotlib.colors import to_rgba

    paint = np.zeros((*labels.shape, 4))
    if instances:
        from skimage.segmentation import find_boundaries

        shown, opacity = np.where(find_boundaries(labels, mode="inner"), labels, 0), 1.0
    else:
        shown, opacity = labels, wash
    table = np.array([to_rgba(colour, opacity) for colour in COLOURS])
    painted = shown > 0
    paint[painted] = table[(shown[painted].astype(int) - 1) % len(COLOURS)]
    return paint


def largest_section(labels: np.ndarray, axis: int) -> int:
    """The slice with most labelled voxels; the middle one where nothing is labelled."""
    area = (labels > 0).sum(axis=tuple(a for a in range(3) if a != axis))
    return int(area.argmax()) if area.any() else labels.shape[axis] // 2


def slice_axis(edges: Sequence[float]) -> int:
    """The axis that slices were acquired along: that of the longest voxel edge, else the last."""
    return int(np.argmax(edges)) if max(edges) > 1.2 * min(edges) else len(edges) - 1


def _stretched(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    return (np.clip(np.nan_to_num(values), low, high) - low) / max(high - low, 1e-12)


def thinned(values: np.ndarray) -> np.ndarray:
    """A view (*S) of at most a few million values, evenly spread: enough for percentiles."""
    step = max(1, round((values.size / 4e6) ** (1 / values.ndim)))
    return values[(slice(None, None, step),) * values.ndim]


def grey_window(values: np.ndarray) -> tuple[float, float]:
    """Grey window: the 1st to the 99.5th percentile of what is finite and not empty."""
    values = thinned(values)
    finite = values[np.isfinite(values)]
    shown = finite[finite != 0]
    if shown.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(shown[:: max(1, shown.size // 200_000)], (1, 99.5))
    return float(low), float(high)


def _grey_or_colour(array: np.ndarray) -> np.ndarray:
    """(C, H, W) of any type -> (H, W) or RGB (H, W, 3) in 0..1."""
    values = np.nan_to_num(np.asarray(array, np.float32))
    high = 255.0 if array.dtype == np.uint8 else max(float(values.max(initial=0)), 1e-12)
    shown = np.clip(values / high, 0, 1)
    return np.moveaxis(shown[:3], 0, -1) if len(shown) >= 3 else shown[0]


def round_bar(width: float) -> float:
    """A round length of about a quarter of the width."""
    target = width / 4
    unit = 10 ** np.floor(np.log10(target))
    return float(max(step * unit for step in (1, 2, 5) if step * unit <= target))


def _unit(image: Volume) -> str:
    return "mm" if image.physical else "px"
