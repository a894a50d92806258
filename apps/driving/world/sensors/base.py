"""What every sensor is: bound to an actor, read when it is due, with a noise of its own."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np

from apps.driving.world.geometry import Transform
from apps.driving.world.render.scene import Scene
from apps.driving.world.sensors.payloads import Collision, Payload
from apps.driving.world.simulation.actors import Actor


class Senses(Protocol):
    """What sensors ask of the world."""

    elapsed: float
    imu_gravity: float
    collisions: list[Collision]

    def scene(self) -> Scene: ...
    def transform(self, actor_id: int) -> Transform: ...
    def motion(self, actor_id: int) -> np.ndarray:
        """(3, 3): velocity (m/s), angular velocity (degrees/s), acceleration (m/s^2); zero at rest."""
        ...

    def met(self, instance: int, tag: int) -> Actor:
        """The actor of a box, or a stand-in for a piece of the scenery."""
        ...

    def geolocation(self, x: float, y: float, z: float) -> tuple[float, float, float]: ...


def generator(attributes: Mapping[str, str], kind: str) -> np.random.Generator:
    """The sensor's own noise."""
    seed = int(attributes.get("noise_seed", "0"))
    return np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(kind.encode())])


class Sensor:
    """A sensor of one actor. ``interval`` is its ``sensor_tick`` (s; 0: every tick)."""

    kind: str

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.listened = False
        self.interval = float(actor.attributes.get("sensor_tick", "0"))
        self._due = -math.inf
        self._last = math.nan

    def numbers(self, *names: str) -> list[float]:
        """Values of number attributes."""
        return [float(self.actor.attributes[name]) for name in names]

    def forget(self) -> None:
        """Drop what was remembered of earlier readings: someone begins to listen."""
        self._last = math.nan

    def due(self, elapsed: float, delta: float) -> float:
        """Seconds that a reading now stands for, or 0 when it is not yet time for one.

        A ``sensor_tick`` that is no multiple of the step does not drift: it is due at its multiples.
        """
        if elapsed < self._due - 1e-6:
            return 0.0
        if self.interval > 0.0:
            missed = self._due + self.interval
            self._due = missed if missed > elapsed - 1e-6 else elapsed + self.interval
        since = elapsed - self._last if self._last < elapsed else max(delta, self.interval)
        self._last = elapsed
        return since

    def read(self, world: Senses, delta: float) -> Iterable[Payload]:
        """What it has to tell after ``delta`` seconds."""
        raise NotImplementedError
