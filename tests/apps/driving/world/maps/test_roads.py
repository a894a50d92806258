"""Roads as numbers, against ``carla.Map`` and against integrals done the slow way."""

from __future__ import annotations

from pathlib import Path

import carla
import numpy as np
import pytest

from apps.driving.world.maps.procedural import generate
from apps.driving.world.maps.roads import Cubic, Roads

_LANES = """<lanes><laneOffset s="0" a="0.5" b="0.01" c="0" d="0"/><laneSection s="0"><left>
<lane id="1" type="driving"><width sOffset="0" a="3" b="0.02" c="0" d="0"/></lane></left><center>
<lane id="0" type="none"/></center><right><lane id="-1" type="driving">
<width sOffset="0" a="3.5" b="0" c="0" d="0"/><width sOffset="20" a="3.5" b="-0.01" c="0" d="0"/>
<roadMark sOffset="0" type="broken" color="white" width="0.1" laneChange="both"/>
<roadMark sOffset="25" type="solid" color="yellow" width="0.2"/></lane><lane id="-2" type="sidewalk">
<width sOffset="0" a="2" b="0" c="0.0004" d="-0.000002"/></lane></right></laneSection></lanes>"""


def town(*shapes: tuple[float, str], heading: float = 0.4, extra: str = "") -> str:
    """One road of pieces (length, XML of the shape), put end to end with their own heading."""
    pieces, s = "", 0.0
    for length, shape in shapes:
        pieces += (
            f'<geometry s="{s}" x="{10 + s}" y="-5" hdg="{heading}" length="{length}">'
            f"{shape}</geometry>"
        )
        s += length
    return (
        '<OpenDRIVE><header revMajor="1" revMinor="4"/>'
        f'<road name="r" length="{s}" id="7" junction="-1"><link/>'
        '<type s="0" type="town"><speed max="50" unit="km/h"/></type>'
        f"<planView>{pieces}</planView>{_LANES}{extra}</road></OpenDRIVE>"
    )


def compare(text: str, *, places: float, radians: float) -> None:
    """Centres, headings and widths of every lane equal the waypoints of ``carla.Map``."""
    roads, seen = Roads.parse(text), carla.Map("compare", text)
    for road, section, lane in roads.lanes():
        s = section.s + np.linspace(0.03, 0.97, 7) * section.length
        if section.length < 0.1 or lane.type != "driving":
            continue
        xy, yaw, width = road.lane_line(section, lane.id, s)
        for k, at in enumerate(s.tolist()):
            waypoint = seen.get_waypoint_xodr(road.id, lane.id, at)
            there = waypoint.transform
            np.testing.assert_allclose(
                xy[k], [there.location.x, there.location.y], atol=places, err_msg=f"{road.id} {at}"
            )
            turned = yaw[k] - np.radians(there.rotation.yaw)
            assert abs((turned + np.pi) % (2 * np.pi) - np.pi) < radians, (road.id, lane.id, at)
            assert width[k] == pytest.approx(waypoint.lane_width, abs=1e-5)


def test_lanes_of_town01_are_where_carla_puts_them(samples: Path) -> None:
    compare((samples / "Town01.xodr").read_text(), places=1e-3, radians=1e-4)


def test_lanes_of_a_generated_town_are_where_carla_puts_them() -> None:
    # Where a lane grows in a bend CARLA takes the slope for the angle: up to 0.02 beside the tangent.
    compare(generate(5, blocks=2), places=1e-3, radians=0.02)


@pytest.mark.parametrize(
    ("shape", "places", "radians"),
    [
        ("<line/>", 1e-4, 1e-3),
        ('<arc curvature="0.02"/>', 1e-4, 2e-3),
        ('<arc curvature="-0.015"/>', 1e-4, 2e-3),
        # carla.Map looks polynomials up in a table of samples, and headings between them jump.
        ('<poly3 a="0" b="0" c="0.002" d="0.00001"/>', 0.05, 0.03),
        (
            '<paramPoly3 pRange="normalized" aU="0" bU="40" cU="0" dU="0" aV="0" bV="0" cV="4" '
            'dV="-1"/>',
            0.05,
            0.03,
        ),
        (
            '<paramPoly3 pRange="arcLength" aU="0" bU="1" cU="0" dU="-0.00001" aV="0" bV="0" '
            'cV="0.004" dV="0"/>',
            0.05,
            0.03,
        ),
    ],
)
def test_each_shape_lies_where_carla_puts_it(shape: str, places: float, radians: float) -> None:
    compare(town((40.0, shape)), places=places, radians=radians)


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.04), (0.03, -0.03), (-0.02, -0.06)])
def test_a_spiral_is_the_integral_of_its_curvature(start: float, end: float) -> None:
    length = 45.0
    shape = f'<spiral curvStart="{start}" curvEnd="{end}"/>'
    plan = Roads.parse(town((length, shape))).roads[7].plan
    fine = np.linspace(0, length, 400_001)
    heading = 0.4 + start * fine + 0.5 * (end - start) / length * fine**2
    step = fine[1]
    middle = 0.5 * (heading[1:] + heading[:-1])
    x = 10 + np.concatenate([[0], np.cumsum(np.cos(middle) * step)])
    y = -5 + np.concatenate([[0], np.cumsum(np.sin(middle) * step)])
    at = np.array([0, 7_777, 123_456, 400_000])
    got = plan(fine[at])
    np.testing.assert_allclose(got[0], x[at], atol=1e-6)
    np.testing.assert_allclose(got[1], y[at], atol=1e-6)
    np.testing.assert_allclose(got[2], heading[at], atol=1e-9)
    np.testing.assert_allclose(got[3], start + (end - start) * fine[at] / length, atol=1e-12)


def test_borders_pile_up_from_the_lane_offset() -> None:
    road = Roads.parse(town((60.0, "<line/>"))).roads[7]
    found = road.borders(road.sections[0], np.array([10.0, 40.0]))
    assert list(found) == [0, 1, -1, -2]
    np.testing.assert_allclose(found[0], [[0.6, 0.6], [0.9, 0.9]])
    np.testing.assert_allclose(found[1], [[0.6, 3.8], [0.9, 4.7]])
    np.testing.assert_allclose(found[-1], [[0.6, -2.9], [0.9, -2.4]])
    width = 2 + 0.0004 * 40**2 - 0.000002 * 40**3
    np.testing.assert_allclose(found[-2][1], [-2.4, -2.4 - width])


def test_cubics_hold_from_their_record_on() -> None:
    rng = np.random.default_rng(3)
    records = [(s, *rng.normal(size=4)) for s in (0.0, 3.0, 3.5, 11.0)]
    values, slopes = Cubic(list(reversed(records)))(at := np.linspace(-1, 15, 97))
    for s, value, slope in zip(at, values, slopes, strict=True):
        start, a, b, c, d = [r for r in records if r[0] <= max(s, 0.0)][-1]
        x = s - start
        assert value == pytest.approx(a + b * x + c * x**2 + d * x**3)
        assert slope == pytest.approx(b + 2 * c * x + 3 * d * x**2)


def test_links_of_lanes_lead_where_waypoints_do() -> None:
    text = generate(11, blocks=2)
    roads, seen = Roads.parse(text), carla.Map("links", text)
    checked = 0
    for road, section, lane in roads.lanes():
        if lane.type != "driving":
            continue
        end = section.end - 0.05 if lane.id < 0 else section.s + 0.05
        after = seen.get_waypoint_xodr(road.id, lane.id, end).next(0.1)
        mine = {
            (r, i, k)
            for r, i, k in roads.following(road, section, lane.id)
            if roads.roads[r].sections[i].lanes[k].type == "driving"
        }
        assert {(w.road_id, w.lane_id) for w in after} == {(r, k) for r, _, k in mine}
        checked += len(after)
    assert checked > 60
