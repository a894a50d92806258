"""The expert as an ``Agent``: the least of what route, leaders, people, signals and others allow."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from apps.driving.agents.base import Decision, Drive, Observation
from apps.driving.agents.expert.course import Course
from apps.driving.agents.expert.following import (
    HARDEST,
    Leader,
    follow,
    free,
    halt,
    leaders,
    most,
    walkers,
)
from apps.driving.agents.expert.handling import Handling
from apps.driving.agents.expert.lanes import Lanes
from apps.driving.agents.expert.signals import Line, Signals
from apps.driving.agents.expert.surroundings import Ego, Surroundings
from apps.driving.agents.expert.yielding import Yielding
from apps.driving.rig import LETFUSER, Rig
from apps.driving.routes.plan import to_ego

BEFORE_LINE = 0.8  # m from the bumper
PASSED, JUST_OVER = 0.5, 3.0  # m that the bumper is over a line
BEHIND_LINE = 12.0  # m: a junction so near behind a light is the light's
LOOK = 60.0  # m: lights and signs farther away do not matter yet
YELLOW_SPARE = 0.5  # s: over the line so long before red, or stop
YELLOW_BRAKE = 5.0  # m/s^2: more than that is no way to stop for yellow
STOPPED = 0.05  # m/s
SIGN_REACH = 1.7  # m before the place to stand at a stop sign: standing there counts
ROOM = 2.0  # m behind a junction that a car needs besides its length
CREEPS = 2.5  # m/s: who is slower may be standing when we come
PATIENCE = 25.0  # s, then a junction is entered although the way out is not free
SHARE = 1.0  # of the limits
LAG = 0.9  # s that the speed is behind a wish that falls
HOLDS = 0.3  # m/s^2 less than free driving: held back


class Expert:
    """Privileged. ``target_speed`` m/s is the most it drives anywhere."""

    name = "expert"
    cameras: frozenset[str] = frozenset()
    privileged = True

    def __init__(self, rig: Rig = LETFUSER, target_speed: float = 10.0) -> None:
        self.rig = rig
        self.target_speed = target_speed

    def begin(self, drive: Drive) -> None:
        """Reads the lanes and the signals of the town, and where they are on the plan."""
        self._drive = drive
        self._course = Course(drive.plan, self.target_speed, SHARE)
        self._around = Surroundings(drive.world, drive.ego)
        self._front = float(self._around.half[0]) + self._around.centre
        self._handling = Handling(drive.ego)
        self._signals = Signals(drive.world, self._course, self._front)
        self._yielding = Yielding(Lanes(drive.map))
        self._obeyed: set[Line] = set()
        self._waited = 0.0  # s that it has stood for others
        self._let_pass = 0.0  # s that it has stood for people

    def act(self, observation: Observation) -> Decision:
        """Looks at the world itself; of the observation nothing is needed."""
        dt = self._drive.interval
        course = self._course
        ego, bodies, people = self._around.read()
        course.locate(ego.xy)
        front = course.own + self._front
        half = self._around.half
        speed = ego.speed
        # slower when it will have to be, faster only when it may be
        wish = min(course.allowed(max(speed, 0.0) * after) for after in (0.1, LAG))
        inside = bool(course.junction[course.index]) or self._entered(front)
        entry, exit = self._gate(front)
        parts = {"free": free(speed, wish)}

        ahead = leaders(course, bodies, speed, front, float(half[1]))
        leader = most(ahead, speed)
        parts["vehicle"] = follow(speed, leader.gap, max(leader.speed, 0.0))
        blocked = math.inf
        if entry - front < LOOK and self._no_room(ahead, entry, exit):
            blocked = entry - BEFORE_LINE - front
        others = self._yielding.find(
            course, bodies, self._signals.barred(),
            speed=speed, wish=max(wish, 3.0), front=front, half=half,
            hold=math.inf if inside else entry - BEFORE_LINE, waited=self._waited, dt=dt,
        )  # fmt: skip
        if others is not None:
            blocked = min(blocked, others.distance)
        if blocked < math.inf:
            parts["vehicle"] = min(parts["vehicle"], halt(speed, max(blocked, 0.0)))
        self._waited = self._waited + dt if blocked < 6.0 and speed < 0.3 else 0.0

        share = 1.0 if self._let_pass < PATIENCE else 0.2
        person = walkers(course, people, speed, wish, front, float(half[1]), share)
        if person < math.inf:
            parts["walker"] = halt(speed, max(person, 0.0))
        self._let_pass = self._let_pass + dt if person < 6.0 and speed < 0.3 else 0.0
        light, sign = self._lines(front, speed)
        if light < math.inf:
            parts["light"] = halt(speed, max(light, 0.0))
        if sign < math.inf:
            parts["stop"] = halt(speed, max(sign, 0.0))
        return self._decide(ego, parts, wish)

    def end(self) -> None:
        """Lets go of the world."""
        for name in ("_drive", "_around", "_signals", "_yielding", "_handling"):
            if hasattr(self, name):
                delattr(self, name)

    def _entered(self, front: float) -> bool:
        """Whether the bumper is in a junction."""
        course = self._course
        index = min(int(np.searchsorted(course.s, front)), len(course.s) - 1)
        return bool(course.junction[index])

    def _gate(self, front: float) -> tuple[float, float]:
        """s of where the next junction or light is entered, and of where one has left it."""
        entry, exit = self._course.junction_after(front)
        for line in self._signals.lines:
            if line.light is not None and front - PASSED < line.s < entry:
                return line.s, exit if entry - line.s < BEHIND_LINE else line.s + 1.0
        return entry, exit

    def _no_room(self, ahead: list[Leader], entry: float, exit: float) -> bool:
        """Whether one who hardly moves leaves no room behind the junction ahead."""
        needs = exit + 2.0 * float(self._around.half[0]) + ROOM
        return self._waited < PATIENCE and any(
            entry < one.rear < needs and one.speed < CREEPS for one in ahead
        )

    def _lines(self, front: float, speed: float) -> tuple[float, float]:
        """Metres from the bumper to the light and to the stop sign to stand at; inf for none."""
        import carla

        light = sign = math.inf
        for line in self._signals.lines:
            to = line.s - front
            if to > LOOK:
                break
            if line.light is None:
                if line in self._obeyed or to < -2.5:
                    continue
                if speed < STOPPED and to < SIGN_REACH:
                    self._obeyed.add(line)
                    continue
                sign = min(sign, to)
                continue
            # who stands with the bumper just over the line has not driven through it
            if to < -PASSED and (speed > 1.0 or to < -JUST_OVER):
                continue
            state = line.light.state
            if state not in (carla.TrafficLightState.Red, carla.TrafficLightState.Yellow):
                continue
            if state == carla.TrafficLightState.Yellow:
                left = line.light.get_yellow_time() - line.light.get_elapsed_time() - YELLOW_SPARE
                clears = to + 2.0 * float(self._around.half[0]) + 1.0 < speed * left
                if clears or speed * speed > 2.0 * YELLOW_BRAKE * max(to, 0.1):
                    continue
            light = min(light, to - BEFORE_LINE)
        return light, sign

    def _decide(self, ego: Ego, parts: Mapping[str, float], wish: float) -> Decision:
        wanted = max(min(parts.values()), -HARDEST)
        dt = self._drive.interval
        last = self._drive.ego.get_control()
        throttle, brake = self._handling.pedals(wanted, ego.speed, last.gear, dt)
        curvature = self._pursuit(ego)
        steer = self._handling.wheel(curvature, ego.speed, ego.yaw_rate, last.steer, dt)
        target = min(wish, max(ego.speed + wanted, 0.0))
        hazards = {
            name: parts.get(name, math.inf) < parts["free"] - HOLDS
            for name in ("vehicle", "walker", "light", "stop")
        }
        return Decision(
            throttle=throttle,
            steer=steer,
            brake=brake,
            waypoints=self._waypoints(ego, wanted, wish),
            target_speed=target,
            red_light=float(hazards["light"]),
            stop_sign=float(hazards["stop"]),
            hazards=hazards,
        )

    def _pursuit(self, ego: Ego) -> float:
        """The curvature of the rear axle's arc to a point of the way ahead."""
        course, back = self._course, 0.5 * self._handling.base
        look = min(max(0.4 * ego.speed + 2.0, 3.0), 10.0)
        aim = to_ego(course.at(course.own + look), ego.xy, math.degrees(ego.yaw))
        x, y = float(aim[0]) + back, float(aim[1])
        return 2.0 * y / max(x * x + y * y, 1.0)

    def _waypoints(self, ego: Ego, wanted: float, wish: float) -> np.ndarray:
        """(4, 2) where it means to be, 0.5 s apart."""
        s, speed = 0.0, max(ego.speed, 0.0)
        places = []
        for step in range(1, 21):
            rate = min(wanted, free(speed, wish))
            speed = max(speed + 0.1 * rate, 0.0)
            s += 0.1 * speed
            if step % 5 == 0:
                places.append(s)
        points = self._course.at(self._course.own + np.array(places))
        return to_ego(points, ego.xy, math.degrees(ego.yaw)).astype(np.float32)
