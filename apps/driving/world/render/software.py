"""The reference renderer, in NumPy: inverse depth of planes, kept where it is largest.

A ray (1, u, v) from a camera at o meets the plane n.x = e at a depth t with w = 1/t =
(n.d) / (e - n.o), and d is linear in u and v: so is w. Of a convex box, the planes that face the
camera bound t from below (w from above), the others bound it from above; a ray meets the box where
min(w of the facing planes) >= max(w of the others, 0), at that minimum. The picture keeps the
largest w of the ground, of every box and of 1/FAR. (Linear interpolation of 1/z: Blinn,
Hyperbolic interpolation, IEEE CG&A 12(4), 1992; slabs: Kay and Kajiya, SIGGRAPH 1986.)

Boxes are drawn one after the other over their bounding rectangle; those of few pixels all at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apps.driving.world.geometry import Transform
from apps.driving.world.render.projection import bounds
from apps.driving.world.render.scene import FAR, NEAR, Camera, Lens, Picture, Scene, Solids
from apps.driving.world.render.shading import GROUND, SKY, Painter
from apps.driving.world.render.shadows import shaded

FEW = 160
"""Pixels of a bounding rectangle up to which boxes are drawn all at once: one by one a box costs
about 20 us however small, together about 0.1 us a pixel."""

LENSES = 64
"""Lenses whose rays are kept."""


class SoftwareRenderer:
    """Pictures without OpenGL. Keeps rays of lenses and the ground's packed texels."""

    def __init__(self) -> None:
        self._axes: dict[Lens, tuple[np.ndarray, np.ndarray]] = {}
        self._painter = Painter()

    def render(self, scene: Scene, pose: Transform, lens: Lens, rgb: bool = True) -> Picture:
        """The scene from ``pose``."""
        camera = Camera.at(pose, lens)
        if lens not in self._axes:
            if len(self._axes) == LENSES:
                self._axes.clear()
            u, v = lens.axes()
            self._axes[lens] = u.astype(np.float32), v.astype(np.float32)
        u, v = self._axes[lens]
        seen = scene.solids.take(camera.sees(scene.solids))

        slope = (-camera.axes[2] / camera.height).astype(np.float32)
        w = (slope[0] + slope[2] * v)[:, None] + (slope[1] * u)[None, :]
        on_ground = (w > np.float32(1 / FAR)) & (w <= np.float32(1 / NEAR))
        w = np.where(on_ground, w, np.float32(1 / FAR))
        face = np.where(on_ground, np.int32(GROUND), np.int32(SKY))
        planes = Planes.of(seen, camera)
        if len(seen):
            _draw(w, face, planes, bounds(seen, camera), u, v)

        depth = 1 / w
        depth[face == SKY] = FAR  # not 999.99994
        shadow = shaded(scene, camera, face == GROUND, u, v) if rgb else None
        return self._painter.finish(scene, camera, seen, depth, face, shadow, u, v, rgb)

    def close(self) -> None:
        """Forget the caches."""
        self._axes.clear()
        self._painter = Painter()


@dataclass(frozen=True)
class Planes:
    """The six planes of K boxes: w = c0 + c1 u + c2 v; those that face the camera come first."""

    w: np.ndarray  # (K, 6, 3) float32: c0, c1, c2
    side: np.ndarray  # (K, 6) int: 0 +x, 1 -x, 2 +y, 3 -y, 4 +z, 5 -z of the box
    facing: np.ndarray  # (K) int: how many face the camera, 0..3; 0 with the camera inside
    depth: np.ndarray  # (K) float64: of the nearest corner, m

    @classmethod
    def of(cls, solids: Solids, camera: Camera) -> Planes:
        """The planes as ``camera`` sees them."""
        c, s = solids.turn[:, 0], solids.turn[:, 1]
        zero, one = np.zeros_like(c), np.ones_like(c)
        axes = np.stack([c, s, zero, -s, c, zero, zero, zero, one], axis=1).reshape(-1, 3, 3)
        eye = solids.turned(camera.eye - solids.centre)
        ray = axes @ camera.axes  # (K, 3 of the box, 3 of the camera)
        room = np.stack([solids.half - eye, solids.half + eye], axis=2)  # to the planes + and -
        front = (room < 0).reshape(-1, 6)
        room = np.where(np.abs(room) < 1e-9, 1e-9, room)
        w = np.stack([ray, -ray], axis=2) / room[..., None]
        order = np.argsort(~front, axis=1, kind="stable")
        w = np.take_along_axis(w.reshape(-1, 6, 3), order[..., None], axis=1)
        middle = (solids.centre - camera.eye) @ camera.axes[:, 0]
        depth = middle - (np.abs(ray[:, :, 0]) * solids.half).sum(1)
        return cls(w.astype(np.float32), order, front.sum(axis=1), depth)


def _draw(
    w: np.ndarray,
    face: np.ndarray,
    planes: Planes,
    rects: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
) -> None:
    """Draw all boxes into w and face (H, W); a face is 6 k + side."""
    area = np.maximum(rects[:, 1] - rects[:, 0], 0) * np.maximum(rects[:, 3] - rects[:, 2], 0)
    area = np.where(planes.facing > 0, area, 0)
    nearest = np.float32(1 / NEAR)
    large = np.flatnonzero(area > FEW)
    large = large[np.argsort(planes.depth[large], kind="stable")]
    most = (1.0001 / np.maximum(planes.depth, NEAR)).tolist()
    for k in large.tolist():
        r0, r1, c0, c1 = rects[k].tolist()
        part = w[r0:r1, c0:c1]
        if part.min() >= most[k]:  # all hidden: half of the houses of a street
            continue
        n = int(planes.facing[k])
        a = planes.w[k]
        across = a[:, 1, None] * u[c0:c1]
        down = a[:, 2, None] * v[r0:r1] + a[:, 0, None]
        all_w = down[:, :, None] + across[:, None, :]  # (6, rows, columns)
        enter = all_w[0] if n == 1 else np.minimum.reduce(all_w[:n])
        leave = np.maximum.reduce(all_w[n:])
        hit = (enter > np.maximum(leave, part)) & (enter <= nearest)
        np.copyto(part, enter, where=hit)
        ids = 6 * k + planes.side[k]
        here = face[r0:r1, c0:c1]
        np.copyto(here, ids[0], where=hit, casting="unsafe")
        for other in range(1, n):
            np.copyto(here, ids[other], where=hit & (all_w[other] == enter), casting="unsafe")
    _draw_small(w, face, planes, rects, np.flatnonzero((area > 0) & (area <= FEW)), u, v)


def _draw_small(
    w: np.ndarray,
    face: np.ndarray,
    planes: Planes,
    rects: np.ndarray,
    rows: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
) -> None:
    """Draw the boxes ``rows`` at once, as pairs of a box and a pixel of its rectangle."""
    if not len(rows):
        return
    r0, r1, c0, c1 = rects[rows].T
    wide = c1 - c0
    area = (r1 - r0) * wide
    box = np.repeat(np.arange(len(rows)), area)
    nth = np.arange(len(box)) - np.repeat(np.cumsum(area) - area, area)
    row = nth // wide[box]
    column = nth - row * wide[box] + c0[box]
    row += r0[box]
    right, up = u[column], v[row]
    table = np.ascontiguousarray(planes.w[rows].transpose(1, 2, 0))  # (6, 3, rows)
    facing = planes.facing[rows][box]
    enter = np.full(len(box), np.inf, np.float32)
    leave = np.zeros(len(box), np.float32)
    which = np.zeros(len(box), np.int64)
    for p in range(6):
        c, cu, cv = table[p]
        at = cv[box] * up + c[box] + cu[box] * right  # in the order of _draw: equal to the bit
        front = p < facing
        nearer = front & (at < enter)
        np.copyto(enter, at, where=nearer)
        np.copyto(which, p, where=nearer)
        np.copyto(leave, np.maximum(leave, at), where=~front)
    pixel = row * w.shape[1] + column
    flat_w, flat_face = w.reshape(-1), face.reshape(-1)
    hit = np.flatnonzero((enter > np.maximum(leave, flat_w[pixel])) & (enter <= 1 / NEAR))
    # of equal indices the last assignment stays; equally near, the first box, as one by one
    hit = hit[np.lexsort((-hit, enter[hit]))]
    flat_w[pixel[hit]] = enter[hit]
    k = rows[box[hit]]
    flat_face[pixel[hit]] = 6 * k + planes.side[k, which[hit]]
