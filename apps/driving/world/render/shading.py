"""From what each pixel meets to its tag, instance and colour.

A face is 6 k + side of the k-th seen solid, or GROUND, or SKY (see ``software``).
"""

from __future__ import annotations

import numpy as np

from apps.driving.world.render.scene import Camera, Picture, Scene, Solids, Surface
from apps.driving.world.tags import Tag

FLOOR_RGB = (98, 116, 74)
"""The colour of the terrain beyond the raster."""


class Palette:
    """Looks up texels and colours; keeps the ground's packed texels."""

    def __init__(self) -> None:
        self._ground: Surface | None = None
        self._texels = np.zeros(0, np.uint32)

    def finish(
        self,
        scene: Scene,
        camera: Camera,
        seen: Solids,
        depth: np.ndarray,
        face: np.ndarray,
        u: np.ndarray,
        v: np.ndarray,
        rgb: bool,
    ) -> Picture:
        """The picture of depths and faces (H, W)."""
        shape = (len(v), len(u))
        flat, t = face.reshape(-1), depth.reshape(-1)
        tags = np.full(flat.shape, Tag.SKY, np.uint8)
        instance = np.zeros(flat.shape, np.int32)
        on_box = np.flatnonzero(flat >= 0)
        of_face = flat[on_box]
        tags[on_box] = np.repeat(seen.tag, 6)[of_face]
        instance[on_box] = np.repeat(seen.instance, 6)[of_face]

        floor = np.flatnonzero(flat == -1)
        ray = camera.axes.astype(np.float32)
        eye = camera.eye.astype(np.float32)
        x = eye[0] + t * ((ray[0, 0] + ray[0, 2] * v)[:, None] + ray[0, 1] * u).reshape(-1)
        y = eye[1] + t * ((ray[1, 0] + ray[1, 2] * v)[:, None] + ray[1, 1] * u).reshape(-1)
        texel = self._ground_at(scene.ground, x[floor], y[floor])
        tags[floor] = texel >> 24
        colour = None
        if rgb:
            colour = self._colours(scene, camera, seen, t, flat, on_box, floor, texel, x, y, u, v)
            colour = colour.reshape(*shape, 3)
        return Picture(depth, tags.reshape(shape), instance.reshape(shape), colour)

    def _ground_at(self, ground: Surface, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n) uint32: red, green, blue and, highest, the tag of the texels at (x, y)."""
        if ground is not self._ground:
            self._ground, self._texels = ground, packed(ground)
        height, width = self._texels.shape
        scale = np.float32(1 / ground.resolution)
        column = np.floor((x - np.float32(ground.origin[0])) * scale)
        row = np.floor((y - np.float32(ground.origin[1])) * scale)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = np.where(inside, row.astype(np.int64) * width + column.astype(np.int64), 0)
        found: np.ndarray = self._texels.reshape(-1)[index]
        return np.where(inside, found, _FLOOR)

    def _colours(
        self,
        scene: Scene,
        camera: Camera,
        seen: Solids,
        t: np.ndarray,
        flat: np.ndarray,
        on_box: np.ndarray,
        floor: np.ndarray,
        texel: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        u: np.ndarray,
        v: np.ndarray,
    ) -> np.ndarray:
        weather = scene.weather
        out = np.empty((len(flat), 3), np.float32)
        out[:] = weather.horizon
        light = weather.ambient + weather.direct * max(0.0, float(weather.sun[2]))
        for channel in range(3):
            level = ((texel >> (8 * channel)) & 0xFF).astype(np.float32)
            out[floor, channel] = level * np.float32(light[channel])
        c, s = seen.turn[:, 0], seen.turn[:, 1]
        sun = weather.sun
        cosine = np.stack([c * sun[0] + s * sun[1], c * sun[1] - s * sun[0], 0 * c + sun[2]], 1)
        cosine = np.stack([cosine, -cosine], axis=2).reshape(-1, 1)
        lit = weather.ambient + weather.direct * np.maximum(cosine, 0)
        out[on_box] = (np.repeat(seen.rgb, 6, axis=0) * lit).astype(np.float32)[flat[on_box]]
        fog = np.exp(-np.float32(weather.extinction) * t)[:, None]
        mist = weather.fog.astype(np.float32)
        ground_or_box = flat > -2
        out = np.where(ground_or_box[:, None], mist + (out - mist) * fog, out)
        return np.clip(out, 0, 255).astype(np.uint8)


_FLOOR = np.uint32(FLOOR_RGB[0] | FLOOR_RGB[1] << 8 | FLOOR_RGB[2] << 16 | int(Tag.TERRAIN) << 24)


def packed(ground: Surface) -> np.ndarray:
    """(H, W) uint32 texels: a view where the ground keeps them together, else a copy."""
    texels = getattr(ground, "texels", None)
    if texels is None:
        texels = np.concatenate([ground.rgb, ground.tags[..., None]], axis=2)
    return np.ascontiguousarray(texels).view("<u4")[..., 0]
