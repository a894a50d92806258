"""Which collisions count, and as what, with a sensor that is played by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from apps.driving.evaluation.collisions import Collisions
from apps.driving.evaluation.state import EgoState


class Sensor:
    """Takes the place of the world, its library and the sensor."""

    def __init__(self) -> None:
        self.call: Any = None
        self.log: list[str] = []

    def get_blueprint_library(self) -> Sensor:
        return self

    def find(self, name: str) -> str:
        assert name == "sensor.other.collision"
        return name

    def spawn_actor(self, blueprint: str, transform: Any, attach_to: Any) -> Sensor:
        return self

    def listen(self, call: Any) -> None:
        self.call = call

    def hit(self, frame: int, type_id: str, number: int) -> None:
        self.call(
            SimpleNamespace(frame=frame, other_actor=SimpleNamespace(id=number, type_id=type_id))
        )

    def stop(self) -> None:
        self.log.append("stop")

    def destroy(self) -> None:
        self.log.append("destroy")


class Car:
    """Drives along x; ``tick`` returns the kinds of what it is to blame for."""

    def __init__(self) -> None:
        self.sensor = Sensor()
        self.collisions = Collisions(self.sensor, SimpleNamespace(id=1))
        self.frame, self.x = 100, 0.0

    def tick(self, *hits: tuple[str, int], speed: float = 8.0, ticks: int = 1) -> list[str]:
        found = []
        for _ in range(ticks):
            self.frame += 1
            self.x += speed * 0.05
            for type_id, number in hits:
                self.sensor.hit(self.frame, type_id, number)
            time = (self.frame - 100) * 0.05
            state = EgoState(self.frame, time, self.x, 0.0, 0.0, 0.0, speed, 0.0, speed)
            found += [infraction.kind for infraction in self.collisions.update(state)]
        return found


@pytest.fixture
def car() -> Car:
    car = Car()
    assert car.tick() == []
    return car


@pytest.mark.parametrize(
    ("type_id", "kind"),
    [
        ("vehicle.tesla.model3", "collisions_vehicle"),
        ("walker.pedestrian.0001", "collisions_pedestrian"),
        ("static.poles", "collisions_layout"),
        ("traffic.traffic_light", "collisions_layout"),
        ("static.prop.box01", "collisions_layout"),
    ],
)
def test_kinds(car, type_id, kind):
    assert car.tick((type_id, 7)) == [kind]


def test_the_kerb_is_nothing_and_hides_nothing(car):
    assert car.tick(("static.sidewalk", 0)) == []
    assert car.tick(("static.poles", 0)) == ["collisions_layout"]


def test_a_contact_that_lasts_counts_once(car):
    assert car.tick(("vehicle.audi.a2", 7), speed=0.5, ticks=90) == ["collisions_vehicle"]


def test_the_same_body_within_5_seconds_counts_once_however_far_away(car):
    assert car.tick(("vehicle.audi.a2", 7)) == ["collisions_vehicle"]
    car.tick(ticks=60)  # 3 s, 24 m
    assert car.tick(("vehicle.audi.a2", 7)) == []
    car.tick(ticks=60)
    assert car.tick(("vehicle.audi.a2", 7)) == ["collisions_vehicle"]


def test_two_bodies_within_5_metres_count_once_and_beyond_them_twice(car):
    assert car.tick(("vehicle.audi.a2", 7)) == ["collisions_vehicle"]
    car.tick(ticks=5)  # 2 m
    assert car.tick(("walker.pedestrian.0001", 8)) == []
    car.tick(ticks=10)
    assert car.tick(("walker.pedestrian.0001", 8)) == ["collisions_pedestrian"]


def test_scenery_has_no_name_by_which_it_would_be_the_same(car):
    assert car.tick(("static.poles", 0)) == ["collisions_layout"]
    car.tick(ticks=15)  # 6 m, 0.75 s
    assert car.tick(("static.poles", 0)) == ["collisions_layout"]


def test_a_car_that_stands_is_not_to_blame(car):
    car.tick(speed=0.0, ticks=2)
    assert car.tick(("vehicle.audi.a2", 7), speed=0.0) == []
    # pushed by the other one, it was standing in the tick before
    assert car.tick(("vehicle.audi.a2", 7), speed=0.0) == []


def test_a_car_that_is_stopped_by_what_it_hits_is_to_blame(car):
    assert car.tick(("static.buildings", 0), speed=0.0) == ["collisions_layout"]


def test_an_event_that_comes_late_is_judged_by_its_own_tick(car):
    car.tick()
    frame = car.frame
    car.tick(speed=0.0, ticks=3)
    car.sensor.hit(frame, "vehicle.audi.a2", 7)
    assert car.tick(speed=0.0) == ["collisions_vehicle"]


def test_the_sensor_is_taken_away_once(car):
    car.collisions.destroy()
    car.collisions.destroy()
    assert car.sensor.log == ["stop", "destroy"]
