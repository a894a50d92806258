"""Whether the lane beside is better: MOBIL.

Kesting, Treiber and Helbing, Transportation Research Record 1999, 2007, eqs. 2 and 3: change where the
own gain in acceleration is more than a threshold and ``POLITENESS`` times what the new follower
loses, unless the new follower would have to brake harder than ``SAFE``. Deviates: the old follower,
who only gains, is left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.traffic.following import JAM, idm

if TYPE_CHECKING:
    from apps.driving.world.maps.network import Network
    from apps.driving.world.motion.vehicles import Fleet

POLITENESS, WORTH, SAFE = 0.2, 0.4, 3.0  # p, the threshold and the safe braking, m/s^2
BACK = 60.0  # m that are looked back
LANE = 1.8  # m from a lane's middle that count as on it


def gain(
    network: Network,
    fleet: Fleet,
    row: int,
    beside: np.ndarray,
    cruise: float,
    now: float,
) -> float:
    """The incentive of the nodes ``beside`` vehicle ``row``, m/s^2; -inf where it is not safe.

    ``now`` is its acceleration where it is.
    """
    line = network.position[beside]
    heading = float(network.yaw_rad[beside[0]])
    c, s = math.cos(heading), math.sin(heading)
    dx, dy = fleet.x - line[0, 0], fleet.y - line[0, 1]
    along = dx * c + dy * s
    # On that lane: near one of its nodes ahead, or on its straight continuation behind.
    away = np.hypot(fleet.x[:, None] - line[:, 0], fleet.y[:, None] - line[:, 1]).min(1)
    on = np.where(along > 0.0, away < LANE, np.abs(dy * c - dx * s) < LANE) & fleet.solid
    on[row] = False
    mine, speed = float(along[row]), float(fleet.speed[row])
    ahead, behind = on & (along > mine), on & (along <= mine) & (along > mine - BACK)
    gap, closing = math.inf, 0.0
    if ahead.any():
        j = int(np.argmin(np.where(ahead, along, np.inf)))
        gap = float(along[j] - mine - fleet.half[j, 0] - fleet.half[row, 0])
        closing = speed - float(fleet.speed[j])
    if gap < JAM + 1.0:
        return -math.inf
    loss = 0.0
    if behind.any():
        j = int(np.argmax(np.where(behind, along, -np.inf)))
        room = float(mine - along[j] - fleet.half[j, 0] - fleet.half[row, 0])
        theirs = max(float(fleet.speed[j]), 0.1)
        then = _alone(theirs, max(theirs, 1.0), room, theirs - speed) if room > JAM else -math.inf
        if then < -SAFE:
            return -math.inf
        loss = -min(then, 0.0)
    return _alone(speed, cruise, gap, closing) - now - POLITENESS * loss


def _alone(speed: float, cruise: float, gap: float, closing: float) -> float:
    return float(idm(*(np.array([value]) for value in (speed, cruise, gap, closing)))[0])
