"""Which pixels a convex thing with eight corners may cover."""

from __future__ import annotations

import numpy as np

from apps.driving.world.render.scene import NEAR, Camera, Lens, Solids


def bounds(solids: Solids, camera: Camera) -> np.ndarray:
    """(K, 4) int: first row, end row, first column, end column of pixels that each may cover."""
    lens = camera.lens
    c, s = solids.turn[:, 0:1], solids.turn[:, 1:2]
    forward, side = camera.axes[0], camera.axes[1]
    edge_x = (c * forward + s * side) * solids.half[:, 0:1]  # (K, 3) in the camera's frame
    edge_y = (c * side - s * forward) * solids.half[:, 1:2]
    edge_z = camera.axes[2] * solids.half[:, 2:3]
    at = (solids.centre - camera.eye) @ camera.axes
    edges = np.stack([edge_x, edge_y, edge_z], axis=1)
    return rectangles(at[:, None, :] + np.einsum("cs,ksx->kcx", _SIGNS, edges), lens)


def rectangles(corners: np.ndarray, lens: Lens) -> np.ndarray:
    """(K, 4) int as ``bounds`` of what lies between corners (K, 8, 3) in the camera's frame, whose
    edges join the numbers that differ in one bit."""
    low, high = _extent(corners, corners[..., 0] >= NEAR)
    cut = np.flatnonzero((corners[..., 0] < NEAR).any(axis=1))
    if len(cut):  # where an edge passes the near plane, the picture ends at that point
        a, b = corners[cut][:, _EDGES[:, 0]], corners[cut][:, _EDGES[:, 1]]
        passes = (a[..., 0] < NEAR) != (b[..., 0] < NEAR)
        along = (NEAR - a[..., 0]) / np.where(passes, b[..., 0] - a[..., 0], 1.0)
        met = a + along[..., None] * (b - a)
        met[..., 0] = NEAR
        more_low, more_high = _extent(met, passes)
        low[cut], high[cut] = np.minimum(low[cut], more_low), np.maximum(high[cut], more_high)
    middle = np.array([lens.width, lens.height]) / 2 - 0.5
    size = np.array([lens.width, lens.height])
    # a thousandth of a pixel more: what rounding of w could still let in
    first = np.ceil(np.clip(low * lens.focal + middle - 1e-3, 0, size)).astype(np.int64)
    end = np.floor(np.clip(high * lens.focal + middle + 1e-3, -1, size - 1)).astype(np.int64) + 1
    return np.stack([first[:, 1], end[:, 1], first[:, 0], end[:, 0]], axis=1)


def _extent(points: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest (to the right, down) at depth 1 of the valid ones of points (K, n, 3)."""
    x = np.where(valid, points[..., 0], 1.0)
    flat = np.stack([points[..., 1] / x, -points[..., 2] / x], axis=2)
    low = np.where(valid[..., None], flat, np.inf).min(axis=1)
    high = np.where(valid[..., None], flat, -np.inf).max(axis=1)
    return low, high


_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_EDGES = np.array(
    [[a, a | bit] for bit in (1, 2, 4) for a in range(8) if not a & bit]
)  # pairs of corners that differ in one sign
