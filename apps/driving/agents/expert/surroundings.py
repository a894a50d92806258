"""Who is around, as arrays: read from carla's snapshot once a decision."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from core.errors import ResourceError

SIGHT = 100.0  # m


class Bodies(NamedTuple):
    """n boxes. World coordinates, metres, radians."""

    id: np.ndarray  # (n) int
    xy: np.ndarray  # (n, 2) middles of the boxes
    yaw: np.ndarray  # (n)
    velocity: np.ndarray  # (n, 2) m/s
    half: np.ndarray  # (n, 2) of length and width

    @property
    def speed(self) -> np.ndarray:
        """(n) m/s along the boxes; backwards is negative."""
        along: np.ndarray = self.velocity[:, 0] * np.cos(self.yaw)
        along += self.velocity[:, 1] * np.sin(self.yaw)
        return along


class Ego(NamedTuple):
    """The car itself."""

    xy: np.ndarray  # (2,) of its origin
    yaw: float
    speed: float  # m/s along it
    yaw_rate: float  # radians/s


class Surroundings:
    """Reads vehicles with props, and walkers, but not ``ego``."""

    def __init__(self, world: Any, ego: Any) -> None:
        self.world, self.ego = world, ego
        box = ego.bounding_box
        self.half = np.array([box.extent.x, box.extent.y])
        self.centre = float(box.location.x)  # of the box, ahead of the origin
        self._boxes: dict[int, tuple[float, float, float, float]] = {}

    def read(self) -> tuple[Ego, Bodies, Bodies]:
        """(the car, vehicles and props, walkers) within ``SIGHT``.

        ResourceError when the car has gone.
        """
        import carla

        snapshot = self.world.get_snapshot()
        mine = snapshot.find(self.ego.id)
        if mine is None:
            raise ResourceError(
                f"the car (actor {self.ego.id}) has gone from the simulator; was it destroyed?"
            )
        transform = mine.get_transform()
        place = transform.location
        yaw = np.radians(transform.rotation.yaw)
        velocity = mine.get_velocity()
        ego = Ego(
            np.array([place.x, place.y]),
            float(yaw),
            float(velocity.x * np.cos(yaw) + velocity.y * np.sin(yaw)),
            float(np.radians(mine.get_angular_velocity().z)),
        )
        solid: list[tuple[float, ...]] = []
        people: list[tuple[float, ...]] = []
        for actor in self.world.get_actors():
            kind = actor.type_id
            rows = solid if kind.startswith(("vehicle.", "static.prop.")) else people
            if actor.id == self.ego.id or (rows is people and not kind.startswith("walker.")):
                continue
            state = snapshot.find(actor.id)
            if state is None:
                continue
            where = state.get_transform()
            at = where.location
            if abs(at.x - place.x) > SIGHT or abs(at.y - place.y) > SIGHT:
                continue
            x, y, length, width = self._box(actor)
            middle = where.transform(carla.Location(x, y, 0.0))
            goes = state.get_velocity()
            angle = float(np.radians(where.rotation.yaw))
            rows.append((actor.id, middle.x, middle.y, angle, goes.x, goes.y, length, width))
        return ego, _bodies(solid), _bodies(people)

    def _box(self, actor: Any) -> tuple[float, float, float, float]:
        """Middle and half size on the ground; a box may be turned against its actor."""
        if actor.id not in self._boxes:
            box = actor.bounding_box
            turn = np.radians(box.rotation.yaw)
            c, s = abs(np.cos(turn)), abs(np.sin(turn))
            x, y = box.extent.x, box.extent.y
            self._boxes[actor.id] = (
                box.location.x,
                box.location.y,
                float(c * x + s * y),
                float(s * x + c * y),
            )
        return self._boxes[actor.id]


def _bodies(rows: list[tuple[float, ...]]) -> Bodies:
    table = np.array(rows, np.float64).reshape(-1, 8)
    return Bodies(
        table[:, 0].astype(np.int64), table[:, 1:3], table[:, 3], table[:, 4:6], table[:, 6:8]
    )
