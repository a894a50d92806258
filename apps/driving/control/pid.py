"""LeTFuser's two PID controllers: wheel and pedals from waypoints.

Gains, the aim point and the rules for throttle and brake are those of TransFuser's agent, which
LeTFuser keeps (Agand et al., arXiv 2310.13135; pagand/e2etransfuser, branch cvpr-w, x13/config.py;
autonomousvision/transfuser, transfuser_pmlr/team_code_transfuser/model.py, ``control_pid``). They
were tuned for a decision every 0.05 s; at other intervals the window covers the same seconds and the
derivative the same change, which the original does not do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from core.errors import UsageError

TUNED = 0.05  # s between two decisions that the gains were chosen for
MOVING = 0.01  # m/s; slower, the wheel is left alone


class PID:
    """kp e + ki mean(e) + kd de; the mean is over the last ``window`` decisions of 0.05 s.

    ``dt`` is the time between two calls of ``step``, s. UsageError where it or the window is not
    above zero.
    """

    def __init__(self, kp: float, ki: float, kd: float, window: int = 40, dt: float = TUNED):
        if not dt > 0 or window < 1:
            raise UsageError(f"PID: dt {dt} and window {window} must be above 0")
        self.kp, self.ki, self.kd, self.dt = kp, ki, kd, dt
        self._errors: deque[float] = deque(maxlen=max(2, round(window * TUNED / dt)))

    def reset(self) -> None:
        """Forgets what was."""
        self._errors.clear()

    def step(self, error: float) -> float:
        """The output for the present error."""
        errors = self._errors
        errors.append(float(error))
        change = (errors[-1] - errors[-2]) * (TUNED / self.dt) if len(errors) > 1 else 0.0
        mean = sum(errors) / len(errors) if len(errors) > 1 else 0.0
        return self.kp * errors[-1] + self.ki * mean + self.kd * change


class Steering:
    """The wheel that turns the car toward a point."""

    def __init__(self, dt: float = TUNED):
        self.pid = PID(1.25, 0.75, 0.3, 40, dt)

    def step(self, aim: np.ndarray, speed: float) -> float:
        """-1 .. 1 for ``aim`` (2,), metres in the ego frame, and ``speed``, m/s."""
        angle = float(np.degrees(np.arctan2(aim[1], aim[0]))) / 90.0
        return float(np.clip(self.pid.step(angle if speed >= MOVING else 0.0), -1.0, 1.0))


@dataclass(frozen=True)
class PedalLimits:
    """``brake_speed`` (m/s): slower wishes are a stop. ``brake_ratio``: of speed to the wish, above
    which one brakes. ``clip_delta`` (m/s): the largest error the throttle sees."""

    max_throttle: float = 0.75
    brake_speed: float = 0.4
    brake_ratio: float = 1.1
    clip_delta: float = 0.25


class Pedals:
    """Throttle for a wished speed, or the whole brake."""

    def __init__(self, dt: float = TUNED, limits: PedalLimits | None = None):
        self.pid = PID(5.0, 0.5, 1.0, 40, dt)
        self.limits = limits or PedalLimits()

    def step(self, wish: float, speed: float) -> tuple[float, float]:
        """(throttle, brake) for a wished and a present speed, m/s; the brake is 0 or 1."""
        limits = self.limits
        brake = wish < limits.brake_speed or speed / wish > limits.brake_ratio
        error = float(np.clip(wish - speed, 0.0, limits.clip_delta))
        throttle = float(np.clip(self.pid.step(error), 0.0, limits.max_throttle))
        return (0.0, 1.0) if brake else (throttle, 0.0)


class WaypointController:
    """Wheel and pedals that follow waypoints 0.5 s apart.

    The aim is the middle of the first two, the wished speed their distance in half a second.
    """

    def __init__(self, dt: float = TUNED, limits: PedalLimits | None = None):
        self.steering, self.pedals = Steering(dt), Pedals(dt, limits)

    def reset(self) -> None:
        """For the next route."""
        self.steering.pid.reset()
        self.pedals.pid.reset()

    def step(self, waypoints: np.ndarray, speed: float) -> tuple[float, float, float]:
        """(throttle, steer, brake) for ``waypoints`` (n >= 2, 2), metres in the ego frame.

        UsageError where there are fewer than two or one of the two is no number.
        """
        points = np.asarray(waypoints, np.float64)
        if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 2:
            raise UsageError(f"waypoints of shape {points.shape}; want (2 or more, 2)")
        first, second = points[:2]
        if not (np.isfinite(points[:2]).all() and np.isfinite(speed)):
            raise UsageError("waypoints or speed: not finite numbers")
        wish = float(np.hypot(*(second - first))) * 2.0
        throttle, brake = self.pedals.step(wish, speed)
        return throttle, self.steering.step(0.5 * (first + second), speed), brake
