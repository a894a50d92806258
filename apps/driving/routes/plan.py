"""A planned route as arrays, and how a driver follows its sparse points.

World coordinates are CARLA's (x, y in metres, yaw in degrees, y to the right of x). The ego frame
has x forward and y right. This module needs NumPy alone.

Sources. The sparse points follow the rule of CARLA Leaderboard's ``downsample_route``
(leaderboard/utils/route_manipulation.py): where the command changes, after every ``spacing`` metres,
and the last. The choice of the next point is that of TransFuser's ``RoutePlanner``
(autonomousvision/transfuser, team_code_autopilot/nav_planner.py), which LeTFuser's agent uses too.
Deviates from the leaderboard: a change of lanes is a stretch of points here, of which the first and
the last are kept, where CARLA's planner makes two points of it that are both kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apps.driving.agents.base import Command
from core.errors import DataError

BEHIND_M, AHEAD_M = 10.0, 30.0  # of the route around a known place that ``nearest`` searches
_CHANGES = (Command.CHANGE_LANE_LEFT, Command.CHANGE_LANE_RIGHT)


@dataclass(frozen=True)
class Plan:
    """A route through a town: n >= 2 points about a metre apart, in order of travel.

    ``xy`` (n, 2) float64 metres, ``yaw`` (n,) degrees of the route itself, ``command`` (n,) int8 of
    the manoeuvre that a point belongs to, ``junction`` (n,) bool, ``speed_limit`` (n,) m/s, ``s``
    (n,) metres from the start, ``z`` (n,) metres of the road's height (zeros where not given).

    Raises DataError where the arrays do not fit together or hold numbers that are not finite.
    """

    town: str
    xy: np.ndarray
    yaw: np.ndarray
    command: np.ndarray
    junction: np.ndarray
    speed_limit: np.ndarray
    s: np.ndarray
    z: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"command": np.int8, "junction": np.bool_}
        n = len(self.xy)
        if len(self.z) == 0:
            object.__setattr__(self, "z", np.zeros(n))
        for name in ("xy", "yaw", "command", "junction", "speed_limit", "s", "z"):
            value = np.array(getattr(self, name), kinds.get(name, np.float64))
            wanted = (n, 2) if name == "xy" else (n,)
            if n < 2 or value.shape != wanted or not np.isfinite(value).all():
                raise DataError(
                    f"plan in {self.town}: {name} of shape {value.shape}; want {wanted} finite "
                    "numbers and two points or more"
                )
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        if np.any(np.diff(self.s) <= 0):
            raise DataError(f"plan in {self.town}: s must grow from point to point")

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def length(self) -> float:
        """Metres from the first point to the last."""
        return float(self.s[-1] - self.s[0])

    def nearest(
        self, xy: np.ndarray | tuple[float, float], around: int | None = None
    ) -> tuple[int, float]:
        """The point nearest to a place (2,), and how far to the right of the route the place is.

        ``around``: the last known index; only the route from ``BEHIND_M`` before to ``AHEAD_M`` after
        it is searched, so that a place where the route crosses itself or returns is not mistaken.
        Without it the whole route is searched.

        The offset in metres has the size of the distance to the route and is negative on the left.
        Beyond the route's ends it is the distance to the line that goes on straight.
        """
        place = np.asarray(xy, np.float64)[:2]
        first, last = 0, len(self) - 1
        if around is not None:
            at = self.s[min(max(int(around), 0), last)]
            first, last = np.searchsorted(self.s, (at - BEHIND_M, at + AHEAD_M)).tolist()
            last = min(last, len(self) - 1)
        away = self.xy[first : last + 1] - place
        index = first + int(np.argmin(np.einsum("ij,ij->i", away, away)))
        return index, self._offset(place, index)

    def _offset(self, place: np.ndarray, index: int) -> float:
        """Signed distance to the two segments that meet at a point."""
        best = np.inf
        signed = 0.0
        for i in (index - 1, index):
            if not 0 <= i < len(self) - 1:
                continue
            along = self.xy[i + 1] - self.xy[i]
            length = float(np.hypot(*along))
            along = along / length
            beyond = place - self.xy[i]
            t = float(along @ beyond)
            # the lines of the first and the last segment go on beyond the ends
            low = -np.inf if i == 0 else 0.0
            high = np.inf if i == len(self) - 2 else length
            foot = beyond - min(max(t, low), high) * along
            distance = float(np.hypot(*foot))
            if distance < best:
                side = along[0] * beyond[1] - along[1] * beyond[0]
                best, signed = distance, float(np.copysign(distance, side))
        return signed

    def sparse(self, spacing: float = 50.0) -> tuple[np.ndarray, np.ndarray]:
        """What a driver that is not privileged may know: (m, 2) points and (m,) int8 commands.

        The first point, those where the command changes, one more after every ``spacing`` metres,
        and the last. Of a change of lanes the first and the last point are kept.
        """
        kept = [0]
        since = float(self.s[0])
        for i in range(1, len(self)):
            changing = self.command[i] in _CHANGES
            changed = self.command[i] != self.command[i - 1]
            ends = changing and i + 1 < len(self) and self.command[i + 1] != self.command[i]
            after_change = (
                self.command[i - 1] in _CHANGES and self.command[i] == Command.LANE_FOLLOW
            )
            far = self.s[i] - since > spacing and not changing
            if (changed and not after_change) or ends or far or i == len(self) - 1:
                kept.append(i)
                since = float(self.s[i])
        return self.xy[kept], self.command[kept]


class Navigator:
    """Goes from point to point of a sparse route, as GNSS tells the way.

    ``xy`` (m, 2) and ``command`` (m,) of the sparse points. Of the points within ``far`` metres of
    route ahead, the farthest one that is no farther than ``reach`` metres from the car counts as
    reached, with all before it; the next one is the target. The last point stays the target.
    """

    def __init__(
        self, xy: np.ndarray, command: np.ndarray, reach: float = 7.5, far: float = 50.0
    ) -> None:
        self.xy = np.asarray(xy, np.float64).reshape(-1, 2)
        self.command = np.asarray(command).astype(int)
        if len(self.xy) < 1 or len(self.xy) != len(self.command):
            raise DataError(
                f"sparse route of {len(self.xy)} points and {len(self.command)} commands; "
                "want one or more of each, equally many"
            )
        self.reach, self.far = reach, far
        self.reached = 0  # index of the last point reached
        self._gaps = np.hypot(*np.diff(self.xy, axis=0).T)

    def update(self, position: np.ndarray | tuple[float, float]) -> tuple[np.ndarray, Command]:
        """The target (2,) in the world and what to do there, seen from ``position`` (2,)."""
        place = np.asarray(position, np.float64)[:2]
        passed, farthest, ahead = self.reached, -1.0, 0.0
        for i in range(self.reached + 1, len(self.xy)):
            if ahead > self.far:
                break
            ahead += float(self._gaps[i - 1])
            distance = float(np.hypot(*(self.xy[i] - place)))
            if farthest < distance <= self.reach:
                passed, farthest = i, distance
        self.reached = min(passed, max(len(self.xy) - 2, 0))
        target = min(self.reached + 1, len(self.xy) - 1)
        return self.xy[target].copy(), Command(int(self.command[target]))


def to_ego(points: Any, position: Any, heading: float) -> np.ndarray:
    """World points (..., 2) in the frame of a car at ``position`` (2,), heading in degrees."""
    c, s = np.cos(np.radians(heading)), np.sin(np.radians(heading))
    away = np.asarray(points, np.float64) - np.asarray(position, np.float64)[:2]
    return np.stack(
        [c * away[..., 0] + s * away[..., 1], c * away[..., 1] - s * away[..., 0]], axis=-1
    )


def to_world(points: Any, position: Any, heading: float) -> np.ndarray:
    """Points (..., 2) of the car's frame in the world; undoes ``to_ego``."""
    c, s = np.cos(np.radians(heading)), np.sin(np.radians(heading))
    local = np.asarray(points, np.float64)
    turned = np.stack(
        [c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1]], axis=-1
    )
    return turned + np.asarray(position, np.float64)[:2]
