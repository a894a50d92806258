"""What is on the car's way, and how hard to brake for it.

The intelligent driver model (Treiber, Hennecke and Helbing, Phys. Rev. E 62, 2000, eqs. 1-3):
    a = A (1 - (v / v0)^4 - (s* / s)^2),  s* = s0 + max(v T + v dv / (2 sqrt(A B)), 0)
with s the gap and dv how fast it closes. A vehicle is seen as three points along its middle with a
half width, now and a little later, so that one who swings in is seen early. Deviates: the part of
free driving is a proportional one, bounded, so that it also slows down gently.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from apps.driving.agents.expert.course import Course
from apps.driving.agents.expert.surroundings import Bodies

ACCELERATION, COMFORT, HARDEST = 3.0, 2.5, 9.0  # A, B and the hardest braking, m/s^2
HEADWAY, JAM = 1.2, 3.0  # T (s) and s0 (m)
EAGER = 0.9  # 1/s: of the difference to the wished speed
BESIDE = 0.35  # m of air beside what is passed
MIRRORS = 1.3  # m: wider at half the width are the mirrors only, above others
SWING = 0.8  # s that one who goes the same way is looked ahead
STEPS = np.arange(0.0, 4.01, 0.25)  # s: where walkers are looked for
ELBOW = 0.75  # m of air beside one who walks on the road
BERTH = 0.25  # m beside one who stands
EARLY, LATE = 1.5, 0.7  # s between a walker who comes or leaves, and the car
WALKER_GAP = 2.5  # m


class Leader(NamedTuple):
    """What is ahead."""

    gap: float  # m from the bumper; inf for nothing
    speed: float  # m/s along the way
    id: int
    rear: float  # s of its near end


NOBODY = Leader(math.inf, 0.0, 0, math.inf)


def free(speed: float, wish: float) -> float:
    """Acceleration toward a wished speed."""
    return min(max(EAGER * (wish - speed), -COMFORT), ACCELERATION)


def follow(speed: float, gap: float, other: float) -> float:
    """Acceleration that ``gap`` metres to one of speed ``other`` allow."""
    closing = speed - other
    wish = JAM + max(
        speed * HEADWAY + speed * closing / (2.0 * math.sqrt(ACCELERATION * COMFORT)), 0.0
    )
    return max(ACCELERATION * (1.0 - (wish / max(gap, 0.1)) ** 2), -HARDEST)


def halt(speed: float, distance: float) -> float:
    """Acceleration to stand after ``distance`` metres: late and even, as people brake."""
    if distance < 0.25:
        return -3.0 if speed < 3.0 else -min(HARDEST, speed * speed / 0.5)
    need = speed * speed / (2.0 * distance)
    if need > 0.75 * COMFORT:
        return -min(need, HARDEST)
    # the speed from which comfortable braking would do, a moment on
    reach = math.sqrt(2.0 * 0.75 * COMFORT * distance)
    return min(2.0 * (reach - speed) - 0.3, ACCELERATION)


def leaders(
    course: Course, bodies: Bodies, speed: float, front: float, half_width: float
) -> list[Leader]:
    """Those on the way ahead. ``front``: s of the bumper."""
    if not len(bodies.id):
        return []
    first, end = course.window(2.0, 25.0 + 3.5 * speed + speed * speed / 5.0)
    way, s, heading = course.xy[first:end], course.s[first:end], course.heading[first:end]
    ends = np.array([1.0, 0.0, -1.0])
    facing = np.stack([np.cos(bodies.yaw), np.sin(bodies.yaw)], 1)
    now = bodies.xy[:, None] + (bodies.half[:, :1] * ends)[:, :, None] * facing[:, None]
    later = now + SWING * bodies.velocity[:, None]
    points = np.concatenate([now, later], 1)  # (n, 6, 2)
    away = points[:, :, None] - way
    nearest = np.argmin(np.einsum("npkd,npkd->npk", away, away), 2)  # (n, 6)
    turn = heading[nearest]
    c, sn = np.cos(turn), np.sin(turn)
    beyond = points - way[nearest]
    along = beyond[:, :, 0] * c + beyond[:, :, 1] * sn
    beside = np.abs(beyond[:, :, 1] * c - beyond[:, :, 0] * sn)
    at = s[nearest] + along
    wide = np.minimum(bodies.half[:, 1], MIRRORS) + half_width + BESIDE
    on = (beside < wide[:, None]) & (np.abs(along) < 2.0)
    direction = bodies.yaw[:, None] - turn
    # one who swings in is where it is now, but counts as on the way; only if it goes the same way
    same = (np.cos(direction[:, 1]) > 0.8) & (bodies.speed > 1.0)
    on[:, 3:] &= same[:, None]
    at[:, 3:] -= SWING * (bodies.velocity[:, :1] * c[:, :3] + bodies.velocity[:, 1:] * sn[:, :3])
    near = at - np.minimum(bodies.half[:, 1], MIRRORS)[:, None] * np.abs(np.sin(direction))
    near = np.where(on & (at > course.own), near, np.inf)
    least = near.min(1)
    found = []
    for i in np.flatnonzero(np.isfinite(least)).tolist():
        k = int(np.argmin(near[i]))
        pace = float(bodies.velocity[i, 0] * c[i, k] + bodies.velocity[i, 1] * sn[i, k])
        rear = float(least[i])
        found.append(Leader(max(rear - front, 0.1), pace, int(bodies.id[i]), rear))
    return found


def most(found: list[Leader], speed: float) -> Leader:
    """The leader that asks for the hardest braking."""
    if not found:
        return NOBODY
    return min(found, key=lambda one: follow(speed, one.gap, max(one.speed, 0.0)))


def walkers(
    course: Course,
    people: Bodies,
    speed: float,
    wish: float,
    front: float,
    half_width: float,
    share: float = 1.0,
) -> float:
    """Metres to where the car must stand for whoever walks, or will, on its way; inf for nobody.

    ``share``: of the air beside them that is left them, less when everybody has waited for long.
    """
    if not len(people.id):
        return math.inf
    reach = 20.0 + 3.0 * speed + speed * speed / 5.0
    here = np.hypot(*(people.xy - course.at(course.own)).T) < reach + 10.0
    xy, velocity, half = people.xy[here], people.velocity[here], people.half[here]
    if not len(xy):
        return math.inf
    first, end = course.window(1.0, reach)
    way, s, heading = course.xy[first:end], course.s[first:end], course.heading[first:end]
    points = xy[:, None] + STEPS[:, None] * velocity[:, None]  # (n, t, 2)
    away = points[:, :, None] - way
    nearest = np.argmin(np.einsum("ntkd,ntkd->ntk", away, away), 2)
    c, sn = np.cos(heading[nearest]), np.sin(heading[nearest])
    beyond = points - way[nearest]
    along = beyond[:, :, 0] * c + beyond[:, :, 1] * sn
    beside = np.abs(beyond[:, :, 1] * c - beyond[:, :, 0] * sn)
    at = s[nearest] + along
    walks = np.hypot(*velocity.T) > 0.15
    room = half_width + half.max(1) + share * np.where(walks, ELBOW, BERTH)
    ahead = at - front
    on = (beside < room[:, None]) & (np.abs(along) < 2.0) & (ahead > -1.0)
    # When the bumper comes there, and when the rear has gone by.
    comes = _time(np.maximum(ahead, 0.0), speed, wish)
    goes = _time(np.maximum(ahead, 0.0) + 6.0, speed, wish)
    meets = on & (comes - EARLY < STEPS) & (goes + LATE > STEPS)
    # Whoever is there now is an obstacle whatever comes, unless gone long before the car.
    now = on[:, :1] & (on | (comes - EARLY > STEPS)) & (STEPS[None] < 0.1)
    leaves = (~on).argmax(1)
    gone = np.where((~on).any(1), STEPS[leaves], np.inf)
    now &= (gone[:, None] + LATE) > comes
    stand = np.where(meets | now, ahead, np.inf).min(initial=np.inf)
    return float(stand) - WALKER_GAP


def _time(distance: np.ndarray, speed: float, wish: float) -> np.ndarray:
    """s for metres, speeding up to ``wish``."""
    top = max(wish, speed, 1.0)
    ramp = (top * top - speed * speed) / (2.0 * ACCELERATION)
    early = (np.sqrt(speed * speed + 2.0 * ACCELERATION * distance) - speed) / ACCELERATION
    late = (top - speed) / ACCELERATION + (distance - ramp) / top
    time: np.ndarray = np.where(distance < ramp, early, late)
    return time
