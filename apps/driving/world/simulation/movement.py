"""One tick of everything that moves: decisions, forces, motion, collisions."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Boxes
from apps.driving.world.motion.collisions import Collision as Contact
from apps.driving.world.motion.collisions import FixedIndex, resolve
from apps.driving.world.sensors.payloads import Collision
from apps.driving.world.simulation.friction import Friction
from apps.driving.world.simulation.poses import Poses
from apps.driving.world.traffic.drivers import populate

if TYPE_CHECKING:
    from apps.driving.world.simulation.world import World

PART = 0.1
"""s: drivers decide, and vehicles part, at least so often in a long tick."""

GREEN = 2
"""What a vehicle is told of lights away from any."""


class Movement:
    """Steps the world's vehicles and walkers, and tells where they are and how they move."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._indexed: Poses | None = None
        self._scenery: tuple[Boxes, FixedIndex] | None = None
        self._props: FixedIndex | None = None
        self.friction = Friction(world)

    def rebuild(self) -> None:
        """Something that stands in the way has come, gone or moved."""
        self._props = None
        self.friction.rebuild()

    def populate(self, traffic: int, walkers: int) -> None:
        """This world's own vehicles and walkers, as many of them as there is room for."""
        world = self._world
        draw = np.random.default_rng([world.seed, zlib.crc32(b"paint")])
        for car, pose in populate(world.town.network, traffic, world.seed):
            paint = car.colours[int(draw.integers(len(car.colours)))] if car.colours else None
            given = {"color": ",".join(map(str, paint))} if paint else {}
            try:
                world.vehicles.set_autopilot(world.spawn(car.id, given, pose).id, True)
            except SimulationError:
                continue  # something stands there
        for person, pose in world.walkers.populate(walkers):
            try:
                world.walkers.wander(world.spawn(person.id, {}, pose).id)
            except SimulationError:
                continue

    def step(self, delta: float) -> list[Collision]:
        """``delta`` seconds on, in parts of at most ``PART``; who met whom."""
        world = self._world
        met: list[Contact] = []
        fixed, props = self._obstacles()
        world.traffic.props = props
        parts = max(1, math.ceil(delta / PART - 1e-9))
        part = delta / parts
        for i in range(parts):
            world.lights.step(part)
            world.traffic.step(part)
            world.vehicles.drive(part)
            if i == 0:
                world.bodies.apply_forces(delta)
            self.friction.apply()
            world.fleet.step(part)
            world.walkers.step(part)
            met += resolve(world.fleet, world.walkers, fixed, props)
        world.people.tire()
        world.vehicles.relax()
        return [
            Collision(world.actor(c.id), world.met(c.other, c.tag), c.impulse)
            for c in sorted(met, key=lambda c: c.id)
        ]

    def _obstacles(self) -> tuple[FixedIndex, FixedIndex]:
        """The scenery that is shown, and the props that are solid."""
        world = self._world
        fixed = world.surroundings.fixed
        if self._scenery is None or self._scenery[0] is not fixed:
            self._scenery = fixed, FixedIndex(fixed)
        if self._props is None:
            props = [a for a in world.actors.values() if a.kind == "static"]
            solid = [a.id for a in props if a.id not in world.ghosts]
            boxes = world.boxes()
            self._props = FixedIndex(boxes.take(np.isin(boxes.instance, solid)))
        return self._scenery[1], self._props

    def of(self, actor_id: int) -> np.ndarray:
        """(3, 3): velocity, angular velocity (degrees/s), acceleration; 0 for what stands."""
        world, found = self._world, np.zeros((3, 3))
        actor = world.actors.get(actor_id)
        if actor is None:
            return found
        if actor.kind == "vehicle":
            fleet, row = world.fleet, world.fleet.row(actor_id)
            found[0] = fleet.vx[row], fleet.vy[row], fleet.vz[row]
            found[1, 2] = fleet.yaw_rate[row]
            found[2] = fleet.ax[row], fleet.ay[row], fleet.az[row]
        elif actor.kind == "walker":
            walkers, row = world.walkers, world.walkers.row(actor_id)
            found[0] = walkers.vx[row], walkers.vy[row], walkers.vz[row]
            found[1, 2] = walkers.yaw_rate[row]
            found[2] = walkers.ax[row], walkers.ay[row], walkers.az[row]
        return found

    def place(self, poses: Poses) -> None:
        """Write where vehicles and walkers are into ``poses``."""
        self._index(poses)
        for group, rows in ((self._world.fleet, self._cars), (self._world.walkers, self._people)):
            if len(rows):
                poses.pose[rows] = np.column_stack(
                    [group.x, group.y, group.z, group.pitch, group.yaw, group.roll]
                )

    def fill(self, poses: Poses) -> None:
        """Write how everything moves, and what its kind has to tell, into the rows."""
        self._index(poses)
        self._fill_cars(poses.rows)
        self._fill_people(poses.rows)
        self._fill_lights(poses.rows)

    def _index(self, poses: Poses) -> None:
        """Rows of each kind in ``poses``, in the order of their own arrays."""
        if self._indexed is poses:
            return
        world, row_of = self._world, poses.row_of
        self._indexed = poses
        self._cars = np.array([row_of[int(i)] for i in world.fleet.ids], np.int64)
        self._people = np.array([row_of[int(i)] for i in world.walkers.ids], np.int64)
        self._lights = np.array([row_of[i] for i in world.signals.light_ids], np.int64)
        self._light_ids = np.array([*world.signals.light_ids, 0], np.uint32)
        for actor_id, sign in world.signals.sign_of.items():
            poses.rows["sign_id"][row_of[actor_id]] = sign.encode()[:31]
        poses.rows["pole_index"][self._lights] = 0

    def _fill_cars(self, rows: np.ndarray) -> None:
        world, at = self._world, self._cars
        fleet = world.fleet
        if not len(at):
            return
        rows["velocity"][at] = np.column_stack([fleet.vx, fleet.vy, fleet.vz])
        rows["angular_velocity"][at, 2] = fleet.yaw_rate
        rows["acceleration"][at] = np.column_stack([fleet.ax, fleet.ay, fleet.az])
        for name, values in (
            ("throttle", fleet.throttle),
            ("steer", fleet.steer),
            ("brake", fleet.brake),
            ("hand_brake", fleet.hand_brake),
            ("reverse", fleet.reverse),
            ("manual_gear_shift", fleet.manual),
            ("gear", fleet.gear),
        ):
            rows[name][at] = values
        light = world.roadside.lights()
        held = light >= 0
        rows["speed_limit"][at] = world.roadside.limits()
        states = np.append(world.lights.state, GREEN)
        rows["traffic_light_state"][at] = states[light]
        rows["has_traffic_light"][at] = held
        rows["traffic_light_id"][at] = np.where(held, self._light_ids[light], 0)

    def _fill_people(self, rows: np.ndarray) -> None:
        walkers, at = self._world.walkers, self._people
        if not len(at):
            return
        rows["velocity"][at] = np.column_stack([walkers.vx, walkers.vy, walkers.vz])
        rows["angular_velocity"][at, 2] = walkers.yaw_rate
        rows["acceleration"][at] = np.column_stack([walkers.ax, walkers.ay, walkers.az])
        rows["walker_direction"][at, 0] = walkers.direction_x
        rows["walker_direction"][at, 1] = walkers.direction_y
        rows["walker_speed"][at] = walkers.speed
        rows["walker_jump"][at] = walkers.jump

    def _fill_lights(self, rows: np.ndarray) -> None:
        lights, at = self._world.lights, self._lights
        for name, values in (
            ("green_time", lights.green),
            ("yellow_time", lights.yellow),
            ("red_time", lights.red),
            ("elapsed_time", lights.elapsed),
            ("time_is_frozen", lights.frozen),
            ("light_state", lights.state),
        ):
            rows[name][at] = values
