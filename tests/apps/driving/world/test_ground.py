"""The painted ground, looked at in places whose material the map decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from apps.driving.world import ground as module
from apps.driving.world.ground import Ground, Material, bars, paint, tables, zebra
from apps.driving.world.roads import Roads
from apps.driving.world.tags import Tag

TOWN01 = Path(__file__).parents[4] / "samples" / "Town01.xodr"
ROAD = {Material.ASPHALT, Material.TRACKS}
PAVED = {Material.PAVEMENT, Material.SEAM}


def lane(key: int, kind: str, width: float, mark: str = "") -> str:
    return f'<lane id="{key}" type="{kind}"><width sOffset="0" a="{width}"/>{mark}</lane>'


def mark(kind: str, colour: str = "white", width: float = 0.2) -> str:
    return f'<roadMark sOffset="0" type="{kind}" color="{colour}" width="{width}"/>'


def section(s: float = 0.0, centre: str = "", edge: str = "") -> str:
    """Lanes of 3.5 m, then a shoulder of 1 m with a curb, then a pavement of 3 m, on both sides."""
    sides = {
        sign: lane(sign, "driving", 3.5, edge)
        + lane(2 * sign, "shoulder", 1.0, mark("curb", width=0.15))
        + lane(3 * sign, "sidewalk", 3.0)
        for sign in (1, -1)
    }
    return f"""<laneSection s="{s}"><left>{sides[1]}</left><center><lane id="0" type="none">{centre}
    </lane></center><right>{sides[-1]}</right></laneSection>"""


def road(lanes: str, key: int = 1, x: float = 0, y: float = 0, heading: float = 0, **more: Any) -> str:
    length, junction, objects = (
        more.get("length", 60.0), more.get("junction", -1), more.get("objects", "")
    )  # fmt: skip
    return f"""<road id="{key}" length="{length}" junction="{junction}">
    <type s="0" type="town"><speed max="{more.get("speed", 30)}" unit="km/h"/></type>
    <planView><geometry s="0" x="{x}" y="{y}" hdg="{heading}" length="{length}"><line/></geometry>
    </planView><lanes>{lanes}</lanes><objects>{objects}</objects></road>"""


def painted(*roads: str, **options: Any) -> Ground:
    text = '<OpenDRIVE><header revMajor="1" revMinor="4"/>' + "".join(roads) + "</OpenDRIVE>"
    return paint(Roads.parse(text), **options)


def across(found: Ground, x: float, y: list[float]) -> list[Material]:
    """Materials at (x, y); y as in OpenDRIVE, to the left."""
    return [Material(m) for m in found.material(np.array([[x, -v] for v in y]))]


@pytest.fixture(scope="module")
def town01() -> Ground:
    return paint(Roads.parse(TOWN01.read_text()), seed=1)


def test_each_lane_is_what_the_map_says() -> None:
    found = painted(road(section()))
    for side in (1, -1):
        driving, shoulder, kerb, walk, field = across(
            found, 31.05, [side * v for v in (1.75, 4.0, 4.55, 6.0, 7.8)]
        )
        assert driving in ROAD
        assert shoulder == Material.SHOULDER
        assert kerb == Material.KERB
        assert walk in PAVED
        assert field == Material.GRASS
    assert across(found, -1.0, [1.0]) == [Material.GRASS]


def test_a_solid_line_has_its_width_and_no_gap_at_a_section() -> None:
    line = mark("solid", "yellow")
    found = painted(road(section(0, line) + section(20.03, line) + section(41.77, line)))
    x = np.arange(0.05, 60, 0.05)
    middle = found.material(np.stack([x, np.zeros_like(x)], 1))
    assert (middle == Material.YELLOW).all()
    y = np.arange(-0.5, 0.5, 0.01)
    wide = (found.material(np.stack([np.full_like(y, 30.02), y], 1)) == Material.YELLOW).mean()
    assert wide == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize("heading", [0.0, 0.03, 0.7, 2.2])
def test_the_thinnest_line_is_never_broken(heading: float) -> None:
    found = painted(road(section(0, mark("solid", width=0.1)), heading=heading), resolution=0.25)
    white = found.cells >> 4 == Material.WHITE
    assert ndimage.label(white, np.ones((3, 3)))[1] == 1
    rows, columns = np.nonzero(white)
    assert np.hypot(np.ptp(rows), np.ptp(columns)) * 0.25 == pytest.approx(60.0, abs=0.5)


def test_broken_lines_have_gaps_and_longer_ones_where_traffic_is_fast() -> None:
    slow = painted(road(section(0, mark("broken"))))
    fast = painted(road(section(0, mark("broken")), speed=100))
    for found, on, off in ((slow, (1, 10, 19), (5, 8, 14)), (fast, (1, 5, 19), (8, 14, 28))):
        assert all(across(found, x + 0.02, [0])[0] == Material.WHITE for x in on)
        assert all(across(found, x + 0.02, [0])[0] in ROAD for x in off)


def test_double_lines_lie_apart_and_keep_their_sides() -> None:
    found = painted(road(section(0, mark("solid solid"))))
    assert across(found, 30, [0.2])[0] == across(found, 30, [-0.2])[0] == Material.WHITE
    assert across(found, 30.0, [0.0])[0] in ROAD
    # From the lane 0 outwards: the first named is nearer to the road's middle.
    found = painted(road(section(0, edge=mark("solid broken"))))
    for side in (1, -1):
        inner, outer = across(found, 5.0, [side * 3.3, side * 3.7])  # s = 5: a gap
        assert inner == Material.WHITE
        assert outer != Material.WHITE
        assert across(found, 1.0, [side * 3.7])[0] == Material.WHITE


def test_no_line_where_the_map_has_none() -> None:
    lines = {Material.WHITE, Material.YELLOW}
    found = painted(road(section(0, mark("none"), mark("curb"))))
    assert not lines & {Material(m) for m in np.unique(found.cells >> 4)}


def test_only_small_patches_between_lanes_of_a_junction_are_closed() -> None:
    def ring(gap: float) -> list[str]:
        """Four lanes of 3.5 m around a square of ``gap`` metres."""
        one = '<laneSection s="0"><center><lane id="0" type="none"/></center><right>'
        one += lane(-1, "driving", 3.5) + "</right></laneSection>"
        a, long = gap / 2, gap + 7
        corners = [(-a - 3.5, -a, 0), (a, -a - 3.5, 90), (a + 3.5, a, 180), (-a, a + 3.5, 270)]
        return [
            road(one, k + 1, x, y, float(np.radians(h)), length=long, junction=5)
            for k, (x, y, h) in enumerate(corners)
        ]

    assert across(painted(*ring(8.0)), 0, [0])[0] == Material.ASPHALT
    assert across(painted(*ring(20.0)), 0, [0])[0] == Material.GRASS


def test_an_island_beside_a_median_becomes_median() -> None:
    one = '<laneSection s="0"><left>{}</left><center><lane id="0" type="none"/></center><right>{}'
    one += "</right></laneSection>"
    lanes = {
        part: one.format(
            lane(1, part, 2.0) + lane(2, "driving", 4.0),
            lane(-1, part, 2.0) + lane(-2, "driving", 4.0),
        )
        for part in ("median", "none", "driving")
    }
    found = painted(
        road(lanes["median"], 1, length=20),
        road(lanes["none"], 2, x=20, length=8, junction=9),
        road(lanes["driving"], 3, x=28, length=8, junction=9),
    )
    assert across(found, 10, [0.5]) == across(found, 24, [0.5]) == [Material.MEDIAN]
    assert across(found, 32, [0.5])[0] == Material.ASPHALT


def test_a_zebra_has_bars_along_the_road_within_its_outline() -> None:
    outline = np.array([[10, -4], [13, -4.5], [13, 4.5], [10, 4]], float)
    found = painted(road(section()), crosswalks=[outline])
    y = np.arange(-3.9, 3.9, 0.02)
    for x in (10.5, 12.5):
        white = found.material(np.stack([np.full_like(y, x), y], 1)) == Material.WHITE
        assert 0.4 < white.mean() < 0.6
        assert np.abs(np.diff(white.astype(int))).sum() >= 14  # eight bars or so
    assert Material.WHITE not in across(found, 9.8, list(np.arange(-4, 4, 0.1)))
    assert Material.WHITE not in across(found, 13.2, list(np.arange(-4, 4, 0.1)))


def test_bars_of_a_zebra_are_half_a_metre_wide_whatever_its_turn() -> None:
    outline = np.array([[0, 0], [12, 0], [12, 3], [0, 3]], float)
    for angle in (0.0, 0.4, 2.0, -1.2):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        quads = zebra(outline @ turn.T + 7.0)
        assert len(quads) == 12
        sides = np.linalg.norm(quads - np.roll(quads, -1, 1), axis=2)
        np.testing.assert_allclose(np.sort(sides, axis=1), [[0.5, 0.5, 3.0, 3.0]] * 12, atol=1e-9)


def test_stop_lines_given_and_those_of_the_map_are_painted() -> None:
    listed = """<object id="9" name="StopLine" type="-1" s="50" t="-1.75" hdg="1.5707963267948966">
    <outline><cornerLocal u="-1.6" v="0" z="0"/><cornerLocal u="1.6" v="0" z="0"/></outline>
    </object>"""
    line = np.array([[[20.0, 0.2], [20.0, 3.3]]])
    found = painted(road(section(), objects=listed), stop_lines=line)
    for x in (20.0, 50.0):
        assert across(found, x, [-1.0, -3.0]) == [Material.WHITE] * 2
        assert across(found, x, [1.0])[0] in ROAD
        assert across(found, x + 0.4, [-1.0])[0] in ROAD


def test_bars_have_the_width_asked_for() -> None:
    quad = bars(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), 2.0)[0]
    sides = np.linalg.norm(quad - np.roll(quad, -1, 0), axis=1)
    np.testing.assert_allclose(sides, [5.0, 2.0, 5.0, 2.0])


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


def test_texels_pack_the_tables(town01: Ground) -> None:
    packed = town01.texel.view(np.uint8).reshape(256, 4)
    assert np.array_equal(packed[:, :3], town01.colour)
    assert np.array_equal(packed[:, 3], town01.tag)


def test_outside_the_raster_there_is_grass(town01: Ground) -> None:
    far = np.array([[1e5, 0.0], [-1e5, 3.0], [0.0, 1e5]])
    assert (town01.index(far) == town01.outside).all()
    assert town01.material(far).tolist() == [Material.GRASS] * 3


def test_town01_fits_and_is_fine(town01: Ground) -> None:
    assert town01.cells.nbytes < 32e6
    assert town01.resolution == 0.1


def test_a_town_of_any_size_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CELLS", 200_000)
    found = painted(road(section(), length=900.0, heading=0.5))
    assert found.cells.size <= 200_000
    assert found.resolution > 0.5
    assert across(found, 0.0, [0.0])[0] in ROAD


def test_same_seed_same_ground_another_seed_another_texture_alone() -> None:
    first, again, other = (painted(road(section()), seed=seed) for seed in (3, 3, 4))
    assert first.cells.tobytes() == again.cells.tobytes() != other.cells.tobytes()
    assert np.array_equal(first.cells >> 4, other.cells >> 4)


def test_texture_uses_the_shades_and_leaves_the_material(town01: Ground) -> None:
    grass = town01.cells[town01.cells >> 4 == Material.GRASS] & 15
    assert 2.0 < grass.std() < 4.5
    assert 6.0 < grass.mean() < 9.0


def test_laid_ground_keeps_the_texture() -> None:
    found = painted(road(section()))
    square = np.array([[[20.0, 10.0], [30.0, 10.0], [30.0, 20.0], [20.0, 20.0]]])
    before = found.cells & 15
    found.lay(square, Material.PLAZA)
    assert across(found, 25, [-15]) == [Material.PLAZA]
    assert np.array_equal(found.cells & 15, before)
