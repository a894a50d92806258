"""Shadows on the ground: where a ray to the sun meets a box.

The shadow of a box is what its outline sweeps from below to above along the sun's rays on z = 0: a
hexagon, of which each side is linear in a pixel's u and v once multiplied by the w = 1 / depth of
the ground. Boxes throw no shadow on each other.
"""

from __future__ import annotations

import numpy as np

from apps.driving.world.render.projection import rectangles
from apps.driving.world.render.scene import Camera, Scene, Solids

REACH = 70.0
"""m from the camera to a box that throws a shadow: further ones are a pixel or two high."""
LOWEST = 0.12
"""Sine of the sun's altitude (7 degrees) below which shadows are left out: they cover everything."""
FEWEST = 12
"""Pixels of a bounding rectangle below which a shadow is not drawn."""


def casters(scene: Scene, camera: Camera) -> np.ndarray:
    """Ascending rows of ``scene.solids`` that throw a shadow worth drawing."""
    weather, solids = scene.weather, scene.solids
    if weather.sun[2] < LOWEST or weather.direct.max() < 0.08 or camera.eye[2] <= 0:
        return np.zeros(0, np.int64)
    off = solids.centre[:, :2] - camera.eye[:2]
    near = np.flatnonzero((off * off).sum(1) < (REACH + solids.radius) ** 2)
    half, off = solids.half[near], off[near]
    away = np.hypot(off[:, 0], off[:, 1]) - solids.radius[near]
    size = np.maximum(half[:, :2].min(1), 0.3 * half[:, 2])
    wanted = (away < REACH) & (size * camera.lens.focal > 3.0 * away)
    # without the pole that holds them, small things up there are spots on the road
    wanted &= (size > 1.0) | (solids.centre[near, 2] - half[:, 2] < 2.2)
    return near[wanted]


def shaded(
    scene: Scene, camera: Camera, open_ground: np.ndarray, u: np.ndarray, v: np.ndarray
) -> np.ndarray | None:
    """(H, W) bool: pixels of the ground where no sun comes; None where no shadow is drawn.

    ``open_ground`` (H, W) bool are those that see the ground.
    """
    rows = casters(scene, camera)
    if not len(rows):
        return None
    solids = scene.solids.take(rows)
    low, high, sides = _hexagons(solids, camera, scene.weather.sun)
    rects = rectangles(_outline(solids, camera, low, high), camera.lens)
    area = np.maximum(rects[:, 1] - rects[:, 0], 0) * np.maximum(rects[:, 3] - rects[:, 2], 0)
    shadow = np.zeros(open_ground.shape, bool)
    for k in np.flatnonzero(area >= FEWEST).tolist():
        r0, r1, c0, c1 = rects[k].tolist()
        if not open_ground[r0:r1, c0:c1].any():
            continue
        a = sides[k]
        across = a[:, 1, None] * u[c0:c1]
        down = a[:, 2, None] * v[r0:r1] + a[:, 0, None]
        beyond = np.maximum.reduce(down[:, :, None] + across[:, None, :])
        shadow[r0:r1, c0:c1] |= beyond <= 0
    return shadow


def _hexagons(
    solids: Solids, camera: Camera, sun: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (K, 2) of the shadow's lower and upper end, m, and its sides (K, 6, 3) float32: a
    pixel of the ground lies within where all six of c0 + c1 u + c2 v are 0 or less."""
    per_metre = -sun[:2] / sun[2]
    bottom = np.maximum(solids.centre[:, 2] - solids.half[:, 2], 0)
    top = np.maximum(solids.centre[:, 2] + solids.half[:, 2], 0)
    low = solids.centre[:, :2] + bottom[:, None] * per_metre
    sweep = (top - bottom)[:, None] * per_metre
    c, s = solids.turn[:, 0], solids.turn[:, 1]
    away = camera.eye[:2] - low
    eye_x, eye_y = c * away[:, 0] + s * away[:, 1], c * away[:, 1] - s * away[:, 0]
    mx, my = c * sweep[:, 0] + s * sweep[:, 1], c * sweep[:, 1] - s * sweep[:, 0]
    w = -camera.axes[2] / camera.height
    dx, dy = camera.axes[0], camera.axes[1]
    x = eye_x[:, None] * w + c[:, None] * dx + s[:, None] * dy
    y = eye_y[:, None] * w + c[:, None] * dy - s[:, None] * dx
    hx, hy = solids.half[:, 0], solids.half[:, 1]
    across = x * my[:, None] - y * mx[:, None]
    wide = (hx * np.abs(my) + hy * np.abs(mx))[:, None] * w
    sides = np.stack(
        [
            x - (np.maximum(mx, 0) + hx)[:, None] * w,
            (np.minimum(mx, 0) - hx)[:, None] * w - x,
            y - (np.maximum(my, 0) + hy)[:, None] * w,
            (np.minimum(my, 0) - hy)[:, None] * w - y,
            across - wide,
            -across - wide,
        ],
        axis=1,
    )
    return low, low + sweep, sides.astype(np.float32)


def _outline(solids: Solids, camera: Camera, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(K, 8, 3): corners of both ends of each shadow on the ground, in the camera's frame."""
    c, s = solids.turn[:, 0, None], solids.turn[:, 1, None]
    edge_x = np.hstack([c, s]) * solids.half[:, 0:1]
    edge_y = np.hstack([-s, c]) * solids.half[:, 1:2]
    corners = np.zeros((len(solids), 8, 3))
    for n in range(8):  # bit 2: x, bit 1: y, bit 0: which end, as ``rectangles`` has its edges
        end = high if n & 1 else low
        sign_x, sign_y = (1 if n & 4 else -1), (1 if n & 2 else -1)
        corners[:, n, :2] = end + sign_x * edge_x + sign_y * edge_y
    turned: np.ndarray = (corners - camera.eye) @ camera.axes
    return turned
