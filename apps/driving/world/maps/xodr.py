"""Roads as OpenDRIVE text: what ``procedural`` lays out, written down.

Numbers have six decimals, angles and curvatures nine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from apps.driving.world.maps.roads import LIGHT_TYPE

LANE_M = 3.5
POCKET_M = 30.0  # a lane that is added before a junction
_TAPER_M = 12.0  # of it, where the lane grows


@dataclass(frozen=True)
class Kind:
    """One side of a road, from the middle outwards; both sides are alike."""

    name: str
    lanes: int
    speed: int  # km/h
    median: float  # m, half of the strip between the directions
    shoulder: float  # m
    sidewalk: float  # m, 0: none
    centre: str  # mark on lane 0

    @property
    def edge(self) -> float:
        """Distance from the reference line to the outer edge of the driving lanes, m."""
        return self.median + self.lanes * LANE_M

    def middle(self, lane: int) -> float:
        """Distance of driving lane 0, 1, ... (from the inside) from the reference line, m."""
        return self.median + (lane + 0.5) * LANE_M

    def lane_id(self, lane: int) -> int:
        """OpenDRIVE's number, without sign, of driving lane 0, 1, ..."""
        return lane + 1 + (self.median > 0)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("residential", 1, 30, 0.0, 0.5, 2.5, "broken"),
        Kind("street", 1, 50, 0.0, 0.5, 2.5, "solid"),
        Kind("avenue", 2, 50, 0.0, 0.5, 2.5, "solid solid"),
        Kind("expressway", 2, 90, 1.0, 2.5, 0.0, "none"),
    )
}


@dataclass
class Arm:
    """The end of a road at a junction, seen from the junction."""

    road: int
    at_end: bool
    direction: int  # outward: 0 east, 1 north, 2 west, 3 south
    kind: Kind
    pocket: bool = False  # one lane more leads into the junction

    @property
    def into(self) -> int:
        """Sign of the lanes that lead into the junction."""
        return -1 if self.at_end else 1

    @property
    def entry(self) -> Kind:
        """The side that leads into the junction."""
        return replace(self.kind, lanes=self.kind.lanes + self.pocket)


@dataclass
class RoadPlan:
    """What becomes a <road>: ``lanes`` and ``links`` are XML."""

    id: int
    junction: int
    speed: int  # km/h
    x: float = 0.0
    y: float = 0.0
    heading: float = 0.0
    pieces: list[tuple[float, float]] = field(default_factory=list)  # length, curvature
    links: str = ""
    lanes: str = ""
    signals: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)

    @property
    def length(self) -> float:
        return sum(round(length, 6) for length, _ in self.pieces)


def link(which: str, kind: str, key: int, at_end: bool | None) -> str:
    """A <predecessor> or <successor> of a road; ``at_end`` is None for a junction."""
    contact = "" if at_end is None else f' contactPoint="{"end" if at_end else "start"}"'
    return f'<{which} elementType="{kind}" elementId="{key}"{contact}/>\n'


def post(
    kind: Kind, key: int, s: float, sign: int, code: str, name: str, value: int, unit: str
) -> str:
    """A <signal> beside the lanes of ``sign`` for those who drive on them. CARLA's towns write "-"
    for the right lanes; a speed limit says which lanes it holds for, the others have references."""
    t = sign * (kind.edge + kind.shoulder + 0.6)
    lanes = (sign * kind.lane_id(0), sign * kind.lane_id(kind.lanes - 1)) if unit else (0, 0)
    offset = math.pi if sign > 0 else 0.0
    return (
        f'<signal name="{name}" id="{key}" s="{s:.6f}" t="{t:.6f}" zOffset="0.000000" '
        f'hOffset="{offset:.9f}" roll="0.000000" pitch="0.000000" '
        f'orientation="{"+" if sign > 0 else "-"}" dynamic="{"yes" if code == LIGHT_TYPE else "no"}"'
        f' country="OpenDRIVE" type="{code}" subtype="{value}" value="{value}" unit="{unit}" '
        f'text="" height="1.000000" width="0.600000">'
        f'<validity fromLane="{min(lanes)}" toLane="{max(lanes)}"/></signal>'
    )


def _lane(number: int, kind: str, width: str, marks: str, links: str = "") -> str:
    return (
        f'<lane id="{number}" type="{kind}" level="false"><link>{links}</link>{width}{marks}</lane>'
    )


def _width(start: float, end: float, length: float, at: float = 0.0) -> str:
    slope = (end - start) / length
    return f'<width sOffset="{at:.6f}" a="{start:.6f}" b="{slope:.9f}" c="0" d="0"/>'


def _mark(kind: str, color: str, change: str = "none", start: float = 0.0) -> str:
    return (
        f'<roadMark sOffset="{start:.6f}" type="{kind}" weight="standard" color="{color}" '
        f'material="standard" width="0.150000" laneChange="{change}"/>'
    )


def _between(sign: int, length: float) -> str:
    """The line between lanes of one direction: broken, solid for the last 20 m before the end."""
    broken = ("broken", "white", "both")
    if length < 50:
        return _mark(*broken)
    if sign < 0:
        return _mark(*broken) + _mark("solid", "white", start=length - 20)
    return _mark("solid", "white") + _mark(*broken, start=20.0)


def lanes(kind: Kind, length: float, pockets: tuple[bool, bool] = (False, False)) -> str:
    """<lanes> of a road (m long) with ``kind`` on both sides; a pocket adds a lane to those that
    lead to the road's start, or to its end, over the last ``POCKET_M``."""
    starts = [0.0] + [POCKET_M] * pockets[0] + [length - POCKET_M] * pockets[1]
    ends = [*starts[1:], length]
    added = [
        (pockets[0] and s == 0, pockets[1] and e == length)
        for s, e in zip(starts, ends, strict=True)
    ]
    sections = []
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        sides = {}
        for side, sign in enumerate((1, -1)):
            text = []
            rows = _side(kind, end - start, sign, added[i][side])
            for k, (name, key, width, mark) in enumerate(rows):
                number = sign * (k + 1)
                links = ""
                for which, j in (("predecessor", i - 1), ("successor", i + 1)):
                    if 0 <= j < len(starts):
                        beside = [row[1] for row in _side(kind, 1.0, sign, added[j][side])]
                        if key in beside:
                            links += f'<{which} id="{sign * (beside.index(key) + 1)}"/>'
                text.append(_lane(number, name, width, mark, links))
            sides[sign] = "\n".join(text[::-1] if sign > 0 else text)
        middle = _lane(0, "none", "", _mark(kind.centre, "yellow"))
        sections.append(
            f'<laneSection s="{start:.6f}">\n<left>{sides[1]}</left>\n'
            f"<center>{middle}</center>\n<right>{sides[-1]}</right>\n</laneSection>"
        )
    offset = '<laneOffset s="0.000000" a="0" b="0" c="0" d="0"/>'
    return f"<lanes>{offset}{_joined(sections)}</lanes>"


def _side(kind: Kind, length: float, sign: int, pocket: bool) -> list[tuple[str, str, str, str]]:
    """(type, a name that is the same in each section, width, mark) from the middle outwards."""
    rows: list[tuple[str, str, str, str]] = []

    def add(name: str, width: float, mark: str) -> None:
        rows.append((name, f"{name}{len(rows)}", _width(width, width, length), mark))

    if kind.median:
        add("median", kind.median, _mark("solid", "yellow"))
    for k in range(kind.lanes):
        inner = pocket or k < kind.lanes - 1
        add("driving", LANE_M, _between(sign, length) if inner else _mark("solid", "white"))
    if pocket:
        grow, full = _width(0.0, LANE_M, _TAPER_M), _width(LANE_M, LANE_M, length, _TAPER_M)
        if sign > 0:  # those lanes lead to the section's start
            at = length - _TAPER_M
            grow, full = _width(LANE_M, LANE_M, length), _width(LANE_M, 0.0, _TAPER_M, at)
        rows.append(("driving", "pocket", grow + full, _mark("solid", "white")))
    mark = _mark("curb" if kind.sidewalk else "none", "white")
    rows.append(("shoulder", "shoulder", _width(kind.shoulder, kind.shoulder, length), mark))
    if kind.sidewalk:
        width = _width(kind.sidewalk, kind.sidewalk, length)
        rows.append(("sidewalk", "sidewalk", width, _mark("none", "white")))
    return rows


def way_lanes(arm: Arm, lane: int, target: Arm, out_lane: int, rim: bool, length: float) -> str:
    """<lanes> of a way: one driving lane about the reference line, on the rim also what is outside
    of it, as wide at each end as the arm there has it."""
    a, b = arm.entry, target.kind
    rows = [("driving", LANE_M, LANE_M, a.lane_id(lane), b.lane_id(out_lane))]
    if rim:
        rows.append(("shoulder", a.shoulder, b.shoulder, a.lane_id(a.lanes), b.lane_id(b.lanes)))
        if a.sidewalk and b.sidewalk:
            ids = a.lane_id(a.lanes + 1), b.lane_id(b.lanes + 1)
            rows.append(("sidewalk", a.sidewalk, b.sidewalk, *ids))
    text = [
        _lane(
            -i - 1,
            name,
            _width(start, end, length),
            _mark("curb" if name == "shoulder" and len(rows) == 3 else "none", "white"),
            f'<predecessor id="{arm.into * before}"/><successor id="{-target.into * after}"/>',
        )
        for i, (name, start, end, before, after) in enumerate(rows)
    ]
    middle = _lane(0, "none", "", _mark("none", "white"))
    return (
        f'<lanes><laneOffset s="0.000000" a="{LANE_M / 2:.6f}" b="0" c="0" d="0"/>'
        f'<laneSection s="0.000000">\n<center>{middle}</center>\n'
        "<right>" + "\n".join(text) + "</right>\n</laneSection></lanes>"
    )


def _joined(parts: list[str]) -> str:
    return "\n".join(parts)


def road_text(road: RoadPlan) -> str:
    x, y, heading, s = road.x, road.y, road.heading, 0.0
    pieces = []
    for length, curvature in road.pieces:
        shape = f'<arc curvature="{curvature:.9f}"/>' if curvature else "<line/>"
        pieces.append(
            f'<geometry s="{s:.6f}" x="{x:.6f}" y="{y:.6f}" hdg="{heading:.9f}" '
            f'length="{length:.6f}">{shape}</geometry>'
        )
        half = 0.5 * length * curvature
        chord = length * (math.sin(half) / half if half else 1.0)
        x, y = x + chord * math.cos(heading + half), y + chord * math.sin(heading + half)
        heading, s = heading + 2 * half, s + round(length, 6)
    return (
        f'<road name="Road {road.id}" length="{s:.6f}" id="{road.id}" junction="{road.junction}">\n'
        f"<link>\n{road.links}</link>\n"
        f'<type s="0.000000" type="town"><speed max="{road.speed}" unit="km/h"/></type>\n'
        f"<planView>\n{_joined(pieces)}\n</planView>\n<elevationProfile/>\n<lateralProfile/>\n"
        f"{road.lanes}\n<objects>{_joined(road.objects)}</objects>\n"
        f"<signals>{_joined(road.signals)}</signals>\n</road>"
    )
