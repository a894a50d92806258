"""Coarser pictures of the ground are means; noise repeats and is as frequent at every value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apps.driving.world.render import Scene
from apps.driving.world.render.textures import (
    FOLD,
    NOISE,
    folded,
    glow,
    glow_cell,
    levels,
    noise,
    palette,
)


def channels(packed: np.ndarray) -> np.ndarray:
    """(..., 4) red, green, blue, gloss."""
    return np.stack([packed >> shift & 255 for shift in (0, 8, 16, 24)], axis=-1).astype(float)


@pytest.mark.parametrize("shape", [(64, 48), (61, 50), (3, 2), (300, 17)])
def test_levels_are_means_of_four_by_four(crossroads: Scene, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    ground = replace(crossroads.ground, cells=rng.integers(0, 224, shape).astype(np.uint8))
    colours = channels(palette(ground))
    np.testing.assert_array_equal(colours[:, :3], ground.colour)
    finer = colours[ground.cells]
    for level in levels(ground):
        rows, columns = (-(-n // 4) for n in finer.shape[:2])
        # the last row and column stand in for what is beyond them
        grown = np.pad(
            finer,
            ((0, 4 * rows - finer.shape[0]), (0, 4 * columns - finer.shape[1]), (0, 0)),
            mode="edge",
        )
        means = grown.reshape(rows, 4, columns, 4, 4).mean((1, 3))
        assert level.shape == (rows, columns)
        assert np.abs(channels(level) - means).max() <= 0.5
        finer = channels(level)


def test_noise_repeats_smoothly() -> None:
    table = noise()
    assert table.shape == (NOISE, NOISE)
    counts = np.histogram(table, bins=16, range=(0, 1))[0]
    assert counts.min() == counts.max() == NOISE * NOISE / 16
    steps = [np.abs(np.diff(table, axis=k)).mean() for k in (0, 1)]
    seams = [np.abs(table[0] - table[-1]).mean(), np.abs(table[:, 0] - table[:, -1]).mean()]
    assert max(seams) < 1.5 * max(steps) < 0.2
    assert table.tobytes() == noise().tobytes()


def test_glow_fades_from_a_lamp(crossroads: Scene) -> None:
    ground = crossroads.ground
    cells = glow(ground, np.array([[10.0, -20.0, 6.0]]))
    row, column = np.unravel_index(cells.argmax(), cells.shape)
    assert (column, row) == pytest.approx((110, 80), abs=1)
    assert cells.max() == pytest.approx(1.0, abs=0.05)
    assert cells[row, column + 8] < 0.6
    assert not cells[row, column + 21 :].any()
    assert not glow(ground, np.zeros((0, 3))).any()
    assert glow(ground, np.array([[1e6, 0.0, 6.0], [-1e6, 5.0, 6.0]])).max() == 0
    long = replace(ground, cells=np.zeros((2, 50_000), np.uint8), resolution=0.5)
    assert glow_cell(ground) == 1.0
    assert max(glow(long, np.zeros((0, 3))).shape) <= FOLD


def test_folding_keeps_the_order() -> None:
    raster = np.arange(3 * 5000, dtype=np.uint16).reshape(3, 5000)
    out = folded(raster)
    assert out.shape == (2, FOLD)
    np.testing.assert_array_equal(out.reshape(-1)[:15_000], np.arange(15_000))
