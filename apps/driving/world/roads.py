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
from xml.etree import ElementTree

import numpy as np

from core.errors import DataError

LIGHT_TYPE, STOP_TYPE, YIELD_TYPE, SPEED_TYPE = "1000001", "206", "205", "274"
_PER_UNIT = {"mph": 0.44704, "km/h": 1 / 3.6, "kmh": 1 / 3.6, "m/s": 1.0, "": 1.0}
_LARGEST = 1e12  # what is beyond would overflow once it is cubed and squared
_FASTEST = 150.0  # m/s
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
        try:
            root = ElementTree.fromstring(text)
        except (ElementTree.ParseError, ValueError) as error:
            raise DataError(f"{name}: not XML ({error}); give an OpenDRIVE .xodr file") from None
        return _Reader(name).file(root)

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


class _Reader:
    """Turns elements into the dataclasses above; ``name`` goes into every error."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fail(self, what: str) -> DataError:
        return DataError(f"{self.name}: {what}")

    def number(self, element: ElementTree.Element, key: str, default: float | None = None) -> float:
        """A finite attribute; DataError where it is missing without a default, or no number."""
        raw = element.get(key)
        if raw is None:
            if default is not None:
                return default
            raise self.fail(f"<{element.tag}> has no '{key}'; the file is not valid OpenDRIVE")
        try:
            value = float(raw)
        except ValueError:
            value = math.nan
        if not abs(value) < _LARGEST:
            raise self.fail(f"<{element.tag} {key}='{raw[:40]}'> is not a finite number; mend it")
        return value

    def whole(self, element: ElementTree.Element, key: str, default: int | None = None) -> int:
        """A whole attribute, as the ids are that CARLA takes; DataError as ``number``."""
        raw = element.get(key)
        if raw is None and default is not None:
            return default
        try:
            value = int(raw or "")
        except ValueError:
            value = 2**31
        if raw is None or abs(value) >= 2**31:
            raise self.fail(
                f"<{element.tag} {key}='{element.get(key, '')[:40]}'> must be a whole number: "
                "CARLA takes no other ids"
            )
        return value

    def cubic(self, parent: ElementTree.Element, tag: str, start: str) -> Cubic:
        return Cubic(
            [
                (
                    self.number(e, start),
                    self.number(e, "a", 0.0),
                    self.number(e, "b", 0.0),
                    self.number(e, "c", 0.0),
                    self.number(e, "d", 0.0),
                )
                for e in parent.findall(tag)
            ]
        )

    def file(self, root: ElementTree.Element) -> Roads:
        if root.tag != "OpenDRIVE":
            raise self.fail(f"its root is <{root.tag[:40]}>, not <OpenDRIVE>; give an .xodr file")
        roads: dict[int, Road] = {}
        elements = {}
        for element in root.findall("road"):
            road = self.road(element)
            if road.id in roads:
                raise self.fail(f"two roads have the id {road.id}; give each its own")
            roads[road.id], elements[road.id] = road, element
        if not roads:
            raise self.fail("it has no <road>; a town needs one at least")
        junctions = {j.id: j for j in (self.junction(e) for e in root.findall("junction"))}
        controllers = {
            e.get("id", ""): tuple(
                dict.fromkeys(c.get("signalId", "") for c in e.findall("control"))
            )
            for e in root.findall("controller")
        }
        signals: dict[str, Signal] = {}
        references: list[Reference] = []
        items: list[Item] = []
        for key, element in elements.items():
            road = roads[key]
            for found in element.findall("signals/signal"):
                signal = self.signal(found, road)
                signals[signal.id] = signal
                references.append(
                    Reference(signal.id, key, signal.s, self.validity(found, road, signal), True)
                )
            for found in element.findall("signals/signalReference"):
                references.append(
                    Reference(
                        found.get("id", ""),
                        key,
                        self.number(found, "s", 0.0),
                        self.validity(found, road, None),
                        False,
                    )
                )
            for found in element.findall("objects/object"):
                item = self.item(found, road)
                items.append(item)
                stand_in = self.object_signal(found, road, item)
                if stand_in is not None:
                    signals[stand_in.id] = stand_in
                    lanes = self.validity(found, road, stand_in)
                    references.append(Reference(stand_in.id, key, stand_in.s, lanes, True))
        return Roads(roads, junctions, controllers, signals, tuple(references), tuple(items))

    def road(self, element: ElementTree.Element) -> Road:
        key = self.whole(element, "id")
        if key < 0:
            raise self.fail(f"a road has the id {key}; CARLA takes ids from 0 on")
        length = self.number(element, "length")
        if length <= 0:
            raise self.fail(f"road {key} has length {length:g} m; lengths must be positive")
        plan = self.plan(element, key)
        drawn = float(plan.start[-1] + plan.length[-1])
        if abs(drawn - length) > max(1.0, 0.01 * length):
            raise self.fail(
                f"road {key} says it is {length:g} m long, its geometry ends at {drawn:g} m; mend one"
            )
        lanes = element.find("lanes")
        found = [] if lanes is None else lanes.findall("laneSection")
        if lanes is None or not found:
            raise self.fail(f"road {key} has no lanes; each road needs a <laneSection>")
        starts = [self.number(e, "s") for e in found]
        if starts != sorted(starts) or starts[0] > 1e-3 or starts[-1] > length + 1e-3:
            raise self.fail(f"the lane sections of road {key} do not start at 0 and rise along it")
        ends = [*starts[1:], max(length, starts[-1])]
        sections = tuple(
            Section(i, a, b, self.lanes(e, key))
            for i, (e, a, b) in enumerate(zip(found, starts, ends, strict=True))
        )
        speeds = []
        for record in element.findall("type"):
            speed = record.find("speed")
            if speed is not None:
                speeds.append((self.number(record, "s", 0.0), self.speed(speed)))
        kind = element.find("type")
        return Road(
            key,
            element.get("name", ""),
            length,
            self.whole(element, "junction", -1),
            plan,
            self.cubic(lanes, "laneOffset", "s"),
            sections,
            self.link(element.find("link/predecessor"), "end"),
            self.link(element.find("link/successor"), "start"),
            tuple(s for s in speeds if math.isfinite(s[1])),
            "town" if kind is None else kind.get("type", "town"),
        )

    def speed(self, element: ElementTree.Element) -> float:
        """m/s; NaN for "no limit" and "undefined". OpenDRIVE's default unit is m/s."""
        if element.get("max") in ("no limit", "undefined"):
            return math.nan
        unit = element.get("unit", "")
        if unit not in _PER_UNIT:
            raise self.fail(f"a speed has the unit '{unit[:20]}'; use km/h, mph or m/s")
        value = self.number(element, "max") * _PER_UNIT[unit]
        if value <= 0:
            raise self.fail(f"a speed limit of {value:g} m/s; limits must be positive")
        if value > _FASTEST:
            raise self.fail(f"a speed limit of {value:g} m/s; write 'no limit' for none")
        return value

    def plan(self, element: ElementTree.Element, key: int) -> Plan:
        pieces = element.findall("planView/geometry")
        if not pieces:
            raise self.fail(f"road {key} has no planView geometry; each road needs one")
        rows: list[tuple[float, ...]] = []
        polynomials: dict[int, np.ndarray] = {}
        for piece in pieces:
            length = self.number(piece, "length")
            if length <= 0:
                raise self.fail(f"a geometry of road {key} has length {length:g} m; must be > 0")
            curvature = slope = 0.0
            kinds = [e for e in piece if e.tag in _SHAPES]
            if len(kinds) != 1:
                raise self.fail(f"a geometry of road {key} has no shape; one of {list(_SHAPES)}")
            shape = kinds[0]
            if shape.tag == "arc":
                curvature = self.number(shape, "curvature")
            elif shape.tag == "spiral":
                curvature = self.number(shape, "curvStart")
                slope = (self.number(shape, "curvEnd") - curvature) / length
            elif shape.tag in ("poly3", "paramPoly3"):
                polynomials[len(rows)] = self.polynomial(shape, length)
            rows.append(
                (
                    *(self.number(piece, k) for k in ("s", "x", "y", "hdg")),
                    length,
                    curvature,
                    slope,
                )
            )
        start, x, y, heading, lengths, curvatures, slopes = np.array(rows, float).T
        if (np.diff(start) < 0).any() or start[0] > 1e-3:
            raise self.fail(
                f"the geometries of road {key} do not start at s = 0 and rise; sort them"
            )
        return Plan(start, x, y, heading, lengths, curvatures, slopes, polynomials)

    def polynomial(self, shape: ElementTree.Element, length: float) -> np.ndarray:
        """(n, 3): distance along the curve (m), u, v, every 0.1 m or so."""
        p: np.ndarray = np.linspace(0.0, 1.0, max(8, min(4096, int(length / 0.1) + 2)))
        if shape.tag == "poly3":
            u, a = p * length, [self.number(shape, k, 0.0) for k in "abcd"]
            v = np.polynomial.polynomial.polyval(u, a)
        else:
            if shape.get("pRange", "normalized") == "arcLength":
                p = p * length
            both = [[self.number(shape, k + x, 0.0) for k in "abcd"] for x in "UV"]
            u, v = (np.polynomial.polynomial.polyval(p, c) for c in both)
        along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(u), np.diff(v)))])
        return np.stack([along, u, v], 1)

    def lanes(self, section: ElementTree.Element, road: int) -> dict[int, Lane]:
        found = {}
        for side in ("left", "center", "right"):
            for element in section.findall(f"{side}/lane"):
                lane = self.whole(element, "id")
                if (lane > 0) - (lane < 0) != {"left": 1, "center": 0, "right": -1}[side]:
                    raise self.fail(f"lane {lane} of road {road} is on the wrong side: <{side}>")
                marks = [
                    Mark(
                        self.number(m, "sOffset", 0.0),
                        m.get("type", "none"),
                        m.get("color", "standard"),
                        self.number(m, "width", 0.0),
                        m.get("laneChange", "").lower(),
                    )
                    for m in element.findall("roadMark")
                ]
                found[lane] = Lane(
                    lane,
                    element.get("type", "none"),
                    self.cubic(element, "width", "sOffset"),
                    tuple(sorted(marks, key=lambda mark: mark.s_offset)),
                    self.lane_link(element.find("link/predecessor")),
                    self.lane_link(element.find("link/successor")),
                    tuple(
                        (self.number(e, "sOffset", 0.0), self.speed(e))
                        for e in element.findall("speed")
                    ),
                )
        if 0 not in found:
            raise self.fail(f"a section of road {road} has no <center> lane 0; give it one")
        if not any(found):
            raise self.fail(f"a section of road {road} has no lane beside lane 0; give it one")
        for sign in (1, -1):
            ids = sorted(abs(i) for i in found if i * sign > 0)
            if ids != list(range(1, len(ids) + 1)):
                raise self.fail(f"the lane ids of road {road} leave a gap; number them from 1 on")
        return dict(sorted(found.items(), reverse=True))

    def lane_link(self, element: ElementTree.Element | None) -> int | None:
        return None if element is None else self.whole(element, "id")

    def link(self, element: ElementTree.Element | None, contact: str) -> Link | None:
        if element is None:
            return None
        return Link(
            element.get("elementType") == "junction",
            self.whole(element, "elementId"),
            element.get("contactPoint", contact),
        )

    def junction(self, element: ElementTree.Element) -> Junction:
        connections = tuple(
            Connection(
                self.whole(e, "incomingRoad"),
                self.whole(e, "connectingRoad"),
                e.get("contactPoint", "start"),
                tuple((self.whole(k, "from"), self.whole(k, "to")) for k in e.findall("laneLink")),
            )
            for e in element.findall("connection")
            if e.get("connectingRoad") is not None
        )
        controllers = sorted(
            element.findall("controller"),
            key=lambda e: (self.whole(e, "sequence", 0), e.get("id", "")),
        )
        return Junction(
            self.whole(element, "id"), connections, tuple(c.get("id", "") for c in controllers)
        )

    def signal(self, element: ElementTree.Element, road: Road) -> Signal:
        kind = element.get("type", "")
        value = element.get("value")
        number = self.number(element, "value", -1.0) if value not in (None, "") else -1.0
        if kind == SPEED_TYPE and element.get("unit") == "mph":
            number *= 1.609344
        return Signal(
            element.get("id", ""),
            road.id,
            self.number(element, "s"),
            self.number(element, "t", 0.0),
            kind,
            element.get("name", ""),
            number,
            element.get("orientation", "none"),
            self.number(element, "zOffset", 0.0),
            self.number(element, "hOffset", 0.0),
            self.number(element, "height", 0.0),
            self.number(element, "width", 0.0),
        )

    def object_signal(self, e: ElementTree.Element, road: Road, item: Item) -> Signal | None:
        if item.name[:6] not in ("Speed_", "speed_") or item.type == "crosswalk":
            return None
        digits = item.name.rsplit("_", 1)[-1]
        if not (digits.isascii() and digits.isdecimal() and 0 < int(digits[:9]) < 1000):
            raise self.fail(f"object '{item.name[:40]}': CARLA wants Speed_ and a number of km/h")
        return Signal(
            item.id,
            road.id,
            item.s,
            item.t,
            SPEED_TYPE,
            item.name,
            float(digits),
            e.get("orientation", "none"),
            self.number(e, "zOffset", 0.0),
            item.heading_offset,
            self.number(e, "height", 0.0),
            item.width,
        )

    def validity(
        self, element: ElementTree.Element, road: Road, signal: Signal | None
    ) -> tuple[int, ...]:
        """Lane ids of <validity>; without one those CARLA assumes: "+" the left lanes, "-" the
        right ones (MapBuilder::GenerateDefaultValiditiesForSignalReferences)."""
        present = road.section_at(self.number(element, "s", 0.0)).lanes
        ranges = element.findall("validity")
        if ranges:
            found = []
            for r in ranges:
                a, b = sorted((self.whole(r, "fromLane"), self.whole(r, "toLane")))
                found += [i for i in present if a <= i <= b and i]
            return tuple(sorted(set(found)))
        side = {"+": 1, "-": -1}.get(element.get("orientation", "none"), 0)
        return tuple(sorted(i for i in present if i and (not side or i * side > 0)))

    def item(self, element: ElementTree.Element, road: Road) -> Item:
        s, t = self.number(element, "s", 0.0), self.number(element, "t", 0.0)
        turn = self.number(element, "hdg", 0.0)
        at, heading = road.place(np.array([s]), np.array([t]))
        outline = np.zeros((0, 2))
        local = element.findall(".//cornerLocal")
        if local:
            u = np.array([self.number(e, "u") for e in local])
            v = np.array([self.number(e, "v") for e in local])
            angle = heading[0] - turn
            c, n = math.cos(angle), math.sin(angle)
            # v points left in OpenDRIVE and so to minus y here.
            outline = at + np.stack([u * c + v * n, u * n - v * c], 1)
        elif element.find(".//cornerRoad") is not None:
            corners = element.findall(".//cornerRoad")
            along = np.array([self.number(e, "s") for e in corners])
            outline, _ = road.place(along, np.array([self.number(e, "t") for e in corners]))
        return Item(
            element.get("id", ""),
            road.id,
            element.get("type", ""),
            element.get("name", ""),
            s,
            t,
            turn,
            self.number(element, "length", 0.0),
            self.number(element, "width", 0.0),
            outline,
        )


_SHAPES = ("line", "arc", "spiral", "poly3", "paramPoly3")
