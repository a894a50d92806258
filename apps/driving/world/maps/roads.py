"""What an OpenDRIVE file says, as numbers: reference lines, lanes, marks, links, signals, objects.

``carla.Map`` answers one waypoint at a time and keeps most of the file to itself; here a whole road
is evaluated at once. ASAM OpenDRIVE 1.4: s runs along the reference line, t to its left, lane ids
grow to the left from lane 0, traffic keeps right. Every place that leaves this module is in CARLA's
frame: metres, y = minus OpenDRIVE's, headings (radians) from x towards y. The world is flat:
elevation, superelevation and lane heights are not read.

Deviates from OpenDRIVE where CARLA does (LibCarla/source/carla/opendrive/parser/ObjectParser.cpp):
an object named ``Speed_N`` is a speed limit of N km/h, and a signal without <validity> holds for the
left lanes when its orientation is "+", for the right ones when it is "-".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LIGHT_TYPE, STOP_TYPE, YIELD_TYPE, SPEED_TYPE = "1000001", "206", "205", "274"
_QUADRATURE = np.polynomial.legendre.leggauss(24)


class Cubic:
    """Piecewise a + b d + c d^2 + e d^3, d the distance past the record that holds."""

    def __init__(self, records: list[tuple[float, float, float, float, float]]) -> None:
        ordered = sorted(records or [(0.0, 0.0, 0.0, 0.0, 0.0)], key=lambda record: record[0])
        self.start = np.array([r[0] for r in ordered])  # (K)
        self.coefficients = np.array([r[1:] for r in ordered])  # (K, 4)

    def __call__(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values and slopes at s (n); before the first record that record is extended."""
        if len(self.start) == 1 and not self.coefficients[0, 1:].any():
            return np.full(len(s), self.coefficients[0, 0]), np.zeros(len(s))
        row = np.maximum(np.searchsorted(self.start, s, side="right") - 1, 0)
        a, b, c, e = self.coefficients[row].T
        d = s - self.start[row]
        return a + d * (b + d * (c + d * e)), b + d * (2 * c + 3 * d * e)


@dataclass(frozen=True)
class Mark:
    """The line on a lane's outer border (lane 0: the centre line) from ``s_offset`` on."""

    s_offset: float
    type: str  # solid, broken, "solid solid", "solid broken", curb, none, ...
    color: str  # standard (white), white, yellow, ...
    width: float  # m
    lane_change: str  # increase, decrease, both, none


@dataclass(frozen=True)
class Lane:
    """One lane of one section; ``predecessor`` and ``successor`` are lane ids along s, or None."""

    id: int
    type: str
    width: Cubic  # over s minus the section's s
    marks: tuple[Mark, ...]
    predecessor: int | None
    successor: int | None
    speeds: tuple[tuple[float, float], ...] = ()  # (s offset, m/s)

    def mark_at(self, s_offset: float) -> Mark | None:
        """The mark that holds at a distance (m) past the section's start."""
        found = None
        for mark in self.marks:
            if found is None or mark.s_offset <= s_offset + 1e-9:
                found = mark
        return found


@dataclass(frozen=True)
class Section:
    """The lanes of a road from s to ``end`` (m)."""

    index: int
    s: float
    end: float
    lanes: dict[int, Lane]  # by id, descending; lane 0 has no width

    @property
    def length(self) -> float:
        return self.end - self.s


@dataclass(frozen=True)
class Link:
    """Where a road continues: a road with its contact point ("start" or "end"), or a junction."""

    junction: bool
    id: int
    contact: str


@dataclass(frozen=True)
class Signal:
    """A ``<signal>``, or an object that CARLA takes for one; t in OpenDRIVE's sense."""

    id: str
    road: int
    s: float
    t: float
    type: str
    name: str
    value: float
    orientation: str
    z: float
    heading_offset: float  # radians, OpenDRIVE's sense
    height: float
    width: float


@dataclass(frozen=True)
class Reference:
    """Lanes of a road that a signal holds for, at s; ``lanes`` lists ids, 0 left out."""

    signal: str
    road: int
    s: float
    lanes: tuple[int, ...]
    primary: bool  # the signal itself, not a <signalReference>


@dataclass(frozen=True)
class Item:
    """An ``<object>``: crosswalks with an outline, arrows, stop lines, posts."""

    id: str
    road: int
    type: str
    name: str
    s: float
    t: float
    heading_offset: float  # radians, OpenDRIVE's sense
    length: float
    width: float
    outline: np.ndarray  # (n, 2) m in CARLA's frame; empty without one


@dataclass(frozen=True)
class Connection:
    """A way into a junction: from a lane of the incoming road to one of the connecting road."""

    incoming: int
    connecting: int
    contact: str
    lanes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Junction:
    """Its connections, and its controllers' ids in order of their sequence."""

    id: int
    connections: tuple[Connection, ...]
    controllers: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A road's reference line in OpenDRIVE's frame, G pieces."""

    start: np.ndarray  # (G) s, m
    x: np.ndarray  # (G)
    y: np.ndarray
    heading: np.ndarray  # (G) radians
    length: np.ndarray  # (G) m
    curvature: np.ndarray  # (G) 1/m at the start: 0 for lines
    slope: np.ndarray  # (G) 1/m^2, of spirals
    polynomials: dict[int, np.ndarray]  # piece -> (n, 3) of distance along it, u, v

    def __call__(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """x, y, heading, curvature (n each) at s (n); beyond the ends the end pieces go on."""
        row = np.maximum(np.searchsorted(self.start, s, side="right") - 1, 0)
        d = s - self.start[row]
        h, k, slope = self.heading[row], self.curvature[row], self.slope[row]
        turned = d * (k + 0.5 * slope * d)
        # A chord of an arc: its length is d sinc, its direction the mean heading; lines are k = 0.
        chord = d * np.sinc(0.5 * k * d / np.pi)
        x = self.x[row] + chord * np.cos(h + 0.5 * k * d)
        y = self.y[row] + chord * np.sin(h + 0.5 * k * d)
        heading = h + turned
        spiral = slope != 0
        if spiral.any():
            dx, dy = _clothoid(h[spiral], k[spiral], slope[spiral], d[spiral])
            x[spiral], y[spiral] = self.x[row][spiral] + dx, self.y[row][spiral] + dy
        curvature = k + slope * d
        for piece, table in self.polynomials.items():
            here = row == piece
            if here.any():
                along, u, v = table.T
                uu, vv = np.interp(d[here], along, u), np.interp(d[here], along, v)
                c, n = math.cos(self.heading[piece]), math.sin(self.heading[piece])
                x[here] = self.x[piece] + c * uu - n * vv
                y[here] = self.y[piece] + n * uu + c * vv
                angle = np.unwrap(np.arctan2(np.gradient(v, along), np.gradient(u, along)))
                heading[here] = self.heading[piece] + np.interp(d[here], along, angle)
                curvature[here] = np.interp(d[here], along, np.gradient(angle, along))
        return x, y, heading, curvature


@dataclass(frozen=True)
class Road:
    """A road: ``place`` and ``borders`` turn its coordinates into CARLA's."""

    id: int
    name: str
    length: float
    junction: int  # -1: none
    plan: Plan
    offset: Cubic  # of lane 0 from the reference line, over s
    sections: tuple[Section, ...]
    predecessor: Link | None
    successor: Link | None
    speeds: tuple[tuple[float, float], ...]  # (s, m/s)
    kind: str  # town, motorway, rural, ...

    def place(self, s: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, 2) and headings of increasing s (n, radians) at s, t (n) from the
        reference line (lane offset included by the caller), in CARLA's frame."""
        x, y, h, _ = self.plan(s)
        return np.stack([x - t * np.sin(h), -(y + t * np.cos(h))], 1), -h

    def borders(self, section: Section, s: np.ndarray) -> dict[int, np.ndarray]:
        """For each lane id its (n, 2) inner and outer border t (m) at s (n); lane 0 has both equal
        to the lane offset."""
        return {lane: values for lane, (values, _) in self._stack(section, s).items()}

    def lane_line(
        self, section: Section, lane: int, s: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre positions (n, 2), headings of travel (n, radians) and widths (n, m) at s (n)."""
        borders, slopes = self._stack(section, s)[lane]
        t = borders.mean(1)
        _, _, _, k = self.plan(s)
        xy, heading = self.place(s, t)
        # d(lateral)/d(along): the line drifts from the reference line as offset and widths change.
        heading = heading - np.arctan2(slopes.mean(1), np.maximum(1 - k * t, 0.1))
        if lane > 0:
            heading = heading + np.pi
        return xy, heading, np.abs(borders[:, 1] - borders[:, 0])

    def speed_at(self, s: np.ndarray) -> np.ndarray:
        """Speed limits (n, m/s) of the road's type records; NaN where the file gives none."""
        out = np.full(len(s), np.nan)
        for start, speed in self.speeds:
            out[s >= start - 1e-9] = speed
        return out

    def section_at(self, s: float) -> Section:
        """The section that holds at s."""
        found = self.sections[0]
        for section in self.sections:
            if section.s <= s + 1e-9:
                found = section
        return found

    def _stack(self, section: Section, s: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Per lane (n, 2) borders and (n, 2) their slopes, piled up from lane 0 outwards."""
        # At the section's very end the next record holds, which may lie lanes away (Town04: 14 m).
        zero, slope = self.offset(np.minimum(s, max(section.s, section.end - 1e-6)))
        found = {0: (np.stack([zero, zero], 1), np.stack([slope, slope], 1))}
        for sign in (1, -1):
            t, dt = zero, slope
            for lane in sorted((i for i in section.lanes if i * sign > 0), key=abs):
                width, growth = section.lanes[lane].width(s - section.s)
                outer, outer_slope = t + sign * width, dt + sign * growth
                found[lane] = (np.stack([t, outer], 1), np.stack([dt, outer_slope], 1))
                t, dt = outer, outer_slope
        return found


@dataclass(frozen=True)
class Roads:
    """A whole file. ``Roads.parse`` raises DataError naming the element that is wrong."""

    roads: dict[int, Road]
    junctions: dict[int, Junction]
    controllers: dict[str, tuple[str, ...]]  # id -> signal ids, each once
    signals: dict[str, Signal]
    references: tuple[Reference, ...]
    items: tuple[Item, ...]

    @classmethod
    def parse(cls, text: str, name: str = "OpenDRIVE") -> Roads:
        """Read ``text``; ``name`` is what errors call it."""
        from apps.driving.world.maps.road_reader import read_roads

        return read_roads(text, name)

    def lanes(self) -> Iterator[tuple[Road, Section, Lane]]:
        """Every lane but lane 0, in the file's order of roads."""
        for road in self.roads.values():
            for section in road.sections:
                for lane in section.lanes.values():
                    if lane.id:
                        yield road, section, lane

    def following(self, road: Road, section: Section, lane: int) -> list[tuple[int, int, int]]:
        """(road, section index, lane) that continue a lane in its direction of travel."""
        return self._step(road, section, lane, forward=lane < 0)

    def _step(
        self, road: Road, section: Section, lane: int, forward: bool
    ) -> list[tuple[int, int, int]]:
        here = section.lanes[lane]
        linked = here.successor if forward else here.predecessor
        beside = section.index + (1 if forward else -1)
        if 0 <= beside < len(road.sections):
            found = linked is not None and linked in road.sections[beside].lanes
            return [(road.id, beside, linked)] if found and linked is not None else []
        link = road.successor if forward else road.predecessor
        if link is None:
            return []
        if not link.junction:
            return self._enter(link.id, link.contact, linked)
        found_lanes = []
        for connecting, contact, into in self._connected.get((link.id, road.id, lane), ()):
            found_lanes += self._enter(connecting, contact, into)
        return list(dict.fromkeys(found_lanes))

    @cached_property
    def _connected(self) -> dict[tuple[int, int, int], list[tuple[int, str, int]]]:
        """(junction, incoming road, its lane) -> (connecting road, contact, lane) of the file."""
        found: dict[tuple[int, int, int], list[tuple[int, str, int]]] = {}
        for junction in self.junctions.values():
            for c in junction.connections:
                for a, b in c.lanes:
                    found.setdefault((junction.id, c.incoming, a), []).append(
                        (c.connecting, c.contact, b)
                    )
        return found

    def _enter(self, road: int, contact: str, lane: int | None) -> list[tuple[int, int, int]]:
        if lane is None or road not in self.roads:
            return []
        sections = self.roads[road].sections
        index = 0 if contact == "start" else len(sections) - 1
        # A link that would lead against the traffic of the lane it names is not one to drive.
        ahead = lane < 0 if contact == "start" else lane > 0
        return [(road, index, lane)] if lane in sections[index].lanes and ahead else []


def _clothoid(
    heading: np.ndarray, curvature: np.ndarray, slope: np.ndarray, d: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Integral of the unit tangent over [0, d] by Gauss-Legendre, 24 points: under 1e-9 m for a
    piece that turns less than two turns."""
    nodes, weights = _QUADRATURE
    along = 0.5 * d[:, None] * (nodes + 1)  # (n, 24)
    angle = heading[:, None] + along * (curvature[:, None] + 0.5 * slope[:, None] * along)
    half = 0.5 * d
    return half * (np.cos(angle) @ weights), half * (np.sin(angle) @ weights)
