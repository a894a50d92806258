"""Filling polygons in an array of cells, many at once: scan conversion by rows.

A cell belongs to a polygon when its centre lies inside, left edge included and right edge not, so
polygons that share an edge leave neither a gap nor a doubly painted cell between them. (Pillow's
``ImageDraw.polygon`` truncates vertices to whole pixels: a 0.125 m marking on 0.1 m cells would
change its width along the road.) After "Computer Graphics: Principles and Practice" (Foley, van
Dam, Feiner, Hughes; 2nd edition, section 3.6), for convex polygons only: one span a row.
"""

from __future__ import annotations

import numpy as np

CHUNK = 1 << 19
"""Cells painted at once: bounds what the index arrays take to about 15 MB."""
BATCH = 1 << 12
"""Polygons taken at once: Town04's 27,000 would take 80 MB of spans."""


def spans(polygons: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """The rows of cells that convex polygons cover.

    polygons: (n, k, 2) float, (x, y) in cells from the corner of cell [0, 0], of either turn; a
    polygon of fewer corners repeats one. Returns int64 arrays ``(polygon, row, start, stop)``, one
    entry for each non-empty span ``[row, start:stop]``, in the order of the polygons.
    """
    height, width = shape
    points = np.asarray(polygons, np.float64)
    none = np.empty(0, np.int64)
    if not len(points):
        return none, none, none, none
    first = np.clip(np.ceil(points[..., 1].min(1) - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(points[..., 1].max(1) - 0.5), 0, height).astype(np.int64)
    count = np.maximum(last - first, 0)
    polygon = np.repeat(np.arange(len(points)), count)
    row = ramp(count) + first[polygon]
    y = row + 0.5
    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for corner in range(points.shape[1]):
        a, b = points[:, corner - 1], points[:, corner]
        rise = b[:, 1] - a[:, 1]
        slope = (b[:, 0] - a[:, 0]) / np.where(rise == 0, 1.0, rise)
        low, high = np.minimum(a[:, 1], b[:, 1])[polygon], np.maximum(a[:, 1], b[:, 1])[polygon]
        x = a[polygon, 0] + (y - a[polygon, 1]) * slope[polygon]
        crosses = (low <= y) & (y < high)
        left = np.where(crosses, np.minimum(left, x), left)
        right = np.where(crosses, np.maximum(right, x), right)
    met = left <= right
    start = np.clip(np.ceil(np.where(met, left, 0) - 0.5), 0, width).astype(np.int64)
    stop = np.clip(np.ceil(np.where(met, right, 0) - 0.5), 0, width).astype(np.int64)
    keep = stop > start
    return polygon[keep], row[keep], start[keep], stop[keep]


def fill(cells: np.ndarray, polygons: np.ndarray, values: np.ndarray | int, keep: int = 0) -> None:
    """Set the cells (H, W) inside each convex polygon (n, k, 2) to its value, later ones on top.

    ``keep``: bits of the cells that stay as they are."""
    flat = cells.reshape(-1)
    if not np.shares_memory(flat, cells):
        raise ValueError("cells must be contiguous: a copy would be painted")
    paint = np.broadcast_to(np.asarray(values, cells.dtype), (len(polygons),))
    shape = (cells.shape[0], cells.shape[1])
    for first in range(0, len(polygons), BATCH):
        polygon, row, start, stop = spans(polygons[first : first + BATCH], shape)
        length, begin = stop - start, row * shape[1] + start
        colour = paint[first : first + BATCH][polygon]
        ends, low = np.cumsum(length), 0
        while low < len(length):
            done = ends[low - 1] if low else 0
            high = max(low + 1, int(np.searchsorted(ends, done + CHUNK)))
            part = slice(low, high)
            at = np.repeat(begin[part], length[part]) + ramp(length[part])
            new = np.repeat(colour[part], length[part])
            flat[at] = (flat[at] & np.asarray(keep, cells.dtype)) | new if keep else new
            low = high


def ramp(count: np.ndarray) -> np.ndarray:
    """0, 1, .. count[0] - 1, 0, 1, .. count[1] - 1, and so on: (sum of count) int64."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - count, count)
