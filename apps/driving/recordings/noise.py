"""Bursts of noise on the steering wheel, so that a driver has something to recover from.

A learner that has only seen a perfect driver does not know the way back to the middle of its lane
(Codevilla et al., "End-to-end driving via conditional imitation learning", ICRA 2018, section V:
noise is injected for a while, the driver's own control is what is learned). Deviates from theirs: a
burst is as strong as turns the car by a drawn angle at its speed, and the driver, who would undo it at
once, has no say while it lasts; frames within it are not kept.
"""

from __future__ import annotations

import math

import numpy as np

APART_S = (8.0, 16.0)  # from one burst's end to the next one's beginning
LASTS_S = (0.4, 0.8)
TURNS_DEG = (4.0, 10.0)
SLOWEST = 3.0  # m/s: slower cars are left alone
_BASE_M, _LOCK_RAD = 2.9, math.radians(70.0)  # wheel base and steering lock of the Model 3
_STRONGEST = 0.4


class SteeringNoise:
    """Draws when to disturb, how long and how much; the same seed, the same draws."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 0x5EE2])
        self._begins = float(self._rng.uniform(*APART_S))
        self._ends = -1.0
        self._steer = 0.0
        self._lasts = 0.0
        self._held = 0.0
        self._zero: float | None = None

    @property
    def active(self) -> bool:
        """Whether a burst is under way."""
        return self._ends >= 0

    def disturb(self, steer: float, time: float, speed: float, free: bool) -> float:
        """The wheel at ``time`` (s) where the driver wants ``steer``; ``free``: it is safe to begin.

        Call it with rising times, of which the first counts as 0. A burst swells and ebbs as half a
        sine does.
        """
        if self._zero is None:
            self._zero = time
        time -= self._zero
        if self._ends < 0:
            if time < self._begins or not free or speed < SLOWEST:
                return steer
            self._lasts = float(self._rng.uniform(*LASTS_S))
            turn = math.radians(float(self._rng.uniform(*TURNS_DEG)))
            side = 1.0 if self._rng.random() < 0.5 else -1.0
            # yaw = speed / base * tan(steer * lock) for as long as it lasts; half a sine has 2 / pi
            # of the area of its box
            angle = math.atan(turn * _BASE_M / (speed * self._lasts * 2 / math.pi))
            self._steer = side * min(angle / _LOCK_RAD, _STRONGEST)
            self._held = steer
            self._ends = time + self._lasts
        if time >= self._ends:
            self._begins = time + float(self._rng.uniform(*APART_S))
            self._ends = -1.0
            return steer
        # in the middle of the 0.1 s for which the wheel stays as it is now
        done = (time + 0.05 - self._ends + self._lasts) / self._lasts
        swell = math.sin(math.pi * done)
        return min(max(self._held + self._steer * max(swell, 0.0), -1.0), 1.0)
