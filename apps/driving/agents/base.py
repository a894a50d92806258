"""What a driver sees, what it decides, and how it is asked.

The ego frame is CARLA's: x forward, y right, metres, at the car's origin. World coordinates and yaw
(degrees) are CARLA's too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from apps.driving.rig import Rig

if TYPE_CHECKING:
    from apps.driving.routes.plan import Plan


class Command(IntEnum):
    """What to do at the next point of the route: the numbers of CARLA's RoadOption."""

    VOID = -1
    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANE_FOLLOW = 4
    CHANGE_LANE_LEFT = 5
    CHANGE_LANE_RIGHT = 6


@dataclass(frozen=True)
class Observation:
    """One moment as the sensors give it.

    ``rgb`` (V, H, W, 3) uint8 and ``depth`` (V, H, W) float32 metres along the optical axis, V
    cameras in the rig's order, or None where the driver asks for none. ``speed`` m/s along the car.
    ``position`` (2,) and ``heading`` (degrees) in the world, as GNSS and compass give them.
    ``target`` (2,) float32: the next point of the sparse route in the ego frame; ``command`` says
    what to do there.
    """

    frame: int
    time: float
    speed: float
    position: np.ndarray
    heading: float
    target: np.ndarray
    command: Command
    rgb: np.ndarray | None = None
    depth: np.ndarray | None = None


@dataclass(frozen=True)
class Decision:
    """Pedals and wheel, and what led to them.

    ``throttle`` and ``brake`` in [0, 1], ``steer`` in [-1, 1] (right is positive). ``waypoints``
    (n, 2) are where the driver means to be, 0.5 s apart, in the ego frame. ``target_speed`` m/s.
    ``red_light`` and ``stop_sign`` are probabilities. ``semantics`` (V, h, w) and ``birdseye``
    (h, w) are uint8 CARLA tags, for looking at. ``hazards`` says which of "vehicle", "walker",
    "light", "stop" holds the car back. ``interventions`` names what a supervisor overruled. ``parts``:
    (throttle, steer, brake) of each controller of which the decision was made, by name.
    """

    throttle: float
    steer: float
    brake: float
    waypoints: np.ndarray | None = None
    target_speed: float | None = None
    red_light: float | None = None
    stop_sign: float | None = None
    semantics: np.ndarray | None = None
    birdseye: np.ndarray | None = None
    hazards: Mapping[str, bool] = field(default_factory=dict)
    interventions: tuple[str, ...] = ()
    parts: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Drive:
    """What is known before the start. ``world``, ``map`` and ``ego`` are carla's own objects.

    Only a privileged driver looks into the world; the others use ``plan.sparse()`` at most.
    """

    client: Any
    world: Any
    map: Any
    ego: Any
    plan: Plan
    rig: Rig
    seed: int = 0
    interval: float = 0.1  # seconds between two decisions


class Agent(Protocol):
    """A driver. One instance drives one route after another."""

    name: str
    cameras: frozenset[str]  # of "rgb", "depth": what ``act`` needs in its observation
    rig: Rig
    privileged: bool  # looks at the simulator's own state

    def begin(self, drive: Drive) -> None:
        """Get ready for a route; forget the last one."""
        ...

    def act(self, observation: Observation) -> Decision:
        """The next decision."""
        ...

    def end(self) -> None:
        """The route is over, however it ended."""
        ...
