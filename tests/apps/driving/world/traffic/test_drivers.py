"""Traffic: three minutes of Town01, and single situations on a road of our own."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import carla
import numpy as np
import pytest

from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.maps.network import Csr, Network
from apps.driving.world.maps.sites import LightSite, SignSite
from apps.driving.world.motion.catalogue import DEFAULT, WALKERS
from apps.driving.world.motion.collisions import Collision, FixedIndex, resolve
from apps.driving.world.motion.vehicles import Fleet
from apps.driving.world.motion.walkers import Walkers
from apps.driving.world.traffic.drivers import Traffic, populate
from apps.driving.world.traffic.lights import Lights, State

TOWN = Path(__file__).parents[5] / "samples" / "Town01.xodr"


@pytest.fixture(scope="module")
def network() -> Network:
    text = TOWN.read_text()
    return Network(carla.Map("Town01", text), text)


class Town(NamedTuple):
    fleet: Fleet
    lights: Lights
    traffic: Traffic
    collisions: list[Collision]

    def step(self, dt: float = 0.05) -> None:
        self.lights.step(dt)
        self.traffic.step(dt)
        self.fleet.step(dt)
        self.collisions.extend(resolve(self.fleet))

    def run(self, seconds: float, dt: float = 0.05) -> None:
        for _ in range(round(seconds / dt)):
            self.step(dt)


def town(network: Any, n: int = 0, seed: int = 0) -> Town:
    fleet, lights = Fleet(), Lights(network.lights)
    traffic = Traffic(network, fleet, lights, network.signs, seed)
    for i, (spec, place) in enumerate(populate(network, n, seed)) if n else ():
        fleet.add(i + 1, spec, place)
        traffic.manage(i + 1)
    return Town(fleet, lights, traffic, [])


def test_three_minutes_of_town01(network: Network) -> None:
    n, dt = 20, 0.05
    t = town(network, n)
    fleet = t.fleet
    # The stop line of each light: the end of its lane, which the front bumper must not cross at red.
    node = np.array([site.stop_nodes[0] for site in network.lights])
    ahead = np.stack([np.cos(network.yaw_rad[node]), np.sin(network.yaw_rad[node])], 1)
    line = network.position[node] + ahead * (0.5 * network.length[node])[:, None]
    travelled, still, longest = np.zeros(n), np.zeros(n), 0.0
    before = None
    for _ in range(round(180 / dt)):
        t.step(dt)
        travelled += np.abs(fleet.speed) * dt
        still = np.where(np.abs(fleet.speed) < 0.1, still + dt, 0.0)
        longest = max(longest, float(still.max()))
        c, s = np.cos(np.radians(fleet.yaw)), np.sin(np.radians(fleet.yaw))
        nose = np.stack([fleet.x + fleet.half[:, 0] * c, fleet.y + fleet.half[:, 0] * s], 1)
        away = nose[:, None] - line[None]
        along = (away * ahead).sum(2)
        beside = np.abs(away[..., 1] * ahead[:, 0] - away[..., 0] * ahead[:, 1])
        if before is not None:
            crossed = (before < 0.0) & (along >= 0.0) & (beside < 1.9)
            assert not (crossed & (t.lights.state == State.RED)).any()
        before = along
        limit = network.speed_limit[network.nearest(np.stack([fleet.x, fleet.y], 1))]
        assert (fleet.speed < 1.15 * limit + 2.0).all()
    assert t.collisions == []
    assert longest < 60.0
    assert travelled.min() > 250.0
    assert travelled.mean() > 600.0  # 832 m measured, 17 km/h with lights


@pytest.mark.parametrize("dt", [0.02, 0.1])
def test_other_step_lengths_are_as_safe(network: Network, dt: float) -> None:
    t = town(network, 20, seed=3)
    t.run(40.0, dt)
    assert t.collisions == []


def test_the_same_seed_gives_the_same_bytes(network: Network) -> None:
    def end(seed: int) -> bytes:
        t = town(network, 12, seed)
        t.run(25.0)
        return t.fleet.x.tobytes() + t.fleet.y.tobytes() + t.fleet.steer.tobytes()

    assert end(5) == end(5)
    assert end(5) != end(6)


def test_populate_has_room_for_all(network: Network) -> None:
    chosen = populate(network, 60, 1)
    places = np.array([[p.x, p.y] for _, p in chosen])
    away = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    assert len(chosen) == 60
    assert away[~np.eye(60, dtype=bool)].min() > 2.5
    assert len(populate(network, 10_000, 1)) == len(network.spawn_points)


# A straight road of 400 m eastwards, two lanes to the right of its middle, and a crossing at 200 m.


def road(*, lanes: int = 1, light: bool = False, stop: bool = False, crossing: bool = False) -> Any:
    n = 200
    parts = [np.stack([2.0 * np.arange(n), np.full(n, 3.5 * lane)], 1) for lane in range(lanes)]
    yaw = [np.zeros(n)] * lanes
    number = [np.full(n, 1)] * lanes
    if crossing:
        parts.append(np.stack([np.full(n, 201.0), 2.0 * np.arange(n) - 200.0], 1))
        yaw.append(np.full(n, np.pi / 2))
        number.append(np.full(n, 2))
    position, total = np.concatenate(parts), n * len(parts)
    inside = np.abs(position - [201.0, 0.0]).max(1) < 6.5
    last = 97  # 194 m: the last node before the crossing, whose line is at 195 m
    edges = np.array([(i, i + 1) for i in range(total - 1) if (i + 1) % n])
    row = np.arange(total)
    change = (row + n, row - n) if lanes == 2 else (np.full(total, -1),) * 2
    box = (Transform(), (1.0, 1.0, 1.0))
    site = LightSite("1", Transform(192.0), 5, 0, [last], box, 0.0)
    found: Any = SimpleNamespace(
        position=position,
        yaw_rad=np.concatenate(yaw),
        road=np.concatenate(number),
        length=np.full(total, 2.0),
        speed_limit=np.full(total, 13.0),
        junction=np.where(inside & (crossing or light or stop), 5, -1),
        next=Csr.build(total, edges[:, 0], edges[:, 1]),
        previous=Csr.build(total, edges[:, 1], edges[:, 0]),
        right=np.where(change[0] < total, change[0], -1),
        left=np.where(change[1] >= 0, change[1], -1),
        lights=[site] if light else [],
        signs=[SignSite("stop", -1.0, "2", Transform(), [last], box, 0.0)] if stop else [],
        sidewalk=(np.zeros((0, 2)), np.zeros((0, 2), np.int32), np.zeros(0, bool)),
    )

    def nearest(place: np.ndarray, yaw_rad: float) -> int:
        away = np.hypot(*(position - place).T) + 9.0 * (np.cos(found.yaw_rad - yaw_rad) < 0.5)
        return int(np.argmin(away))

    found.nearest = nearest
    return Sized(found)


class Sized:
    """A namespace that has a length, as ``Network``."""

    def __init__(self, names: Any) -> None:
        self.__dict__.update(vars(names))

    def __len__(self) -> int:
        return len(self.yaw_rad)  # type: ignore[attr-defined]


def drivers(network: Any, *places: Transform, unmanaged: tuple[Transform, ...] = ()) -> Town:
    t = town(network)
    for i, place in enumerate(places):
        t.fleet.add(i + 1, DEFAULT, place)
        t.traffic.manage(i + 1)
    for i, place in enumerate(unmanaged):
        t.fleet.add(i + 100, DEFAULT, place)
    return t


def test_alone_it_drives_at_the_limit_in_its_lane() -> None:
    t = drivers(road(), Transform(x=10.0, y=0.6))
    t.run(15.0)
    assert 0.8 * 13.0 < t.fleet.speed[0] < 1.06 * 13.0
    assert abs(t.fleet.y[0]) < 0.05
    assert abs(t.fleet.yaw[0]) < 0.5


def test_it_stops_at_the_end_of_the_road() -> None:
    t = drivers(road(), Transform(x=320.0))
    t.run(40.0)
    assert 390.0 < t.fleet.x[0] + t.fleet.half[0, 0] < 399.0
    assert t.fleet.speed[0] == 0.0


def test_it_stops_behind_who_stands_and_follows_who_drives() -> None:
    t = drivers(road(), Transform(x=10.0), unmanaged=(Transform(x=150.0),))
    t.run(25.0)
    gap = t.fleet.x[1] - t.fleet.x[0] - 2 * t.fleet.half[0, 0]
    assert 1.5 < gap < 5.0
    assert t.fleet.speed[0] == 0.0
    t.fleet.hold_velocity(100, (5.0, 0.0, 0.0))
    t.run(20.0)
    gap = t.fleet.x[1] - t.fleet.x[0] - 2 * t.fleet.half[0, 0]
    assert t.fleet.speed[0] == pytest.approx(5.0, abs=0.2)
    assert 6.0 < gap < 16.0  # 2.5 m and 1.3 s
    assert t.collisions == []


def test_it_brakes_hard_for_who_cuts_in() -> None:
    t = drivers(road(), Transform(x=10.0))
    t.run(10.0)
    t.fleet.add(100, DEFAULT, Transform(x=float(t.fleet.x[0]) + 24.0))
    t.run(10.0)
    assert t.collisions == []
    assert t.fleet.speed[0] == 0.0


def test_it_stops_for_props() -> None:
    t = drivers(road(), Transform(x=10.0))
    box = Boxes.empty(1)
    box.centre[:], box.half[:] = (120.0, 0.8, 0.5), (0.3, 0.3, 0.5)
    t.traffic.props = FixedIndex(box)
    t.run(25.0)
    assert 112.0 < t.fleet.x[0] + t.fleet.half[0, 0] < 119.0
    assert t.fleet.speed[0] == 0.0


def test_it_stops_for_walkers_but_passes_those_beside() -> None:
    network = road()
    t = drivers(network, Transform(x=10.0))
    t.traffic.walkers = walkers = Walkers(network, 0, t.fleet)
    adult = WALKERS["walker.pedestrian.0001"]
    walkers.add(50, adult, Transform(x=100.0, y=2.2, z=0.93))
    walkers.add(51, adult, Transform(x=150.0, y=0.5, z=0.93))
    t.run(30.0)
    assert 140.0 < t.fleet.x[0] + t.fleet.half[0, 0] < 149.5
    walkers.set_control(51, (0.0, 1.0, 0.0), 1.5)
    for _ in range(200):
        walkers.step(0.05)
        t.step()
    assert t.fleet.x[0] > 160.0
    # One who steps out in front of it, 25 m ahead, is seen coming.
    walkers.add(52, adult, Transform(x=float(t.fleet.x[0]) + 40.0, y=4.0, z=0.93))
    walkers.set_control(52, (0.0, -1.0, 0.0), 1.4)
    for _ in range(200):
        walkers.step(0.05)
        t.step()
        assert not resolve(t.fleet, walkers)


def test_red_is_obeyed_and_green_is_not_waited_for() -> None:
    t = drivers(road(light=True), Transform(x=10.0))
    t.lights.set_state(0, State.RED)
    t.lights.freeze_all(True)
    t.run(30.0)
    nose = t.fleet.x[0] + t.fleet.half[0, 0]
    assert 191.0 < nose < 195.0
    assert t.fleet.speed[0] == 0.0
    t.lights.set_state(0, State.GREEN)
    t.run(6.0)
    assert t.fleet.x[0] > 205.0


def test_late_yellow_is_passed_and_early_yellow_is_not() -> None:
    for start, passes in ((10.0, False), (165.0, True)):
        t = drivers(road(light=True), Transform(x=start))
        t.fleet.set_velocity(1, (11.0, 0.0, 0.0))
        t.lights.freeze_all(True)
        t.lights.set_state(0, State.GREEN)
        while t.fleet.x[0] < (100.0 if not passes else 178.0):
            t.step()
        t.lights.set_state(0, State.YELLOW)
        for _ in range(60):
            t.traffic.step(0.05)
            t.fleet.step(0.05)
            t.lights.elapsed[0] += 0.05
        t.lights.set_state(0, State.RED)
        t.run(5.0)
        assert (t.fleet.x[0] > 195.0) == passes


def test_a_stop_sign_is_obeyed_once() -> None:
    t = drivers(road(stop=True), Transform(x=120.0))
    stopped_at = None
    for _ in range(500):
        t.step()
        if t.fleet.speed[0] < 0.1 and stopped_at is None and t.fleet.x[0] > 150.0:
            stopped_at = float(t.fleet.x[0] + t.fleet.half[0, 0])
    assert stopped_at is not None
    assert 191.0 < stopped_at < 195.0
    assert t.fleet.x[0] > 230.0


def test_a_crossing_is_shared() -> None:
    east = [Transform(x=110.0 - 12.0 * i) for i in range(4)]
    north = [Transform(x=201.0, y=-91.0 - 12.0 * i, yaw=90.0) for i in range(4)]
    t = drivers(road(crossing=True), *east, *north)
    for _ in range(900):
        t.step()
        c = np.abs(t.fleet.x - 201.0) < 4.0
        both = c & (np.abs(t.fleet.y) < 4.0)
        ways = np.round(np.cos(np.radians(t.fleet.yaw[both])))
        assert len(np.unique(ways)) <= 1
    assert t.collisions == []
    assert (t.fleet.x[:4] > 215.0).all()
    assert (t.fleet.y[4:] > 15.0).all()


def test_it_waits_for_unmanaged_cross_traffic() -> None:
    t = drivers(
        road(crossing=True),
        Transform(x=110.0),
        unmanaged=(Transform(x=201.0, y=-91.0, yaw=90.0),),
    )
    t.fleet.hold_velocity(100, (11.0, 0.0, 0.0))
    t.run(30.0)
    assert t.collisions == []
    assert t.fleet.x[0] > 215.0


def test_it_overtakes_by_the_other_lane() -> None:
    t = drivers(road(lanes=2), Transform(x=10.0), unmanaged=(Transform(x=45.0),))
    t.fleet.hold_velocity(100, (4.0, 0.0, 0.0))
    seen = []
    for _ in range(500):
        t.step()
        seen.append(float(t.fleet.y[0]))
    assert t.collisions == []
    assert max(seen) > 3.2
    assert t.fleet.x[0] > t.fleet.x[1] + 20.0
    alone = drivers(road(lanes=1), Transform(x=10.0), unmanaged=(Transform(x=45.0),))
    alone.fleet.hold_velocity(100, (4.0, 0.0, 0.0))
    alone.run(25.0)
    assert alone.fleet.x[0] < alone.fleet.x[1]


def test_it_does_not_change_into_who_is_beside() -> None:
    t = drivers(
        road(lanes=2),
        Transform(x=10.0),
        unmanaged=(Transform(x=40.0), Transform(x=10.0, y=3.5), Transform(x=20.0, y=3.5)),
    )
    for i in (100, 101, 102):
        t.fleet.hold_velocity(i, (6.0, 0.0, 0.0))
    t.run(25.0)
    assert t.collisions == []
    assert abs(t.fleet.y[0]) < 0.5


def test_vehicles_may_come_and_go(network: Network) -> None:
    t = town(network, 6)
    t.run(2.0)
    t.fleet.remove(3)  # without a word
    t.traffic.release(5)
    t.run(2.0)
    assert t.traffic.ids == [1, 2, 4, 6]
    t.traffic.manage(5)
    t.traffic.manage(5)
    t.run(2.0)
    assert 5 in t.traffic
    assert t.traffic.ids.count(5) == 1
    with pytest.raises(KeyError):
        t.traffic.manage(77)


def test_who_is_pushed_off_finds_a_way_again() -> None:
    t = drivers(road(lanes=2), Transform(x=10.0))
    t.run(4.0)
    t.fleet.place(1, Transform(x=60.0, y=12.0, yaw=60.0))
    t.run(12.0)
    assert min(abs(t.fleet.y[0]), abs(t.fleet.y[0] - 3.5)) < 0.3
    assert abs(t.fleet.yaw[0]) < 3.0


def test_twenty_vehicles_are_quick(network: Network) -> None:
    t = town(network, 20)
    t.run(5.0)
    taken = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(40):
            t.traffic.step(0.05)
            t.fleet.step(0.05)
        taken.append((time.process_time() - start) / 40)
    assert min(taken) < 2.5e-3  # 0.5 ms measured with the vehicles' motion
