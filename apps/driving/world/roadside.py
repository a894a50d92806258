"""What the road tells each vehicle: its speed limit, and the traffic light that holds for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from apps.driving.world.simulation import World


class Roadside:
    """n vehicles against the town's lanes and the trigger volumes of its L lights."""

    def __init__(self, world: World) -> None:
        self._world = world
        sites = world.lights.sites
        boxes = [site.trigger for site in sites]
        yaw = np.radians([centre.yaw for centre, _ in boxes])
        self._centre = np.array([(c.x, c.y) for c, _ in boxes]).reshape(-1, 2)
        self._half = np.array([half[:2] for _, half in boxes], float).reshape(-1, 2)
        self._cos, self._sin = np.cos(yaw), np.sin(yaw)
        self._heading = np.radians([site.heading for site in sites])

    def limits(self) -> np.ndarray:
        """(n) km/h on the lane that each vehicle is nearest to and heads along."""
        fleet = self._world.fleet
        network = self._world.town.network
        if not len(fleet) or not len(network):
            return np.full(len(fleet), 30.0)
        node = network.nearest(np.column_stack([fleet.x, fleet.y]), np.radians(fleet.yaw))
        limit: np.ndarray = network.speed_limit[node] * 3.6
        return limit

    def lights(self) -> np.ndarray:
        """(n) the light in whose trigger volume a vehicle's nose or middle is, or -1.

        A light is for those who drive within 60 degrees of its heading.
        """
        fleet = self._world.fleet
        none = np.full(len(fleet), -1)
        if not len(fleet) or not len(self._cos):
            return none
        yaw = np.radians(fleet.yaw)
        ahead = fleet.half[:, 0] + fleet.centre[:, 0]
        met = np.zeros((len(fleet), len(self._cos)), bool)
        for reach in (0.0, ahead):
            dx = (fleet.x + reach * np.cos(yaw))[:, None] - self._centre[:, 0]
            dy = (fleet.y + reach * np.sin(yaw))[:, None] - self._centre[:, 1]
            across = np.abs(dx * self._cos + dy * self._sin) <= self._half[:, 0]
            along = np.abs(dy * self._cos - dx * self._sin) <= self._half[:, 1]
            met |= across & along
        if not met.any():
            return none
        met &= np.cos(yaw[:, None] - self._heading) > 0.5
        return np.where(met.any(1), met.argmax(1), -1)
