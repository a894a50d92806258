"""From what each pixel meets to its tag, instance and colour: the NumPy renderer's second half.

A face is 6 k + side of the k-th seen solid, or GROUND, or SKY (see ``software``); n is a number of
pixels. Colours are (3, n) float32 of 0..255 as shown, without gamma: light is a factor for each
channel, ambient plus direct times the cosine to the sun. Fog by Koschmieder's law, the share
exp(-extinction * depth).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.render.scene import Camera, Picture, Scene, Solids
from apps.driving.world.render.surfaces import Sides, face_light, looked_up
from apps.driving.world.render.textures import FROM, glow, glow_cell, levels, noise, palette
from apps.driving.world.tags import Tag

if TYPE_CHECKING:
    from apps.driving.world.townscape.ground import Ground

GROUND, SKY = -1, -2
F = np.float32
LAMPLIGHT = (0.95, 0.78, 0.52)
BEAM = 35.0
"""m that a headlight reaches."""
BEAMS = 8
"""Headlights taken into account, the nearest ones: each costs 0.1 ms a camera of 320 x 160."""


class Painter:
    """Tags and colours; keeps what it made of the ground and the street lamps."""

    def __init__(self) -> None:
        self._ground: Ground | None = None
        self._palette = np.zeros(0, np.uint32)
        self._levels: list[np.ndarray] = []
        self._lamps: np.ndarray | None = None
        self._glow: np.ndarray | None = None

    def finish(
        self,
        scene: Scene,
        camera: Camera,
        seen: Solids,
        depth: np.ndarray,
        face: np.ndarray,
        shadow: np.ndarray | None,
        u: np.ndarray,
        v: np.ndarray,
        rgb: bool,
    ) -> Picture:
        """The picture of depths and faces (H, W); ``shadow`` (H, W) bool is where no sun comes."""
        pixels = _Pixels(camera, depth, face, u, v)
        tags = np.full(depth.size, Tag.SKY, np.uint8)
        instance = np.zeros(depth.size, np.int32)
        tags[pixels.box] = seen.tag.take(pixels.solid)
        instance[pixels.box] = seen.instance.take(pixels.solid)
        cells = cells_at(scene.ground, pixels.x[pixels.floor], pixels.y[pixels.floor])
        tags[pixels.floor] = scene.ground.tag[cells]
        colour = None
        if rgb:
            colour = self._colours(scene, camera, seen, pixels, cells, shadow)
        shape = depth.shape
        return Picture(depth, tags.reshape(shape), instance.reshape(shape), colour)

    def _colours(
        self,
        scene: Scene,
        camera: Camera,
        seen: Solids,
        pixels: _Pixels,
        cells: np.ndarray,
        shadow: np.ndarray | None,
    ) -> np.ndarray:
        """(H, W, 3) uint8."""
        weather = scene.weather
        out = np.zeros((3, pixels.t.size), F)
        lamps = self._night_light(scene, pixels) if weather.dark else None
        shade = None if shadow is None else shadow.reshape(-1)[pixels.floor]
        out[:, pixels.floor] = self._floor(scene, camera, pixels, cells, shade, lamps)
        if len(pixels.box):
            out[:, pixels.box] = self._boxes(scene, seen, pixels, lamps)
        clear = np.exp(
            F(-weather.extinction) * np.maximum(pixels.t - F(weather.fog_distance), F(0))
        )
        for c in range(3):
            mist = F(weather.fog[c])
            out[c] = (out[c] - mist) * clear + mist
        if len(pixels.sky):
            out[:, pixels.sky] = self._sky(scene, pixels)
        np.clip(out, 0, 255, out=out)
        height, width = pixels.shape
        picture = np.empty((height, width, 3), np.uint8)
        for channel in range(3):
            picture[..., channel] = out[channel].reshape(height, width)
        return picture

    def _floor(
        self,
        scene: Scene,
        camera: Camera,
        pixels: _Pixels,
        cells: np.ndarray,
        shade: np.ndarray | None,
        lamps: np.ndarray | None,
    ) -> np.ndarray:
        """(3, n) of the pixels that see the ground."""
        weather, ground = scene.weather, scene.ground
        if ground is not self._ground:
            self._ground, self._levels, self._palette = ground, levels(ground), palette(ground)
        at, t = pixels.floor, pixels.t[pixels.floor]
        packed = self._palette[cells]
        for level, start in enumerate(FROM):
            end = FROM[level + 1] if level + 1 < len(FROM) else math.inf
            far = np.flatnonzero((t >= start) & (t < end))
            if len(far):
                packed[far] = _coarse(
                    self._levels[level], level, ground, pixels, at[far], self._palette
                )
        sunny: np.ndarray | np.float32 = F(max(0.0, float(weather.sun[2])))
        if shade is not None:
            sunny = sunny * ~shade
        lit = [
            F(weather.ambient[c]) + F(weather.direct[c]) * sunny
            if lamps is None
            else F(weather.ambient[c]) + F(weather.direct[c]) * sunny + F(LAMPLIGHT[c]) * lamps[at]
            for c in range(3)
        ]
        out = np.empty((3, len(at)), F)
        for c in range(3):
            np.multiply(packed >> (8 * c) & 0xFF, lit[c], out=out[c], casting="unsafe")
        if weather.wet > 0:
            self._wet(out, scene, camera, pixels, (packed >> 24).astype(F) * F(1 / 255))
        return out

    def _wet(
        self, out: np.ndarray, scene: Scene, camera: Camera, pixels: _Pixels, gloss: np.ndarray
    ) -> None:
        """Darken wet ground (3, n) and let it mirror the sky, puddles most."""
        weather, at = scene.weather, pixels.floor
        film = gloss * F(weather.wet)
        grazing = np.exp(F(-9.0 * abs(camera.height)) / pixels.t[at])
        mirror = film * (F(0.06) + F(0.6) * grazing)
        if weather.puddles > 0:
            hollow = looked_up(self.noise, pixels.x[at] * F(14), pixels.y[at] * F(14))
            depth = np.clip((hollow - F(1 - 0.55 * weather.puddles)) * F(7), F(0), F(1)) * gloss
            mirror += depth * (F(0.9) - mirror) * (F(0.25) + F(0.75) * grazing)
        out *= 1 - F(0.42) * film
        sky = 0.6 * weather.horizon + 0.4 * weather.zenith
        for channel, mirrored in zip(out, sky.astype(F), strict=True):
            channel += (mirrored - channel) * mirror

    def _boxes(
        self, scene: Scene, seen: Solids, pixels: _Pixels, lamps: np.ndarray | None
    ) -> np.ndarray:
        """(3, n) of the pixels that see a box."""
        at = pixels.box
        face, z = pixels.face.take(at), pixels.z().take(at)
        light = face_light(scene, seen)
        # the lowest metre and a half is darker: light comes from half of the sky there
        low = np.minimum(F(0.8) + z * F(0.2 / 1.5), F(1))
        out = np.empty((3, len(at)), F)
        for c in range(3):
            base = np.repeat(seen.rgb[:, c], 6)
            np.multiply((base * light[:, c]).astype(F).take(face), low, out=out[c])
            if lamps is not None:
                out[c] += base.astype(F).take(face) * lamps.take(at) * F(LAMPLIGHT[c])
        sides = Sides(scene, seen, pixels.camera.eye, self.noise)
        sides.paint(out, face, pixels.dx.take(at), pixels.dy.take(at), z)
        return out

    def _sky(self, scene: Scene, pixels: _Pixels) -> np.ndarray:
        """(3, n) of the pixels that see the sky: paler at the horizon, clouds, and the sun."""
        weather, at = scene.weather, pixels.sky
        dx, dy, dz = pixels.rays(at)
        length = np.sqrt(dx * dx + dy * dy + dz * dz)
        height = np.maximum(dz / length, F(0))
        high = 1 - np.exp(F(-4.5) * height)
        horizon, zenith = weather.horizon.astype(F), weather.zenith.astype(F)
        out = horizon[:, None] + (zenith - horizon)[:, None] * high
        cover = weather.cover
        if cover > 0:
            above = F(60) / (np.maximum(dz, F(0)) + F(0.12) * length)
            cloud = looked_up(self.noise, dx * above, dy * above)
            thick = np.clip((cloud - F(1 - cover)) * F(3), F(0), F(1)) * np.minimum(height * 8, 1)
            for channel, white in zip(out, weather.cloud.astype(F), strict=True):
                channel += (white - channel) * thick * F(0.85)
        sun = weather.sun.astype(F)
        if weather.overcast < 0.7 and sun[2] > -0.05:
            towards = np.maximum((dx * sun[0] + dy * sun[1] + dz * sun[2]) / length, F(0))
            halo = towards**8
            halo *= halo  # ** 16
            disc = np.clip((towards - F(0.9992)) * F(4000), F(0), F(1))
            strong = (halo * F(0.35) + disc) * F(1 - weather.overcast)
            warm = np.minimum(weather.direct / max(float(weather.direct.max()), 1e-6), 1)
            for channel, white in zip(out, (255 * warm).astype(F), strict=True):
                channel += (white - channel) * np.minimum(strong, F(1))
        if weather.murk > 0:
            thin = F(weather.murk) * (1 - F(0.6) * np.sqrt(height))
            for channel, mist in zip(out, weather.fog.astype(F), strict=True):
                channel += (mist - channel) * thin
        return out

    @cached_property
    def noise(self) -> np.ndarray:
        """The noise of clouds, puddles and leaves."""
        return noise()

    def _night_light(self, scene: Scene, pixels: _Pixels) -> np.ndarray:
        """(N) float32: light from street lamps and headlights on each pixel."""
        ground = scene.ground
        if self._glow is None or scene.lamps is not self._lamps or ground is not self._ground:
            self._lamps = scene.lamps
            self._glow = glow(ground, np.zeros((0, 3)) if scene.lamps is None else scene.lamps)
        strength = F(scene.weather.lamplight)
        scale = F(1 / glow_cell(ground))
        column = (pixels.x - F(ground.origin[0])) * scale
        row = (pixels.y - F(ground.origin[1])) * scale
        height, width = self._glow.shape
        column = np.clip(column, F(0), F(width - 1)).astype(np.int64)
        row = np.clip(row, F(0), F(height - 1)).astype(np.int64)
        light = self._glow.reshape(-1)[row * width + column]
        z = pixels.z()
        light *= np.clip(F(1.25) - z * F(1 / 8), F(0), F(1))  # lamps shine downwards
        for x, y, high, yaw in nearest_beams(scene, pixels.camera):
            c, s = F(math.cos(yaw)), F(math.sin(yaw))
            away_x, away_y = pixels.x - F(x), pixels.y - F(y)
            ahead = c * away_x + s * away_y
            aside = np.abs(c * away_y - s * away_x)
            fade = np.clip(1 - ahead * F(1 / BEAM), F(0), F(1))
            beam = np.clip((F(0.8) + F(0.42) * ahead - aside) * F(0.5), F(0), F(1)) * fade * fade
            beam *= (ahead > F(0.2)) & (z < F(high + 0.6) + F(0.03) * ahead)
            light += beam
        return np.minimum(light, F(1.5)) * strength


def nearest_beams(scene: Scene, camera: Camera) -> list[tuple[float, float, float, float]]:
    """x, y, z, yaw of at most BEAMS headlights, nearest first."""
    if scene.headlights is None or not len(scene.headlights):
        return []
    lights = np.asarray(scene.headlights, float)
    away = np.hypot(lights[:, 0] - camera.eye[0], lights[:, 1] - camera.eye[1])
    order = np.argsort(away, kind="stable")[:BEAMS]
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in lights[order]]


class _Pixels:
    """What each of N pixels meets, and where."""

    def __init__(
        self, camera: Camera, depth: np.ndarray, face: np.ndarray, u: np.ndarray, v: np.ndarray
    ) -> None:
        self.camera, self.u, self.v = camera, u, v
        self.shape = depth.shape[0], depth.shape[1]
        self.t, self.face = depth.reshape(-1), face.reshape(-1)
        self.axes = camera.axes.astype(F)
        self.box = np.flatnonzero(self.face >= 0)
        self.floor = np.flatnonzero(self.face == GROUND)
        self.sky = np.flatnonzero(self.face == SKY)
        self.solid = self.face[self.box] // 6
        self.dx, self.dy = self.t * self._ray(0), self.t * self._ray(1)  # from the eye, m
        self.x, self.y = F(camera.eye[0]) + self.dx, F(camera.eye[1]) + self.dy
        self._z: np.ndarray | None = None

    def _ray(self, axis: int) -> np.ndarray:
        a = self.axes[axis]
        ray: np.ndarray = ((a[0] + a[2] * self.v)[:, None] + a[1] * self.u).reshape(-1)
        return ray

    def rays(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, z (n) of the directions of the pixels ``at``, 1 along the optical axis."""
        return self._ray(0)[at], self._ray(1)[at], self._ray(2)[at]

    def z(self) -> np.ndarray:
        """(N) heights of what the pixels meet, m."""
        if self._z is None:
            self._z = F(self.camera.eye[2]) + self.t * self._ray(2)
        return self._z


def cells_at(ground: Ground, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n) uint8 cells of the ground at (x, y), m."""
    height, width = ground.cells.shape
    scale = F(1 / ground.resolution)
    column = np.floor((x - F(ground.origin[0])) * scale)
    row = np.floor((y - F(ground.origin[1])) * scale)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = np.clip(row, F(0), F(height - 1)).astype(np.int64)
    index *= width
    index += np.clip(column, F(0), F(width - 1)).astype(np.int64)
    cells: np.ndarray = ground.cells.reshape(-1).take(index)
    cells[~inside] = ground.outside
    return cells


def _coarse(
    picture: np.ndarray,
    level: int,
    ground: Ground,
    pixels: _Pixels,
    at: np.ndarray,
    colours: np.ndarray,
) -> np.ndarray:
    """(n) packed colours of a coarser level at the pixels ``at``."""
    height, width = picture.shape
    scale = F(1 / (ground.resolution * 4 ** (level + 1)))
    column = np.floor((pixels.x[at] - F(ground.origin[0])) * scale)
    row = np.floor((pixels.y[at] - F(ground.origin[1])) * scale)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = np.where(inside, row * F(1), F(0)).astype(np.int64) * width
    index += np.where(inside, column, F(0)).astype(np.int64)
    found: np.ndarray = picture.reshape(-1)[index]
    return np.where(inside, found, colours[ground.outside])
