"""How vehicles move: a kinematic bicycle with PhysX's engine, for all vehicles at once.

Glossary, of one vehicle
    v            m/s along the body at the rear axle; s, m/s to the right, and w, rad/s, what a push
                 has left of sliding and spinning beyond what the wheels ask for
    L, b, r      wheelbase, half of it (the origin is midway), wheel radius, m
    T, d, G      engine torque (N m) at full throttle, its damping (kg m^2/s), total gear ratio
    C, D         quadratic and linear resistance, N s^2/m^2 and N s/m
    mu           friction of tyre on road: the tyre's times ``Fleet.friction``, which weather sets

Along the body (NVIDIA PhysX 3.3 guide, "Vehicles", "Engine"; Guiggiani, The Science of Vehicle
Dynamics, 2014, chapter 3):
    m_eff dv/dt = throttle T(w) G/r - D v - C v |v| - sign(v) (brakes + rolling)
    D = d G^2/r^2 + wheels 0.25/r^2,  C = 0.6 drag width height,  w = G v / r
    m_eff = m + moi G^2/r^2 + wheels 10 kg     (the wheels' and the engine's inertia)
    d goes from ``damping_engaged`` at no throttle to ``damping_full``, through a clutch in series
Across: curvature = tan(lock) steer curve(v) / L, cut where v^2 curvature would pass mu g; what the
tyres give along is then at most mu g sqrt(1 - (a_y / mu g)^2) (the friction circle). s and w fall at
mu g and mu g b / k^2 (Coulomb), k the box's radius of gyration.

The default car, from the formulas alone (tests hold them to 1 % at steps of 0.01, 0.05 and 0.1 s):
    0-50 km/h            2.00 s, full throttle from rest    (the real Model 3: about 2.3)
    50-0 km/h            10.8 m, full brake                 (CARLA's MKZ 2020 fitted by PDM-Lite: 11.3)
    turning circle       7.44 m, full lock at 20 km/h, path of the origin  (World on Rails' fit: 7.44)
    top speed            233.1 km/h                         (the real one 233)

Deviates from CARLA: no suspension (a body neither dives nor leans), no wheel slip as a state, and a
brake opens the clutch. The ground is z = 0, and whatever is above it falls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from apps.driving.world.catalogue import VehicleSpec
from apps.driving.world.geometry import Transform

GRAVITY = 9.81
STEP = 0.05  # s: the longest substep; 0-50 km/h differs by 0.1 % from steps of 1 ms
STEER_RISE, STEER_FALL = 2.5, 5.0  # full locks a second, UE4's WheeledVehicleMovementComponent
ROLLING = 0.008  # share of the weight
GROUND = 0.02  # m: tyres grip below

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
_FLAGS = ["hand_brake", "reverse", "manual", "simulate", "gravity", "held", "solid"]
_ABOVE_ZERO = ["mass", "wheelbase", "wheel_radius", "max_rpm", "clutch_strength", "final_ratio"]
_NOT_NEGATIVE = [
    "moi", "damping_full", "damping_engaged", "damping_free", "gear_switch_time", "reverse_ratio",
    "drag", "grip", "brake_torque", "hand_brake_torque", "wheel_damping", "wheel_mass", "lock",
]
# fmt: on
_BINS, _STEER_BINS, _STEER_SPAN, _GEARS = 64, 32, 160.0, 10


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
        self._torque = np.zeros((0, _BINS + 1))
        self._curve = np.zeros((0, _STEER_BINS + 1))
        self._ratio = np.zeros((0, _GEARS + 2))  # by gear + 1
        self._down = np.zeros((0, _GEARS + 2))
        self._up = np.zeros((0, _GEARS + 2))
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
        for name in ("_torque", "_curve", "_ratio", "_down", "_up"):
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
        for name in ("_torque", "_curve", "_ratio", "_down", "_up"):
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
        self._torque[r] = np.interp(np.linspace(0.0, spec.max_rpm, _BINS + 1), rpm, torque)
        speed, share = np.array(spec.steering_curve, float).T
        self._curve[r] = np.interp(np.linspace(0.0, _STEER_SPAN, _STEER_BINS + 1), speed, share)
        self._ratio[r] = 0.0
        self._up[r], self._down[r] = np.inf, 0.0
        self._ratio[r, 0] = -spec.reverse_ratio * spec.final_ratio
        for i, gear in enumerate(spec.gears, start=2):
            self._ratio[r, i] = gear.ratio * spec.final_ratio
            self._down[r, i] = gear.down if i > 2 else 0.0
            self._up[r, i] = gear.up if i - 1 < len(spec.gears) else np.inf
        self._boxes[:, r] = spec.half, spec.centre
        self.gear[r] = min(self.gear[r], len(spec.gears))
        self.specs[r] = spec

    def place(self, id: int, transform: Transform) -> None:
        """Moves a vehicle there; its velocity along the body stays, as CARLA's set_transform."""
        r = self._rows[id]
        self._state[:6, r] = transform
        self._velocity(np.radians(self.yaw), self.speed)

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
        share = float(self._share(np.abs(self.speed))[r])
        return float(self.wheel[r]) * share * self.specs[r].max_steer

    def pedals(self, rows: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Throttle and brake (k) that give vehicles ``rows`` accelerations ``wanted`` (k), m/s^2.

        Exact for an engine whose damping is linear in the throttle; the clutch bends it a little.
        """
        pull = self._ratio[rows, np.maximum(self.gear[rows], 1) + 1] / self.radius[rows]
        v = self.speed[rows]
        low, clutch = self._torque[rows], self.clutch[rows]
        at = np.minimum(np.maximum(pull * v, 0.0) * _BINS / self.limit[rows], _BINS - 1.0)
        torque = low[np.arange(len(rows)), at.astype(np.int64)]
        idle = self.engaged[rows] * clutch / (clutch + self.engaged[rows]) * pull * pull * v
        full = self.full[rows] * clutch / (clutch + self.full[rows]) * pull * pull * v
        drag = (self.wheel_drag[rows] + self.drag[rows] * np.abs(v)) * v
        mass = self.mass[rows]
        heavy = mass + self.moi[rows] * pull * pull + self.wheel_mass[rows]
        roll = ROLLING * GRAVITY
        force = (wanted + roll) * heavy + drag
        throttle = (force + idle) / np.maximum(torque * pull + idle - full, 1.0)
        brakes = (-wanted - roll - drag / heavy) * mass / np.maximum(self.brakes[rows], 1.0)
        pressed = throttle < 0.0
        return (
            np.where(pressed, 0.0, np.minimum(throttle, 1.0)),
            np.where(pressed, np.clip(brakes, 0.0, 1.0), 0.0),
        )

    def steering(self, rows: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        """The steer command (k) for curvatures (k), 1/m, of the rear axle's path; right positive."""
        most = self.lock * self._share(np.abs(self.speed))
        steer: np.ndarray = np.clip(curvature / np.maximum(most[rows], 1e-6), -1.0, 1.0)
        return steer

    def rpm(self, id: int) -> float:
        """Of the engine."""
        r = self._rows[id]
        turns = self._ratio[r, self.gear[r] + 1] * self.speed[r] / self.radius[r]
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
            self._substep(dt / parts)
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
        self._index = np.arange(self._state.shape[1])
        self._torque_at, self._curve_at = self._index * (_BINS + 1), self._index * (_STEER_BINS + 1)

    def _share(self, speed: np.ndarray) -> np.ndarray:
        """The steering curve's share (n) at ``speed`` (n), m/s, not negative."""
        at = np.minimum(speed * (3.6 * _STEER_BINS / _STEER_SPAN), _STEER_BINS - 1e-6)
        low = at.astype(np.int64)
        flat, i = self._curve.ravel(), self._curve_at + low
        share: np.ndarray = flat[i] + (at - low) * (flat[i + 1] - flat[i])
        return share

    def _shift(self, h: float) -> np.ndarray:
        """The total ratio (n) in force, after the automatic gearbox; 0 while it shifts."""
        ratio = self._ratio[self._index, self.gear + 1]
        share = np.maximum(ratio * self.speed, 0.0) / (self.radius * self.limit)
        here = self._index, self.gear + 1
        free = (self.gear > 0) & ~self.manual & (self.shifting <= 0.0)
        change = (free & (share > self._up[here])).astype(np.int64)
        change -= free & (share < self._down[here])
        np.maximum(self.shifting - h, 0.0, out=self.shifting)
        if change.any():
            self.gear += change
            self.shifting[:] = np.where(change != 0, self.switch, self.shifting)
            ratio = self._ratio[self._index, self.gear + 1]
        return np.where(self.shifting > 0.0, 0.0, ratio)

    def _substep(self, h: float) -> None:
        v, yaw = self.speed.copy(), np.radians(self.yaw)
        on_road = self.z <= GROUND
        mu_g = self.grip * (self.friction * GRAVITY) * on_road

        # Steering: the wheel follows the command; half of the way counts for this substep.
        toward = self.steer - self.wheel
        rate = np.where(toward * self.wheel >= 0.0, STEER_RISE, STEER_FALL) * h
        moved = np.clip(toward, -rate, rate)
        curvature = self.lock * (self.wheel + 0.5 * moved) * self._share(np.abs(v))
        self.wheel += moved
        most = mu_g / np.maximum(v * v, 1e-6)
        np.clip(curvature, -most, most, out=curvature)
        across = v * v * curvature
        along = np.sqrt(np.maximum(mu_g * mu_g - across * across, 0.0))  # left by the circle

        # Engine: torque and its slope from the table, damping through the clutch.
        ratio = self._shift(h)
        pull = ratio / self.radius
        turning = np.maximum(pull * v, 0.0)
        at = np.minimum(turning * (_BINS / self.limit), _BINS - 1e-6)
        low = at.astype(np.int64)
        flat, i = self._torque.ravel(), self._torque_at + low
        rise = flat[i + 1] - flat[i]
        # The limiter takes the torque away within a hundredth above the limit.
        throttle = self.throttle * np.clip(101.0 - 100.0 * turning / self.limit, 0.0, 1.0)
        slope = throttle * rise * (_BINS / self.limit) * pull * pull
        force = throttle * (flat[i] + (at - low) * rise) * pull
        damping = self.engaged + (self.full - self.engaged) * self.throttle
        damping *= self.clutch / (self.clutch + damping) * (1.0 - self.brake)
        linear = damping * pull * pull + self.wheel_drag
        heavy = self.mass + self.moi * pull * pull + self.wheel_mass

        # Linearised implicit midpoint: second order, so that 0.05 s is enough.
        resist = self.drag * np.abs(v)
        gain = (force - (linear + resist) * v) / heavy
        gain = np.clip(gain, -along, along)
        fade = (linear + 2.0 * resist - slope) / heavy
        rolled = v + h * gain / np.maximum(1.0 + 0.5 * h * fade, 0.5)
        weight = self.mass * along
        stop = np.minimum(self.brake * self.brakes, weight)
        stop += self.hand_brake * np.minimum(self.hand_brakes, 0.5 * weight)
        stop = np.minimum(stop, weight) / self.mass + ROLLING * GRAVITY * on_road
        size = np.abs(rolled)
        after = np.copysign(np.maximum(size - stop * h, 0.0), rolled)
        # A vehicle that stops within the substep moves for a part of it only.
        part = np.minimum(size / np.maximum(stop * h, 1e-12), 1.0)
        path = 0.5 * (v + after) * h * part

        # Sliding and spinning left by pushes.
        slide, spin = self.slide, self.spin
        less = np.copysign(np.maximum(np.abs(slide) - mu_g * h, 0.0), slide)
        side = 0.5 * (slide + less) * h
        calm = mu_g * self.lag / self.gyration * h
        still = np.copysign(np.maximum(np.abs(spin) - calm, 0.0), spin)
        turn = 0.5 * (spin + still) * h

        held, moves = self.held, self.simulate
        if held.any():
            after, path = np.where(held, self.held_x, after), np.where(held, self.held_x * h, path)
            less, side = np.where(held, self.held_y, less), np.where(held, self.held_y * h, side)
        swing = path * curvature + turn
        if not moves.all():
            after, path, side = after * moves, path * moves, side * moves
            less, still, swing = less * moves, still * moves, swing * moves

        # The rear axle rolls along the mean heading; a spin turns about the origin, before it.
        mean, new = yaw + 0.5 * swing, yaw + swing
        side = side - turn * self.lag * moves
        cm, sm = np.cos(mean), np.sin(mean)
        cn, sn = np.cos(new), np.sin(new)
        c0, s0 = np.cos(yaw), np.sin(yaw)
        self.x += path * cm - side * sm + self.lag * (cn - c0)
        self.y += path * sm + side * cm + self.lag * (sn - s0)
        self.yaw[:] = (np.degrees(new) + 180.0) % 360.0 - 180.0
        self.speed[:], self.slide[:], self.spin[:] = after, less, still
        self._velocity(new, after, curvature)
        self.yaw_rate[:] = np.degrees(after * curvature + still)
        self._fall(h, moves)

    def _velocity(
        self, yaw: np.ndarray, v: np.ndarray, curvature: np.ndarray | float = 0.0
    ) -> None:
        c, s = np.cos(yaw), np.sin(yaw)
        side = self.slide + v * curvature * self.lag
        self.vx[:] = v * c - side * s
        self.vy[:] = v * s + side * c

    def _fall(self, h: float, moves: np.ndarray) -> None:
        if not (self.z.any() or self.vz.any() or self.pitch.any() or self.roll.any()):
            return
        falls = moves & self.gravity
        self.z += np.where(moves, self.vz * h, 0.0) - np.where(falls, 0.5 * GRAVITY * h * h, 0.0)
        self.vz -= np.where(falls, GRAVITY * h, 0.0)
        landed = falls & (self.z <= 0.0)
        self.z[landed] = self.vz[landed] = 0.0
        upright = np.where(landed, math.exp(-8.0 * h), 1.0)  # levels out in a third of a second
        self.pitch *= upright
        self.roll *= upright
        for angle in (self.pitch, self.roll):
            angle[np.abs(angle) < 1e-3] = 0.0


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
    for name in ("torque_curve", "steering_curve"):
        points = np.array(getattr(spec, name), float)
        if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
            raise ValueError(f"{name} needs at least one point of two numbers")
        if (np.diff(points[:, 0]) < 0).any():
            raise ValueError(f"{name} must not go back")
