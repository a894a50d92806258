"""The faces of boxes as quadrilaterals for OpenGL.

Only faces that can be seen are sent, at most three of a box, four equal rows for each; the vertex
shader makes the corners. An instanced cube costs llvmpipe 1.1 us a box, its visible faces 0.2 us.
"""

from __future__ import annotations

import numpy as np

from apps.driving.world.render.scene import Solids

FACE = np.dtype(
    [
        ("centre", "3f4"),  # of the box from the eye, along the axes of the world, m
        ("half_size", "3f4"),
        ("turn", "2f4"),
        ("paint", "4u1"),
        ("instance", "i4"),
        ("kind", "4u1"),  # tag, Style, side, 0
    ]
)
FORMATS = {"centre": "3f", "half_size": "3f", "turn": "2f", "paint": "4f1"} | {
    "instance": "1i",
    "kind": "4u1",
}
"""What moderngl calls the fields of ``FACE``."""


def towards(local: np.ndarray, half: np.ndarray | float = 0.0) -> np.ndarray:
    """(K, 6) bool, +x -x +y -y +z -z: sides beyond whose plane, ``half`` (K, 3) from the middle,
    ``local`` (K, 3) lies; with half 0, sides that a direction comes from."""
    return np.stack([local > half, local < -half], axis=2).reshape(-1, 6)


def quads(solids: Solids, eye: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """(4 F) of FACE: the ``sides`` (K, 6) bool of solids, in their order, each four times."""
    rows = np.zeros(len(solids), FACE)
    rows["centre"], rows["half_size"], rows["turn"] = solids.centre - eye, solids.half, solids.turn
    rows["paint"][:, :3], rows["instance"] = solids.rgb, solids.instance
    rows["kind"][:, 0], rows["kind"][:, 1] = solids.tag, solids.style
    k, side = np.nonzero(sides)
    faces = rows[k]
    faces["kind"][:, 2] = side
    return np.repeat(faces, 4)
