"""Crosswalks and the graph that walkers walk on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from apps.driving.world.maps.footways import Footways, find_crosswalks, find_footways
from apps.driving.world.maps.procedural import generate
from apps.driving.world.maps.roads import Roads


def walk(text: str) -> tuple[Roads, list[np.ndarray], Footways]:
    roads = Roads.parse(text)
    crosswalks = find_crosswalks(roads)
    return roads, crosswalks, find_footways(roads, crosswalks)


@pytest.fixture(scope="module", params=["Town01", "generated"])
def town(request: pytest.FixtureRequest, samples: Path) -> tuple[Roads, list[np.ndarray], Footways]:
    name = request.param
    return walk((samples / "Town01.xodr").read_text() if name == "Town01" else generate(3))


def test_walkers_reach_every_node(town: tuple[Roads, list[np.ndarray], Footways]) -> None:
    _, _, ways = town
    n = len(ways.nodes)
    assert n > 500
    assert (ways.edges.min(), ways.edges.max()) == (0, n - 1)
    graph = coo_matrix((np.ones(len(ways.edges)), ways.edges.T), (n, n))
    assert connected_components(graph, directed=False)[0] == 1
    length = np.hypot(*(ways.nodes[ways.edges[:, 0]] - ways.nodes[ways.edges[:, 1]]).T)
    assert length[~ways.crossing].max() < 11
    assert length.max() < 40


def test_most_sidewalks_are_part_of_it(town: tuple[Roads, list[np.ndarray], Footways]) -> None:
    roads, _, ways = town
    there = sum(s.length for _, s, lane in roads.lanes() if lane.type == "sidewalk")
    edges = ways.edges[~ways.crossing]
    length = np.hypot(*(ways.nodes[edges[:, 0]] - ways.nodes[edges[:, 1]]).T).sum()
    assert 0.8 * there < length < 1.2 * there


def test_only_crossings_lead_over_the_roadway(
    town: tuple[Roads, list[np.ndarray], Footways],
) -> None:
    """The middle of every other edge is off the driving lanes, that of every crossing on one."""
    from scipy.spatial import cKDTree

    roads, _, ways = town
    centre, half = [], []
    for road, section, lane in roads.lanes():
        if lane.type == "driving":
            s = np.linspace(section.s, section.end, max(2, int(section.length * 2)))
            xy, _, width = road.lane_line(section, lane.id, s)
            centre.append(xy)
            half.append(width / 2)
    tree, reach = cKDTree(np.concatenate(centre)), np.concatenate(half)
    middle = ways.nodes[ways.edges].mean(1)
    distance, near = tree.query(middle)
    off = distance - reach[near]  # m from the edge of the nearest lane
    assert (off[ways.crossing] < 1.1).mean() > 0.9  # medians are 2 m wide
    assert (off[~ways.crossing] < -0.3).mean() < 0.02


def test_every_crosswalk_of_a_generated_town_is_walked_on() -> None:
    _, crosswalks, ways = walk(generate(3))
    middle = ways.nodes[ways.edges[ways.crossing]].mean(1)
    reached = [np.hypot(*(middle - c.mean(0)).T).min() < 0.5 for c in crosswalks]
    assert len(crosswalks) > 10
    assert np.mean(reached) > 0.9
    assert all(c.shape == (4, 2) for c in crosswalks)


def test_roads_without_sidewalks_are_walked_beside() -> None:
    bare = re.sub(r'<lane id="-?\d+" type="sidewalk".*?</lane>', "", generate(3))
    bare = re.sub(r"<objects>.*?</objects>", "", bare, flags=re.DOTALL)
    roads, crosswalks, ways = walk(bare)
    assert not crosswalks
    assert not any(lane.type == "sidewalk" for _, _, lane in roads.lanes())
    assert len(ways.nodes) > 300


def test_a_road_alone_has_footways_of_its_own() -> None:
    text = (
        '<OpenDRIVE><header/><road name="r" length="40" id="0" junction="-1"><link/><planView>'
        '<geometry s="0" x="0" y="0" hdg="0" length="40"><line/></geometry></planView><lanes>'
        '<laneSection s="0"><center><lane id="0" type="none"/></center><right>'
        '<lane id="-1" type="driving"><width sOffset="0" a="3" b="0" c="0" d="0"/></lane></right>'
        "</laneSection></lanes></road></OpenDRIVE>"
    )
    _, _, ways = walk(text)
    # One metre off the lane's edges, joined across the road at both of its ends.
    assert set(np.round(ways.nodes[:, 1], 6).tolist()) == {4.0, -1.0}
    assert ways.crossing.sum() == 2
    assert len(ways.edges) == len(ways.nodes)
