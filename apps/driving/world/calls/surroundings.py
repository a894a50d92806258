"""The scenery as clients may ask for it: boxes by tag, objects to hide, rays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.calls.checks import finite, vector
from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.sensors.raycast import cast
from apps.driving.world.tags import Tag

if TYPE_CHECKING:
    from apps.driving.world.simulation.world import World

ANY = 0xFF
"""``carla.CityObjectLabel.Any``."""
MOST_HITS = 64
STEP = 0.05
"""m: a ray goes on this far behind what it met."""

LAMP_RGB = np.array(
    [(255, 48, 32), (255, 190, 32), (48, 240, 120), (34, 36, 38), (34, 36, 38)], np.uint8
)
"""Lit lamps by state: red, yellow, green, and dark for off and unknown."""

Vector = Sequence[float]


@dataclass(frozen=True)
class Surrounding:
    """A piece of the scenery: its middle in the world's frame and its half extents."""

    id: int
    name: str
    tag: int
    transform: Transform
    half: tuple[float, float, float]


class Surroundings:
    """``fixed`` are the boxes that are shown and stand in the way; hidden ones are out of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hidden: frozenset[int] = frozenset()
        self.fixed: Boxes = world.town.scenery.boxes
        self._find_heads(np.arange(len(self.fixed)))

    def _find_heads(self, shown: np.ndarray) -> None:
        """Rows of ``fixed`` that are heads of lights, and the light that each belongs to."""
        scenery, lights = self._world.town.scenery, self._world.lights
        row_now = np.full(len(scenery.boxes), -1)
        row_now[shown] = np.arange(len(shown))
        pairs = [
            (row_now[row], i)
            for i, site in enumerate(lights.sites)
            for row in np.ravel(scenery.light_heads.get(site.sign_id, ()))
            if row_now[row] >= 0
        ]
        self.head_rows, self._head_lights = np.array(pairs, np.int64).reshape(-1, 2).T.copy()

    def head_colours(self) -> np.ndarray:
        """(m, 3) uint8: what the heads at ``head_rows`` show now."""
        return LAMP_RGB[np.asarray(self._world.lights.state)[self._head_lights]]

    def level_boxes(self, tag: int = ANY) -> list[Surrounding]:
        """Boxes of the scenery with a tag, hidden ones too."""
        boxes = self._world.town.scenery.boxes
        rows = np.flatnonzero((boxes.tag == tag) | (tag == ANY))
        return [self._box(int(row)) for row in rows]

    def heads(self, sign_id: str) -> list[Surrounding]:
        """Heads of a traffic light, by its OpenDRIVE signal."""
        rows = np.ravel(self._world.town.scenery.light_heads.get(sign_id, ()))
        return [self._box(int(row)) for row in rows]

    def environment_objects(self, tag: int = ANY) -> list[Surrounding]:
        """The same; their ids are for ``enable_environment_objects``."""
        return self.level_boxes(tag)

    def enable_environment_objects(self, ids: Iterable[int], enabled: bool) -> None:
        """Show or hide pieces of the scenery; a hidden one stands in nobody's way."""
        boxes = self._world.town.scenery.boxes
        rows = {int(i) - 1 for i in ids}
        wrong = [row + 1 for row in sorted(rows) if not 0 <= row < len(boxes)]
        if wrong:
            raise SimulationError(f"no environment object {wrong[0]} in this town")
        self._hidden = self._hidden - rows if enabled else self._hidden | rows
        shown = np.setdiff1d(np.arange(len(boxes)), sorted(self._hidden))
        self.fixed = boxes.take(shown) if self._hidden else boxes
        self._find_heads(shown)
        self._world.repaint()

    def cast_ray(self, start: Vector, end: Vector) -> list[tuple[tuple[float, float, float], int]]:
        """Place and tag of all that lies between two places, in order; at most 64."""
        at, far = np.array(vector("start", start)), np.array(vector("end", end))
        length = float(np.linalg.norm(far - at))
        found: list[tuple[tuple[float, float, float], int]] = []
        if length == 0.0:
            return found
        direction, gone = (far - at) / length, 0.0
        while gone < length and len(found) < MOST_HITS:
            hit = self._cast(at + gone * direction, direction, length - gone)
            if hit is None:
                break
            gone += hit[0]
            x, y, z = (at + gone * direction).tolist()
            found.append(((x, y, z), hit[1]))
            gone += STEP
        return found

    def project_point(
        self, location: Vector, direction: Vector, distance: float
    ) -> tuple[tuple[float, float, float], int] | None:
        """Place and tag of the first thing from ``location`` along ``direction``, if any."""
        at, along = np.array(vector("location", location)), np.array(vector("direction", direction))
        finite("the distance", distance)
        length = float(np.linalg.norm(along))
        if length == 0.0 or distance <= 0.0:
            return None
        hit = self._cast(at, along / length, distance)
        if hit is None:
            return None
        x, y, z = (at + hit[0] * along / length).tolist()
        return (x, y, z), hit[1]

    def _cast(
        self, at: np.ndarray, direction: np.ndarray, reach: float
    ) -> tuple[float, int] | None:
        distance, tag, *_ = cast(self._world.scene(), at[None], direction[None], reach)
        return (float(distance[0]), int(tag[0])) if np.isfinite(distance[0]) else None

    def _box(self, row: int) -> Surrounding:
        boxes = self._world.town.scenery.boxes
        x, y, z = boxes.centre[row].tolist()
        hx, hy, hz = boxes.half[row].tolist()
        tag = int(boxes.tag[row])
        yaw = float(np.degrees(boxes.yaw[row]))
        name = Tag(tag).name.title().replace("_", "")
        return Surrounding(
            row + 1, f"{name}_{row}", tag, Transform(x, y, z, 0.0, yaw, 0.0), (hx, hy, hz)
        )
