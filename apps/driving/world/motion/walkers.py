"""Pedestrians: how they move, and how those that nobody controls find their way.

A walker is an upright capsule; its origin is its middle, as in CARLA. It speeds up and slows down by
20.48 m/s^2 and jumps at 4.2 m/s (Unreal Engine 4, UCharacterMovementComponent's defaults). Whoever
is hit slides at 5 m/s^2 and stands up again after two seconds.

Ways over the town's footways are in ``footpaths``. As with CARLA's ``set_pedestrians_cross_factor``, a share of walkers may cross roads
(chosen once for each way); they wait at the kerb until no vehicle would come by meanwhile.

Deviates from CARLA: its clients move AI walkers themselves, by a mesh; this navigation is for the
world's own. Walkers pass through each other and through street furniture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.geometry import Transform
from apps.driving.world.motion.catalogue import WALKERS, WalkerSpec
from apps.driving.world.motion.footpaths import Footpath, Footpaths

if TYPE_CHECKING:
    from apps.driving.world.maps.network import Network
    from apps.driving.world.motion.vehicles import Fleet

SALT = 0x77616C6B  # of this part's random draws
GRAVITY, ACCELERATION, JUMP, SLIDE = 9.81, 20.48, 4.2, 5.0
DOWN = 2.0  # s on the ground after a blow
TURN = 540.0  # degrees a second
ARRIVED = 0.4  # m
MARGIN = 1.5  # s between a vehicle and a walker who crosses before it
PATIENCE = 30.0  # s at a kerb, then another way
KERB = 1.0  # m from the roadway one waits
ELBOW = 0.7  # m ahead that nothing must stand in

_FLOATS = [
    "x", "y", "z", "pitch", "yaw", "roll", "vx", "vy", "vz", "yaw_rate", "ax", "ay", "az",
    "direction_x", "direction_y", "speed", "down", "pace", "goal_x", "goal_y", "waited", "aside",
]  # fmt: skip
_FLAGS = ["jump", "solid", "gravity", "simulate", "active"]


class Walkers:
    """Every walker's state as arrays (n), in the order they were added; ``row`` finds one by id.

    m, degrees, m/s. ``speed`` and ``direction_*`` are what is asked for, ``vx`` and ``vy`` what is.
    Arrays are replaced by ``add`` and ``remove``. ``fleet``, when set, is looked at by those who
    are about to cross.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    pitch: np.ndarray
    yaw: np.ndarray
    roll: np.ndarray
    vx: np.ndarray
    vy: np.ndarray
    vz: np.ndarray
    yaw_rate: np.ndarray
    ax: np.ndarray
    ay: np.ndarray
    az: np.ndarray
    direction_x: np.ndarray
    direction_y: np.ndarray
    speed: np.ndarray
    down: np.ndarray  # s left after a blow
    pace: np.ndarray  # m/s at most, of those who find their own way
    goal_x: np.ndarray  # the next place on the way
    goal_y: np.ndarray
    waited: np.ndarray  # s at this kerb
    aside: np.ndarray  # m to the right of the footway's middle
    jump: np.ndarray
    solid: np.ndarray
    gravity: np.ndarray
    simulate: np.ndarray
    active: np.ndarray  # finds its own way
    ids: np.ndarray
    half: np.ndarray  # (n, 3)

    def __init__(self, network: Network, seed: int, fleet: Fleet | None = None) -> None:
        self.fleet = fleet
        self.cross_factor = 0.3
        self.specs: list[WalkerSpec] = []
        self._ways = Footpaths(network.sidewalk)
        self._rng = np.random.default_rng([seed, SALT])
        self._rows: dict[int, int] = {}
        self._paths: dict[int, tuple[Footpath, int]] = {}  # id -> way, the place it walks to
        self._wandering: set[int] = set()
        self._state = np.zeros((len(_FLOATS), 0))
        self._flags = np.zeros((len(_FLAGS), 0), bool)
        self.ids, self.half = np.zeros(0, np.int64), np.zeros((0, 3))
        self._bind()

    def __len__(self) -> int:
        return len(self.specs)

    def __contains__(self, id: int) -> bool:
        return id in self._rows

    def row(self, id: int) -> int:
        """The row of walker ``id``; KeyError if there is none."""
        return self._rows[id]

    def add(self, id: int, spec: WalkerSpec, transform: Transform) -> int:
        """A walker who stands there; its row. ValueError if the id is taken."""
        if id in self._rows:
            raise ValueError(f"walker {id} is there already")
        n = self._rows[id] = len(self)
        self._state = np.concatenate([self._state, np.zeros((len(_FLOATS), 1))], 1)
        self._flags = np.concatenate([self._flags, np.zeros((len(_FLAGS), 1), bool)], 1)
        self.ids = np.append(self.ids, id)
        self.half = np.concatenate([self.half, np.array([spec.half])])
        self.specs.append(spec)
        self._bind()
        self.solid[n] = self.gravity[n] = self.simulate[n] = True
        self.pace[n] = spec.speeds[0]
        self.place(id, transform)
        return n

    def remove(self, id: int) -> None:
        """Takes a walker away; KeyError if there is none."""
        row = self._rows.pop(id)
        del self.specs[row]
        self._state = np.delete(self._state, row, axis=1)
        self._flags = np.delete(self._flags, row, axis=1)
        self.ids, self.half = np.delete(self.ids, row), np.delete(self.half, row, axis=0)
        self._paths.pop(id, None)
        self._wandering.discard(id)
        self._bind()
        self._rows = {int(i): r for r, i in enumerate(self.ids)}

    def place(self, id: int, transform: Transform) -> None:
        """Puts a walker's middle there."""
        self._state[:6, self._rows[id]] = transform

    def transform(self, id: int) -> Transform:
        """Where a walker's middle is."""
        return Transform(*self._state[:6, self._rows[id]].tolist())

    def set_control(
        self, id: int, direction: Sequence[float], speed: float, jump: bool = False
    ) -> None:
        """As ``carla.WalkerControl``. ValueError for a number that is not finite or below 0."""
        if not (all(map(math.isfinite, direction)) and math.isfinite(speed) and speed >= 0):
            raise ValueError(f"direction {tuple(direction)} and speed {speed} must be numbers")
        r = self._rows[id]
        length = math.hypot(direction[0], direction[1])
        if length > 1e-6:
            self.direction_x[r], self.direction_y[r] = direction[0] / length, direction[1] / length
        self.speed[r] = speed if length > 1e-6 else 0.0
        self.jump[r] = jump

    def push(self, id: int, impulse: Sequence[float], mass: float = 70.0) -> None:
        """A blow, N s: whoever gets one falls and does nothing for two seconds."""
        r = self._rows[id]
        self.vx[r] += impulse[0] / mass
        self.vy[r] += impulse[1] / mass
        self.vz[r] += impulse[2] / mass
        self.down[r] = DOWN

    def shift(self, row: int, dx: float, dy: float) -> None:
        """Moves the walker of a row aside, m."""
        self.x[row] += dx
        self.y[row] += dy

    # Finding the way.

    def random_location(self) -> tuple[float, float, float] | None:
        """A place on a footway, on the ground, each metre as likely; None in a town without any."""
        return self._ways.random(self._rng)

    def start(self, id: int) -> None:
        """Finds its own way from now on: where ``go_to`` says."""
        self.active[self._rows[id]] = True

    def stop(self, id: int) -> None:
        """Is controlled from outside again, and stands."""
        r = self._rows[id]
        self.active[r] = False
        self.speed[r] = 0.0
        self._paths.pop(id, None)
        self._wandering.discard(id)

    def go_to(self, id: int, goal: Sequence[float]) -> bool:
        """Sends a walker who was started along the footways; False if nothing leads there."""
        return self._go(id, (goal[0], goal[1]), bool(self._rng.random() < self.cross_factor))

    def set_max_speed(self, id: int, speed: float) -> None:
        """The pace on its own ways, m/s. ValueError unless a number from 0 up."""
        if not (math.isfinite(speed) and speed >= 0):
            raise ValueError(f"a pace of {speed} m/s; it must be a number from 0 up")
        self.pace[self._rows[id]] = speed

    def wander(self, id: int) -> None:
        """Walks from place to place for good."""
        self.start(id)
        r = self._rows[id]
        self.pace[r] *= self._rng.uniform(0.75, 1.15)
        self.aside[r] = self._rng.uniform(-0.5, 0.5)
        self._wandering.add(id)
        self._next_goal(id)

    def populate(self, n: int) -> list[tuple[WalkerSpec, Transform]]:
        """Up to n walkers on footways, 1.5 m apart: to ``add`` and let ``wander``."""
        kinds = list(WALKERS.values())
        chosen: list[tuple[WalkerSpec, Transform]] = []
        for _ in range(20 * n):
            place = self.random_location()
            if place is None or len(chosen) == n:
                break
            if all(math.hypot(place[0] - t.x, place[1] - t.y) > 1.5 for _, t in chosen):
                spec = kinds[int(self._rng.integers(len(kinds)))]
                yaw = float(self._rng.uniform(-180, 180))
                chosen.append((spec, Transform(place[0], place[1], spec.half[2], 0.0, yaw, 0.0)))
        return chosen

    # Moving.

    def step(self, dt: float) -> None:
        """``dt`` seconds. ValueError unless dt > 0."""
        if not dt > 0 or not math.isfinite(dt):
            raise ValueError(f"a step of {dt} s; it must be above 0")
        if not len(self):
            return
        if self.active.any():
            self._steer(dt)
        before = self.vx.copy(), self.vy.copy(), self.vz.copy()
        stands = self.down <= 0.0
        on_ground = self.z <= self.half[:, 2] + 0.02
        self.down[:] = np.maximum(self.down - dt, 0.0)
        dx = np.where(stands, self.direction_x * self.speed, 0.0) - self.vx
        dy = np.where(stands, self.direction_y * self.speed, 0.0) - self.vy
        most = np.where(stands, ACCELERATION, SLIDE) * dt * on_ground
        share = np.minimum(most / np.maximum(np.hypot(dx, dy), 1e-9), 1.0)
        moves = self.simulate
        self.vx[:] = np.where(moves, self.vx + dx * share, 0.0)
        self.vy[:] = np.where(moves, self.vy + dy * share, 0.0)
        self.x += 0.5 * (self.vx + before[0] * moves) * dt
        self.y += 0.5 * (self.vy + before[1] * moves) * dt
        turn = np.where(
            stands & moves & (self.speed > 0.05),
            np.degrees(np.arctan2(self.direction_y, self.direction_x)) - self.yaw,
            0.0,
        )
        turn = np.clip((turn + 180.0) % 360.0 - 180.0, -TURN * dt, TURN * dt)
        self.yaw_rate[:] = turn / dt
        self.yaw[:] = (self.yaw + turn + 180.0) % 360.0 - 180.0
        self.vz[:] = np.where(self.jump & on_ground & stands, JUMP, self.vz)
        self.jump[:] = False
        falls = moves & self.gravity
        self.z += np.where(moves, self.vz * dt, 0.0) - np.where(falls, GRAVITY * dt * dt / 2, 0.0)
        self.vz -= np.where(falls, GRAVITY * dt, 0.0)
        landed = falls & (self.z <= self.half[:, 2])
        self.z[:] = np.where(landed, self.half[:, 2], self.z)
        self.vz[landed] = 0.0
        for now, then, rate in zip(
            (self.vx, self.vy, self.vz), before, (self.ax, self.ay, self.az), strict=True
        ):
            rate[:] = (now - then) / dt

    def _bind(self) -> None:
        for block, names in ((self._state, _FLOATS), (self._flags, _FLAGS)):
            for i, name in enumerate(names):
                setattr(self, name, block[i])

    def _steer(self, dt: float) -> None:
        """Direction and speed of those who find their own way."""
        dx, dy = self.goal_x - self.x, self.goal_y - self.y
        distance = np.hypot(dx, dy)
        ready = self.active & (self.down <= 0.0)
        for r in np.flatnonzero(ready & (distance < ARRIVED)).tolist():
            self._advance(int(self.ids[r]), r, dt)
        dx, dy = self.goal_x - self.x, self.goal_y - self.y
        distance = np.hypot(dx, dy)
        walks = ready & (distance >= ARRIVED)
        self.direction_x[:] = np.where(walks, dx / np.maximum(distance, 1e-9), self.direction_x)
        self.direction_y[:] = np.where(walks, dy / np.maximum(distance, 1e-9), self.direction_y)
        walks &= ~self._blocked()
        self.speed[:] = np.where(self.active, np.where(walks, self.pace, 0.0), self.speed)

    def _blocked(self) -> np.ndarray:
        """(n) who would walk into a vehicle with the next step."""
        fleet = self.fleet
        if fleet is None or not len(fleet):
            return np.zeros(len(self), bool)
        x, y = fleet.box_centres()
        dx = (self.x + ELBOW * self.direction_x)[:, None] - x
        dy = (self.y + ELBOW * self.direction_y)[:, None] - y
        c, s = np.cos(np.radians(fleet.yaw)), np.sin(np.radians(fleet.yaw))
        inside = np.abs(dx * c + dy * s) < fleet.half[:, 0] + 0.3
        inside &= np.abs(dy * c - dx * s) < fleet.half[:, 1] + 0.3
        blocked: np.ndarray = inside.any(1)
        return blocked

    def _advance(self, id: int, r: int, dt: float) -> None:
        """At a place of its way: to the next, unless there is a road between and it is not clear."""
        path, at = self._paths.get(id, (None, 0))
        if path is None or at + 1 >= len(path.places):
            self._paths.pop(id, None)
            if id in self._wandering:
                self._next_goal(id)
            return
        if path.crossing[at + 1] and not path.crossing[at]:
            self.waited[r] += dt
            if not self._clear(path, at, float(self.pace[r])):
                if self.waited[r] > PATIENCE and id in self._wandering:
                    self._next_goal(id)
                return
        self._head_for(id, path, at + 1)

    def _clear(self, path: Footpath, at: int, pace: float) -> bool:
        """Whether no vehicle comes to the crossing before one is over it."""
        if self.fleet is None or not len(self.fleet):
            return True
        last = at + 1
        while last + 1 < len(path.places) and path.crossing[last + 1]:
            last += 1
        a, b = path.places[at], path.places[last]
        along = b - a
        length = float(np.hypot(*along))
        along = along / max(length, 1e-9)
        needs = length / max(pace, 0.1) + MARGIN
        fleet = self.fleet
        dx, dy = fleet.x - a[0], fleet.y - a[1]
        t = np.clip(dx * along[0] + dy * along[1], 0.0, length)
        gap_x, gap_y = a[0] + t * along[0] - fleet.x, a[1] + t * along[1] - fleet.y
        gap = np.hypot(gap_x, gap_y)
        nears = gap_x * fleet.vx + gap_y * fleet.vy
        pace_of = np.hypot(fleet.vx, fleet.vy)
        # A vehicle that waits within 8 m may start at any time.
        reaches = np.where(pace_of > 0.5, (nears > 0) & (gap < pace_of * needs + 4.0), gap < 4.0)
        return not bool(reaches.any())

    def _go(self, id: int, goal: tuple[float, float], may_cross: bool) -> bool:
        r = self._rows[id]
        path = self._ways.find((float(self.x[r]), float(self.y[r])), goal, may_cross)
        if path is not None:
            self._head_for(id, path, 0)
        return path is not None

    def _next_goal(self, id: int) -> None:
        r = self._rows[id]
        here = float(self.x[r]), float(self.y[r])
        may_cross = bool(self._rng.random() < self.cross_factor)
        goal = self._ways.random(self._rng, here, may_cross)
        if goal is None or not self._go(id, goal[:2], may_cross):
            self.stop(id)  # nowhere to go

    def _head_for(self, id: int, path: Footpath, at: int) -> None:
        r = self._rows[id]
        self._paths[id] = path, at
        self.waited[r] = 0.0
        goal, side = path.places[at], np.zeros(2)
        if at:
            way = goal - path.places[at - 1]
            length = np.hypot(*way)
            if length > 1e-6:
                side = np.array([-way[1], way[0]]) / length * self.aside[r]
            waits = at + 1 < len(path.places) and path.crossing[at + 1] and not path.crossing[at]
            if waits and length > KERB:
                side = side - way / length * KERB
        self.goal_x[r], self.goal_y[r] = goal + side
