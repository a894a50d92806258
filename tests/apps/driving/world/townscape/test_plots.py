"""Free ground: what is taken, how far things are from roads, where a post may stand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from apps.driving.world.town import Town
from apps.driving.world.townscape import plots as module
from apps.driving.world.townscape.plots import CARRIAGEWAY, Plots


@pytest.fixture(scope="module")
def plots(town01: Town) -> Plots:
    return Plots(town01.ground, town01.network)


def test_roads_and_walks_are_taken(town01: Town, plots: Plots) -> None:
    assert (plots.clearance(town01.network.position) == 0).all()
    assert (plots.clearance(town01.network.sidewalk.nodes) == 0).all()


def test_clearance_is_the_distance_to_the_nearest_covered_ground(
    town01: Town, plots: Plots
) -> None:
    rng = np.random.default_rng(0)
    ground = town01.ground
    size = np.array(ground.cells.shape[::-1]) * ground.resolution
    covered = np.argwhere(ground.cells >> 4 > 0)[:, ::-1] * ground.resolution + ground.origin
    places = ground.origin + rng.uniform(0, 1, (200, 2)) * size
    true = cKDTree(covered).query(places)[0]
    np.testing.assert_allclose(plots.clearance(places), true, atol=2.0)  # blocks are of 1 m


def test_a_place_is_taken_once(town01: Town) -> None:
    plots = Plots(town01.ground, town01.network)
    row, column = np.unravel_index(plots.clear.argmax(), plots.clear.shape)
    xy = town01.ground.origin + np.array([column, row]) * plots.pitch
    inward = xy + np.sign(np.array([200.0, 160.0]) - xy) * 8.0
    assert not plots.take(inward, 0.3, (4.0, 3.0), 1e4)  # not that far from paving
    assert plots.take(inward, 0.3, (4.0, 3.0), 2.0)
    assert not plots.take(inward, 0.3, (4.0, 3.0), 2.0)
    assert not plots.take(inward + 4.0, 1.0, (2.0, 2.0), 2.0)
    assert plots.take(inward - [12.0, 0.0], 0.3, (4.0, 3.0), 2.0)


def test_nothing_is_taken_beyond_the_ground(town01: Town, plots: Plots) -> None:
    outside = np.array(town01.ground.origin) - 5.0
    assert not plots.take(outside, 0.0, (3.0, 3.0), 0.0)


def test_a_post_stands_near_by_off_the_road_and_off_the_walks(town01: Town, plots: Plots) -> None:
    network = town01.network
    for node in range(0, len(network), 97):
        travel = float(network.yaw_rad[node])
        xy = plots.stand(network.position[node], travel)
        assert xy is not None
        assert not np.isin(town01.ground.material(xy), CARRIAGEWAY)
        assert plots.off_walks(xy) > 0.5
        assert np.hypot(*(xy - network.position[node])) < 20


def test_who_stands_well_already_stays(town01: Town, plots: Plots) -> None:
    node = town01.network.sidewalk.nodes[0]
    first = plots.stand(node, 0.0)
    assert first is not None
    again = plots.stand(first, 0.0)
    assert again is not None
    np.testing.assert_allclose(again, first, atol=1e-9)


def test_a_vast_town_has_larger_blocks(town01: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BLOCKS", 20_000)
    coarse = Plots(town01.ground, town01.network)
    assert coarse.used.size <= 20_000
    assert (coarse.clearance(town01.network.position) == 0).all()
