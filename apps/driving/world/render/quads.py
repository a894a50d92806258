"""The faces of boxes as quadrilaterals for OpenGL.

Only faces that can be seen are sent, at most three of a box, each corner with all it needs: an
instanced cube costs llvmpipe 1.1 us a box, its visible faces 0.2 us and as much here.
"""

from __future__ import annotations

import numpy as np

from apps.driving.world.render.scene import Solids

ATTRIBUTES = (
    ("at", 3, "f"),  # from the eye, along the axes of the world, m
    ("place", 2, "f"),  # from the middle of the face, along it and up, m
    ("half_face", 2, "f"),
    ("paint", 3, "f"),  # RGB 0..255
    ("light", 3, "f"),
    ("what", 4, "i"),  # tag, instance, Style, side
)
WORDS = sum(n for _, n, _ in ATTRIBUTES)
"""Words of 4 bytes a corner."""

# Signs of the corners of each side: +x -x +y -y +z -z.
_CORNERS = np.zeros((6, 4, 3))
for _side in range(6):
    _axis = _side // 2
    _CORNERS[_side, :, _axis] = 1 - 2 * (_side % 2)
    _CORNERS[_side, :, (_axis + 1) % 3] = (-1, 1, 1, -1)
    _CORNERS[_side, :, (_axis + 2) % 3] = (-1, -1, 1, 1)


def towards(local: np.ndarray, half: np.ndarray | float = 0.0) -> np.ndarray:
    """(K, 6) bool: sides beyond whose plane, ``half`` (K, 3) from the middle, ``local`` (K, 3)
    lies; with half 0, sides that a direction meets from outside."""
    return np.stack([local > half, local < -half], axis=2).reshape(-1, 6)


def quads(
    solids: Solids, eye: np.ndarray, sides: np.ndarray, light: np.ndarray | None
) -> np.ndarray:
    """(F, 4, WORDS) float32 (the last four are int32): the ``sides`` (K, 6) bool of solids, in
    their order. ``light`` (6 K, 3) is that of ``shading.face_light``; None leaves colours out."""
    k, side = np.nonzero(sides)
    local = _CORNERS[side] * solids.half[k, None]
    c, s = solids.turn[k, 0, None], solids.turn[k, 1, None]
    away = (solids.centre - eye)[k, None]
    out = np.empty((len(k), 4, WORDS), np.float32)
    out[..., 0] = c * local[..., 0] - s * local[..., 1] + away[..., 0]
    out[..., 1] = s * local[..., 0] + c * local[..., 1] + away[..., 1]
    out[..., 2] = local[..., 2] + away[..., 2]
    whole = out.view(np.int32)
    whole[..., 13], whole[..., 14] = solids.tag[k, None], solids.instance[k, None]
    if light is not None:
        front = side < 2
        out[..., 3] = np.where(front[:, None], local[..., 1], local[..., 0])
        out[..., 4] = local[..., 2]
        out[..., 5] = np.where(front, solids.half[k, 1], solids.half[k, 0])[:, None]
        out[..., 6] = solids.half[k, 2, None]
        out[..., 7:10] = solids.rgb[k, None]
        out[..., 10:13] = light[6 * k + side, None]
        whole[..., 15], whole[..., 16] = solids.style[k, None], side[:, None]
    return out
