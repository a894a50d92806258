"""Who is ahead, and how hard to brake for it: the intelligent driver model.

Treiber, Hennecke and Helbing, Phys. Rev. E 62, 2000, eqs. 1-3:
    a = A (1 - (v / v0)^4 - (s* / s)^2),  s* = s0 + max(v T + v dv / (2 sqrt(A B)), 0)
with v0 the speed to cruise at, s the gap, dv how fast it closes. What is ahead is whatever a route
will touch, seen as three points with a half width: of a vehicle its front, middle and rear, of a
walker where it is now and will be soon. Deviates: braking is bounded by ``HARDEST``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from apps.driving.world.traffic.routes import HORIZON, Routes

if TYPE_CHECKING:
    from apps.driving.world.motion.collisions import FixedIndex
    from apps.driving.world.motion.vehicles import Fleet
    from apps.driving.world.motion.walkers import Walkers

# A, B, the hardest braking (m/s^2), T (s) and s0 (m).
ACCELERATION, COMFORT, HARDEST, HEADWAY, JAM = 2.0, 2.5, 8.0, 1.3, 2.5
BESIDE = 0.3  # m of air beside a vehicle that is passed
MIRRORS = 1.3  # m: what is wider at half its width is so by its mirrors, above others
SIGHT = 130.0  # m
FORESIGHT = (0.0, 1.0, 2.0)  # s: where walkers are looked for
PERSON, STANDING = 0.3, 0.1  # m: half widths of who walks, and of who stands, passed more closely


class Things(NamedTuple):
    """m things that might be in the way."""

    x: np.ndarray  # (m, 3) of three points
    y: np.ndarray
    vx: np.ndarray  # (m) m/s, never both nought for a vehicle: its direction counts
    vy: np.ndarray
    wide: np.ndarray  # (m) half width, m
    reach: np.ndarray  # (m) how far its points are from the second at most, m
    owner: np.ndarray  # (m) row of the fleet, or -1
    later: np.ndarray  # (m, 3) in how many seconds it is at its points


def things(fleet: Fleet, walkers: Walkers | None, props: FixedIndex | None) -> Things:
    """All solid vehicles, walkers and props."""
    c, s = np.cos(np.radians(fleet.yaw)), np.sin(np.radians(fleet.yaw))
    ends = np.array([1.0, 0.0, -1.0])
    middle_x, middle_y = fleet.box_centres()
    long = fleet.half[:, 0, None] * ends
    hair = np.where(fleet.speed < -0.1, -1e-3, 1e-3)
    vehicles = Things(
        middle_x[:, None] + long * c[:, None],
        middle_y[:, None] + long * s[:, None],
        fleet.vx + hair * c,
        fleet.vy + hair * s,
        np.minimum(fleet.half[:, 1], MIRRORS),
        fleet.half[:, 0],
        np.arange(len(fleet)),
        np.zeros((len(fleet), 3)),
    )
    if not fleet.solid.all():
        vehicles = Things(*(column[fleet.solid] for column in vehicles))
    parts = [vehicles]
    if walkers is not None and len(walkers):
        parts.append(_people(walkers))
    if props is not None and len(props):
        parts.append(_props(props))
    if len(parts) == 1:
        return vehicles
    return Things(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def leaders(
    found: Things,
    fleet: Fleet,
    routes: Routes,
    rows: np.ndarray,
    speed: np.ndarray,
    front: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The gap (n, m, inf) and how fast it closes (m/s) to what each must brake for most.

    ``rows`` (n) are the routes' vehicles, ``front`` (n) where their bumpers are along the routes.
    """
    gap, closing = np.full(len(rows), np.inf), np.zeros(len(rows))
    reaches = 15.0 + speed * 1.5 + speed * speed / 5.0
    dx = found.x[None, :, 1] - fleet.x[rows][:, None]
    dy = found.y[None, :, 1] - fleet.y[rows][:, None]
    near = dx * dx + dy * dy < (reaches[:, None] + found.reach[None]) ** 2
    near &= found.owner[None] != rows[:, None]
    i, j = np.nonzero(near)
    if not len(i):
        return gap, closing
    # (pairs, 3 points, columns): the nearest column to each point.
    px, py = found.x[j], found.y[j]
    ex, ey = routes.x[i][:, None] - px[:, :, None], routes.y[i][:, None] - py[:, :, None]
    column = np.argmin(ex * ex + ey * ey, 2)
    pair = np.repeat(i[:, None], 3, 1)
    heading = routes.heading[pair, column]
    c, s = np.cos(heading), np.sin(heading)
    qx, qy = px - routes.x[pair, column], py - routes.y[pair, column]
    along, beside = qx * c + qy * s, qy * c - qx * s
    at = routes.s[pair, column] + along
    beyond = (column == HORIZON - 1) & (along > 2.0)
    width = np.minimum(fleet.half[rows, 1], MIRRORS)[i] + found.wide[j] + BESIDE
    ahead = at - routes.own[i][:, None]
    blocks = (np.abs(beside) < width[:, None]) & (ahead > 0.0) & (ahead < SIGHT) & ~beyond
    # Of something across the way, its width lies along it.
    turned = np.abs(np.sin(np.arctan2(found.vy, found.vx)[j][:, None] - heading))
    room = at - front[i][:, None] - found.wide[j][:, None] * turned
    # What is over there only later is no obstacle to who has passed by then.
    long = 2.0 * fleet.half[rows, 0][i]
    passed = (room + long[:, None]) / np.maximum(speed[i], 2.0)[:, None] < found.later[j]
    room = np.where(blocks & ~passed, np.maximum(room, 0.1), np.inf)
    first = np.argmin(room, 1)
    k = np.arange(len(i))
    least = room[k, first]
    leaves = np.maximum(found.vx[j] * c[k, first] + found.vy[j] * s[k, first], 0.0)
    coming = speed[i] - leaves
    # Most is what asks for the hardest braking, not what is nearest.
    order = np.lexsort((-wish(speed[i], coming) / least, i))
    order = order[np.isfinite(least[order])]
    who, at_first = np.unique(i[order], return_index=True)
    gap[who], closing[who] = least[order][at_first], coming[order][at_first]
    return gap, closing


def wish(speed: np.ndarray, closing: np.ndarray) -> np.ndarray:
    """The gap s* that one wants, m."""
    brake = speed * closing / (2.0 * math.sqrt(ACCELERATION * COMFORT))
    wanted: np.ndarray = JAM + np.maximum(speed * HEADWAY + brake, 0.0)
    return wanted


def idm(speed: np.ndarray, cruise: np.ndarray, gap: np.ndarray, closing: np.ndarray) -> np.ndarray:
    """Acceleration (n), m/s^2, at least ``-HARDEST``."""
    speed = np.maximum(speed, 0.0)
    free = 1.0 - np.minimum(speed / cruise, 2.0) ** 4
    wanted: np.ndarray = ACCELERATION * (free - (wish(speed, closing) / np.maximum(gap, 0.1)) ** 2)
    return np.maximum(wanted, -HARDEST)


def _people(walkers: Walkers) -> Things:
    later = np.array(FORESIGHT)
    keep = walkers.solid
    x, y, vx, vy = walkers.x[keep], walkers.y[keep], walkers.vx[keep], walkers.vy[keep]
    n = len(x)
    return Things(
        x[:, None] + vx[:, None] * later,
        y[:, None] + vy[:, None] * later,
        np.zeros(n),
        np.zeros(n),
        np.where(np.hypot(vx, vy) > 0.1, PERSON, STANDING),
        np.full(n, 4.0),
        np.full(n, -1),
        np.broadcast_to(later, (n, 3)),
    )


def _props(props: FixedIndex) -> Things:
    n = len(props)
    c, s = np.cos(props.yaw)[:, None], np.sin(props.yaw)[:, None]
    long = props.half[:, :1] * np.array([1.0, 0.0, -1.0])
    return Things(
        props.place[:, :1] + long * c,
        props.place[:, 1:] + long * s,
        1e-3 * c[:, 0],
        1e-3 * s[:, 0],
        props.half[:, 1],
        props.half[:, 0],
        np.full(n, -1),
        np.zeros((n, 3)),
    )
