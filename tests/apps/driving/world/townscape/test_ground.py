"""Cells of the ground and their tables."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.world.tags import Tag
from apps.driving.world.townscape.ground import Ground, Material, tables


@pytest.fixture
def ground() -> Ground:
    """40 x 60 cells of 0.5 m from (-10, 5): asphalt of every shade, rows of 16."""
    cells = (np.arange(2400) % 16 + 16 * Material.ASPHALT).astype(np.uint8).reshape(40, 60)
    return Ground(cells, 0.5, (-10.0, 5.0), *tables())


def test_tags_follow_materials() -> None:
    colour, tag, gloss = tables()
    assert colour.shape == (256, 3)
    assert tag[Material.GRASS << 4] == Tag.TERRAIN
    for material, want in (
        (Material.ASPHALT, Tag.ROADS), (Material.KERB, Tag.SIDEWALKS), (Material.WHITE, Tag.ROAD_LINES),
    ):  # fmt: skip
        assert (tag[16 * material : 16 * material + 16] == want).all()
    assert gloss.min() >= 0
    assert gloss.max() <= 1
    mean = colour.reshape(16, 16, 3).mean((1, 2))
    assert (
        mean[Material.WHITE] > mean[Material.KERB] > mean[Material.ASPHALT] > mean[Material.TRACKS]
    )


def test_texels_pack_the_tables(ground: Ground) -> None:
    packed = ground.texel.view(np.uint8).reshape(256, 4)
    assert np.array_equal(packed[:, :3], ground.colour)
    assert np.array_equal(packed[:, 3], ground.tag)


def test_outside_the_raster_there_is_grass(ground: Ground) -> None:
    far = np.array([[1e5, 0.0], [-1e5, 3.0], [0.0, 1e5]])
    assert (ground.index(far) == ground.outside).all()
    assert ground.material(far).tolist() == [Material.GRASS] * 3


def test_laid_ground_keeps_the_texture(ground: Ground) -> None:
    before = ground.cells & 15
    ground.lay(np.array([[[0.0, 10.0], [5.0, 10.0], [5.0, 20.0], [0.0, 20.0]]]), Material.PLAZA)
    assert (ground.cells >> 4 == Material.PLAZA).sum() == 10 * 20
    assert ground.material(np.array([2.0, 15.0])) == Material.PLAZA
    assert np.array_equal(ground.cells & 15, before)


def test_a_point_finds_its_cell(ground: Ground) -> None:
    points = np.array([[-9.99, 5.01], [-9.51, 5.01], [-9.49, 5.01], [-9.99, 5.51], [19.99, 24.99]])
    want = [ground.cells[r, c] for r, c in ((0, 0), (0, 0), (0, 1), (1, 0), (39, 59))]
    assert ground.index(points).tolist() == want
    assert ground.to_cells(points[2]).tolist() == pytest.approx([1.02, 0.02])
