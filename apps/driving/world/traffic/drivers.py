"""The world's own drivers: they follow lanes, keep distance, obey lights and signs, and yield.

Following: the intelligent driver model, in ``following``. Lights, signs, junctions and curves: the
least braking that still obeys, as soon as it is no longer gentle. Steering: pure pursuit (Coulter,
CMU-RI-TR-92-01, 1992) of the rear axle. Lane changes: MOBIL, in ``overtaking``. Junctions:
``rightofway``. Routes are random, from the seed; drivers like 85 to 105 % of the limit.

Of vehicles that are not managed only where they are and how fast is known, so a junction is entered
when, at that speed, they will not be in the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.geometry import Transform
from apps.driving.world.motion.bicycle import pedals, steering
from apps.driving.world.motion.catalogue import VEHICLES, VehicleSpec
from apps.driving.world.traffic.following import HARDEST, JAM, idm, leaders, things
from apps.driving.world.traffic.lights import Lights, State
from apps.driving.world.traffic.overtaking import WORTH, gain
from apps.driving.world.traffic.rightofway import Junctions, Way
from apps.driving.world.traffic.routes import HORIZON, Routes

if TYPE_CHECKING:
    from apps.driving.world.maps.network import Network
    from apps.driving.world.maps.sites import SignSite
    from apps.driving.world.motion.collisions import FixedIndex
    from apps.driving.world.motion.vehicles import Fleet
    from apps.driving.world.motion.walkers import Walkers

SALT = 0x74726166  # of this part's random draws

GENTLE = 1.5  # m/s^2: braking for a curve or a line begins when it needs this much
STOP_BEFORE = 0.8  # m before a line
START = 0.2  # m/s^2 below which one who stands stays
LOST = 5.0  # m off its route a vehicle looks for a new one
GIVE_UP_YELLOW = 0.2  # s to spare, else yellow is obeyed
CAN_STOP = 5.0  # m/s^2: what a driver brakes at most for yellow
STOPPED, AT_LINE = 0.2, 4.0  # m/s and m: a stop sign is obeyed
CHANGE_EVERY, CHANGE_CLEAR = 6.0, 40.0  # s between changes; m of road without a junction


class Traffic:
    """Writes throttle, brake and steer of the vehicles it manages, once a tick."""

    def __init__(
        self,
        network: Network,
        fleet: Fleet,
        lights: Lights,
        signs: Sequence[SignSite],
        seed: int,
        walkers: Walkers | None = None,
    ) -> None:
        self.props: FixedIndex | None = None  # what clients have put on the road
        self.network, self.fleet, self.lights, self.walkers = network, fleet, lights, walkers
        self.ids: list[int] = []  # managed, in the order of ``manage``
        self._rng = np.random.default_rng([seed, SALT])
        self._routes = Routes(network, lights.sites, signs, self._rng)
        self._junctions = Junctions(network)
        self._eager = np.zeros(0)  # share of the limit that each likes to drive
        self._changed = np.zeros(0)  # s when it last changed lanes
        self._obeyed: dict[int, int] = {}  # vehicle -> the stop sign's node at which it stopped
        self._now = 0.0
        self._fleet_ids: np.ndarray | None = None
        self._rows = np.zeros(0, np.int64)  # of the fleet: those of ``ids``, and the others
        self._others: list[int] = []
        self._turn = 0

    def __contains__(self, id: int) -> bool:
        return id in self.ids

    def manage(self, id: int) -> None:
        """Drives vehicle ``id`` from now on; KeyError if there is none."""
        row = self.fleet.row(id)
        if id in self.ids:
            return
        self.ids.append(id)
        self._fleet_ids = None
        fleet = self.fleet
        self._routes.add(float(fleet.x[row]), float(fleet.y[row]), math.radians(fleet.yaw[row]))
        self._eager = np.append(self._eager, self._rng.uniform(0.85, 1.05))
        self._changed = np.append(self._changed, self._now)
        self._occupy(len(self.ids) - 1)

    def release(self, id: int) -> None:
        """Lets a vehicle roll on as it is, or forgets one that is gone."""
        if id not in self.ids:
            return
        i = self.ids.index(id)
        del self.ids[i]
        self._routes.remove(i)
        self._eager, self._changed = np.delete(self._eager, i), np.delete(self._changed, i)
        self._junctions.release(id)
        self._obeyed.pop(id, None)
        self._fleet_ids = None

    def step(self, dt: float) -> None:
        """Decides for the next ``dt`` seconds."""
        self._now += dt
        if not self.ids:
            return
        self._find_rows()
        if not self.ids:
            return
        fleet, routes, rows = self.fleet, self._routes, self._rows
        routes.advance(fleet.x[rows], fleet.y[rows])
        lost = np.abs(routes.off) > LOST
        for i in np.flatnonzero(lost).tolist():
            r = rows[i]
            routes.restart(i, float(fleet.x[r]), float(fleet.y[r]), math.radians(fleet.yaw[r]))
            self._junctions.release(self.ids[i])
            self._occupy(i)
        speed = fleet.speed[rows]
        front = routes.own + fleet.half[rows, 0] + fleet.centre[rows, 0]
        need, cruise = self._limits(speed)
        around = things(fleet, self.walkers, self.props)
        gap, closing = leaders(around, fleet, routes, rows, speed, front)
        line = self._lines(rows, speed, front, gap, closing)
        follow = idm(speed, cruise, gap, closing)
        stop = speed * speed / (2.0 * np.maximum(line, 0.05))
        need = np.maximum(need, stop)
        wanted = np.where(need > GENTLE, np.minimum(follow, -need), follow)
        # Between gentle braking and none it neither brakes nor speeds up.
        near = np.clip((GENTLE - need) / 0.5, 0.0, 1.0)
        wanted = np.where(wanted > 0, wanted * near, wanted)
        wanted = np.where(line < 0.3, np.minimum(wanted, -2.0), wanted)
        self._drive(rows, np.maximum(wanted, -HARDEST), speed)
        self._change_lanes(rows, speed, front, follow, cruise)

    def _find_rows(self) -> None:
        if self._fleet_ids is self.fleet.ids:
            return
        for id in [i for i in self.ids if i not in self.fleet]:
            self.release(id)
        self._rows = np.array([self.fleet.row(i) for i in self.ids], np.int64)
        self._others = sorted(set(range(len(self.fleet))) - set(self._rows.tolist()))
        self._fleet_ids = self.fleet.ids

    def _limits(self, speed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The braking (n) that limits and curves ahead ask for, and the speed to drive here."""
        routes = self._routes
        limit = routes.limit * self._eager[:, None]
        ahead = routes.s - routes.own[:, None]
        after = np.arange(HORIZON) < routes.count[:, None]
        excess = speed[:, None] ** 2 - limit * limit
        need = np.where((ahead > 0.0) & after, excess / (2.0 * np.maximum(ahead, 1.0)), 0.0).max(1)
        here = limit[np.arange(len(routes)), routes.at]
        return need, np.maximum(here, 0.1)

    def _lines(
        self,
        rows: np.ndarray,
        speed: np.ndarray,
        front: np.ndarray,
        gap: np.ndarray,
        closing: np.ndarray,
    ) -> np.ndarray:
        """m from each front to the line it must stop at; inf where there is none."""
        fleet, routes, lights = self.fleet, self._routes, self.lights
        n, columns = len(rows), np.arange(HORIZON)
        index = np.arange(n)
        # The line of column k lies between it and the next; past it by half a metre, one goes on.
        edge = np.empty_like(routes.s)
        edge[:, :-1], edge[:, -1] = 0.5 * (routes.s[:, :-1] + routes.s[:, 1:]), routes.s[:, -1]
        ahead = edge - front[:, None]
        open_ahead = ahead > -0.5
        line = np.full(n, np.inf)
        if len(lights):
            state = lights.state[routes.light]
            left = (lights.yellow - lights.elapsed)[routes.light] - GIVE_UP_YELLOW
            # Its rear must be over the line when yellow ends, unless it cannot stop any more.
            length = 2.0 * fleet.half[rows, 0]
            late = ahead + length[:, None] > speed[:, None] * left
            late &= (speed * speed)[:, None] < 2.0 * CAN_STOP * np.maximum(ahead, 0.1)
            shut = (state == State.RED) | ((state == State.YELLOW) & late)
            shut &= (routes.light >= 0) & open_ahead
            first = np.argmax(shut, 1)
            line = np.where(shut[index, first], ahead[index, first], np.inf)
        # Dead ends.
        ends = routes.count < HORIZON
        if ends.any():
            line = np.where(ends, np.minimum(line, ahead[index, routes.count - 1]), line)
        line = line - STOP_BEFORE
        # The next junction that the front has not entered, and who may enter it.
        inside = routes.junction >= 0
        enters = np.zeros_like(inside)
        enters[:, :-1] = inside[:, 1:] & (routes.junction[:, :-1] != routes.junction[:, 1:])
        enters &= open_ahead & (columns < routes.count[:, None] - 1)
        entry = np.argmax(enters, 1)
        has = enters[index, entry]
        to_entry = np.where(has, ahead[index, entry], np.inf)
        self._leave(routes.own + fleet.centre[rows, 0] - fleet.half[rows, 0])
        ask = has & (to_entry < speed * speed / (2.0 * GENTLE) + 12.0)
        wishes = []
        waits = np.zeros(n, bool)
        for i in np.flatnonzero(ask).tolist():
            id, column = self.ids[i], int(entry[i]) + 1
            if routes.junction[i, -1] == routes.junction[i, column] and to_entry[i] > 20.0:
                continue  # its way is not in sight yet
            way = self._way(i, column)
            if self._junctions.holds(id, way):
                if line[i] < to_entry[i]:  # the light has changed before it got there
                    self._junctions.give_back(id, way)
                    waits[i] = True
                continue
            waits[i] = True
            if line[i] < to_entry[i] or not self._obeys(i, id, column - 1, to_entry, speed):
                self._junctions.forget(id)
                continue
            waited = self._junctions.ask(id, way, self._now)
            wishes.append((id, way, waited, self._room(i, way, front, gap, closing, waited)))
        if wishes:
            self._junctions.grant(wishes)
            for id, way, _, _ in wishes:
                if self._junctions.holds(id, way):
                    waits[self.ids.index(id)] = False
        return np.where(waits, np.minimum(line, to_entry - STOP_BEFORE), line)

    def _occupy(self, i: int) -> None:
        """Who begins inside a junction, or so near that it juts in, has the way."""
        routes = self._routes
        for column in range(int(routes.at[i]), min(int(routes.at[i]) + 3, HORIZON)):
            if routes.junction[i, column] >= 0:
                self._junctions.hold(self.ids[i], self._way(i, column))
                return

    def _way(self, i: int, column: int) -> Way:
        """Of route ``i``, from the column where it enters a junction."""
        routes = self._routes
        junction = int(routes.junction[i, column])
        end = column
        while end + 1 < HORIZON and routes.junction[i, end + 1] == junction:
            end += 1
        way = Way(junction, int(routes.node[i, column]), int(routes.node[i, end]))
        self._junctions.learn(way, routes.node[i, column : end + 1])
        return way

    def _obeys(self, i: int, id: int, column: int, to_entry: np.ndarray, speed: np.ndarray) -> bool:
        """Whether the stop sign before the junction, if any, has been obeyed."""
        routes = self._routes
        signed = np.flatnonzero(routes.stop[i, max(column - 2, 0) : column + 1])
        if not len(signed):
            return True
        node = int(routes.node[i, column])
        if self._obeyed.get(id) == node:
            return True
        if speed[i] < STOPPED and to_entry[i] < AT_LINE:
            self._obeyed[id] = node
        return False

    def _room(
        self,
        i: int,
        way: Way,
        front: np.ndarray,
        gap: np.ndarray,
        closing: np.ndarray,
        waited: float,
    ) -> bool:
        """Whether there is room behind the junction, and no unmanaged vehicle on the way there."""
        routes, fleet, row = self._routes, self.fleet, self._rows[i]
        at = int(np.argmax(routes.node[i] == way.last))
        behind = front[i] + gap[i] - routes.s[i, at]
        slow = fleet.speed[row] - closing[i] < 2.5
        if slow and behind < 2.0 * fleet.half[row, 0] + JAM:
            return False
        if not self._others:
            return True
        places = self._junctions.places(way)
        c, s = math.cos(math.radians(fleet.yaw[row])), math.sin(math.radians(fleet.yaw[row]))
        for r in self._others:
            dx, dy = float(fleet.x[r] - fleet.x[row]), float(fleet.y[r] - fleet.y[row])
            turn = math.cos(math.radians(float(fleet.yaw[r] - fleet.yaw[row])))
            if math.hypot(dx, dy) > 60.0 or (dx * c + dy * s < 0.0 and turn > 0.7):
                continue
            moving = math.hypot(fleet.vx[r], fleet.vy[r]) > 0.5
            for later in np.arange(0.0, 3.1, 0.75) if moving else (0.0,):
                x, y = fleet.x[r] + later * fleet.vx[r], fleet.y[r] + later * fleet.vy[r]
                if np.hypot(places[:, 0] - x, places[:, 1] - y).min() < 2.5:
                    return False
        return True

    def _leave(self, rear: np.ndarray) -> None:
        """Gives back the ways of those whose rear has left the junction."""
        routes = self._routes
        for i, id in enumerate(self.ids):
            for way in list(self._junctions.held.get(id, ())):
                found = np.flatnonzero(routes.node[i] == way.last)
                if not len(found) or rear[i] > routes.s[i, found[0]] + 1.0:
                    self._junctions.give_back(id, way)

    def _drive(self, rows: np.ndarray, wanted: np.ndarray, speed: np.ndarray) -> None:
        """Pedals for an acceleration, steering for the route."""
        fleet, routes = self.fleet, self._routes
        yaw = np.radians(fleet.yaw[rows])
        c, s = np.cos(yaw), np.sin(yaw)
        lag = fleet.lag[rows]
        look = np.clip(0.6 * np.abs(speed) + 2.5, 4.0, 14.0)
        x, y = routes.target(look)
        dx, dy = x - (fleet.x[rows] - lag * c), y - (fleet.y[rows] - lag * s)
        beside = dy * c - dx * s
        curvature = 2.0 * beside / np.maximum(dx * dx + dy * dy, 1.0)
        throttle, brake = pedals(fleet, rows, wanted)
        rest = (speed < 0.1) & (wanted < START)  # or it would creep after whoever stands
        fleet.throttle[rows] = np.where(rest, 0.0, throttle)
        fleet.brake[rows] = np.where(rest, 0.6, brake)
        fleet.steer[rows] = steering(fleet, rows, curvature)
        fleet.hand_brake[rows] = fleet.reverse[rows] = fleet.manual[rows] = False
        fleet.gear[rows] = np.maximum(fleet.gear[rows], 1)

    def _change_lanes(
        self,
        rows: np.ndarray,
        speed: np.ndarray,
        front: np.ndarray,
        follow: np.ndarray,
        cruise: np.ndarray,
    ) -> None:
        """One vehicle a tick looks whether the lane beside is better."""
        self._turn = (self._turn + 1) % len(rows)
        i = self._turn
        routes, network, fleet = self._routes, self.network, self.fleet
        if self._now - self._changed[i] < CHANGE_EVERY or speed[i] < 3.0 or cruise[i] < 3.0:
            return
        at = int(routes.at[i])
        far = int(np.searchsorted(routes.s[i], routes.own[i] + CHANGE_CLEAR))
        if far >= routes.count[i] or (routes.junction[i, at:far] >= 0).any():
            return
        best, chosen = WORTH, None
        for side in (network.left, network.right):
            beside = side[routes.node[i]]
            if (beside[at:far] < 0).any():
                continue
            better = gain(
                network, fleet, int(rows[i]), beside[at:far], float(cruise[i]), float(follow[i])
            )
            if better > best:
                best, chosen = better, beside
        if chosen is not None:
            self._changed[i] = self._now
            routes.change_lane(i, chosen, max(12.0, 3.0 * float(speed[i])))
            self._junctions.release(self.ids[i])


def populate(network: Network, n: int, seed: int) -> list[tuple[VehicleSpec, Transform]]:
    """Up to n cars, vans and motorcycles for spawn points of the town, chosen by the seed."""
    rng = np.random.default_rng([seed, SALT, 1])
    kinds = [s for s in VEHICLES.values() if s.base_type in ("car", "van", "motorcycle")]
    places = rng.permutation(len(network.spawn_points))[:n]
    return [
        (kinds[int(rng.integers(len(kinds)))], network.spawn_points[place])
        for place in places.tolist()
    ]
