"""Where managed vehicles are going: for each the next lane nodes, as arrays over all of them.

A route is a row of ``HORIZON`` nodes from a little behind the vehicle onwards; at forks it takes a
way at random. Rows are renewed as the vehicle moves. A change of lane continues the row in the other
lane, its first metres bent over from the old one. On a flat world bridges are level: where lanes cross outside junctions,
routes see a junction as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.maps.sites import LightSite, SignSite

if TYPE_CHECKING:
    from apps.driving.world.maps.network import Network

HORIZON = 64  # nodes: 128 m, the way a vehicle needs to stop gently from 90 km/h
KEEP, RENEW = 2, 6  # nodes kept behind, and at how many a row is renewed
SIDEWAYS = 1.8  # m/s^2 in curves, a calm driver's
SLOWEST = 2.5  # m/s in the tightest of them
CROSSING_M = 1.5  # nodes of lanes that cross are as close
NONE = -1


class Routes:
    """Rows by the order of ``add``. Places in m, ``s`` in m along the row from its first node."""

    node: np.ndarray  # (n, H) int64; a route that ends repeats its last node
    count: np.ndarray  # (n) nodes of the row that are real
    x: np.ndarray  # (n, H)
    y: np.ndarray
    s: np.ndarray
    heading: np.ndarray  # (n, H) radians, of the way to the next node
    limit: np.ndarray  # (n, H) m/s by signs and by curves
    light: np.ndarray  # (n, H) the light that holds there, a row of ``lights``, or -1
    stop: np.ndarray  # (n, H) bool: a stop sign holds there
    junction: np.ndarray  # (n, H), -1 outside
    at: np.ndarray  # (n) column nearest to the vehicle
    own: np.ndarray  # (n) s of the vehicle
    off: np.ndarray  # (n) m that it is to the right of its route

    def __init__(
        self,
        network: Network,
        lights: Sequence[LightSite],
        signs: Sequence[SignSite],
        rng: np.random.Generator,
    ) -> None:
        self._network, self._rng = network, rng
        self._indptr, self._indices = network.next.indptr.tolist(), network.next.indices.tolist()
        n = len(network)
        self._light = np.full(n, NONE)
        for row, site in enumerate(lights):
            self._light[site.stop_nodes] = row
        self._stop = np.zeros(n, bool)
        for sign in signs:
            if sign.kind == "stop":
                self._stop[sign.stop_nodes] = True
        self._alive = _endless(self._indptr, self._indices)
        self._junction = _level_crossings(network)
        self.bend = np.zeros((0, HORIZON, 2))  # m added to the nodes' places
        self.at, self.own, self.off = np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
        self.count = np.zeros(0, np.int64)
        self.node = np.zeros((0, HORIZON), np.int64)
        for name in ("x", "y", "s", "heading", "limit"):
            setattr(self, name, np.zeros((0, HORIZON)))
        self.light, self.junction = np.zeros((2, 0, HORIZON), np.int64)
        self.stop = np.zeros((0, HORIZON), bool)

    def __len__(self) -> int:
        return len(self.count)

    def add(self, x: float, y: float, yaw_rad: float) -> None:
        """A row from the lane nearest to a place, in the direction of ``yaw_rad``."""
        for name in ("node", "x", "y", "s", "heading", "limit", "light", "stop", "junction"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros_like(old, shape=(1, HORIZON))]))
        self.bend = np.concatenate([self.bend, np.zeros((1, HORIZON, 2))])
        self.at, self.count = np.append(self.at, 0), np.append(self.count, 0)
        self.own, self.off = np.append(self.own, 0.0), np.append(self.off, 0.0)
        self.restart(len(self) - 1, x, y, yaw_rad)

    def remove(self, row: int) -> None:
        """Takes a row out."""
        for name in (
            "node", "x", "y", "s", "heading", "limit", "light", "stop", "junction",
            "bend", "at", "count", "own", "off",
        ):  # fmt: skip
            setattr(self, name, np.delete(getattr(self, name), row, axis=0))

    def restart(self, row: int, x: float, y: float, yaw_rad: float) -> None:
        """A new way from where the vehicle is."""
        node = int(self._network.nearest(np.array([x, y]), yaw_rad))
        self.bend[row] = 0.0
        self._set(row, [node])
        self.locate(np.arange(row, row + 1), np.array([x]), np.array([y]))

    def advance(self, x: np.ndarray, y: np.ndarray) -> None:
        """Follows the vehicles, which are now at x and y (n), and renews rows that run out."""
        rows = np.arange(len(self))
        self.locate(rows, x, y)
        late = np.flatnonzero((self.at >= RENEW) & (self.count > RENEW))
        for row in late.tolist():
            passed = int(self.at[row]) - KEEP
            keep = self.node[row, passed : self.count[row]].tolist()
            bend = self.bend[row, passed:].copy()
            self.bend[row] = 0.0
            self.bend[row, : len(bend)] = bend
            self._set(row, keep)
        if len(late):
            self.locate(late, x[late], y[late])

    def locate(self, rows: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        """Nearest column among the next few, and the place along and beside it."""
        near = min(HORIZON, 2 * RENEW)
        dx = x[:, None] - self.x[rows, :near]
        dy = y[:, None] - self.y[rows, :near]
        away = dx * dx + dy * dy
        away[np.arange(near) >= self.count[rows, None]] = np.inf
        at = np.argmin(away, 1)
        i = np.arange(len(rows))
        heading = self.heading[rows, at]
        c, s = np.cos(heading), np.sin(heading)
        along = dx[i, at] * c + dy[i, at] * s
        self.at[rows] = at
        self.own[rows] = self.s[rows, at] + along
        self.off[rows] = dy[i, at] * c - dx[i, at] * s

    def target(self, ahead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y (n) of the routes ``ahead`` (n) m before the vehicles."""
        s = self.own + ahead
        column = np.clip((self.s < s[:, None]).sum(1) - 1, 0, HORIZON - 2)
        rows = np.arange(len(self))
        share = s - self.s[rows, column]
        heading = self.heading[rows, column]
        return (
            self.x[rows, column] + share * np.cos(heading),
            self.y[rows, column] + share * np.sin(heading),
        )

    def change_lane(self, row: int, beside: np.ndarray, length: float) -> None:
        """Goes on in the lane of ``beside`` (HORIZON, or -1 where there is none), over in ``length`` m."""
        at = int(self.at[row])
        old = np.stack([self.x[row], self.y[row]], 1)
        passed = at
        while passed > max(at - KEEP, 0) and beside[passed - 1] >= 0:
            passed -= 1
        lane = beside[passed:]
        good = int(np.argmax(lane < 0)) if (lane < 0).any() else len(lane)
        nodes = lane[:good].tolist()
        self.bend[row] = 0.0
        self._set(row, nodes)
        k = min(good, HORIZON)
        done = np.clip((self.s[row, :k] - self.s[row, min(at - passed, k - 1)]) / length, 0.0, 1.0)
        fade = 1.0 - done * done * (3.0 - 2.0 * done)
        here = np.stack([self.x[row, :k], self.y[row, :k]], 1)
        self.bend[row, :k] = (old[passed : passed + k] - here) * fade[:, None]
        self._set(row, nodes)

    def _set(self, row: int, nodes: list[int]) -> None:
        """Continues ``nodes`` to the horizon and fills the row."""
        indptr, indices, alive = self._indptr, self._indices, self._alive
        nodes = nodes[:HORIZON]
        last = nodes[-1]
        while len(nodes) < HORIZON:
            first, end = indptr[last], indptr[last + 1]
            if end == first:
                break
            if end - first > 1:
                ways = [w for w in indices[first:end] if alive[w]] or indices[first:end]
                last = ways[int(self._rng.integers(len(ways)))]
            else:
                last = indices[first]
            nodes.append(last)
        count = len(nodes)
        whole = np.array(nodes + [last] * (HORIZON - count))
        network = self._network
        self.node[row], self.count[row] = whole, count
        place = network.position[whole] + self.bend[row]
        way = np.diff(place, axis=0)
        length = np.hypot(way[:, 0], way[:, 1])
        heading = np.arctan2(way[:, 1], way[:, 0])
        # Past the end the route goes straight on.
        heading[max(count - 1, 0) :] = (
            heading[count - 2] if count > 1 else network.yaw_rad[whole[0]]
        )
        self.x[row], self.y[row] = place.T
        self.s[row, 0], self.s[row, 1:] = 0.0, np.cumsum(length)
        self.heading[row, :-1], self.heading[row, -1] = heading, heading[-1]
        turn = np.zeros(HORIZON)
        if count > 2:
            change = (np.diff(heading[: count - 1]) + np.pi) % (2 * np.pi) - np.pi
            turn[1 : count - 1] = np.abs(change) / np.maximum(length[: count - 2], 0.5)
            turn[1:-1] = (turn[:-2] + 2.0 * turn[1:-1] + turn[2:]) / 4.0  # lanes join roughly
        curve = np.sqrt(SIDEWAYS / np.maximum(turn, 1e-6))
        self.limit[row] = np.minimum(network.speed_limit[whole], np.maximum(curve, SLOWEST))
        self.light[row], self.stop[row] = self._light[whole], self._stop[whole]
        self.junction[row] = self._junction[whole]
        self.light[row, count:] = self.junction[row, count:] = NONE
        self.stop[row, count:] = False


def _endless(indptr: list[int], indices: list[int]) -> np.ndarray:
    """(N) bool: nodes from which one need not drive into a dead end."""
    n = len(indptr) - 1
    left = [indptr[i + 1] - indptr[i] for i in range(n)]
    before: list[list[int]] = [[] for _ in range(n)]
    for i in range(n):
        for j in indices[indptr[i] : indptr[i + 1]]:
            before[j].append(i)
    alive = np.ones(n, bool)
    dead = [i for i in range(n) if left[i] == 0]
    while dead:
        node = dead.pop()
        alive[node] = False
        for other in before[node]:
            left[other] -= 1
            if left[other] == 0:
                dead.append(other)
    return alive


def _level_crossings(network: Network) -> np.ndarray:
    """Junction numbers (N): the network's, and new ones where lanes cross outside junctions."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    found: np.ndarray = network.junction.astype(np.int64)
    a, b = cKDTree(network.position).query_pairs(CROSSING_M, output_type="ndarray").T
    across = np.abs(np.sin(network.yaw_rad[a] - network.yaw_rad[b])) > 0.4
    apart = (network.road[a] != network.road[b]) & (network.junction[a] != network.junction[b])
    free = (network.junction[a] == NONE) & (network.junction[b] == NONE)
    # Where a junction's way meets the lane that it leads to, one is the next of the other.
    pairs = np.stack([a, b], 1)[across & (free | apart) & (network.road[a] != network.road[b])]
    pairs = pairs[(found[pairs] == NONE).any(1)]
    if not len(pairs):
        return found
    members = np.unique(pairs)
    places = network.position[members]
    near = cKDTree(places).query_pairs(8.0, output_type="ndarray")
    graph = coo_matrix((np.ones(len(near)), (near[:, 0], near[:, 1])), (len(members),) * 2)
    _, part = connected_components(graph, directed=False)
    first = int(network.junction.max()) + 1
    numbers = part + first
    inner = found[members] == NONE
    found[members[inner]] = numbers[inner]
    for node, number in zip(members.tolist(), numbers.tolist(), strict=True):
        around = {node}
        for _ in range(2):
            for other in list(around):
                around.update(network.next.of(other).tolist())
                around.update(network.previous.of(other).tolist())
        for other in around:
            if found[other] == NONE:
                found[other] = number
    # One that begins where another ends is one with it: nobody could wait between them.
    new = found >= first
    a = np.repeat(np.arange(len(found)), np.diff(network.next.indptr))
    b = network.next.indices
    touch = new[a] & new[b]
    size = int(found.max()) - first + 1
    graph = coo_matrix(
        (np.ones(touch.sum()), (found[a[touch]] - first, found[b[touch]] - first)), (size, size)
    )
    _, whole = connected_components(graph, directed=False)
    found[new] = first + whole[found[new] - first]
    return found
