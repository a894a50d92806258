"""The painted ground, looked at in places whose material the map decides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from apps.driving.world.maps.roads import Roads
from apps.driving.world.townscape import painting as module
from apps.driving.world.townscape.ground import Ground, Material
from apps.driving.world.townscape.painting import paint

TOWN01 = Path(__file__).parents[5] / "samples" / "Town01.xodr"
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


def road(
    lanes: str, key: int = 1, x: float = 0, y: float = 0, heading: float = 0, **more: Any
) -> str:
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


CROSSWALK = """<object id="7" name="{}" type="crosswalk" s="11.5" t="0" hdg="0"><outline>
<cornerLocal u="-1.5" v="-4" z="0"/><cornerLocal u="1.5" v="-4.5" z="0"/>
<cornerLocal u="1.5" v="4.5" z="0"/><cornerLocal u="-1.5" v="4" z="0"/>
<cornerLocal u="-1.5" v="-4" z="0"/></outline></object>"""


def whites(found: Ground, x: float) -> np.ndarray:
    """Whether (x, y) is white, y every 2 cm from -3.9 m to 3.9 m."""
    y = np.arange(-3.9, 3.9, 0.02)
    white: np.ndarray = found.material(np.stack([np.full_like(y, x), y], 1)) == Material.WHITE
    return white


def test_a_zebra_has_bars_along_the_road_within_its_outline() -> None:
    found = painted(road(section(), objects=CROSSWALK.format("ContinentalCrosswalk")))
    for x in (10.5, 12.5):
        white = whites(found, x)
        assert 0.4 < white.mean() < 0.6
        assert np.abs(np.diff(white.astype(int))).sum() >= 14  # eight bars or so
    assert not whites(found, 9.8).any()
    assert not whites(found, 13.2).any()


def test_a_simple_crosswalk_is_two_lines_and_a_ladder_both() -> None:
    simple = painted(road(section(), objects=CROSSWALK.format("SimpleCrosswalk")))
    ladder = painted(road(section(), objects=CROSSWALK.format("LadderCrosswalk")))
    for found in (simple, ladder):
        assert whites(found, 10.15).all()
        assert whites(found, 12.85).all()
        assert not whites(found, 9.8).any()
        assert not whites(found, 13.2).any()
    assert not whites(simple, 11.5).any()
    assert 0.4 < whites(ladder, 11.5).mean() < 0.6


def test_the_maps_own_stop_lines_are_painted() -> None:
    listed = """<object id="9" name="StopLine" type="-1" s="50" t="-1.75" hdg="1.5707963267948966">
    <outline><cornerLocal u="-1.6" v="0" z="0"/><cornerLocal u="1.6" v="0" z="0"/></outline>
    </object>"""
    found = painted(road(section(), objects=listed))
    assert across(found, 50.0, [-1.0, -3.0]) == [Material.WHITE] * 2
    assert across(found, 50.0, [1.0])[0] in ROAD
    assert across(found, 50.4, [-1.0])[0] in ROAD


def test_parking_lanes_have_bays() -> None:
    lanes = section().replace('type="shoulder"', 'type="parking"')
    found = painted(road(lanes))
    assert across(found, 12.0, [4.0, -4.0]) == [Material.WHITE] * 2
    assert across(found, 15.0, [4.0, -4.0]) == [Material.PARKING] * 2


@dataclass
class Site:
    kind: str
    stop_nodes: list[int]


def network(lanes: int, turns: list[list[int]], kind: str) -> Any:
    """Nodes every 2 m of ``lanes`` lanes along x that end at x = 40, where their ``turns`` begin."""
    per, n = 20, 20 * lanes
    x, lane = np.tile(np.arange(per) * 2.0 + 1, lanes), np.repeat(np.arange(lanes), per)
    after: list[list[int]] = [[] for _ in range(n)]
    turn = np.zeros(n + sum(map(len, turns)), int)
    free = n
    for k, ways in enumerate(turns):
        for way in ways:
            after[(k + 1) * per - 1].append(free)
            turn[free], free = way, free + 1
    last = [(k + 1) * per - 1 for k in range(lanes)]
    sites = [Site(kind, last)]
    return SimpleNamespace(
        position=np.stack([x, lane * 3.5 + 1.75], 1), yaw_rad=np.zeros(n), width=np.full(n, 3.5),
        length=np.full(n, 2.0), road=np.ones(n, int), section=np.zeros(n, int), lane=-1 - lane,
        next=SimpleNamespace(of=lambda node: np.array(after[node], int)), turn=turn,
        lights=sites if kind == "light" else [], signs=[] if kind == "light" else sites,
        roads=SimpleNamespace(items=()),
    )  # fmt: skip


def held(lanes: int, turns: list[list[int]], kind: str) -> Ground:
    """The ground where a light or sign stops ``lanes`` lanes on the right of a road along x."""
    text = '<laneSection s="0"><center><lane id="0" type="none"/></center><right>'
    text += "".join(lane(-1 - k, "driving", 3.5) for k in range(lanes)) + "</right></laneSection>"
    whole = f"<OpenDRIVE>{road(text)}</OpenDRIVE>"
    return paint(Roads.parse(whole), network(lanes, turns, kind))


@pytest.mark.parametrize("kind", ["light", "stop"])
def test_who_is_held_up_finds_a_line_at_the_lanes_end(kind: str) -> None:
    found = held(1, [[0]], kind)
    assert across(found, 39.75, [-0.3, -1.75, -3.2]) == [Material.WHITE] * 3
    assert across(found, 39.2, [-1.75])[0] in ROAD
    assert across(found, 39.75, [-3.45])[0] in ROAD


def test_who_gives_way_finds_teeth() -> None:
    found = held(1, [[0]], "yield")
    y = -np.arange(0.2, 3.3, 0.02)
    near, far = (
        (np.array(across(found, x, list(y))) == Material.WHITE).mean() for x in (39.25, 39.65)
    )
    assert 0 < near < 0.3 < far < 0.8


def test_arrows_where_several_lanes_wait_show_their_ways() -> None:
    assert across(held(1, [[0, 1]], "light"), 31.0, [-1.75])[0] in ROAD
    found = held(2, [[0, -1], [1]], "light")
    assert across(found, 33.8, [-1.75, -5.25])[0] == Material.WHITE  # the head straight on
    assert across(found, 33.8, [-5.25])[0] in ROAD
    assert across(found, 31.6, [-1.75 + 0.7]) == [Material.WHITE]  # to the left
    assert across(found, 31.6, [-1.75 - 0.7])[0] in ROAD
    assert across(found, 31.6, [-5.25 - 0.7]) == [Material.WHITE]  # to the right
    assert across(found, 31.6, [-5.25 + 0.7])[0] in ROAD


def test_speed_limits_hold_up_nobody() -> None:
    assert Material.WHITE not in np.unique(held(2, [[0], [0]], "speed_limit").cells >> 4)
