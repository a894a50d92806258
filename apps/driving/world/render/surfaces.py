"""How the sides of boxes are painted: windows, glass, lamps, leaves.

Places on a side are ``along`` it, from the middle, and ``up``, in metres; n pixels, colours (3, n)
float32 of 0..255 changed in place. Everything that is the same for a whole side is looked up in
tables of 3 K entries: of solid k those across its x, its y and its z.
"""

from __future__ import annotations

import numpy as np

from apps.driving.world.render.scene import Scene, Solids, Style

F = np.float32
WINDOW = (2.7, 3.2)
"""m of facade for each window, along and up (a storey of the scenery)."""
LIT = 0.33
"""Share of the windows that are lit at night."""


def face_light(scene: Scene, seen: Solids) -> np.ndarray:
    """(6 K, 3) float64 factors of the light on every face: +x -x +y -y +z -z of each solid."""
    weather = scene.weather
    cosine = seen.turned(weather.sun)
    cosine = np.stack([cosine, -cosine], axis=2).reshape(-1, 1)
    sky = np.tile([0.86, 0.86, 0.8, 0.8, 1.0, 0.55], len(seen))[:, None]
    light: np.ndarray = weather.ambient * sky + weather.direct * np.maximum(cosine, 0)
    return light


class Sides:
    """Where pixels are on the sides of solids seen from ``eye`` (3), m."""

    def __init__(self, scene: Scene, seen: Solids, eye: np.ndarray, noise: np.ndarray) -> None:
        self.scene, self.noise = scene, noise
        c, s = seen.turn[:, 0], seen.turn[:, 1]
        away, half, none = seen.centre - eye, seen.half, np.zeros(len(seen))
        along = np.stack([[-s, c, none], [c, s, none]], axis=0)  # x and y; across x, y, z
        start = -(along[0] * away[:, 0] + along[1] * away[:, 1])
        self._x, self._y, self._start = (_table(rows) for rows in (along[0], along[1], start))
        self._half = _table(np.stack([half[:, 1], half[:, 0], half[:, 0]]))
        self._half_up = _table(np.stack([half[:, 2]] * 3))
        self._middle = _table(np.stack([seen.centre[:, 2]] * 3))
        self._key = (seen.instance % 97).astype(F)
        self._rgb = seen.rgb
        self._style = np.repeat(seen.style, 6)
        self._style[4::6] = self._style[5::6] = Style.PLAIN  # tops and bottoms

    def paint(
        self, out: np.ndarray, face: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray
    ) -> None:
        """Paint pixels of ``face`` (n) at (x, y) from the eye and z above the ground."""
        style = self._style.take(face)
        for kind, brush in _BRUSHES.items():
            chosen = np.flatnonzero(style == kind)
            if len(chosen):
                spot = _Spots(self, face[chosen], x[chosen], y[chosen], z[chosen])
                painted = out[:, chosen]
                brush(painted, spot)
                out[:, chosen] = painted


class _Spots:
    """Places of n pixels that see sides of one style."""

    def __init__(
        self, sides: Sides, face: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray
    ) -> None:
        axis = face >> 1
        self.scene, self.noise, self.weather = sides.scene, sides.noise, sides.scene.weather
        self.side, self.solid = face % 6, face // 6
        self.along = x * sides._x.take(axis) + y * sides._y.take(axis) + sides._start.take(axis)
        self.up = z - sides._middle.take(axis)
        self.half, self.half_up = sides._half.take(axis), sides._half_up.take(axis)
        self._sides = sides

    def key(self, at: np.ndarray | slice = slice(None)) -> np.ndarray:
        """A number of each pixel's solid, so that not all look the same."""
        found: np.ndarray = self._sides._key[self.solid[at]]
        return found

    def rgb(self) -> np.ndarray:
        """(3, n) float32: the colours of the solids."""
        found: np.ndarray = self._sides._rgb[self.solid].T.astype(F)
        return found


def _table(rows: np.ndarray) -> np.ndarray:
    """(3 K) float32 of rows (3, K)."""
    return np.ascontiguousarray(rows.T).astype(F).reshape(-1)


def _facade(out: np.ndarray, spot: _Spots) -> None:
    """Windows in rows; at night a third of them is lit."""
    weather = spot.weather
    wide, high = F(2) * spot.half, F(2) * spot.half_up
    across = (spot.along + spot.half) / wide * np.maximum(np.floor(wide * F(1 / WINDOW[0])), F(1))
    up = (spot.up + spot.half_up) / high * np.maximum(np.floor(high * F(1 / WINDOW[1])), F(1))
    column, row = np.floor(across), np.floor(up)
    glass = np.abs(across - column - F(0.5)) < F(0.27)
    glass &= np.abs(up - row - F(0.56)) < F(0.25)
    glass &= (wide > 3) & (high > F(2.2))
    panes = np.flatnonzero(glass)
    seed = column[panes] * F(12.9898) + row[panes] * F(78.233) + spot.key(panes) * F(3.77)
    chance = np.abs(np.modf(np.sin(seed) * F(437.585))[0])
    if weather.dark:
        on = chance < F(LIT)
        for c, warm in enumerate((236.0, 198.0, 132.0)):
            out[c, panes] = np.where(on, F(warm) * (F(0.55) + chance), out[c, panes] * F(0.5))
        return
    shine = F(0.25) + F(0.35) * chance
    for c in range(3):
        sky = F(0.55 * weather.zenith[c])
        frame = out[c, panes] * F(0.38)
        out[c, panes] = frame + (sky - frame) * shine


def _body(out: np.ndarray, spot: _Spots) -> None:
    """Lamps: white before, red behind; a dark sill."""
    a, b = np.abs(spot.along / spot.half), spot.up / spot.half_up
    out *= np.where(b < F(-0.62), F(0.45), F(1))
    # above the middle of a car, at the foot of what is taller
    middle = np.where(spot.half_up > F(0.6), F(0.3) - spot.half_up, F(0.25) * spot.half_up)
    high = np.minimum(F(0.3) * spot.half_up, F(0.14))
    lamp = (a > F(0.62)) & (a < F(0.95)) & (np.abs(spot.up - middle) < high)
    dark = spot.weather.dark
    level = 1.0 if dark else float(spot.weather.ambient.mean()) + 0.3
    for side, colour in ((0, (250, 246, 228)), (1, (226, 34, 28) if dark else (150, 22, 20))):
        rows = np.flatnonzero(lamp & (spot.side == side))
        for c in range(3):
            out[c, rows] = F(colour[c] * level)


def _cabin(out: np.ndarray, spot: _Spots) -> None:
    """Glass between the pillars, which mirrors a little of the sky."""
    b = spot.up / spot.half_up
    glass = (np.abs(spot.along / spot.half) < F(0.9)) & (b < F(0.68)) & (b > F(-0.85))
    panes = np.flatnonzero(glass)
    for c, dark in enumerate((22.0, 26.0, 30.0)):
        sky = spot.weather.zenith[c] + spot.weather.horizon[c]
        out[c, panes] = F(dark * 0.7 + 0.11 * sky)


def _signal(out: np.ndarray, spot: _Spots) -> None:
    """A dark housing with red, yellow and green lamps from above at -x; the lit one shines."""
    light = F(spot.weather.ambient.mean() + 0.2)
    for c, dark in enumerate((34.0, 36.0, 38.0)):
        out[c] = F(dark) * light
    rgb = spot.rgb()
    red, green = rgb[0], rgb[1]
    lit = np.where(red > F(1.6) * green, 0, np.where(green > F(1.25) * red, 2, 1))
    lit = np.where(np.maximum(red, green) < 100, -1, lit)
    radius = np.minimum(F(0.8) * spot.half, F(0.29) * spot.half_up)
    for lamp, off in enumerate(((58, 18, 16), (56, 44, 14), (14, 48, 30))):
        up = spot.up - F(0.64 * (1 - lamp)) * spot.half_up
        disc = (spot.along * spot.along + up * up < radius * radius) & (spot.side == 1)
        for c in range(3):
            np.copyto(out[c], np.where(lit == lamp, rgb[c], F(off[c]) * light), where=disc)


def _leaves(out: np.ndarray, spot: _Spots) -> None:
    """Lighter and darker spots of a few decimetres."""
    x, y = spot.along * F(34) + spot.key() * F(57), spot.up * F(34)
    out *= F(0.72) + F(0.5) * looked_up(spot.noise, x, y)


def looked_up(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n) of a square table that repeats, its side a power of two, at column x and row y."""
    side = len(table)
    column = np.floor(x).astype(np.int64) & (side - 1)
    row = np.floor(y).astype(np.int64) & (side - 1)
    found: np.ndarray = table.reshape(-1).take(row * side + column)
    return found


_BRUSHES = {
    Style.FACADE: _facade,
    Style.BODY: _body,
    Style.CABIN: _cabin,
    Style.SIGNAL: _signal,
    Style.LEAVES: _leaves,
}
