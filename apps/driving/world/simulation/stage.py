"""What there is to be seen and to be met: boxes of everything that moves, and the scene of a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.calls.vehicles import HIGH_BEAM, LOW_BEAM
from apps.driving.world.geometry import Boxes
from apps.driving.world.render.scene import Scene
from apps.driving.world.simulation.actors import Actor

if TYPE_CHECKING:
    from apps.driving.world.simulation.poses import Poses
    from apps.driving.world.simulation.world import World

SOLID = ("vehicle", "walker", "static")
PROP_RGB = (150, 120, 90)
CLOTHES = ((70, 90, 130), (130, 70, 60), (60, 60, 60), (180, 170, 150), (90, 120, 80))
LAMP_HEIGHT = 0.65  # m: headlights above the ground


class Stage:
    """Boxes and scenes of the present moment; what does not change is kept between ticks."""

    def __init__(self, world: World, poses: Poses) -> None:
        self._world = world
        solid = [a for a in world.actors.values() if a.kind in SOLID and a.tags]
        self.ids = [a.id for a in solid]
        self._rows = np.array([poses.row_of[a.id] for a in solid], np.int64)
        self._poses = poses
        still = Boxes.empty(len(solid))
        self._offset = np.array([a.box.centre for a in solid], float).reshape(-1, 3)
        still.half[:] = np.array([a.box.half for a in solid], float).reshape(-1, 3)
        still.tag[:] = [a.tags[0] for a in solid]
        still.rgb[:] = np.array([colour(a) for a in solid]).reshape(-1, 3)
        still.instance[:] = self.ids
        self._still = still
        self._ghost = np.array([a.id in world.ghosts for a in solid], bool)

    def boxes(self) -> Boxes:
        """Vehicles, walkers and props where they are now, by ascending id; instance = actor id."""
        pose = self._poses.pose[self._rows]
        yaw = np.radians(pose[:, 4])
        c, s, (ox, oy, oz) = np.cos(yaw), np.sin(yaw), self._offset.T
        centre = pose[:, :3] + np.column_stack([c * ox - s * oy, s * ox + c * oy, oz])
        still = self._still
        return Boxes(
            centre.astype(np.float32),
            still.half,
            yaw.astype(np.float32),
            still.tag,
            still.rgb,
            still.instance,
        )

    def solid(self) -> Boxes:
        """Those of them that can be run into, as arrays of their own."""
        return self.boxes().take(~self._ghost)

    def scene(self) -> Scene:
        """What cameras and rays see."""
        world = self._world
        return Scene(
            world.town.ground,
            world.surroundings.fixed,
            self.boxes(),
            world.weather,
            light_rows=world.surroundings.head_rows,
            light_rgb=world.surroundings.head_colours(),
            headlights=self._headlights(),
            lamps=world.town.scenery.lamps,
        )

    def _headlights(self) -> np.ndarray:
        """(n, 4) x, y, z, yaw of lit headlights: one pair counts as one."""
        world, fleet = self._world, self._world.fleet
        lit = [
            fleet.row(i)
            for i in sorted(world.vehicles.lamps)
            if world.vehicles.lamps[i] & (LOW_BEAM | HIGH_BEAM)
        ]
        yaw = np.radians(fleet.yaw[lit])
        ahead = fleet.centre[lit, 0] + fleet.half[lit, 0]
        return np.column_stack(
            [
                fleet.x[lit] + ahead * np.cos(yaw),
                fleet.y[lit] + ahead * np.sin(yaw),
                fleet.z[lit] + LAMP_HEIGHT,
                yaw,
            ]
        )


def colour(actor: Actor) -> tuple[int, int, int]:
    """RGB of an actor's box: its blueprint's colour, or one that its id chooses."""
    if "color" in actor.attributes:
        r, g, b = (int(v) for v in actor.attributes["color"].split(","))
        return r, g, b
    if actor.kind == "walker":
        return CLOTHES[actor.id % len(CLOTHES)]
    return PROP_RGB
