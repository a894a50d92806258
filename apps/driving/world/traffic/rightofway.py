"""Who may enter a junction: first come, first served, as far as the ways through it do not meet.

A way is what a route takes through a junction, from its first to its last node there. Two ways meet
where they come closer than ``APART`` and do not begin on the same lane. A vehicle asks when it is
near, is given the way when nobody holds one that meets it, holds it until its rear has left the
junction, and is not given it while there is no room for it behind the junction (so that junctions
stay free). This is the reservation of Dresner and Stone (JAIR 31, 2008), with whole ways as tiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from apps.driving.world.maps.network import Network

APART = 3.0  # m between middles: two cars of 2.2 m and a hand's breadth
PATIENT = 8.0  # s; who has waited longer is not overtaken by later ones


class Way(NamedTuple):
    """Through a junction."""

    junction: int
    first: int  # nodes
    last: int


class Junctions:
    """Who holds which ways. Vehicles are numbered as the caller likes."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._meets: dict[tuple[Way, Way], bool] = {}
        self._nodes: dict[Way, np.ndarray] = {}
        self.held: dict[int, list[Way]] = {}
        self._since: dict[int, tuple[Way, float]] = {}  # vehicle -> what it asks for, from when

    def learn(self, way: Way, nodes: np.ndarray) -> None:
        """The nodes of a way, the first time it is met."""
        if way not in self._nodes:
            self._nodes[way] = nodes.copy()

    def places(self, way: Way) -> np.ndarray:
        """(k, 2) of a way's nodes."""
        places: np.ndarray = self._network.position[self._nodes[way]]
        return places

    def meet(self, a: Way, b: Way) -> bool:
        """Whether two who drive them might."""
        if a.junction != b.junction:
            return False
        if a == b:
            return False  # one follows the other
        key = (a, b) if a <= b else (b, a)
        if key not in self._meets:
            self._meets[key] = self._near(*key)
        return self._meets[key]

    def holds(self, vehicle: int, way: Way) -> bool:
        """Whether a vehicle may drive a way."""
        return way in self.held.get(vehicle, ())

    def hold(self, vehicle: int, way: Way) -> None:
        """Gives a way, whoever else holds what."""
        self.held.setdefault(vehicle, []).append(way)
        self._since.pop(vehicle, None)

    def give_back(self, vehicle: int, way: Way) -> None:
        """Takes a way that a vehicle holds."""
        ways = self.held[vehicle]
        ways.remove(way)
        if not ways:
            del self.held[vehicle]

    def release(self, vehicle: int) -> None:
        """Forgets all that a vehicle holds and asks for."""
        self.held.pop(vehicle, None)
        self._since.pop(vehicle, None)

    def ask(self, vehicle: int, way: Way, now: float) -> float:
        """Notes the wish; s that it has lasted."""
        known = self._since.get(vehicle)
        if known is None or known[0] != way:
            self._since[vehicle] = (way, now)
            return 0.0
        return now - known[1]

    def forget(self, vehicle: int) -> None:
        """No longer asks."""
        self._since.pop(vehicle, None)

    def grant(self, wishes: list[tuple[int, Way, float, bool]]) -> None:
        """Gives ways to vehicles of (vehicle, way, s waited, there is room): the longest first."""
        claims: list[Way] = []
        for vehicle, way, waited, room in sorted(wishes, key=lambda w: (-w[2], w[0])):
            others = [w for v, ways in self.held.items() if v != vehicle for w in ways]
            free = not any(self.meet(way, other) for other in others)
            if free and room and not any(self.meet(way, claim) for claim in claims):
                self.hold(vehicle, way)
            elif room and waited > PATIENT:
                claims.append(way)

    def _near(self, a: Way, b: Way) -> bool:
        one, two = self.places(a), self.places(b)
        before_a = set(self._network.previous.of(a.first).tolist())
        if before_a & set(self._network.previous.of(b.first).tolist()) or a.first == b.first:
            return False
        away = np.hypot(*(one[:, None] - two[None]).transpose(2, 0, 1))
        return bool(away.min() < APART)
