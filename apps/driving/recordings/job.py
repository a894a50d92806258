"""What is to be recorded in one route, as it is handed to a process of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Job:
    """What to record: ``frames`` at most, into ``folder``. Everything drawn follows from ``seed``
    and ``number``, the route's place in its series."""

    town: str
    folder: str
    number: int
    frames: int
    seed: int = 0
    traffic: int = 20
    walkers: int = 10
    host: str | None = None
    port: int = 2000
    perturb: bool = True
    agent: str = "expert"
    length: tuple[float, float] = (250.0, 800.0)
    force: bool = False
    command: str | None = None
    version: str | None = None

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Job:
        """Undoes ``as_json``."""
        values = json.loads(line)
        return cls(**{**values, "length": tuple(values["length"])})

    def draws(self) -> dict[str, int]:
        """Seeds of the world, the route, the weather and the noise."""
        # SeedSequence, not seed + number: neighbouring series must not share routes
        state = np.random.SeedSequence([self.seed, self.number]).generate_state(4)
        return {
            name: int(value) >> 1
            for name, value in zip(("world", "route", "weather", "noise"), state)
        }
