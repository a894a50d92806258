"""Pavements, crossings and roadways come from lanes, crosswalk outlines and the footway graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.driving.world.maps.footways import Footways, find_crosswalks, find_footways
from apps.driving.world.maps.navmesh import navigation_mesh
from apps.driving.world.maps.roads import Roads
from apps.driving.world.maps.walkable import LONGEST_M, MARGIN_M, Area, walkable_areas

NO_FOOTWAYS = Footways(np.zeros((0, 2)), np.zeros((0, 2), np.int32), np.zeros(0, bool))


def town(lanes: str, plan: str = "<line/>", length: float = 60.0) -> Roads:
    """One road from (0, 0) along x, lanes to the right of it: y grows in CARLA's frame."""
    return Roads.parse(
        f"""<OpenDRIVE><header revMajor="1" revMinor="4"/><road name="" length="{length}" id="1"
        junction="-1"><planView><geometry s="0" x="0" y="0" hdg="0" length="{length}">{plan}
        </geometry></planView><lanes><laneSection s="0"><center><lane id="0" type="none"
        level="false"/></center><right>{lanes}</right></laneSection></lanes></road></OpenDRIVE>"""
    )


def lane(number: int, kind: str, width: float) -> str:
    return (
        f'<lane id="{number}" type="{kind}" level="false">'
        f'<width sOffset="0" a="{width}" b="0" c="0" d="0"/></lane>'
    )


STREET = lane(-1, "driving", 4.0) + lane(-2, "shoulder", 0.5) + lane(-3, "sidewalk", 3.0)


def covered(areas: list[Area], kind: str, points: np.ndarray, slack: float = 1e-9) -> np.ndarray:
    """(n) bool: inside an area of that kind, or ``slack`` metres outside."""
    found = np.zeros(len(points), bool)
    for name, polygon in areas:
        if name == kind:
            ahead = np.roll(polygon, -1, axis=0) - polygon
            offset = points[:, None] - polygon
            aside = ahead[:, 0] * offset[..., 1] - ahead[:, 1] * offset[..., 0]
            found |= (aside <= slack * np.hypot(*ahead.T)).all(1)
    return found


def span(areas: list[Area], kind: str, x: float) -> tuple[float, float]:
    """The lowest and highest y of a kind at x."""
    y = np.arange(-10, 20, 0.01)
    inside = covered(areas, kind, np.stack([np.full(len(y), x), y], 1))
    return float(y[inside].min()), float(y[inside].max())


@pytest.mark.parametrize("x", [0.5, 31.0, 59.0])
def test_pavements_leave_a_walkers_radius_to_the_roadway(x: float) -> None:
    areas = walkable_areas(town(STREET), [], NO_FOOTWAYS)
    assert span(areas, "sidewalk", x) == pytest.approx((4.5 + MARGIN_M, 7.5 - MARGIN_M), abs=0.011)
    assert span(areas, "road", x) == pytest.approx((0.0, 4.5 + MARGIN_M), abs=0.011)


def test_areas_are_short() -> None:
    for _, polygon in walkable_areas(town(STREET), [], NO_FOOTWAYS):
        assert np.ptp(polygon, axis=0).max() <= LONGEST_M + 1e-6


def test_lanes_of_no_use_are_left_out() -> None:
    areas = walkable_areas(town(lane(-1, "none", 3.0) + lane(-2, "sidewalk", 2.0)), [], NO_FOOTWAYS)
    assert {kind for kind, _ in areas} == {"sidewalk"}
    assert span(areas, "sidewalk", 30.0) == pytest.approx((3.3, 4.7), abs=0.011)


def test_a_road_without_pavements_gets_strips() -> None:
    areas = walkable_areas(town(lane(-1, "driving", 4.0)), [], NO_FOOTWAYS)
    y = np.array([(30.0, -1.0), (30.0, 2.0), (30.0, 5.0), (30.0, 6.5)])
    assert covered(areas, "sidewalk", y).tolist() == [True, False, True, False]
    assert covered(areas, "road", y).tolist() == [False, True, False, False]


def test_curves_are_followed_to_a_tenth_of_a_metre() -> None:
    areas = walkable_areas(town(STREET, '<arc curvature="-0.05"/>', 30.0), [], NO_FOOTWAYS)
    # Turns right about (0, 20) with radius 20; the pavement is 4.5 to 7.5 m inside of that.
    angle = np.linspace(0.01, 1.48, 300)
    centre = np.array([0.0, 20.0])
    outward = np.stack([np.sin(angle), -np.cos(angle)], 1)
    for radius in (15.0, 14.0, 13.0):
        assert covered(areas, "sidewalk", centre + radius * outward).all()
    assert not covered(areas, "sidewalk", centre + 15.4 * outward).any()
    assert len([kind for kind, _ in areas if kind == "sidewalk"]) < 25


def test_gaps_in_the_graph_become_joints_and_crossings() -> None:
    nodes = np.array([(59.0, 6.0), (61.5, 6.0), (30.0, 6.0), (30.0, 14.0)])
    edges = np.array([(0, 1), (2, 3)], np.int32)
    graph = Footways(nodes, edges, np.array([False, True]))
    areas = walkable_areas(town(STREET), [], graph)
    assert covered(areas, "sidewalk", np.array([(61.0, 6.0)])).all()
    assert covered(areas, "crosswalk", np.array([(30.0, 10.0), (31.0, 12.0)])).all()
    assert not covered(areas, "crosswalk", np.array([(33.0, 10.0), (61.0, 6.0)])).any()


def test_marked_crosswalks_keep_their_outline() -> None:
    outline = np.array([(20.0, 0.0), (24.0, 0.5), (24.0, 6.0), (20.0, 6.0)])
    areas = walkable_areas(town(STREET), [outline], NO_FOOTWAYS)
    inside = np.array([(22.0, 0.5), (23.9, 5.9), (20.1, 3.0)])
    assert covered(areas, "crosswalk", inside).all()
    assert not covered(areas, "crosswalk", np.array([(24.1, 3.0), (22.0, 0.2)])).any()


@pytest.mark.parametrize("gap", [1e-7, 1e-4, 1e-2])
def test_records_next_to_each_other_are_no_obstacle(gap: float) -> None:
    """A lane that widens from nothing at a record close after another one."""
    tapering = (
        '<lane id="-2" type="sidewalk" level="false"><width sOffset="0" a="0" b="0" c="0" d="0"/>'
        f'<width sOffset="{30 - gap}" a="0" b="0.2" c="0" d="0"/>'
        '<width sOffset="30" a="3" b="0" c="0" d="0"/></lane>'
    )
    areas = walkable_areas(town(lane(-1, "driving", 4.0) + tapering), [], NO_FOOTWAYS)
    assert covered(areas, "sidewalk", np.array([(30.1, 5.5), (59.0, 5.5)])).all()
    assert not covered(areas, "sidewalk", np.array([(29.0, 4.5), (10.0, 4.5)])).any()
    assert navigation_mesh(areas)


def test_every_footway_of_town01_is_walkable(samples: Path) -> None:
    roads = Roads.parse((samples / "Town01.xodr").read_text())
    crosswalks = find_crosswalks(roads)
    footways = find_footways(roads, crosswalks)
    areas = walkable_areas(roads, crosswalks, footways)
    ends = footways.nodes[footways.edges]  # (E, 2, 2)
    for part in (0.1, 0.5, 0.9):
        points = ends[:, 0] * (1 - part) + ends[:, 1] * part
        # Where roads meet, their lanes end within centimetres of each other; the mesh is welded.
        walk = covered(areas, "sidewalk", points, 0.03) | covered(areas, "crosswalk", points)
        assert walk.all()
        on_road = footways.crossing
        assert covered(areas, "crosswalk", points[on_road]).all()
