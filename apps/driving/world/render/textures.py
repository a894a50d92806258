"""Pictures that surfaces are painted with, made once and used by both renderers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from apps.driving.world.townscape.ground import Ground

COARSER = 4
"""Cells of a level that make one of the next coarser, each way."""
FROM = (35.0, 140.0)
"""m of depth from which the first and the second coarser level are looked up. A cell of 0.1 m
covers one pixel of a 60 degree camera 320 pixels wide at 28 m; beyond, lane markings would flicker."""
NOISE = 256
"""Texels of the noise each way; it repeats."""
FOLD = 8192
"""Texels a row of a raster as OpenGL gets it: drivers take 8192 or 16384 a side, and a long town
has more cells than that."""


def palette(ground: Ground) -> np.ndarray:
    """(256) uint32 of the ground's cell values: red (lowest byte), green, blue, gloss."""
    rgb, gloss = ground.colour.astype(np.uint32), ground.gloss
    shine = np.round(np.clip(gloss, 0, 1) * 255).astype(np.uint32)
    packed: np.ndarray = rgb[:, 0] | rgb[:, 1] << 8 | rgb[:, 2] << 16 | shine << 24
    return packed


def levels(ground: Ground) -> list[np.ndarray]:
    """Two coarser pictures of the ground, packed as its ``palette``: means of 4 x 4 and 16 x 16."""
    colours, first = palette(ground), ground.cells
    found = []
    for _ in FROM:
        first = _mean(first, colours if first.dtype == np.uint8 else None)
        found.append(first)
    return found


def _mean(cells: np.ndarray, colours: np.ndarray | None) -> np.ndarray:
    """Means over COARSER x COARSER of packed colours (H, W), or of cells looked up in ``colours``."""
    height, width = ((n + COARSER - 1) // COARSER for n in cells.shape)
    last = np.minimum(np.arange(width * COARSER), cells.shape[1] - 1)
    out = np.empty((height, width), np.uint32)
    for band in range(0, height, 64):  # 64 rows at once: the temporary arrays stay below 2 MB
        rows = np.arange(band * COARSER, min(band + 64, height) * COARSER)
        block = cells[np.minimum(rows, cells.shape[0] - 1)][:, last]
        # two channels at once in halves of 16 bits: 16 values of 8 bits sum to 12 bits
        total = np.zeros((2, len(rows) // COARSER, width), np.uint32)
        for i in range(COARSER):
            for j in range(COARSER):
                part = block[i::COARSER, j::COARSER]
                part = part if colours is None else colours[part]
                total[0] += part & 0x00FF00FF
                total[1] += part >> 8 & 0x00FF00FF
        total = (total + 0x00080008) >> 4 & 0x00FF00FF
        out[band : band + total.shape[1]] = total[0] | total[1] << 8
    return out


def folded(raster: np.ndarray) -> np.ndarray:
    """The values of ``raster`` (H, W), in order, as (n, FOLD); the last row is filled with zeros."""
    out = np.zeros((-(-raster.size // FOLD), FOLD), raster.dtype)
    out.reshape(-1)[: raster.size] = raster.reshape(-1)
    return out


def noise() -> np.ndarray:
    """(NOISE, NOISE) float32 in 0..1, smooth and periodic: value noise of five octaves, ranked so
    that every value is as frequent."""
    rng = np.random.default_rng([0, 0x72656E64])
    total = np.zeros((NOISE, NOISE))
    for octave in range(5):
        n = 8 << octave
        lattice = rng.random((n, n))
        at = np.arange(NOISE) * n / NOISE
        low = at.astype(np.int64)
        share = at - low
        share = share * share * (3 - 2 * share)
        high = (low + 1) % n
        rows = lattice[low] * (1 - share)[:, None] + lattice[high] * share[:, None]
        total += (rows[:, low] * (1 - share) + rows[:, high] * share) / (1.7**octave)
    rank = np.empty(total.size)
    rank[np.argsort(total, axis=None, kind="stable")] = np.arange(total.size) / total.size
    return rank.reshape(total.shape).astype(np.float32)


def glow_cell(ground: Ground) -> float:
    """m a cell of ``glow``: 1, or as much more as lets the longer side fit into FOLD cells."""
    return max(1.0, max(ground.cells.shape) * ground.resolution / (FOLD - 1))


def glow(ground: Ground, lamps: np.ndarray) -> np.ndarray:
    """(rows, columns) float32 of cells of ``glow_cell`` from the ground's origin: the light of
    street lamps at (l, 2 or 3), 1 right below one, fading to 0 at 20 m."""
    cell = glow_cell(ground)
    size = np.array(ground.cells.shape) * ground.resolution / cell
    cells = np.zeros((int(size[0]) + 1, int(size[1]) + 1), np.float32)
    reach = 20.0 / cell
    for x, y in (np.asarray(lamps, float)[:, :2] - ground.origin) / cell:
        r0, r1 = (min(max(int(y + d), 0), cells.shape[0]) for d in (-reach, reach))
        c0, c1 = (min(max(int(x + d), 0), cells.shape[1]) for d in (-reach, reach))
        rows, columns = np.arange(r0, r1)[:, None] + 0.5 - y, np.arange(c0, c1) + 0.5 - x
        near = np.maximum(1 - (rows * rows + columns * columns) / (reach * reach), 0)
        cells[r0:r1, c0:c1] += (near**4).astype(np.float32)
    return np.minimum(cells, np.float32(1.5))
