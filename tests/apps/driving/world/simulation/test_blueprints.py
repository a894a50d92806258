"""The library, and what it refuses."""

from __future__ import annotations

import pytest

from apps.driving.world.errors import SimulationError
from apps.driving.world.motion.catalogue import VEHICLES, WALKERS
from apps.driving.world.sensors.kinds import SENSORS
from apps.driving.world.simulation import blueprints
from apps.driving.world.simulation.blueprints import LISTED_ONLY, AttributeType, library, resolve

carla = pytest.importorskip("carla")


def test_every_name_is_there_once_and_tagged_by_its_parts() -> None:
    names = [d.id for d in library()]
    assert len(set(names)) == len(names)
    assert {*VEHICLES, *WALKERS, "controller.ai.walker"} <= set(names)
    assert [d.uid for d in library()] == list(range(1, len(names) + 1))
    assert all(d.tags.split(",") == d.id.split(".") for d in library())
    assert all(d.kind == d.id.split(".")[0] for d in library())


def test_every_sensor_but_the_clients_own_has_a_class() -> None:
    listed = {d.id for d in library() if d.kind == "sensor"}
    assert listed - set(SENSORS) == {"sensor.other.lane_invasion", *LISTED_ONLY}
    assert set(SENSORS) <= listed


def test_types_are_the_clients() -> None:
    for kind in AttributeType:
        name = {"RGB": "RGBColor"}.get(kind.name, kind.name.title())
        assert int(getattr(carla.ActorAttributeType, name)) == kind


@pytest.mark.parametrize("definition", library(), ids=lambda d: d.id)
def test_defaults_satisfy_their_own_rules(definition: blueprints.Definition) -> None:
    given = {a.id: a.default for a in definition.attributes}
    found, values = resolve(definition.id, given)
    assert found is definition
    assert values == given
    for attribute in definition.attributes:
        for value in attribute.recommended:
            assert resolve(definition.id, {attribute.id: value})[1][attribute.id] == value


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("vehicle.tesla.model4", {}, "Did you mean 'vehicle.tesla.model3'"),
        ("sensor.camera.rgb", {"image_size_x": "0"}, "want 1 to 4096"),
        ("sensor.camera.rgb", {"image_size_x": "1e9"}, "want a number"),
        ("sensor.camera.rgb", {"image_size_x": "99999999"}, "want 1 to 4096"),
        ("sensor.camera.rgb", {"image_size_x": "4096", "image_size_y": "4096"}, "at most 8294400"),
        ("sensor.camera.rgb", {"fov": "nan"}, "want 1 to 175"),
        ("sensor.camera.rgb", {"fov": "180"}, "want 1 to 175"),
        ("sensor.camera.rgb", {"image_size": "5"}, "Did you mean 'image_size_"),
        ("sensor.camera.rgb", {"exposure_mode": "auto"}, "histogram, manual"),
        ("sensor.camera.rgb", {"enable_postprocess_effects": "maybe"}, "true or false"),
        ("sensor.lidar.ray_cast", {"points_per_second": "-1"}, "want 1 to"),
        ("sensor.other.gnss", {"noise_lat_stddev": "inf"}, "want 0 to inf"),
        ("vehicle.tesla.model3", {"color": "300,0,0"}, "0 to 255"),
        ("vehicle.tesla.model3", {"color": "1,2"}, "0 to 255"),
        ("vehicle.tesla.model3", {"number_of_wheels": "3"}, "cannot be changed"),
    ],
)
def test_refuses(name: str, given: dict[str, str], said: str) -> None:
    with pytest.raises(SimulationError, match="invalid actor description") as caught:
        resolve(name, given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_name_is_not_echoed_whole() -> None:
    with pytest.raises(SimulationError) as caught:
        resolve("x" * 100_000, {})
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("given", "read"), [("64.0", "64"), ("64.", "64"), ("64.9", "64"), ("64", "64")]
)
def test_whole_numbers_may_have_a_point(given: str, read: str) -> None:
    _, values = resolve("sensor.lidar.ray_cast", {"channels": given})
    assert values["channels"] == read
