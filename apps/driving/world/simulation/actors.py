"""What lives in the world, and the settings of an episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from apps.driving.world.geometry import Transform

Kind = Literal[
    "vehicle",
    "walker",
    "sensor",
    "traffic_light",
    "traffic_sign",
    "static",
    "controller",
    "spectator",
]


class Attachment(IntEnum):
    """How a child follows its parent (``carla.AttachmentType``)."""

    RIGID = 0
    SPRING_ARM = 1  # follows the yaw only: pitch and roll of the parent do not shake it
    SPRING_ARM_GHOST = 2  # the same; here the arm never collides


@dataclass(frozen=True)
class BoundingBox:
    """A box in its actor's frame, m."""

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    half: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0  # degrees, against the actor's


@dataclass
class Actor:
    """One actor. Where a vehicle, a walker or an attached actor is, ``World.transform`` knows."""

    id: int
    type_id: str  # the blueprint's name, e.g. "vehicle.tesla.model3"
    uid: int  # the blueprint's number in the library; 0 for what no blueprint made
    kind: Kind
    attributes: dict[str, str]
    transform: Transform  # as placed; relative to the parent where there is one
    box: BoundingBox = field(default_factory=BoundingBox)
    tags: tuple[int, ...] = ()  # of tags.Tag
    parent: int = 0
    attachment: Attachment = Attachment.RIGID
    stream: int = 0  # the sensor's stream; 0 where there is none

    @property
    def role(self) -> str:
        """The ``role_name`` it was spawned with."""
        return self.attributes.get("role_name", "")


@dataclass(frozen=True)
class Settings:
    """``carla.WorldSettings``, in the order of the wire."""

    synchronous_mode: bool = False
    no_rendering_mode: bool = False
    fixed_delta_seconds: float | None = None  # s; None: the time that passed (asynchronous mode)
    substepping: bool = True
    max_substep_delta_time: float = 0.01  # s
    max_substeps: int = 10
    max_culling_distance: float = 0.0  # m; 0: none
    deterministic_ragdolls: bool = True
    tile_stream_distance: float = 3000.0  # m
    actor_active_distance: float = 2000.0  # m
    spectator_as_ego: bool = True
