"""A town from a file and from a seed."""

from __future__ import annotations

from pathlib import Path
from time import process_time

import numpy as np
import pytest

from apps.driving.world.town import Town, build_town
from apps.driving.world.townscape.ground import Material
from apps.driving.world.townscape.painting import stop_lines
from core.errors import DataError, UsageError

TOWN01 = Path(__file__).parents[4] / "samples" / "Town01.xodr"


@pytest.fixture(scope="module")
def town() -> Town:
    return build_town(str(TOWN01))


def test_a_town_of_a_file(town: Town) -> None:
    assert town.name == "Town01"
    assert town.map.name == "Town01"
    assert len(town.network) > 1000
    assert len(town.network.spawn_points) > 50
    assert town.opendrive.startswith("<")


def test_the_world_is_flat(town: Town) -> None:
    assert town.height(np.zeros((3, 2))).tolist() == [0.0, 0.0, 0.0]
    assert town.height(np.array([5.0, 6.0])) == 0.0
    assert max(abs(w.transform.location.z) for w in town.map.generate_waypoints(50.0)) < 1e-6


def test_driving_lanes_are_painted_as_roads(town: Town) -> None:
    found = town.ground.material(town.network.position)
    road = (Material.ASPHALT, Material.TRACKS, Material.WHITE, Material.YELLOW)
    assert np.isin(found, road).all()


def test_people_walk_on_pavements(town: Town) -> None:
    found = town.ground.material(town.network.sidewalk.nodes)
    assert np.isin(found, (Material.PAVEMENT, Material.SEAM, Material.KERB)).mean() > 0.9


def test_each_light_has_a_stop_line_across_its_lane(town: Town) -> None:
    lines = stop_lines(town.network)
    stops = {node for light in town.network.lights for node in light.stop_nodes}
    assert len(lines) >= len(stops) > 30
    middle, along = lines.mean(1), lines[:, 1] - lines[:, 0]
    assert (town.ground.material(middle) == Material.WHITE).all()
    node = town.network.nearest(middle)
    yaw = town.network.yaw_rad[node]
    across = (along * np.stack([np.cos(yaw), np.sin(yaw)], 1)).sum(1)
    np.testing.assert_allclose(across, 0.0, atol=0.2)


def test_a_town_of_a_seed_is_the_same_each_time() -> None:
    one, two, other = (build_town(f"procedural:{n}") for n in (3, 3, 4))
    assert one.name == "Procedural3"
    assert one.opendrive == two.opendrive != other.opendrive
    assert one.ground.cells.tobytes() == two.ground.cells.tobytes()
    assert one.scenery.boxes.centre.tobytes() == two.scenery.boxes.centre.tobytes()


def test_a_coarser_ground_on_request() -> None:
    assert build_town(TOWN01, resolution=0.5).ground.resolution == 0.5


@pytest.mark.parametrize(
    "source", ["Town01", "procedural:", "procedural:x", "procedural:-1", "a.txt"]
)
def test_what_is_no_town_is_a_usage_error(source: str) -> None:
    with pytest.raises(UsageError, match=r"town '.*': .*procedural:"):
        build_town(source)


def test_a_file_that_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        build_town(tmp_path / "nowhere.xodr")


def test_a_file_that_is_no_map_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "bad.xodr").write_text("<OpenDRIVE/>")
    with pytest.raises(DataError, match=r"bad"):
        build_town(tmp_path / "bad.xodr")


def test_town01_is_built_in_two_seconds() -> None:
    began = process_time()  # CPU-seconds: 0.6 on an idle core
    build_town(TOWN01)
    assert process_time() - began < 2.0
