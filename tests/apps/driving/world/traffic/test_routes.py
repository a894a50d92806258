"""Routes over Town01, and level crossings."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import carla
import numpy as np
import pytest

from apps.driving.world.maps.network import Csr, Network
from apps.driving.world.traffic.routes import HORIZON, NONE, Routes, _endless, _level_crossings

TOWN = Path(__file__).parents[5] / "samples" / "Town01.xodr"


@pytest.fixture(scope="module")
def network() -> Network:
    text = TOWN.read_text()
    return Network(carla.Map("Town01", text), text)


def made(network: Network, n: int = 12, seed: int = 0) -> Routes:
    routes = Routes(network, network.lights, network.signs, np.random.default_rng(seed))
    for place in network.spawn_points[: 20 * n : 20]:
        routes.add(place.x, place.y, np.radians(place.yaw))
    return routes


def test_routes_follow_the_lanes(network: Network) -> None:
    routes = made(network)
    for nodes, count in zip(routes.node, routes.count, strict=True):
        assert count == HORIZON
        for a, b in pairwise(nodes.tolist()):
            assert b in network.next.of(a)
    assert (np.diff(routes.s) > 0).all()
    assert routes.limit.max() <= network.speed_limit.max()


def test_driving_along_renews_them(network: Network) -> None:
    routes = made(network)
    x, y = routes.x[:, 0].copy(), routes.y[:, 0].copy()
    travelled, last = np.zeros(len(routes)), routes.node[:, 0].copy()
    for _ in range(400):
        routes.advance(x, y)
        assert np.abs(routes.off).max() < 0.6
        nx, ny = routes.target(np.full(len(routes), 0.5))
        travelled += np.hypot(nx - x, ny - y)
        x, y = nx, ny
    assert travelled == pytest.approx(200.0, rel=0.02)
    assert (routes.node[:, 0] != last).all()
    assert (routes.count == HORIZON).all()


def test_curves_are_slow(network: Network) -> None:
    routes = made(network, 40)
    bend = np.abs((np.diff(routes.heading) + np.pi) % (2 * np.pi) - np.pi)
    tight = bend[:, 1:-2] > 0.2
    assert tight.any()
    assert routes.limit[:, 2:-2][tight].max() < 6.0


def test_lights_are_before_their_junctions(network: Network) -> None:
    routes = made(network, 40)
    i, k = np.nonzero(routes.light[:, :-1] != NONE)
    assert len(i)
    assert (routes.junction[i, k + 1] != NONE).all()
    assert (routes.junction[i, k] == NONE).all()


def test_rows_are_taken_out(network: Network) -> None:
    routes = made(network, 3)
    kept = routes.node[2].copy()
    routes.remove(1)
    assert len(routes) == 2
    assert (routes.node[1] == kept).all()


def test_the_seed_chooses_the_way(network: Network) -> None:
    a, b, other = made(network), made(network), made(network, seed=1)
    assert (a.node == b.node).all()
    assert (a.node != other.node).any()


def test_dead_ends_are_known() -> None:
    # 0 -> 1 -> 2 -> 0 and 1 -> 3 -> 4: who goes to 3 cannot go on.
    csr = Csr.build(5, np.array([0, 1, 1, 2, 3]), np.array([1, 2, 3, 0, 4]))
    alive = _endless(csr.indptr.tolist(), csr.indices.tolist())
    assert alive.tolist() == [True, True, True, False, False]


def test_lanes_that_cross_are_a_junction() -> None:
    n = 21
    line = 2.0 * (np.arange(n) - 10)
    one = np.stack([line, np.zeros(n)], 1)
    two = np.stack([np.full(n, 0.7), line + 0.5], 1)
    along = np.arange(n - 1)
    crossed: Any = SimpleNamespace(
        position=np.concatenate([one, two]),
        yaw_rad=np.repeat([0.0, np.pi / 2], n),
        road=np.repeat([4, 8], n),
        junction=np.full(2 * n, NONE),
        next=Csr.build(2 * n, np.concatenate([along, along + n]), np.concatenate([along, along + n]) + 1),
        previous=Csr.build(
            2 * n, np.concatenate([along, along + n]) + 1, np.concatenate([along, along + n])
        ),
        __len__=lambda: 2 * n,
    )  # fmt: skip
    found = _level_crossings(crossed)
    marked = np.flatnonzero(found != NONE)
    assert np.unique(found[marked]).tolist() == [0]
    assert np.abs(crossed.position[marked]).max() < 8.0
    assert {4, 8} == set(crossed.road[marked].tolist())


def test_no_crossings_in_a_town_without_bridges(network: Network) -> None:
    assert (_level_crossings(network) == network.junction).all()
