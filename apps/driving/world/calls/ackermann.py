"""Speed and acceleration targets turned into pedals, for vehicles driven by ``VehicleAckermannControl``.

Two PID loops in cascade, as CARLA's ``AckermannController`` has (gains and their meaning are those of
``carla.AckermannControllerSettings``): the error of the speed moves the wanted acceleration, the error
of the acceleration moves the pedal, and both stay in their limits. A speed below 0.1 m/s with the
target zero holds the brake.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, field

STANDSTILL = 0.1  # m/s
STRONGEST = 8.0  # m/s^2: wanted where the client sets no limit
SMOOTH = 0.2
"""Share of the newest acceleration in what the loop sees. The pedal acts at once here: unsmoothed, the
default gains make 7 m/s^2 of ripple at steps of 0.05 s."""


@dataclass(frozen=True)
class Gains:
    """``carla.AckermannControllerSettings``, in the order of the wire; CARLA's defaults."""

    speed_kp: float = 0.15
    speed_ki: float = 0.0
    speed_kd: float = 0.25
    accel_kp: float = 0.01
    accel_ki: float = 0.0
    accel_kd: float = 0.01

    def values(self) -> tuple[float, ...]:
        """The six."""
        return astuple(self)


@dataclass
class Loop:
    """One PID loop on an error."""

    kp: float
    ki: float
    kd: float
    total: float = 0.0
    last: float | None = None

    def step(self, error: float, delta: float) -> float:
        """What the loop asks for now."""
        self.total += error * delta
        slope = 0.0 if self.last is None else (error - self.last) / delta
        self.last = error
        return self.kp * error + self.ki * self.total + self.kd * slope


@dataclass
class Ackermann:
    """The controller of one vehicle. Targets: rad (right positive), rad/s, m/s, m/s^2, m/s^3."""

    gains: Gains = field(default_factory=Gains)
    steer: float = 0.0
    steer_speed: float = 0.0
    speed: float = 0.0
    acceleration: float = 0.0
    jerk: float = 0.0
    active: bool = False
    angle: float = 0.0
    _wanted: float = 0.0
    _pedal: float = 0.0
    _felt: float = 0.0

    def __post_init__(self) -> None:
        self.tune(self.gains)

    def tune(self, gains: Gains) -> None:
        """New gains; what the loops remember is dropped."""
        self.gains = gains
        self._fast = Loop(gains.speed_kp, gains.speed_ki, gains.speed_kd)
        self._slow = Loop(gains.accel_kp, gains.accel_ki, gains.accel_kd)

    def pedals(
        self, speed: float, acceleration: float, lock: float, delta: float
    ) -> tuple[float, float, float, bool]:
        """Throttle, steer, brake and reverse for a vehicle of this speed (m/s), acceleration
        (m/s^2, both along the body) and full lock (rad)."""
        most = self.steer_speed * delta if self.steer_speed > 0.0 else math.inf
        self.angle += min(max(self.steer - self.angle, -most), most)
        back = self.speed < 0.0
        sense = -1.0 if back else 1.0
        target, speed, acceleration = abs(self.speed), sense * speed, sense * acceleration
        self._felt += SMOOTH * (acceleration - self._felt)
        limit = abs(self.acceleration) or STRONGEST
        step = self._fast.step(target - speed, delta)
        if self.jerk > 0.0:
            step = min(max(step, -self.jerk * delta), self.jerk * delta)
        self._wanted = min(max(self._wanted + step, -limit), limit)
        self._pedal += self._slow.step(self._wanted - self._felt, delta)
        self._pedal = min(max(self._pedal, -1.0), 1.0)
        if target < STANDSTILL and abs(speed) < STANDSTILL:
            self._wanted, self._pedal = 0.0, -1.0
        throttle, brake = max(self._pedal, 0.0), max(-self._pedal, 0.0)
        return throttle, min(max(self.angle / lock, -1.0), 1.0), brake, back
