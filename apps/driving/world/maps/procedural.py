"""Towns from a seed, as OpenDRIVE text: maps without end for tests and for training.

A town is a grid of B x B blocks with irregularities: corners of the grid are moved, an eighth of
the edges is taken away (what is left at a corner makes an X or a T junction, a bend, or a road that
runs on), roads swing sideways between their ends. Roads differ in lanes and speed: see
``xodr.KINDS``; some streets have a lane more where they may turn right; one border of the town is an
expressway. Every junction has traffic lights, one phase for arms that face each other, or stop
signs; every arm with pavements has a crosswalk.

Layout of a junction, all arms at right angles: arms end R from the centre; each way through it is a
road of its own with one driving lane, straight for 4 m at both ends (where the crosswalks lie); the
ways along its rim carry shoulder and sidewalk. Signals stand as in CARLA's towns: the signal on the
arm, a reference on each way it controls.

The same seed gives the same bytes.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from apps.driving.world.maps.roads import LIGHT_TYPE, SPEED_TYPE, STOP_TYPE
from apps.driving.world.maps.street_grid import DIRECTIONS, Chain, Grid
from apps.driving.world.maps.xodr import (
    KINDS,
    LANE_M,
    POCKET_M,
    Arm,
    Kind,
    RoadPlan,
    lanes,
    link,
    post,
    road_text,
    way_lanes,
)
from core.errors import UsageError

_CORNER_M = 5.5  # between the edge of the driving lanes and the straight ends inside a junction
_LEAD_M = 4.0
_WIDEST_M = 2 * LANE_M + 1 + _CORNER_M + _LEAD_M  # from a junction's centre to its arms' ends
_SWING_LEAD_M = 12.0  # roads are straight this far from their ends
# RoadRunner's names; bars along the way are what most towns have.
_CROSSWALKS = ("Continental", "Continental", "Continental", "Ladder", "Simple")


def generate(seed: int, *, blocks: int = 3, spacing: float = 110.0, removed: float = 0.12) -> str:
    """The OpenDRIVE text of a town of ``blocks`` x ``blocks`` blocks about ``spacing`` (m) wide.

    ``removed`` is the share of the grid's edges that is taken away where the town stays whole.
    Raises UsageError for fewer than 2 or over 20 blocks, a spacing outside 90 to 1,000 m, a share
    outside 0 to 0.4, a negative seed.
    """
    if seed < 0 or seed >= 2**63:
        raise UsageError(f"town seed {seed}: give a whole number from 0 on")
    if not 2 <= blocks <= 20:
        raise UsageError(f"{blocks} blocks: a town has 2 to 20 blocks a side")
    if not 90 <= spacing <= 1000:
        raise UsageError(f"blocks {spacing:g} m wide: give 90 to 1,000 m")
    if not 0 <= removed <= 0.4:
        raise UsageError(f"a share of {removed:g} of the edges removed: give 0 to 0.4")
    return _Town(seed, blocks, spacing, removed).text()


class _Town:
    """A town under construction; corners of the grid with three edges or more are its junctions."""

    def __init__(self, seed: int, blocks: int, spacing: float, removed: float) -> None:
        self.rng = np.random.default_rng([seed, zlib.crc32(b"procedural town")])
        self.seed = seed
        self.grid = Grid(self.rng, blocks + 1, spacing, removed)
        self.corner = self.grid.corner
        self.roads: list[RoadPlan] = []
        self.arms: dict[int, list[Arm]] = {}  # by corner
        self._trace_roads()
        self.next_id = len(self.roads)
        self.junction_id = {corner: self._fresh() for corner in sorted(self.arms)}
        self.controllers: list[str] = []
        self.junctions: list[str] = []
        self._link_roads()
        stops = self._stop_junctions()
        for corner in sorted(self.arms):
            self._junction(corner, corner in stops)

    def _fresh(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    # Roads between junctions.

    def _trace_roads(self) -> None:
        chains = self.grid.chains()
        for index, chain in enumerate(chains):
            (first, d), kind = chain.steps[0], KINDS[chain.kind]
            self.arms.setdefault(first, []).append(Arm(index, False, d, kind))
            self.arms.setdefault(chain.last, []).append(Arm(index, True, chain.back, kind))
            self.roads.append(RoadPlan(index, -1, kind.speed))
        self._add_pockets(chains)
        # The size of every junction is known only now, and with it where roads start.
        for road, chain in zip(self.roads, chains, strict=True):
            kind = KINDS[chain.kind]
            self._lay(road, kind, chain)
            ends = [arm for arm in self._arms_of(road.id) if arm.pocket]
            pockets = any(not a.at_end for a in ends), any(a.at_end for a in ends)
            road.lanes = lanes(kind, road.length, pockets)
            self._speed_signs(road, kind)

    def _arms_of(self, road: int) -> list[Arm]:
        return [arm for _, arms in sorted(self.arms.items()) for arm in arms if arm.road == road]

    def _add_pockets(self, chains: list[Chain]) -> None:
        """Half of the streets that may turn right at a junction have a lane more for it there,
        where the road is long enough."""
        room = [self.grid.length(chain) - 2 * _WIDEST_M for chain in chains]
        for _, arms in sorted(self.arms.items()):
            directions = {arm.direction for arm in arms}
            for arm in arms:
                turns = arm.kind.name == "street" and (arm.direction + 1) % 4 in directions
                if turns and room[arm.road] > POCKET_M + 10 and self.rng.random() < 0.5:
                    arm.pocket = True
                    room[arm.road] -= POCKET_M + 10

    def _radius(self, corner: int) -> float:
        arms = self.arms.get(corner)
        if arms is None:
            return 0.0
        return max(arm.entry.edge for arm in arms) + _CORNER_M + _LEAD_M

    def _lay(self, road: RoadPlan, kind: Kind, chain: Chain) -> None:
        """The reference line: swings between corners, arcs around those that are bends."""
        steps, last = chain.steps, chain.last
        bends = {corner: float(self.rng.uniform(10, 16)) + kind.edge for corner, _ in steps[1:]}
        reach = {**bends, steps[0][0]: self._radius(steps[0][0]), last: self._radius(last)}
        for k, (corner, d) in enumerate(steps):
            step = np.array(DIRECTIONS[d], float)
            end = steps[k + 1][0] if k + 1 < len(steps) else last
            start = self.corner[corner] + step * reach[corner]
            stop = self.corner[end] - step * reach[end]
            if k == 0:
                road.x, road.y, road.heading = float(start[0]), float(start[1]), d * math.pi / 2
            else:
                turn = (d - steps[k - 1][1] + 1) % 4 - 1  # 1: to the left
                radius = reach[corner]
                road.pieces.append(
                    (radius * math.pi / 2, turn / radius) if turn else (2 * radius, 0.0)
                )
            along = float((stop - start) @ step)
            aside = float((stop - start) @ (-step[1], step[0]))
            road.pieces += _swing(along, aside, _SWING_LEAD_M)

    # Junctions.

    def _stop_junctions(self) -> set[int]:
        """Corners with stop signs: half of the T junctions of one-lane roads, or else the T junction
        with the smallest roads, where there is one off the expressway."""
        three = [
            corner
            for corner, arms in sorted(self.arms.items())
            if len(arms) == 3 and all(arm.kind.name != "expressway" for arm in arms)
        ]
        lanes_at = {c: sum(arm.kind.lanes for arm in self.arms[c]) for c in three}
        chosen = {c for c in three if lanes_at[c] == 3 and self.rng.random() < 0.5}
        return chosen or set(sorted(three, key=lambda c: lanes_at[c])[:1])

    def _junction(self, corner: int, stop: bool) -> None:
        junction = self.junction_id[corner]
        arms = {arm.direction: arm for arm in self.arms[corner]}
        connections: list[str] = []
        controlled: dict[int, list[RoadPlan]] = {}
        for d, arm in sorted(arms.items()):
            controlled[d] = []
            for lane, target, out_lane, rim in _ways(arms, d):
                way = self._way(corner, arm, lane, arms[target], out_lane, rim)
                controlled[d].append(way)
                connections.append(
                    f'<connection id="{len(connections)}" incomingRoad="{arm.road}" '
                    f'connectingRoad="{way.id}" contactPoint="start">'
                    f'<laneLink from="{arm.into * arm.entry.lane_id(lane)}" to="-1"/></connection>'
                )
        # The stem of a T gives way to the road that runs through.
        addressed = [d for d in sorted(arms) if not stop or (d + 2) % 4 not in arms]
        phases: dict[int, list[int]] = {}
        for d in addressed:
            signal = self._fresh()
            phases.setdefault(d % 2, []).append(signal)
            kind = (STOP_TYPE, "Sign_Stop") if stop else (LIGHT_TYPE, "Signal_3Light_Post01")
            self._signal(arms[d], signal, *kind)
            for way in controlled[d]:
                way.signals.append(
                    f'<signalReference id="{signal}" s="0.500000" t="0.000000" orientation="-">'
                    '<validity fromLane="-1" toLane="-1"/></signalReference>'
                )
        for sequence, (_, signals) in enumerate(sorted(phases.items()) if not stop else ()):
            controller = self._fresh()
            controls = "".join(f'<control signalId="{s}" type=""/>' for s in signals)
            self.controllers.append(
                f'<controller name="ctrl{controller}" id="{controller}" sequence="{sequence}">'
                f"{controls}</controller>"
            )
            connections.append(f'<controller id="{controller}" type="" sequence="{sequence}"/>')
        self.junctions.append(
            f'<junction id="{junction}" name="junction{junction}">\n'
            + "\n".join(connections)
            + "\n</junction>"
        )
        for _, arm in sorted(arms.items()):
            if arm.kind.sidewalk:
                self._crosswalk(arm)

    def _way(
        self, corner: int, arm: Arm, lane: int, target: Arm, out_lane: int, rim: bool
    ) -> RoadPlan:
        """The road of one way through a junction; with ``rim`` it carries shoulder and sidewalk."""
        inward = -np.array(DIRECTIONS[arm.direction], float)
        outward = np.array(DIRECTIONS[target.direction], float)
        middle, radius = self.corner[corner], self._radius(corner)
        start = middle - radius * inward + arm.entry.middle(lane) * _right(inward)
        stop = middle + radius * outward + target.kind.middle(out_lane) * _right(outward)
        turn = (target.direction - arm.direction + 3) % 4 - 1  # 1: left, 0: straight, -1: right
        along = float((stop - start) @ inward)
        aside = float((stop - start) @ -_right(inward))
        if turn:
            bend = min(along, abs(aside)) - _LEAD_M
            pieces = [
                (along - bend, 0.0),
                (bend * math.pi / 2, turn / bend),
                (abs(aside) - bend, 0.0),
            ]
        else:
            pieces = _swing(along, aside, _LEAD_M)
        way = RoadPlan(
            self._fresh(),
            self.junction_id[corner],
            min(arm.kind.speed, target.kind.speed, 50),
            float(start[0]),
            float(start[1]),
            (arm.direction + 2) % 4 * math.pi / 2,
            pieces,
        )
        way.links = link("predecessor", "road", arm.road, arm.at_end) + link(
            "successor", "road", target.road, target.at_end
        )
        way.lanes = way_lanes(arm, lane, target, out_lane, rim, way.length)
        self.roads.append(way)
        return way

    def _link_roads(self) -> None:
        for corner, arms in sorted(self.arms.items()):
            for arm in sorted(arms, key=lambda a: a.at_end):
                kind = "successor" if arm.at_end else "predecessor"
                road = self.roads[arm.road]
                road.links += link(kind, "junction", self.junction_id[corner], None)
        for road in self.roads:  # the schema wants the predecessor first
            parts = sorted(part for part in road.links.split("\n") if part)
            road.links = "\n".join(parts) + "\n"

    # What stands beside the road.

    def _signal(self, arm: Arm, key: int, kind: str, name: str) -> None:
        """On the right of those who come to the junction, on the kerb's side of the pavement."""
        road = self.roads[arm.road]
        s = road.length - 0.3 if arm.at_end else 0.3
        road.signals.append(post(arm.entry, key, s, arm.into, kind, name, -1, ""))

    def _speed_signs(self, road: RoadPlan, kind: Kind) -> None:
        """One for each direction, 10 m from where it enters the road."""
        near = min(10.0, road.length / 3)
        for sign, s in ((-1, near), (1, road.length - near)):
            key = 1_000_000 + 2 * road.id + (sign > 0)  # clear of every other number
            name = f"Speed_{kind.speed}"
            road.signals.append(post(kind, key, s, sign, SPEED_TYPE, name, kind.speed, "km/h"))

    def _crosswalk(self, arm: Arm) -> None:
        """From 0.6 to 3.6 m inside the junction, where every way is still straight."""
        road = self.roads[arm.road]
        s, near, far = (road.length - 0.1, 0.7, 3.7) if arm.at_end else (0.1, -3.7, -0.7)
        name = f"{self.rng.choice(_CROSSWALKS)}Crosswalk"
        narrow, wide = (kind.edge + kind.shoulder for kind in (arm.kind, arm.entry))
        low, high = (-wide, narrow) if arm.at_end else (-narrow, wide)
        corners = "".join(
            f'<cornerLocal u="{u:.6f}" v="{v:.6f}" z="0.000000"/>'
            for u, v in ((near, low), (near, high), (far, high), (far, low), (near, low))
        )
        road.objects.append(
            f'<object id="{self._fresh()}" name="{name}" s="{s:.6f}" t="0.000000" '
            'zOffset="0.000000" hdg="0.000000" roll="0.000000" pitch="0.000000" '
            f'orientation="none" type="crosswalk" width="{narrow + wide:.6f}" length="3.000000">'
            f"<outline>{corners}</outline></object>"
        )

    def text(self) -> str:
        low, high = self.corner.min(0) - 40, self.corner.max(0) + 40
        parts = [
            '<?xml version="1.0" encoding="UTF-8"?>',
            "<OpenDRIVE>",
            f'<header revMajor="1" revMinor="4" name="procedural:{self.seed}" version="1" '
            f'north="{high[1]:.6f}" south="{low[1]:.6f}" east="{high[0]:.6f}" '
            f'west="{low[0]:.6f}">',
            "<geoReference><![CDATA[+proj=tmerc +lat_0=49 +lon_0=8 +k=1 +x_0=0 +y_0=0 "
            "+datum=WGS84 +units=m +no_defs]]></geoReference>",
            "</header>",
            *(road_text(road) for road in self.roads),
            *self.controllers,
            *self.junctions,
            "</OpenDRIVE>",
        ]
        return "\n".join(parts) + "\n"


def _right(heading: np.ndarray) -> np.ndarray:
    return np.array([heading[1], -heading[0]])


def _ways(arms: dict[int, Arm], d: int) -> list[tuple[int, int, int, bool]]:
    """(lane, arm it leads to, lane there, runs along the rim) for those who come in by arm ``d``.

    Straight on from lane to lane, left from the innermost, right from the outermost. Without an arm
    on the right the outermost lane's way straight on is the rim.
    """
    ahead, left, right = (d + 2) % 4, (d + 3) % 4, (d + 1) % 4
    lanes = arms[d].entry.lanes
    found: list[tuple[int, int, int, bool]] = []
    if ahead in arms:
        there = arms[ahead].kind.lanes
        rim = (lanes - 1, ahead, there - 1, right not in arms)
        found = [(k, ahead, k, False) for k in range(min(lanes, there)) if (k, k) != rim[::2]]
        if right not in arms or lanes == there:
            found.append(rim)
    if left in arms:
        found.append((0, left, 0, False))
    if right in arms:
        found.append((lanes - 1, right, arms[right].kind.lanes - 1, True))
    return found


def _swing(along: float, aside: float, lead: float) -> list[tuple[float, float]]:
    """Pieces that end ``along`` ahead and ``aside`` to the left with the heading they began with:
    two equal arcs between straights of ``lead`` (15 % of the way at most)."""
    if abs(aside) < 1e-6:
        return [(along, 0.0)]
    lead = min(lead, 0.15 * along)
    reach = along - 2 * lead
    angle = 2 * math.atan2(abs(aside), reach)
    radius = reach / (2 * math.sin(angle))
    bend = math.copysign(1 / radius, aside)
    return [(lead, 0.0), (radius * angle, bend), (radius * angle, -bend), (lead, 0.0)]
