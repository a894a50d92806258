"""Towns from seeds: whole, drivable, signalled, and the same each time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from itertools import combinations
from subprocess import CompletedProcess

import carla
import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from apps.driving.world.maps.network import Network
from apps.driving.world.maps.opendrive import check_opendrive, probe_opendrive
from apps.driving.world.maps.procedural import generate
from core.errors import UsageError

SEEDS = (0, 1, 2, 3, 2**40)


@pytest.fixture(scope="module", params=SEEDS)
def network(request: pytest.FixtureRequest) -> Network:
    text = generate(request.param)
    return Network(carla.Map("town", text), text)


def test_the_same_seed_gives_the_same_bytes(
    python: Callable[..., CompletedProcess[str]],
) -> None:
    here = hashlib.sha256(generate(6).encode()).hexdigest()
    code = (
        "import hashlib; from apps.driving.world.maps.procedural import generate as g;"
        "print(hashlib.sha256(g(6).encode()).hexdigest())"
    )
    assert python("-c", code).stdout.strip() == here
    assert len({generate(seed) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("blocks", [2, 3, 6])
def test_towns_pass_every_check(blocks: int) -> None:
    text = generate(17, blocks=blocks)
    roads = check_opendrive(text, "town")
    probe_opendrive(text, "town")
    assert len(roads.junctions) >= blocks


@pytest.mark.parametrize("seed", range(30, 60))
def test_no_junction_is_left_alone(seed: int) -> None:
    """Lights or stop signs at every one, both kinds and an X junction in every town."""
    roads = check_opendrive(generate(seed), "town")
    kinds: dict[int, set[str]] = {key: set() for key in roads.junctions}
    for reference in roads.references:
        if not reference.primary:
            junction = roads.roads[reference.road].junction
            kinds[junction].add(roads.signals[reference.signal].type)
    assert all(len(found) == 1 for found in kinds.values())
    assert {"1000001", "206"} == set().union(*kinds.values())
    ways = [{c.incoming for c in j.connections} for j in roads.junctions.values()]
    assert max(len(arms) for arms in ways) == 4


def test_towns_are_rid_of_nothing_when_asked_to() -> None:
    whole = check_opendrive(generate(4, removed=0.0), "town")
    assert len(whole.junctions) == 4 * 4 - 4  # every corner of the grid but its own four


def test_every_lane_is_reached_from_every_other(network: Network) -> None:
    n = len(network)
    sources = np.repeat(np.arange(n), np.diff(network.next.indptr))
    left, right = np.flatnonzero(network.left >= 0), np.flatnonzero(network.right >= 0)
    a = np.concatenate([sources, left, right])
    b = np.concatenate([network.next.indices, network.left[left], network.right[right]])
    graph = coo_matrix((np.ones(len(a)), (a, b)), (n, n))
    _, part = connected_components(graph, directed=True, connection="strong")
    inside = part == np.argmax(np.bincount(part))
    # What is left out are the tips of turning lanes, where they are too narrow to be entered.
    assert (network.width[~inside] < 2.4).all()
    assert inside.mean() > 0.98
    assert (np.diff(network.next.indptr) > 0).all()


def test_lanes_join_without_a_kink(network: Network) -> None:
    n = len(network)
    sources = np.repeat(np.arange(n), np.diff(network.next.indptr))
    step = network.position[network.next.indices] - network.position[sources]
    assert np.hypot(*step.T).min() > 1.0
    assert np.hypot(*step.T).max() < 3.0
    turn = network.yaw_rad[network.next.indices] - network.yaw_rad[sources]
    assert np.abs((turn + np.pi) % (2 * np.pi) - np.pi).max() < 0.3
    along = np.arctan2(step[:, 1], step[:, 0]) - network.yaw_rad[sources]
    assert np.abs((along + np.pi) % (2 * np.pi) - np.pi).max() < 0.25


def test_roads_bend_no_tighter_than_cars_can(network: Network) -> None:
    for road in network.roads.roads.values():
        tightest = np.abs(road.plan.curvature).max()
        assert tightest < (1 / 6 if road.junction != -1 else 1 / 12)


def test_speeds_and_lanes_differ(network: Network) -> None:
    limits = set(np.round(network.speed_limit * 3.6).astype(int).tolist())
    assert {50, 90} <= limits <= {30, 50, 90}
    lanes = [
        sum(lane.type == "driving" and lane.id < 0 for lane in road.sections[0].lanes.values())
        for road in network.roads.roads.values()
        if road.junction == -1
    ]
    assert set(lanes) == {1, 2}
    assert any(len(road.sections) > 1 for road in network.roads.roads.values())


def test_those_who_face_each_other_are_green_together(network: Network) -> None:
    for a, b in combinations(network.lights, 2):
        if a.junction == b.junction:
            across = abs(math.sin(math.radians(a.heading - b.heading)))
            assert (a.group == b.group) == (across < 0.1)
    for light in network.lights:
        assert light.junction in network.roads.junctions
        assert light.group in (0, 1)


def test_signals_stand_at_the_right_of_those_they_address(network: Network) -> None:
    for site in [*network.lights, *network.signs]:
        stop = network.position[site.stop_nodes].mean(0)
        heading = math.radians(site.heading)
        offset = np.array([site.transform.x, site.transform.y]) - stop
        aside = -offset[0] * math.sin(heading) + offset[1] * math.cos(heading)
        ahead = offset[0] * math.cos(heading) + offset[1] * math.sin(heading)
        assert 1.75 < aside < 9
        assert abs(ahead) < 3
        assert abs((site.transform.yaw - site.heading - 90 + 180) % 360 - 180) < 10


def test_roads_do_not_run_into_each_other(network: Network) -> None:
    """Driving lanes of different roads outside junctions keep clear of each other."""
    from scipy.spatial import cKDTree

    outside = np.flatnonzero(network.junction == -1)
    tree = cKDTree(network.position[outside])
    a, b = outside[tree.query_pairs(3.0, output_type="ndarray").T]
    assert (network.road[a] == network.road[b]).all()


def test_crosswalks_join_pavements(network: Network) -> None:
    assert len(network.crosswalks) > 10
    assert network.sidewalk.crossing.sum() >= len(network.crosswalks)
    middles = np.array([c.mean(0) for c in network.crosswalks])
    beside = network.position[network.nearest(middles)]
    assert np.hypot(*(middles - beside).T).max() < 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": -1}, "from 0 on"),
        ({"seed": 2**63}, "from 0 on"),
        ({"seed": 1, "blocks": 1}, "2 to 20"),
        ({"seed": 1, "blocks": 21}, "2 to 20"),
        ({"seed": 1, "spacing": 50.0}, "90 to 1,000"),
        ({"seed": 1, "spacing": math.nan}, "90 to 1,000"),
        ({"seed": 1, "removed": 0.5}, "0 to 0.4"),
    ],
)
def test_impossible_towns_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        generate(**options)  # type: ignore[arg-type]
