"""The outlines of what is painted on roads: bars, zebras, rows of teeth, arrows; in metres.

Each function returns convex polygons (n, 4, 2) in the order in which they are painted; a triangle
repeats its last corner. Sizes follow the German road-marking guideline RMS: zebra bars 0.5 m wide
with gaps of 0.5 m, teeth 0.5 m wide and 0.6 m high, arrows 5 m long.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np


def bars(start: np.ndarray, stop: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Rectangles (n, 4, 2) around the segments from ``start`` to ``stop`` (n, 2), ``width`` wide."""
    along = stop - start
    along = along / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
    side = np.stack([-along[:, 1], along[:, 0]], 1) * (np.asarray(width) / 2).reshape(-1, 1)
    return np.stack([start - side, stop - side, stop + side, start + side], axis=1)


def zebra(outline: np.ndarray, bar: float = 0.5, gap: float = 0.5) -> np.ndarray:
    """Bars (n, 4, 2) across a crosswalk's outline (k, 2), side by side along its longer axis."""
    outline = np.asarray(outline, np.float64)
    corners, axes, low, high = _frame(outline)
    count = max(1, int((high[0] - low[0] + gap) // (bar + gap)))
    first = (low[0] + high[0]) / 2 - (count * (bar + gap) - gap) / 2
    u0 = first + np.arange(count) * (bar + gap)
    ends = []
    for u in (u0, u0 + bar):
        below, above = _crossings(corners, u)
        ends.append((np.stack([u, below], 1), np.stack([u, above], 1)))
    (a, d), (b, c) = ends
    middle = outline.mean(0)
    return np.stack([a, b, c, d], axis=1) @ axes + middle


def _frame(outline: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Corners (k, 2) in the frame of the longest side; that frame's axes (2, 2) as rows; bounds."""
    sides = np.roll(outline, -1, 0) - outline
    longest = sides[np.argmax(np.hypot(sides[:, 0], sides[:, 1]))]
    along = longest / max(float(np.hypot(*longest)), 1e-9)
    axes = np.array([along, [-along[1], along[0]]])
    corners = (outline - outline.mean(0)) @ axes.T
    return corners, axes, corners.min(0), corners.max(0)


def _crossings(corners: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest second coordinate of a convex polygon at first coordinates u (n)."""
    low, high = np.full(len(u), np.inf), np.full(len(u), -np.inf)
    for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
        run = b[0] - a[0]
        if abs(run) < 1e-9:
            continue
        p = (u - a[0]) / run
        v = np.where((p >= -1e-9) & (p <= 1 + 1e-9), a[1] + p * (b[1] - a[1]), np.nan)
        low, high = np.fmin(low, v), np.fmax(high, v)
    missed = low > high
    return np.where(missed, 0.0, low), np.where(missed, 0.0, high)


def sides(outline: np.ndarray, width: float = 0.3) -> np.ndarray:
    """The two long sides of a crosswalk's outline (k, 2) as lines, within it."""
    corners, axes, _, _ = _frame(np.asarray(outline, np.float64))
    following = np.roll(corners, -1, 0)
    run = following - corners
    long = np.abs(run[:, 0]) > np.abs(run[:, 1])
    inwards = np.stack([np.zeros(long.sum()), -np.sign(corners[long, 1] + following[long, 1])], 1)
    inwards *= width / 2
    lines = bars(corners[long] + inwards, following[long] + inwards, width)
    return lines @ axes + np.asarray(outline).mean(0)


def teeth(start: np.ndarray, stop: np.ndarray, width: float = 0.5, gap: float = 0.25) -> np.ndarray:
    """Triangles along one line from ``start`` to ``stop`` (2): their tips lie 0.6 m to the left of
    it, seen along it, where those come from who must give way."""
    run = stop - start
    length = float(np.hypot(*run))
    count = max(1, int((length + gap) // (width + gap)))
    along = run / max(length, 1e-9)
    side = np.array([along[1], -along[0]])
    first = (length - count * (width + gap) + gap) / 2 + np.arange(count) * (width + gap)
    a = start + first[:, None] * along
    b, tip = a + width * along, a + width / 2 * along + 0.6 * side
    return np.stack([a, b, tip, tip], axis=1)


# x ahead, y to the right; the last two are mirrored for a turn to the left.
_STEM = [(0, -0.1), (0, 0.1), (3.2, 0.1), (3.2, -0.1)]
_HEAD = [(3.2, -0.32), (5.0, 0.0), (5.0, 0.0), (3.2, 0.32)]
_BRANCH = [(1.9, -0.1), (2.6, 0.5), (2.75, 0.5), (2.3, -0.1)]
_TURN_HEAD = [(2.1, 0.45), (2.75, 1.15), (2.75, 1.15), (3.2, 0.45)]
_SHORT = [(0, -0.1), (0, 0.1), (2.25, 0.1), (2.25, -0.1)]


def arrow(place: np.ndarray, yaw_rad: float, turns: Collection[int]) -> np.ndarray:
    """A lane's arrow from its foot at ``place`` (2) on: turns -1 left, 0 straight on, 1 right."""
    parts: list[list[tuple[float, float]]] = [_STEM, _HEAD] if 0 in turns else [_SHORT]
    for turn in sorted(set(turns) - {0}):
        parts += [[(x, y * turn) for x, y in part] for part in (_BRANCH, _TURN_HEAD)]
    local = np.array(parts)
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    turned: np.ndarray = local @ np.array([[c, s], [-s, c]]) + place
    return turned
