"""Where a town's traffic lights and signs stand, whom they address and where those stop.

As CARLA's server builds them (Carla/Traffic/TrafficLightManager.cpp): actors stand where
``carla.Map`` puts the landmark, turned by 90 degrees, and an OpenDRIVE controller is one phase of
its junction. Deviates from it: one trigger box per light on the lanes that lead up to the junction,
not one per connecting lane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.world.geometry import Transform
from apps.driving.world.maps.roads import (
    LIGHT_TYPE,
    SPEED_TYPE,
    STOP_TYPE,
    YIELD_TYPE,
    Reference,
    Signal,
)

if TYPE_CHECKING:
    from apps.driving.world.maps.network import Network

_LOOK_AHEAD = 8  # nodes: a sign up to 16 m before a junction stops vehicles at the junction
Box = tuple[Transform, tuple[float, float, float]]


@dataclass(frozen=True)
class LightSite:
    """A traffic light. The trigger is a box (centre with rotation, half-extents in m) over the ends
    of the lanes it controls, its x axis across them, as CARLA's clients expect."""

    sign_id: str  # the OpenDRIVE signal's id
    transform: Transform
    junction: int  # -1: none found
    group: int  # phase of the junction, from 0; lights of one phase are green together
    stop_nodes: list[int]
    trigger: Box
    heading: float  # degrees: direction of travel of those it addresses


@dataclass(frozen=True)
class SignSite:
    """A sign; ``value`` is km/h of a speed limit, else -1. A speed limit's ``stop_nodes`` are the
    nodes from which it holds."""

    kind: str  # "stop", "yield" or "speed_limit"
    value: float
    sign_id: str
    transform: Transform
    stop_nodes: list[int]
    trigger: Box
    heading: float


def find_lights(network: Network, landmarks: dict[str, Any]) -> list[LightSite]:
    """Every traffic light, in the file's order; ``landmarks`` maps ids to ``carla.Transform``."""
    roads = network.roads
    controller_of = {
        signal: key for key, signals in roads.controllers.items() for signal in signals
    }
    junction_of = {
        key: junction.id for junction in roads.junctions.values() for key in junction.controllers
    }
    by_signal = _by_signal(network)
    found: list[tuple[Signal, list[int], int, str]] = []
    for signal in roads.signals.values():
        if signal.type == LIGHT_TYPE:
            references = by_signal.get(signal.id, [])
            stops = _stop_nodes(network, references)
            controller = controller_of.get(signal.id, "")
            junction = junction_of.get(controller, -1)
            if junction == -1:
                junction = _junction_ahead(network, references, stops)
            found.append((signal, stops, junction, controller))
    groups = _phases(network, found)
    sites = []
    for signal, stops, junction, _ in found:
        at = _stand(network, signal, landmarks)
        heading = _heading(network, stops, at.yaw - 90)
        box = _trigger(network, stops, at, heading)
        sites.append(LightSite(signal.id, at, junction, groups[signal.id], stops, box, heading))
    return sites


def find_signs(network: Network, landmarks: dict[str, Any]) -> list[SignSite]:
    """Every stop, yield and speed limit sign, in the file's order."""
    kinds = {STOP_TYPE: "stop", YIELD_TYPE: "yield", SPEED_TYPE: "speed_limit"}
    by_signal = _by_signal(network)
    sites = []
    for signal in network.roads.signals.values():
        kind = kinds.get(signal.type)
        if kind is None:
            continue
        references = by_signal.get(signal.id, [])
        stops = (
            _nodes(network, references)
            if kind == "speed_limit"
            else _stop_nodes(network, references)
        )
        at = _stand(network, signal, landmarks)
        heading = _heading(network, stops, at.yaw - 90)
        value = signal.value if kind == "speed_limit" else -1.0
        box = _trigger(network, stops, at, heading)
        sites.append(SignSite(kind, value, signal.id, at, stops, box, heading))
    return sites


def _by_signal(network: Network) -> dict[str, list[Reference]]:
    found: dict[str, list[Reference]] = {}
    for reference in network.roads.references:
        found.setdefault(reference.signal, []).append(reference)
    return found


def _nodes(network: Network, references: list[Reference]) -> list[int]:
    """Nodes of the driving lanes that the references name, at their s."""
    found = {network.node_at(r.road, lane, r.s) for r in references for lane in r.lanes}
    return sorted(found - {-1})


def _stop_nodes(network: Network, references: list[Reference]) -> list[int]:
    """The last nodes before the junction on the lanes that lead to what the references name: from a
    connecting lane back to its approach, from an approach on to its end."""
    found: set[int] = set()
    for node in _nodes(network, references):
        if network.junction[node] == -1:
            found.add(_end_ahead(network, node))
            continue
        todo, seen = [node], {node}
        while todo:
            for before in network.previous.of(todo.pop()).tolist():
                if network.junction[before] == -1:
                    found.add(before)
                elif before not in seen:
                    seen.add(before)
                    todo.append(before)
    return sorted(found)


def _end_ahead(network: Network, node: int) -> int:
    """The last node before a junction at most ``_LOOK_AHEAD`` nodes on, else ``node``."""
    at = node
    for _ in range(_LOOK_AHEAD):
        after = network.next.of(at)
        if not len(after):
            return node
        if network.junction[after[0]] != -1:
            return at
        at = int(after[0])
    return node


def _junction_ahead(network: Network, references: list[Reference], stops: list[int]) -> int:
    for reference in references:
        junction = network.roads.roads[reference.road].junction
        if junction != -1 and reference.lanes:
            return junction
    for node in stops:
        for after in network.next.of(node).tolist():
            if network.junction[after] != -1:
                return int(network.junction[after])
    return -1


def _phases(network: Network, found: list[tuple[Signal, list[int], int, str]]) -> dict[str, int]:
    """Signal id to phase: the junction's controllers in order, then approaches by axis (those
    within 45 degrees of facing each other share a phase)."""
    groups: dict[str, int] = {}
    at: dict[int, list[tuple[Signal, list[int], int, str]]] = {}
    for row in found:
        at.setdefault(row[2], []).append(row)
    for junction, here in at.items():
        order = network.roads.junctions[junction].controllers if junction != -1 else ()
        used = [key for key in order if any(row[3] == key for row in here)]
        used += [c for c in dict.fromkeys(row[3] for row in here) if c and c not in used]
        axes: list[float] = []
        for signal, stops, _, controller in here:
            if controller:
                groups[signal.id] = used.index(controller)
                continue
            axis = math.radians(_heading(network, stops, 0.0))
            same = [i for i, a in enumerate(axes) if abs(math.sin(axis - a)) < math.sqrt(0.5)]
            if not same:
                axes.append(axis)
            groups[signal.id] = len(used) + (same[0] if same else len(axes) - 1)
    return groups


def _stand(network: Network, signal: Signal, landmarks: dict[str, Any]) -> Transform:
    """Where the actor stands, on the ground."""
    mark = landmarks.get(signal.id)
    if mark is not None:
        yaw = mark.rotation.yaw + 90
        x, y = mark.location.x, mark.location.y
    else:
        road = network.roads.roads[signal.road]
        xy, heading = road.place(np.array([signal.s]), np.array([signal.t]))
        x, y = xy[0].tolist()
        yaw = math.degrees(heading[0] - signal.heading_offset) + 90
    return Transform(x, y, 0.0, 0.0, (yaw + 180) % 360 - 180, 0.0)


def _heading(network: Network, stops: list[int], default: float) -> float:
    """Mean direction of travel (degrees) of the nodes."""
    if not stops:
        return (default + 180) % 360 - 180
    yaw = network.yaw_rad[stops]
    return math.degrees(math.atan2(np.sin(yaw).sum(), np.cos(yaw).sum()))


def _trigger(network: Network, stops: list[int], at: Transform, heading: float) -> Box:
    """A box over the last 2 m of the lanes; of several approaches, the one with most lanes."""
    if not stops:
        return Transform(at.x, at.y, 1.0, 0.0, at.yaw, 0.0), (1.0, 1.0, 1.0)
    roads = network.road[stops]
    names, counts = np.unique(roads, return_counts=True)
    nodes = np.array(stops)[roads == names[np.argmax(counts)]]
    yaw = math.radians(_heading(network, nodes.tolist(), heading))
    ahead = np.array([math.cos(yaw), math.sin(yaw)])
    aside = np.array([-ahead[1], ahead[0]])
    across, along = network.position[nodes] @ aside, network.position[nodes] @ ahead
    half = network.width[nodes] / 2
    low, high = (across - half).min(), (across + half).max()
    x, y = aside * (low + high) / 2 + ahead * along.mean()
    centre = Transform(float(x), float(y), 1.0, 0.0, math.degrees(yaw) + 90, 0.0)
    # 0.9 of the lanes' width, as CARLA's boxes, so that no lane beside them is met.
    return centre, (float(0.45 * (high - low)), 1.0, 1.0)
