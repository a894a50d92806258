"""Wheel and pedals for a curvature and an acceleration, from the car's own physics.

The engine is PhysX's, as ``carla.VehiclePhysicsControl`` describes it: torque by its curve, total
ratio of the gears, damping through a clutch (NVIDIA PhysX 3.3 guide, "Vehicles"). What the model gets
wrong, an integral of the difference between wished and measured acceleration makes up for. The wheel
follows pure pursuit (Coulter, CMU-RI-TR-92-01, 1992) of the rear axle; how much a car turns at full
lock is taken from World on Rails' fit of CARLA's ego vehicle (Chen, Koltun and Krähenbühl, ICCV 2021:
0.324 / m at a nominal 70 degrees) and corrected by how much it does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

GRAVITY, ROLLING = 9.81, 0.008
FIT_CURVATURE, FIT_LOCK, FIT_BASE = 0.324, 70.0, 2.875
LEARN = 0.7  # 1/s: how fast the integral follows
MOST = 2.0  # m/s^2 that it may come to
STAND = 0.1  # m/s below which a car that is not to start is held
HOLD = 0.6  # brake while standing
TURNING = 2.5  # full locks a second, UE4's WheeledVehicleMovementComponent


class Handling:
    """Of one ``carla.Vehicle``."""

    def __init__(self, ego: Any) -> None:
        physics = ego.get_physics_control()
        wheels = list(physics.wheels)
        self.radius = wheels[0].radius / 100.0
        places = np.array([(w.position.x, w.position.y) for w in wheels]) / 100.0
        base = 0.0
        if len(wheels) >= 4:
            base = float(np.hypot(*(places[:2].mean(0) - places[2:4].mean(0))))
        # where the API does not tell, half of the box is about the wheelbase
        self.base = base if 1.0 < base < 8.0 else 1.2 * float(ego.bounding_box.extent.x)
        lock = max(w.max_steer_angle for w in wheels) or FIT_LOCK
        self.most = FIT_CURVATURE * (lock / FIT_LOCK) * (FIT_BASE / self.base)
        self.curve = _curve(physics.steering_curve, [(0.0, 1.0), (120.0, 0.7)])
        self.torque = _curve(physics.torque_curve, [(0.0, 500.0), (5000.0, 500.0)])
        self.ratios = [gear.ratio * physics.final_ratio for gear in physics.forward_gears] or [9.0]
        clutch = max(physics.clutch_strength, 1e-3)
        engaged = physics.damping_rate_zero_throttle_clutch_engaged
        full = physics.damping_rate_full_throttle
        self.idle = engaged * clutch / (clutch + engaged)
        self.full = full * clutch / (clutch + full)
        self.mass = physics.mass
        self.moi = physics.moi
        self.drag = (
            1.2
            * physics.drag_coefficient
            * 2.0
            * (ego.bounding_box.extent.y * ego.bounding_box.extent.z)
        )
        self.brakes = sum(w.max_brake_torque for w in wheels) / self.radius
        self.reset()

    def reset(self) -> None:
        """For a car that stands."""
        self._extra = 0.0
        self._wanted: float | None = None
        self._speed = 0.0
        self._turns = 1.0  # share of ``most`` that it really turns
        self._steer = 0.0

    def pedals(self, wanted: float, speed: float, gear: int, dt: float) -> tuple[float, float]:
        """(throttle, brake) for an acceleration (m/s^2), ``dt`` after the last call."""
        if self._wanted is not None and speed > 0.5:
            missed = self._wanted - (speed - self._speed) / dt
            # more than that is no error of the model: a bump, or a gear that changes
            self._extra += LEARN * dt * float(np.clip(missed, -2.0, 2.0))
            self._extra = float(np.clip(self._extra, -MOST, MOST))
        self._speed = speed
        if speed < STAND and wanted <= 0.0:
            self._wanted, self._extra = None, 0.0
            return 0.0, HOLD
        self._wanted = wanted
        asked = wanted + self._extra
        ratio = self.ratios[min(max(gear, 1), len(self.ratios)) - 1] / self.radius
        rpm = abs(speed) * ratio * 60.0 / (2.0 * np.pi)
        torque = float(np.interp(rpm, *self.torque))
        idle = self.idle * ratio * ratio * speed
        full = self.full * ratio * ratio * speed
        force = (asked + ROLLING * GRAVITY) * (self.mass + self.moi * ratio * ratio)
        force += self.drag * speed * speed
        throttle = (force + idle) / max(torque * ratio + idle - full, 1.0)
        if throttle >= 0.0:
            return min(throttle, 1.0), 0.0
        stops = self.brakes / self.mass - idle / self.mass
        brake = (-asked - ROLLING * GRAVITY - idle / self.mass) / max(stops, 0.1)
        return 0.0, float(np.clip(brake, 0.0, 1.0))

    def wheel(
        self, curvature: float, speed: float, yaw_rate: float, applied: float, dt: float
    ) -> float:
        """-1 .. 1 for a curvature (1/m, right positive) of the rear axle's path.

        ``applied``: the steer command since the last call, which another may have changed.
        """
        share = float(np.interp(abs(speed) * 3.6, *self.curve))
        most = self.most * share
        # the front wheels follow the command, not at once
        self._steer += float(np.clip(applied - self._steer, -TURNING * dt, TURNING * dt))
        if speed > 2.0 and abs(self._steer) > 0.08 and abs(applied - self._steer) < 0.05:
            turned = yaw_rate / speed / (most * self._steer)
            if 0.4 < turned < 2.0:
                self._turns += min(1.0, 1.0 * dt) * (turned - self._turns)
        return float(np.clip(curvature / (most * self._turns), -1.0, 1.0))


def _curve(points: Any, default: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    rows = [(point.x, point.y) for point in points] or default
    table = np.array(sorted(rows))
    return table[:, 0], table[:, 1]
