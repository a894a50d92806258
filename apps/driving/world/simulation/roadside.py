"""What the road tells each vehicle: its speed limit, and the traffic light that holds for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from apps.driving.world.simulation.world import World


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
        """(n) the light whose trigger volume the front half of a vehicle is in, or -1.

        A light is for those who drive within 60 degrees of its heading.
        """
        fleet = self._world.fleet
        none = np.full(len(fleet), -1)
        if not len(fleet) or not len(self._cos):
            return none
        yaw = np.radians(fleet.yaw)
        across, along = self._local(fleet.x, fleet.y)
        ahead = fleet.half[:, 0] + fleet.centre[:, 0]
        nose = self._local(fleet.x + ahead * np.cos(yaw), fleet.y + ahead * np.sin(yaw))
        met = (np.abs(across) <= self._half[:, 0]) | (np.abs(nose[0]) <= self._half[:, 0])
        met &= np.minimum(along, nose[1]) <= self._half[:, 1]
        met &= np.maximum(along, nose[1]) >= -self._half[:, 1]
        if not met.any():
            return none
        met &= np.cos(yaw[:, None] - self._heading) > 0.5
        return np.where(met.any(1), met.argmax(1), -1)

    def _local(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """n places in the frames of the L volumes: (n, L) across and along the lanes, m."""
        dx, dy = x[:, None] - self._centre[:, 0], y[:, None] - self._centre[:, 1]
        return dx * self._cos + dy * self._sin, dy * self._cos - dx * self._sin
