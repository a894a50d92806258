"""Where a town's lanes and lane edges run, as polylines and quads ready to be painted.

Letters: s metres along a road's reference line, t metres to its left (OpenDRIVE's sign).  Points
are in CARLA's frame.  The geometry is ``roads.Road``'s; here it is sampled as sparsely as the
drawing allows: straight stretches at their ends alone, curves by their sagitta.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from apps.driving.world.maps.roads import Cubic, Road, Section

SAGITTA = 0.005
"""How far, in metres, a curve's chord may lie from it: a twentieth of a ground cell."""
FINE = 1.0
"""Metres between stations where the curvature changes or a width is not linear."""


@dataclass(frozen=True)
class Ribbon:
    """One lane along one lane section: n stations, and its two edges there."""

    road: int
    junction: int  # -1: none
    section: int
    lane: int  # > 0 left of the reference line, < 0 right of it
    kind: str  # OpenDRIVE's lane type
    s: np.ndarray  # (n) rising
    inner: np.ndarray  # (n, 2) m: the edge towards the reference line
    outer: np.ndarray  # (n, 2) m

    @property
    def quads(self) -> np.ndarray:
        """(n - 1, 4, 2): the pieces between stations."""
        return strip(self.inner, self.outer)


@dataclass(frozen=True)
class Line:
    """One record of a marking on a lane's outer edge (of lane 0: on the centre line)."""

    road: Road
    stations: np.ndarray  # the road's
    section: int
    lane: int
    kind: str  # OpenDRIVE's: "solid", "broken", "solid solid", "curb", ...
    colour: str
    width: float  # m; 0 where the map leaves it open
    start: float  # s
    stop: float

    def points(self, s: np.ndarray, offset: float) -> tuple[np.ndarray, np.ndarray]:
        """The line (..., 2) at s (...), ``offset`` m to the left of the edge, and what is left."""
        flat = np.ravel(s)
        x, y, heading, _ = self.road.plan(flat)
        t = _borders(self.road, self.road.sections[self.section], flat)[self.lane][:, 1] + offset
        left = np.stack([-np.sin(heading), -np.cos(heading)], 1)
        shape = (*np.shape(s), 2)
        return (np.stack([x, -y], 1) + left * t[:, None]).reshape(shape), left.reshape(shape)

    def whole(self, offset: float, width: float) -> np.ndarray:
        """Quads (n, 4, 2) of an unbroken line."""
        s = between(self.stations, self.start, self.stop)
        xy, left = self.points(s, offset)
        return strip(xy - left * width / 2, xy + left * width / 2)

    def dashed(self, offset: float, width: float, dash: float, gap: float) -> np.ndarray:
        """Quads (n, 4, 2) of a broken line. Its phase runs with s: sections do not break it."""
        period = dash + gap
        first = np.arange(np.floor(self.start / period), np.ceil(self.stop / period)) * period
        low = np.clip(first, self.start, self.stop)
        high = np.clip(first + dash, self.start, self.stop)
        keep = high - low > 0.2  # a stump that a section's end leaves is no dash
        low, high = low[keep], high[keep]
        xy, left = self.points(low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 5), offset)
        return strip(xy - left * width / 2, xy + left * width / 2)


def strip(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Quads (k, 4, 2) between two polylines (..., n, 2) of corresponding points."""
    corners = [one[..., :-1, :], one[..., 1:, :], other[..., 1:, :], other[..., :-1, :]]
    return np.stack(corners, axis=-2).reshape(-1, 4, 2)


def ribbons(road: Road) -> Iterator[Ribbon]:
    """Every lane of every section but lane 0, which has no width."""
    found = stations(road)
    for section in road.sections:
        if section.end - section.s < 1e-6:
            continue
        s = between(found, section.s, section.end)
        x, y, heading, _ = road.plan(s)
        xy = np.stack([x, -y], 1)
        left = np.stack([-np.sin(heading), -np.cos(heading)], 1)
        for lane, t in _borders(road, section, s).items():
            if lane:
                inner, outer = (xy + left * t[:, k, None] for k in (0, 1))
                kind = section.lanes[lane].type
                yield Ribbon(road.id, road.junction, section.index, lane, kind, s, inner, outer)


def lines(road: Road) -> Iterator[Line]:
    """Every record of a marking that holds over a stretch, those of type "none" too."""
    found = stations(road)
    for section in road.sections:
        for lane in section.lanes.values():
            for k, mark in enumerate(lane.marks):
                after = lane.marks[k + 1].s_offset if k + 1 < len(lane.marks) else np.inf
                start, stop = section.s + mark.s_offset, min(section.s + after, section.end)
                if stop - start > 1e-3:
                    yield Line(
                        road, found, section.index, lane.id, mark.type, mark.color, mark.width,
                        start, stop,
                    )  # fmt: skip


def stations(road: Road) -> np.ndarray:
    """Values of s between which every lane edge is straight to within ``SAGITTA``."""
    plan = road.plan
    breaks = [0.0, road.length, *plan.start, *_records(road.offset)]
    bent = _bends(road.offset)
    for section in road.sections:
        breaks.append(section.s)
        for lane in section.lanes.values():
            bent = bent or _bends(lane.width)
            breaks += [section.s + v for v in _records(lane.width)]
    fixed = np.unique(np.clip(breaks, 0.0, road.length))
    found = [fixed]
    for low, high in pairwise(fixed):
        piece = max(int(np.searchsorted(plan.start, low + 1e-9, "right")) - 1, 0)
        step = min(_step(road, piece), FINE if bent else np.inf)
        found.append(np.linspace(low, high, 1 + max(1, int(np.ceil((high - low) / step)))))
    return np.unique(np.round(np.concatenate(found), 9))


def between(found: np.ndarray, start: float, stop: float) -> np.ndarray:
    """The stations from ``start`` to ``stop``, both included."""
    inside = found[(found > start + 1e-6) & (found < stop - 1e-6)]
    return np.concatenate([[start], inside, [stop]])


def _borders(road: Road, section: Section, s: np.ndarray) -> dict[int, np.ndarray]:
    """``road.borders`` as the section has them up to its end, where the next one's lane offset
    holds already and would pull the last piece aside."""
    return road.borders(section, np.minimum(s, section.end - 1e-6))


def _records(cubic: Cubic) -> list[float]:
    """Where its records start, and 1 um before those that start with a jump: RoadRunner's maps end
    ramps so, and a straight edge to the far side of a jump would be a spike across the road."""
    starts = [float(v) for v in cubic.start]
    for before, after, (a, b, c, e), to in zip(
        starts, starts[1:], cubic.coefficients, cubic.coefficients[1:, 0], strict=False
    ):
        d = after - before
        if abs(a + d * (b + d * (c + d * e)) - to) > 1e-3:
            starts.append(after - 1e-6)
    return starts


def _bends(cubic: Cubic) -> bool:
    return bool(np.any(cubic.coefficients[:, 2:]))


def _step(road: Road, piece: int) -> float:
    """Metres between stations along one piece of the reference line."""
    plan = road.plan
    if plan.slope[piece] or piece in plan.polynomials:
        return FINE
    curvature = abs(float(plan.curvature[piece]))
    return float(np.clip(np.sqrt(8 * SAGITTA / curvature), 0.25, 25.0)) if curvature else np.inf
