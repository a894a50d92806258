"""The car at one tick, as every criterion looks at it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import carla


@dataclass(frozen=True)
class EgoState:
    """``time`` s since the route began; ``x``, ``y`` m, ``yaw`` degrees, velocity m/s, in the world."""

    frame: int
    time: float
    x: float
    y: float
    z: float
    yaw: float
    vx: float
    vy: float
    speed: float

    @property
    def position(self) -> tuple[float, float]:
        """(x, y)."""
        return self.x, self.y

    @property
    def forward(self) -> tuple[float, float]:
        """Unit vector of the heading."""
        yaw = math.radians(self.yaw)
        return math.cos(yaw), math.sin(yaw)


def ego_state(snapshot: carla.WorldSnapshot, ego: carla.Vehicle, since: float) -> EgoState | None:
    """The car's state in a snapshot, ``since`` being the elapsed seconds at the route's beginning.

    None when the snapshot does not have the car.
    """
    found = snapshot.find(ego.id)
    if found is None:
        return None
    transform, velocity = found.get_transform(), found.get_velocity()
    at = transform.location
    return EgoState(
        frame=snapshot.frame,
        time=snapshot.timestamp.elapsed_seconds - since,
        x=at.x,
        y=at.y,
        z=at.z,
        yaw=transform.rotation.yaw,
        vx=velocity.x,
        vy=velocity.y,
        speed=math.hypot(velocity.x, velocity.y),
    )
