"""Episodes, actors and ticks."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable

import numpy as np
import pytest

from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Transform
from apps.driving.world.simulation.actors import Settings
from apps.driving.world.simulation.registry import MOST_ACTORS
from apps.driving.world.simulation.world import World
from apps.driving.world.town import Town
from apps.driving.world.weather import Weather

CAR, CONE, IMU = "vehicle.tesla.model3", "static.prop.trafficcone01", "sensor.other.imu"


def spawn_points(world: World) -> list[Transform]:
    return world.town.network.spawn_points


def row(world: World, actor_id: int) -> np.ndarray:
    rows = world.snapshot()
    return rows[rows["id"] == actor_id][0]


def test_begins_with_lights_signs_and_a_spectator(world: World) -> None:
    kinds = [a.kind for a in world.actors.values()]
    network = world.town.network
    assert kinds.count("traffic_light") == len(network.lights) > 0
    assert kinds.count("traffic_sign") == len(network.signs) > 0
    assert kinds.count("spectator") == 1
    assert list(world.actors) == sorted(world.actors)
    rows = world.snapshot()
    assert rows["id"].tolist() == list(world.actors)
    lights = rows[: len(network.lights)]
    assert [s.decode() for s in lights["sign_id"]] == [site.sign_id for site in network.lights]
    assert (lights["green_time"] > 0).all()


def test_a_tick_moves_time_and_vehicles(world: World) -> None:
    car = world.spawn(CAR, {}, spawn_points(world)[0])
    world.vehicles.apply_control(car.id, 1.0, 0.0, 0.0)
    frames = [world.tick() for _ in range(40)]
    assert frames == list(range(frames[0], frames[0] + 40))
    assert world.elapsed == pytest.approx(2.0)
    now = row(world, car.id)
    assert math.hypot(*now["velocity"][:2]) > 5.0
    assert now["throttle"] == 1.0
    assert now["gear"] >= 1
    assert now["speed_limit"] > 0
    assert now["transform"][2] == pytest.approx(0.0, abs=0.02)
    assert world.transform(car.id)[:3] == pytest.approx(now["transform"][:3], abs=1e-4)


@pytest.mark.parametrize("kind", ["vehicle", "walker", "static"])
def test_every_blueprint_of_a_kind_stands_on_the_ground(world: World, kind: str) -> None:
    from apps.driving.world.simulation.blueprints import library

    names = [d.id for d in library() if d.kind == kind and "trigger" not in d.id]
    for i, name in enumerate(names):
        world.spawn(name, {}, Transform(2000.0 + 20 * i, 2000.0, 0.0))
    world.tick()
    boxes = world.boxes()
    assert len(boxes) == len(names)
    assert (boxes.half > 0).all()
    assert np.abs(boxes.centre[:, 2] - boxes.half[:, 2]).max() < 0.3  # tyres lie in the box


def test_a_taken_place_is_refused_and_nothing_changes(world: World) -> None:
    place = spawn_points(world)[0]
    world.spawn(CAR, {}, place)
    before = list(world.actors)
    with pytest.raises(SimulationError, match="collision at spawn position"):
        world.spawn(CAR, {}, place)
    with pytest.raises(SimulationError, match="collision"):
        world.spawn("walker.pedestrian.0001", {}, place)
    assert list(world.actors) == before
    world.spawn(CAR, {}, place._replace(z=4.0))  # above it is room
    world.tick()
    with pytest.raises(SimulationError, match="collision"):
        world.spawn(CAR, {}, place)


def test_a_house_is_no_place_for_a_car(world: World) -> None:
    boxes = world.town.scenery.boxes
    house = int(np.flatnonzero(boxes.tag == 3)[0])
    x, y, _ = boxes.centre[house].tolist()
    with pytest.raises(SimulationError, match="collision"):
        world.spawn(CAR, {}, Transform(x, y, 0.3))


def test_a_place_is_free_again_when_its_actor_moved_or_is_gone(world: World) -> None:
    a, b = spawn_points(world)[:2]
    car = world.spawn(CAR, {}, a)
    world.bodies.set_transform(car.id, b)
    other = world.spawn(CAR, {}, a)
    assert world.destroy(other.id)
    world.spawn(CAR, {}, a)
    with pytest.raises(SimulationError, match="collision"):
        world.spawn(CAR, {}, b)


def test_every_spawn_point_has_room(world: World) -> None:
    for place in spawn_points(world):
        world.spawn(CAR, {}, place)


@pytest.mark.parametrize(
    ("blueprint", "attributes", "place", "parent", "said"),
    [
        ("vehicle.no.such", {}, Transform(), 0, "no blueprint"),
        (CAR, {"wings": "2"}, Transform(), 0, "no attribute"),
        (CAR, {}, Transform(x=math.nan), 0, "must be a finite number"),
        (CAR, {}, Transform(yaw=math.inf), 0, "must be a finite number"),
        (CAR, {}, Transform(x=1e9), 0, "beyond"),
        (IMU, {}, Transform(), 99999, "not found"),
        (CAR, {}, Transform(), 1, "unable to attach"),
    ],
)
def test_bad_spawns_change_nothing(
    world: World,
    blueprint: str,
    attributes: dict[str, str],
    place: Transform,
    parent: int,
    said: str,
) -> None:
    before = world.snapshot().tobytes()
    with pytest.raises(SimulationError, match=said):
        world.spawn(blueprint, attributes, place, parent)
    assert world.snapshot().tobytes() == before


def test_attached_actors_are_rigid(world: World) -> None:
    car = world.spawn(CAR, {}, spawn_points(world)[0])
    mount = Transform(1.3, -0.4, 2.3, -10.0, 60.0, 5.0)
    camera = world.spawn("sensor.camera.rgb", {}, mount, car.id)
    on_top = world.spawn(IMU, {}, Transform(0, 0, 1), camera.id)
    world.vehicles.apply_control(car.id, 0.7, 0.6, 0.0)
    for _ in range(30):
        world.tick()
        body = world.transform(car.id)
        expected = body.then(mount)
        assert np.allclose(world.transform(camera.id).matrix(), expected.matrix(), atol=1e-9)
        stacked = expected.then(Transform(0, 0, 1)).matrix()
        assert np.allclose(world.transform(on_top.id).matrix(), stacked, atol=1e-9)
    assert abs(body.yaw - spawn_points(world)[0].yaw) > 5


def test_a_destroyed_parent_leaves_its_sensors_where_they_were(world: World) -> None:
    car = world.spawn(CAR, {}, spawn_points(world)[0])
    sensor = world.spawn(IMU, {}, Transform(1, 0, 2), car.id)
    world.tick()
    there = world.transform(sensor.id)
    assert world.destroy(car.id)
    assert world.actor(sensor.id).parent == 0
    world.tick()
    assert world.transform(sensor.id) == pytest.approx(there)
    assert row(world, sensor.id)["transform"] == pytest.approx(there, rel=1e-5)
    assert not world.destroy(car.id)
    assert world.destroy(sensor.id)


def test_what_belongs_to_the_town_cannot_be_destroyed(world: World) -> None:
    for kind in ("traffic_light", "traffic_sign", "spectator"):
        found = next(a.id for a in world.actors.values() if a.kind == kind)
        with pytest.raises(SimulationError, match="unable to destroy"):
            world.destroy(found)
    assert world.destroy(10**6) is False


def drive(world: World, ticks: int) -> list[bytes]:
    """A short story with everything in it; what it leaves behind."""
    points = spawn_points(world)
    cars = [world.spawn(CAR, {}, points[i]) for i in range(4)]
    for name in (
        "sensor.camera.rgb", "sensor.lidar.ray_cast", "sensor.other.radar", "sensor.other.imu",
        "sensor.other.gnss",
    ):  # fmt: skip
        small = {"image_size_x": "64", "image_size_y": "32"} if "camera" in name else {}
        noisy = {"noise_lat_stddev": "0.1"} if "gnss" in name else {}
        sensor = world.spawn(name, {**small, **noisy}, Transform(1, 0, 2.4), cars[0].id)
        world.listen(sensor.id, True)
    out = []
    for i in range(ticks):
        for car in cars:
            world.vehicles.apply_control(car.id, 0.6, 0.3 * math.sin(i / 7), 0.0)
        world.tick()
        out.append(world.snapshot().tobytes())
        for _, _, payload in world.readings:
            out.append(
                repr(
                    [
                        v.tobytes() if isinstance(v, np.ndarray) else v
                        for v in vars(payload).values()
                    ]
                ).encode()
            )
    return out


def test_same_calls_same_bytes_and_a_reset_is_a_fresh_start(
    new_world: Callable[..., World],
) -> None:
    first, second = new_world(render=True, walkers=8), new_world(render=True, walkers=8)
    told = drive(first, 12)
    assert told == drive(second, 12)
    frame, episode = first.frame, first.episode
    first.reset(reset_settings=False)
    assert first.episode == episode + 1
    assert first.elapsed == 0.0
    assert first.frame == frame  # clients wait for a later frame than the last they saw
    assert told == drive(first, 12)


def test_another_seed_another_crowd(town01: object, new_world: Callable[..., World]) -> None:
    a, b = (new_world(walkers=5, seed=s) for s in (1, 2))
    assert a.snapshot().tobytes() != b.snapshot().tobytes()


def test_a_reset_forgets_everything(world: World) -> None:
    world.spawn(CAR, {}, spawn_points(world)[0])
    world.set_weather(Weather(precipitation=90.0, wetness=90.0))
    count = len(world.actors) - 1
    world.reset()
    assert len(world.actors) == count
    assert world.weather == Weather()
    assert world.settings == Settings()
    world.spawn(CAR, {}, spawn_points(world)[0])


def test_rain_takes_grip(world: World) -> None:
    def braking(weather: Weather) -> float:
        world.set_weather(weather)
        car = world.spawn(CAR, {}, spawn_points(world)[0])
        world.bodies.set_target_velocity(car.id, (14.0, 0.0, 0.0))
        start = world.transform(car.id).x
        for _ in range(120):
            world.vehicles.apply_control(car.id, 0.0, 0.0, 1.0)
            world.tick()
        way = world.transform(car.id).x - start
        world.destroy(car.id)
        return way

    assert braking(Weather(precipitation=100.0, wetness=100.0)) > 1.1 * braking(Weather())


@pytest.mark.parametrize("delta", [math.nan, -0.1, 11.0])
def test_a_step_of_no_length_is_refused(world: World, delta: float) -> None:
    before = world.settings
    with pytest.raises(SimulationError, match="fixed_delta_seconds"):
        world.set_settings(Settings(fixed_delta_seconds=delta))
    assert world.settings is before


def test_a_tick_of_seconds_is_driven_in_parts(town01: Town) -> None:
    """Drivers look up more often than once in three seconds, and nobody is hit."""
    world = World(town01, seed=1, traffic=15)
    world.set_settings(Settings(synchronous_mode=True, fixed_delta_seconds=3.0))
    cars = [a.id for a in world.actors.values() if a.kind == "vehicle"]
    before = {i: np.array(world.transform(i)[:2]) for i in cars}
    hits = 0
    for _ in range(20):
        world.tick()
        hits += len(world.collisions)
    assert world.elapsed == pytest.approx(60.0)
    assert hits == 0
    way = [np.linalg.norm(world.transform(i)[:2] - before[i]) for i in cars]
    assert np.median(way) > 30.0


def test_drivers_stop_for_what_lies_on_the_road(world: World) -> None:
    place = spawn_points(world)[0]
    prop = world.spawn(
        "static.prop.streetbarrier", {}, place.then(Transform(x=25.0))._replace(z=0.0)
    )
    car = world.spawn(CAR, {}, place)
    world.vehicles.set_autopilot(car.id, True)
    for _ in range(300):
        world.tick()
        assert not world.collisions
    gap = np.linalg.norm(np.subtract(world.transform(prop.id)[:2], world.transform(car.id)[:2]))
    assert 2.0 < gap < 15.0


@pytest.mark.parametrize("camera", ["dvs", "normals", "optical_flow"])
def test_a_camera_that_is_only_listed_is_refused(world: World, camera: str) -> None:
    before = len(world.actors)
    with pytest.raises(SimulationError, match=f"{camera}: not supported by this world"):
        world.spawn(f"sensor.camera.{camera}", {}, Transform())
    assert len(world.actors) == before


def test_without_a_fixed_step_the_time_that_passed_counts(world: World) -> None:
    world.set_settings(Settings())
    world.tick(0.02)
    assert world.elapsed == pytest.approx(0.02)
    world.tick(100.0)  # the machine slept
    assert world.delta == 1.0
    with pytest.raises(SimulationError):
        world.tick(math.nan)


def test_ten_thousand_spawns_stay_bounded(world: World) -> None:
    points = spawn_points(world)
    start, refused = time.process_time(), 0
    for i in range(10_000):
        try:
            world.spawn(CAR, {}, points[i % len(points)])
        except SimulationError:
            refused += 1
    assert refused == 10_000 - len(points)
    while len(world.actors) < MOST_ACTORS:
        world.spawn("sensor.other.gnss", {}, Transform())
    for _ in range(100):
        with pytest.raises(SimulationError, match="destroy some first"):
            world.spawn("sensor.other.gnss", {}, Transform())
    assert len(world.actors) == MOST_ACTORS
    world.tick()
    assert world.snapshot().nbytes == 119 * MOST_ACTORS
    assert time.process_time() - start < 10.0  # 1 s on a free core
    for actor_id in [a.id for a in world.actors.values() if a.kind in ("vehicle", "sensor")]:
        assert world.destroy(actor_id)
    world.spawn(CAR, {}, points[0])


def test_vehicles_see_the_light_that_holds_for_them(world: World) -> None:
    site = world.town.network.lights[0]
    node = site.stop_nodes[0]
    world.spawn(CAR, {}, world.town.network.place(node, 0.3))
    car = max(world.actors)
    for state in (0, 1, 2):
        world.signals.set_state(world.signals.light_ids[0], state)
        now = row(world, car)
        assert now["has_traffic_light"]
        assert now["traffic_light_id"] == world.signals.light_ids[0]
        assert now["traffic_light_state"] == state


def test_far_from_lights_it_is_green(world: World) -> None:
    car = world.spawn(CAR, {}, Transform(3000.0, 3000.0, 0.0))
    now = row(world, car.id)
    assert not now["has_traffic_light"]
    assert now["traffic_light_state"] == 2


def test_walkers_of_the_world_walk(new_world: Callable[..., World]) -> None:
    world = new_world(walkers=10)
    crowd = [a for a in world.actors.values() if a.kind == "walker"]
    assert len(crowd) >= 8
    before = {a.id: world.transform(a.id) for a in crowd}
    for _ in range(100):
        world.tick()
    gone = [math.dist(before[a.id][:2], world.transform(a.id)[:2]) for a in crowd]
    assert sum(d > 2.0 for d in gone) > len(gone) / 2


def test_collisions_are_told_to_both_and_change_speeds(world: World) -> None:
    place = spawn_points(world)[0]
    a = world.spawn(CAR, {}, place)
    b = world.spawn(CAR, {}, place.then(Transform(12.0)))
    c = math.cos(math.radians(place.yaw)), math.sin(math.radians(place.yaw))
    world.bodies.set_target_velocity(a.id, (10 * c[0], 10 * c[1], 0.0))
    for _ in range(40):
        world.tick()
        if world.collisions:
            break
    assert {(x.actor.id, x.other.id) for x in world.collisions} == {(a.id, b.id), (b.id, a.id)}
    hits = {x.actor.id: np.array(x.impulse) for x in world.collisions}
    assert np.allclose(hits[a.id], -hits[b.id])
    assert hits[a.id][:2] @ c < -1000.0
    assert math.hypot(*row(world, b.id)["velocity"][:2]) > 2.0


def test_props_stand_in_the_way_unless_they_are_ghosts(world: World) -> None:
    place = spawn_points(world)[0]
    car = world.spawn(CAR, {}, place)
    prop = world.spawn("static.prop.vendingmachine", {}, place.then(Transform(10.0, 0, -0.3)))

    def drives(ticks: int) -> list[int]:
        world.bodies.set_transform(car.id, place)
        met = []
        for _ in range(ticks):
            world.vehicles.apply_control(car.id, 0.8, 0.0, 0.0)
            world.tick()
            met += [x.other.id for x in world.collisions]
        return met

    assert prop.id in drives(60)
    world.bodies.set_collisions(prop.id, False)
    assert prop.id not in drives(60)
    world.bodies.set_collisions(prop.id, True)
    assert prop.id in drives(60)


def test_ids_go_up_and_are_not_used_twice(world: World) -> None:
    seen = []
    for place in itertools.islice(itertools.cycle(spawn_points(world)[:2]), 10):
        car = world.spawn(CAR, {}, place)
        seen.append(car.id)
        world.destroy(car.id)
    assert seen == sorted(set(seen))


def test_a_house_is_not_taken_for_the_actor_of_its_number(world: World) -> None:
    car = world.spawn(CAR, {}, spawn_points(world)[0])
    assert world.met(car.id, 0) is car
    assert world.met(car.id, car.tags[0]) is car
    house = world.met(car.id, 3)
    assert (house.id, house.type_id, house.tags) == (0, "static.buildings", (3,))


def test_a_tower_of_actors_ends(world: World) -> None:
    top = world.spawn(CAR, {}, spawn_points(world)[0]).id
    for _ in range(15):
        top = world.spawn(IMU, {}, Transform(0.0, 0.0, 1.0), top).id
    world.tick()
    assert world.transform(top).z == pytest.approx(15.0 + world.transform(world.fleet.ids[0]).z)
    with pytest.raises(SimulationError, match="16 deep"):
        world.spawn(IMU, {}, Transform(0.0, 0.0, 1.0), top)
