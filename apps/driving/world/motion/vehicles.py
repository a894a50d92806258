"""Every vehicle of the world as arrays: who is there, its controls, pushes and physics.

How they move is in ``bicycle``. The default car, vehicle.tesla.model3, from its formulas and the
catalogue alone (tests hold them to 1 % at steps of 0.01, 0.05 and 0.1 s):
    0-50 km/h            2.00 s, full throttle from rest    (the real Model 3: about 2.3)
    50-0 km/h            10.8 m, full brake                 (CARLA's MKZ 2020 fitted by PDM-Lite: 11.3)
    turning circle       7.44 m, full lock at 20 km/h, path of the origin  (World on Rails' fit: 7.44)
    top speed            233.1 km/h                         (the real one 233)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from apps.driving.world.geometry import Transform
from apps.driving.world.motion.bicycle import (
    GRAVITY,
    STEER_BINS,
    STEER_SPAN,
    TORQUE_BINS,
    advance,
    steer_share,
)
from apps.driving.world.motion.catalogue import VehicleSpec

__all__ = ["GRAVITY", "Fleet"]

STEP = 0.05  # s: the longest substep; 0-50 km/h differs by 0.1 % from steps of 1 ms

# fmt: off
_FLOATS = [
    "x", "y", "z", "pitch", "yaw", "roll", "vx", "vy", "vz", "yaw_rate", "ax", "ay", "az", "speed",
    "throttle", "steer", "brake", "slide", "spin", "wheel", "shifting", "held_x", "held_y",
]
_FIXED = [
    "mass", "wheelbase", "lag", "radius", "lock", "grip", "drag", "brakes", "hand_brakes",
    "wheel_drag", "wheel_mass", "moi", "full", "engaged", "free", "clutch", "limit", "gyration",
    "switch",
]
_FLAGS = ["hand_brake", "reverse", "manual", "simulate", "gravity", "held", "solid", "autobox"]
_ABOVE_ZERO = ["mass", "wheelbase", "wheel_radius", "max_rpm", "clutch_strength", "final_ratio"]
_NOT_NEGATIVE = [
    "moi", "damping_full", "damping_engaged", "damping_free", "gear_switch_time", "reverse_ratio",
    "drag", "grip", "brake_torque", "hand_brake_torque", "wheel_damping", "wheel_mass", "lock",
]
# fmt: on
_GEARS = 10


class Fleet:
    """Every vehicle's state as arrays (n), in the order they were added. ``row`` finds one by id.

    Degrees and degrees a second for angles, m, m/s and m/s^2 else. The arrays may be read at any
    time and written between steps, except ``speed``, ``vx`` and ``vy``, which ``set_velocity`` sets;
    they are replaced by ``add`` and ``remove``, so look them up anew.
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
    speed: np.ndarray  # along the body, negative when rolling back
    throttle: np.ndarray  # commands, as clipped
    steer: np.ndarray
    brake: np.ndarray
    slide: np.ndarray
    spin: np.ndarray
    wheel: np.ndarray  # -1 .. 1: where the steering is, behind ``steer``
    shifting: np.ndarray  # s left without a gear
    held_x: np.ndarray
    held_y: np.ndarray
    mass: np.ndarray  # from here to ``switch``: numbers of the spec, see ``respec``
    wheelbase: np.ndarray
    lag: np.ndarray
    radius: np.ndarray
    lock: np.ndarray
    grip: np.ndarray
    drag: np.ndarray
    brakes: np.ndarray
    hand_brakes: np.ndarray
    wheel_drag: np.ndarray
    wheel_mass: np.ndarray
    moi: np.ndarray
    full: np.ndarray
    engaged: np.ndarray
    free: np.ndarray
    clutch: np.ndarray
    limit: np.ndarray
    gyration: np.ndarray
    switch: np.ndarray
    hand_brake: np.ndarray  # bool
    reverse: np.ndarray
    manual: np.ndarray
    simulate: np.ndarray  # physics on
    gravity: np.ndarray
    held: np.ndarray  # a constant velocity is kept
    solid: np.ndarray  # meets others
    autobox: np.ndarray  # shifts by itself
    gear: np.ndarray  # int: -1 reverse, 0 neutral, 1 ..
    ids: np.ndarray  # int64
    half: np.ndarray  # (n, 3) of the boxes
    centre: np.ndarray  # (n, 3) of the boxes, in the body's frame

    def __init__(self, friction: float = 1.0) -> None:
        self.friction = friction
        self.specs: list[VehicleSpec] = []
        self._rows: dict[int, int] = {}
        self._state = np.zeros((len(_FLOATS), 0))
        self._fixed = np.zeros((len(_FIXED), 0))
        self._flags = np.zeros((len(_FLAGS), 0), bool)
        self._ints = np.zeros((2, 0), np.int64)
        self._boxes = np.zeros((2, 0, 3))
        self.torque_table = np.zeros((0, TORQUE_BINS + 1))
        self.curve_table = np.zeros((0, STEER_BINS + 1))
        self.ratio = np.zeros((0, _GEARS + 2))  # by gear + 1
        self.down_at = np.zeros((0, _GEARS + 2))
        self.up_at = np.zeros((0, _GEARS + 2))
        self._bind()

    def __len__(self) -> int:
        return len(self.specs)

    def __contains__(self, id: int) -> bool:
        return id in self._rows

    def row(self, id: int) -> int:
        """The row of vehicle ``id``; KeyError if there is none."""
        return self._rows[id]

    def add(self, id: int, spec: VehicleSpec, transform: Transform) -> int:
        """A vehicle at rest at ``transform``; its row. ValueError if the id is taken."""
        if id in self._rows:
            raise ValueError(f"vehicle {id} is there already")
        n = len(self)
        for name in ("_state", "_fixed", "_flags", "_ints"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros_like(old, shape=(len(old), 1))], 1))
        self._boxes = np.concatenate([self._boxes, np.zeros((2, 1, 3))], 1)
        for name in ("torque_table", "curve_table", "ratio", "down_at", "up_at"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((1, old.shape[1]))]))
        self.specs.append(spec)
        self._rows[id] = n
        self._bind()
        self.ids[n] = id
        self.gear[n] = 1
        self.simulate[n] = self.gravity[n] = self.solid[n] = True
        self.respec(id, spec)
        self.place(id, transform)
        return n

    def remove(self, id: int) -> None:
        """Takes a vehicle away; KeyError if there is none. The order of the others stays."""
        row = self._rows.pop(id)
        del self.specs[row]
        for name in ("_state", "_fixed", "_flags", "_ints", "_boxes"):
            setattr(self, name, np.delete(getattr(self, name), row, axis=1))
        for name in ("torque_table", "curve_table", "ratio", "down_at", "up_at"):
            setattr(self, name, np.delete(getattr(self, name), row, axis=0))
        self._bind()
        self._rows = {int(i): r for r, i in enumerate(self.ids)}

    def respec(self, id: int, spec: VehicleSpec) -> None:
        """Replaces a vehicle's physics: ``dataclasses.replace(fleet.specs[row], mass=2000.0)``.

        ValueError when it cannot drive: a mass, radius or inertia that is not above zero, an empty
        or unsorted curve, more than ten gears, a number that is not finite.
        """
        _check(spec)
        r, radius = self._rows[id], spec.wheel_radius
        k2 = (spec.half[0] ** 2 + spec.half[1] ** 2) / 3.0
        area = 4.0 * spec.half[1] * spec.half[2]
        self._fixed[:, r] = (
            spec.mass,
            spec.wheelbase,
            spec.front,
            radius,
            math.tan(math.radians(spec.lock)) / spec.wheelbase,
            spec.grip,
            0.6 * spec.drag * area,  # half of the air's 1.2 kg / m^3
            spec.wheels * spec.brake_torque / radius,
            min(2, spec.wheels) * spec.hand_brake_torque / radius,
            spec.wheels * spec.wheel_damping / radius**2,
            spec.wheels * 0.5 * spec.wheel_mass,  # a disc's inertia over r^2
            spec.moi,
            spec.damping_full,
            spec.damping_engaged,
            spec.damping_free,
            spec.clutch_strength,
            spec.max_rpm * math.tau / 60.0,
            k2,
            spec.gear_switch_time,
        )
        rpm, torque = np.array(spec.torque_curve, float).T
        self.torque_table[r] = np.interp(
            np.linspace(0.0, spec.max_rpm, TORQUE_BINS + 1), rpm, torque
        )
        speed, share = np.array(spec.steering_curve, float).T
        self.curve_table[r] = np.interp(np.linspace(0.0, STEER_SPAN, STEER_BINS + 1), speed, share)
        self.ratio[r] = 0.0
        self.up_at[r], self.down_at[r] = np.inf, 0.0
        self.ratio[r, 0] = -spec.reverse_ratio * spec.final_ratio
        for i, gear in enumerate(spec.gears, start=2):
            self.ratio[r, i] = gear.ratio * spec.final_ratio
            self.down_at[r, i] = gear.down if i > 2 else 0.0
            self.up_at[r, i] = gear.up if i - 1 < len(spec.gears) else np.inf
        self._boxes[:, r] = spec.half, spec.centre
        self.gear[r] = min(self.gear[r], len(spec.gears))
        self.autobox[r] = spec.autobox
        self.specs[r] = spec

    def place(self, id: int, transform: Transform) -> None:
        """Moves a vehicle there; its velocity along the body stays, as CARLA's set_transform."""
        r = self._rows[id]
        self._state[:6, r] = transform
        self.set_world_velocity(np.radians(self.yaw), self.speed)

    def shift(self, row: int, dx: float, dy: float) -> None:
        """Moves the vehicle of a row aside, m; its velocity stays."""
        self.x[row] += dx
        self.y[row] += dy

    def transform(self, id: int) -> Transform:
        """Where a vehicle is."""
        return Transform(*self._state[:6, self._rows[id]].tolist())

    def set_control(
        self,
        id: int,
        throttle: float = 0.0,
        steer: float = 0.0,
        brake: float = 0.0,
        hand_brake: bool = False,
        reverse: bool = False,
        manual: bool = False,
        gear: int = 0,
    ) -> None:
        """As ``carla.VehicleControl``, clipped. ValueError for a number that is not finite."""
        for name, value in (("throttle", throttle), ("steer", steer), ("brake", brake)):
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}; it must be a number")
        r = self._rows[id]
        self.throttle[r] = min(max(throttle, 0.0), 1.0)
        self.steer[r] = min(max(steer, -1.0), 1.0)
        self.brake[r] = min(max(brake, 0.0), 1.0)
        self.hand_brake[r], self.reverse[r], self.manual[r] = hand_brake, reverse, manual
        if manual and not reverse:
            self.gear[r] = min(max(int(gear), -1), len(self.specs[r].gears))
        elif reverse:
            self.gear[r] = -1
        elif self.gear[r] < 1:
            self.gear[r] = 1

    def set_velocity(self, id: int, velocity: Sequence[float]) -> None:
        """World velocity (x, y, z) m/s of the origin; the tyres then act on it."""
        r = self._rows[id]
        c, s = _direction(self.yaw[r])
        self.speed[r] = velocity[0] * c + velocity[1] * s
        self.slide[r] = -velocity[0] * s + velocity[1] * c
        self.vx[r], self.vy[r], self.vz[r] = velocity[0], velocity[1], velocity[2]

    def set_yaw_rate(self, id: int, rate: float) -> None:
        """Degrees a second about z; the tyres then act on it."""
        self.spin[self._rows[id]] = math.radians(rate)

    def hold_velocity(self, id: int, velocity: Sequence[float] | None) -> None:
        """Keeps a velocity (forward, right, ..) in the body's frame; None lets the tyres act."""
        r = self._rows[id]
        self.held[r] = velocity is not None
        if velocity is not None:
            self.held_x[r], self.held_y[r] = velocity[0], velocity[1]

    def push(self, id: int, impulse: Sequence[float], at: Sequence[float] | None = None) -> None:
        """An impulse (x, y, z) in N s, at the middle of the body or at a place of the world."""
        r = self._rows[id]
        if not self.simulate[r]:
            return
        c, s = _direction(self.yaw[r])
        m = self.mass[r]
        self.speed[r] += (impulse[0] * c + impulse[1] * s) / m
        self.slide[r] += (-impulse[0] * s + impulse[1] * c) / m
        self.vx[r] += impulse[0] / m
        self.vy[r] += impulse[1] / m
        self.vz[r] += impulse[2] / m
        if at is not None:
            arm = at[0] - self.x[r], at[1] - self.y[r]
            self.twist(id, arm[0] * impulse[1] - arm[1] * impulse[0])

    def twist(self, id: int, impulse: float) -> None:
        """An angular impulse about z, N m s."""
        r = self._rows[id]
        if self.simulate[r]:
            gained = impulse / (self.mass[r] * self.gyration[r])
            self.spin[r] += gained
            self.yaw_rate[r] += math.degrees(gained)

    def wheel_angle(self, id: int) -> float:
        """Degrees of the inner front wheel, right positive, as CARLA tells it."""
        r = self._rows[id]
        share = float(steer_share(self, np.abs(self.speed))[r])
        return float(self.wheel[r]) * share * self.specs[r].max_steer

    def rpm(self, id: int) -> float:
        """Of the engine."""
        r = self._rows[id]
        turns = self.ratio[r, self.gear[r] + 1] * self.speed[r] / self.radius[r]
        return max(float(turns), 0.0) * 60.0 / math.tau

    def box_centres(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y (n) of the middle of each box."""
        c, s = np.cos(np.radians(self.yaw)), np.sin(np.radians(self.yaw))
        ox, oy = self.centre[:, 0], self.centre[:, 1]
        return self.x + ox * c - oy * s, self.y + ox * s + oy * c

    def step(self, dt: float) -> None:
        """``dt`` seconds, in equal substeps of at most ``STEP``. ValueError unless dt > 0."""
        if not dt > 0 or not math.isfinite(dt):
            raise ValueError(f"a step of {dt} s; it must be above 0")
        if not len(self):
            return
        before = self.vx.copy(), self.vy.copy(), self.vz.copy()
        parts = max(1, math.ceil(dt / STEP - 1e-9))
        for _ in range(parts):
            advance(self, dt / parts)
        self.ax[:] = (self.vx - before[0]) / dt
        self.ay[:] = (self.vy - before[1]) / dt
        self.az[:] = (self.vz - before[2]) / dt

    # The state's rows.

    def _bind(self) -> None:
        for block, names in (
            (self._state, _FLOATS),
            (self._fixed, _FIXED),
            (self._flags, _FLAGS),
            (self._ints, ("gear", "ids")),
            (self._boxes, ("half", "centre")),
        ):
            for i, name in enumerate(names):
                setattr(self, name, block[i])
        self.every = np.arange(self._state.shape[1])
        self.torque_at, self.curve_at = (
            self.every * (TORQUE_BINS + 1),
            self.every * (STEER_BINS + 1),
        )

    def set_world_velocity(
        self, yaw: np.ndarray, v: np.ndarray, curvature: np.ndarray | float = 0.0
    ) -> None:
        c, s = np.cos(yaw), np.sin(yaw)
        side = self.slide + v * curvature * self.lag
        self.vx[:] = v * c - side * s
        self.vy[:] = v * s + side * c


def _direction(yaw: float) -> tuple[float, float]:
    return math.cos(math.radians(yaw)), math.sin(math.radians(yaw))


def _check(spec: VehicleSpec) -> None:
    for name in _ABOVE_ZERO:
        value = getattr(spec, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be above 0")
    for name in _NOT_NEGATIVE:
        value = getattr(spec, name)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}; it must not be below 0")
    if spec.lock >= 89:
        raise ValueError(f"lock is {spec.lock} degrees; it must be below 89")
    if not 1 <= len(spec.gears) <= _GEARS:
        raise ValueError(f"{len(spec.gears)} gears; there must be 1 to {_GEARS}")
    for gear in spec.gears:
        if not (math.isfinite(gear.ratio) and gear.ratio > 0 and gear.down >= 0 and gear.up >= 0):
            raise ValueError(f"{gear} must have a ratio above 0 and shares that are not below")
    for name in ("torque_curve", "steering_curve"):
        points = np.array(getattr(spec, name), float)
        if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
            raise ValueError(f"{name} needs at least one point of two numbers")
        if (np.diff(points[:, 0]) < 0).any():
            raise ValueError(f"{name} must not go back")
