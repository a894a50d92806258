"""From OpenDRIVE text to ``roads.Roads``. What is wrong is a DataError that names the element."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np

from apps.driving.world.maps.roads import (
    SPEED_TYPE,
    Connection,
    Cubic,
    Item,
    Junction,
    Lane,
    Link,
    Mark,
    Plan,
    Reference,
    Road,
    Roads,
    Section,
    Signal,
)
from core.errors import DataError

_SHAPES = ("line", "arc", "spiral", "poly3", "paramPoly3")
_PER_UNIT = {"mph": 0.44704, "km/h": 1 / 3.6, "kmh": 1 / 3.6, "m/s": 1.0, "": 1.0}
_LARGEST = 1e12  # what is beyond would overflow once it is cubed and squared
_FASTEST = 150.0  # m/s


def read_roads(text: str, name: str) -> Roads:
    """What ``text`` holds; ``name`` is what errors call it."""
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{name}: not XML ({error}); give an OpenDRIVE .xodr file") from None
    return _Reader(name).file(root)


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
