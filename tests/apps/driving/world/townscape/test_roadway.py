"""Lanes and markings as polylines: against carla.Map, and where maps jump."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.driving.world.maps.roads import Road, Roads
from apps.driving.world.townscape.roadway import lines, ribbons, stations

TOWN01 = Path(__file__).parents[5] / "samples" / "Town01.xodr"


def road(lanes: str, geometry: str = "<line/>", length: float = 40.0, offset: str = "") -> str:
    """An OpenDRIVE file of one road along x."""
    return f"""<OpenDRIVE><header revMajor="1" revMinor="4"/>
    <road id="1" length="{length}" junction="-1"><planView>
    <geometry s="0" x="0" y="0" hdg="0" length="{length}">{geometry}</geometry></planView>
    <lanes>{offset}{lanes}</lanes></road></OpenDRIVE>"""


def section(s: float, marks: str = "", width: str = '<width sOffset="0" a="3.5"/>') -> str:
    """A lane section of one lane a side, with ``marks`` on the centre line."""
    lane = '<lane id="{0}" type="driving">{1}</lane>'
    return f"""<laneSection s="{s}"><left>{lane.format(1, width)}</left>
    <center><lane id="0" type="none">{marks}</lane></center>
    <right>{lane.format(-1, width)}</right></laneSection>"""


def only(text: str) -> Road:
    return next(iter(Roads.parse(text).roads.values()))


@pytest.fixture(scope="module")
def town() -> Roads:
    return Roads.parse(TOWN01.read_text())


def test_lanes_lie_where_carla_has_them(town: Roads) -> None:
    carla = pytest.importorskip("carla")
    known = carla.Map("Town01", TOWN01.read_text())
    compared = 0
    for one in town.roads.values():
        for ribbon in ribbons(one):
            for k in range(1, len(ribbon.s) - 1, 3):
                point = known.get_waypoint_xodr(ribbon.road, ribbon.lane, float(ribbon.s[k]))
                if point is None or point.section_id != ribbon.section:
                    continue
                at = point.transform.location
                middle = (ribbon.inner[k] + ribbon.outer[k]) / 2
                assert np.hypot(at.x - middle[0], at.y - middle[1]) < 2e-3
                width = np.hypot(*(ribbon.outer[k] - ribbon.inner[k]))
                assert width == pytest.approx(point.lane_width, abs=2e-3)
                compared += 1
    assert compared > 50


def test_edges_stay_within_three_centimetres_of_the_curves(town: Roads) -> None:
    worst, bent = 0.0, 0
    for one in town.roads.values():
        for ribbon in ribbons(one):
            if len(ribbon.s) < 3:
                continue
            bent += 1
            part = one.sections[ribbon.section]
            s = np.linspace(part.s, part.end - 1e-6, 50)
            curve = one.place(s, one.borders(part, s)[ribbon.lane][:, 1])[0]
            worst = max(worst, float(_distance(curve, ribbon.outer).max()))
    assert bent > 50
    assert worst < 0.03


@pytest.mark.parametrize(
    "shape",
    [
        '<spiral curvStart="0" curvEnd="0.12"/>',
        '<paramPoly3 pRange="normalized" aU="0" bU="40" cU="0" dU="0" aV="0" bV="0" cV="14" dV="-7"/>',
        '<poly3 a="0" b="0" c="0.01" d="0"/>',
    ],
)
def test_other_curves_are_followed_as_closely(shape: str) -> None:
    one = only(road(section(0, width='<width sOffset="0" a="3" b="0" c="0.001" d="0"/>'), shape))
    for ribbon in ribbons(one):
        s = np.linspace(0, 40 - 1e-6, 300)
        curve = one.place(s, one.borders(one.sections[0], s)[ribbon.lane][:, 1])[0]
        assert _distance(curve, ribbon.outer).max() < 0.03


def _distance(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """(n) from points (n, 2) to a polyline (m, 2)."""
    a, run = line[:-1], np.diff(line, axis=0)
    share = ((points[:, None] - a) * run).sum(-1) / np.maximum((run**2).sum(-1), 1e-12)
    nearest = a + np.clip(share, 0, 1)[..., None] * run
    gap: np.ndarray = np.linalg.norm(points[:, None] - nearest, axis=-1).min(1)
    return gap


def test_a_straight_road_needs_its_ends_alone() -> None:
    assert stations(only(road(section(0)))).tolist() == [0.0, 40.0]


def test_a_circle_needs_more() -> None:
    found = stations(only(road(section(0), '<arc curvature="0.1"/>')))
    chord = np.diff(found).max()
    assert chord**2 * 0.1 / 8 <= 0.00501
    assert chord > 0.3


def test_dashes_have_their_length_and_a_section_does_not_break_them() -> None:
    mark = '<roadMark sOffset="0" type="broken" color="white" width="0.2"/>'
    whole = next(x for x in lines(only(road(section(0, mark)))) if x.lane == 0)
    split = [x for x in lines(only(road(section(0, mark) + section(10.5, mark)))) if x.lane == 0]
    quads = whole.dashed(0.0, 0.2, 3.0, 6.0)
    assert quads[..., 1].min() == pytest.approx(-0.1)
    assert quads[..., 1].max() == pytest.approx(0.1)
    covered = _covered(quads)
    assert covered == [(0, 3), (9, 12), (18, 21), (27, 30), (36, 39)]
    both = np.concatenate([x.dashed(0.0, 0.2, 3.0, 6.0) for x in split])
    assert _covered(both) == covered


def _covered(quads: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of x that quads cover, touching ones joined, rounded to 1 mm."""
    found: list[list[float]] = []
    for low, high in sorted(zip(quads[..., 0].min(1), quads[..., 0].max(1), strict=True)):
        if found and low <= found[-1][1] + 1e-6:
            found[-1][1] = max(found[-1][1], high)
        else:
            found.append([low, high])
    return [(round(a, 3), round(b, 3)) for a, b in found]


def test_a_jump_of_the_lane_offset_does_not_pull_the_section_before_it() -> None:
    """As roads 779 and 782 of CARLA's Town04 have it, by 14 m and 7 m."""
    offset = (
        '<laneOffset s="0" a="7" b="0" c="0" d="0"/><laneOffset s="10" a="0" b="0" c="0" d="0"/>'
    )
    found = [r for r in ribbons(only(road(section(0) + section(10), offset=offset))) if r.lane == 1]
    assert found[0].inner[:, 1].tolist() == pytest.approx([-7.0, -7.0])
    assert found[1].inner[:, 1].tolist() == pytest.approx([0.0, 0.0])


def test_a_jump_of_a_width_within_a_section_is_a_step_not_a_slope() -> None:
    width = '<width sOffset="0" a="3.5"/><width sOffset="20" a="5"/>'
    found = next(r for r in ribbons(only(road(section(0, width=width)))) if r.lane == 1)
    wide = -found.outer[:, 1]
    before, after = found.s < 20, found.s >= 20
    assert wide[before] == pytest.approx(3.5)
    assert wide[after] == pytest.approx(5.0)
    assert found.s[before].max() > 19.99


def test_marks_hold_until_the_next_record() -> None:
    marks = (
        '<roadMark sOffset="0" type="solid" color="yellow" width="0.15"/>'
        '<roadMark sOffset="15" type="none" color="white"/>'
    )
    found = [x for x in lines(only(road(section(0, marks)))) if x.lane == 0]
    assert [(x.kind, x.colour, x.start, x.stop) for x in found] == [
        ("solid", "yellow", 0.0, 15.0),
        ("none", "white", 15.0, 40.0),
    ]
