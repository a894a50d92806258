"""A driver under supervision: simple rules that overrule another driver, each of which can be off.

- Emergency brake: what stands higher than the road in the corridor that the wheel points at, seen
  by the depth cameras, is kept at the distance that the car needs to stop (``obstacles.Corridor``).
- Red-light hold: once the driver itself thinks that a red light holds it, it stops, and stays until
  it has thought otherwise for a while (``Hold``).
- Creep: a car that has stood long for no reason the supervisor knows rolls a little.
- Sensors: the car brakes while pictures are missing, of a wrong size, frozen or not numbers, and
  when a decision is none.

The idea is InterFuser's safety controller (Shao et al., CoRL 2022, arXiv 2207.14024), which checks a
density map that the network draws; these rules trust the depth camera and not the network. Creeping
is TransFuser's (Chitta et al., PAMI 2022), which waits 55 s. A decision says in ``interventions``
what overruled it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from apps.driving.agents.base import Agent, Decision, Drive, Observation
from apps.driving.agents.obstacles import Corridor, Gap
from apps.driving.rig import Rig


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is watched, and the numbers of it; metres, seconds, metres per second."""

    emergency_brake: bool = True
    red_light: bool = True
    creep: bool = True
    sensors: bool = True

    reaction: float = 0.3
    deceleration: float = 6.0  # of an emergency; dry roads allow about 8
    standstill: float = 2.0
    red_above: float = 0.6  # a probability that holds,
    red_below: float = 0.35  # and one that lets go,
    red_release: float = 0.5  # when it lasts so long
    red_patience: float = 60.0  # no light is red for longer: the driver is wrong
    red_pause: float = 10.0  # for which it is then not believed
    red_deceleration: float = 3.0
    red_brake: float = 0.6  # at a standstill, and 1 m/s above the speed wanted
    stuck: float = 30.0
    creep_for: float = 1.5
    creep_throttle: float = 0.4
    creep_room: float = 4.0
    frozen: int = 3  # decisions on the same picture while the car moves
    broken_share: float = 0.05  # of the pixels of a depth picture that may be no numbers


class Supervised:
    """``agent`` under ``rules``; itself a driver."""

    def __init__(self, agent: Agent, rules: Rules | None = None) -> None:
        self.agent, self.rules = agent, rules or Rules()
        self.name = f"{agent.name}+supervisor"
        self.rig: Rig = agent.rig
        self.privileged = agent.privileged
        self.cameras = agent.cameras | ({"depth"} if self.rules.emergency_brake else frozenset())

    def begin(self, drive: Drive) -> None:
        extent = getattr(getattr(drive.ego, "bounding_box", None), "extent", None)
        size = (extent.x, extent.y) if extent is not None else (2.45, 1.06)
        self._corridor = Corridor(self.rig, front=float(size[0]), side=float(size[1]))
        self._gap = Gap()
        self._watch = SensorWatch(self.rig, self.cameras, self.rules)
        self._red = Hold(self.rules)
        self._moved: float | None = None  # when the car last moved, or was held for a known reason
        self._creep_until = -np.inf
        self.agent.begin(drive)

    def act(self, observation: Observation) -> Decision:
        rules, time = self.rules, observation.time
        if rules.sensors and (trouble := self._watch.trouble(observation)):
            self._moved = time
            return Decision(0.0, 0.0, 1.0, interventions=(f"sensors: {trouble}",))
        decision = self.agent.act(observation)
        if rules.sensors and not _is_number(decision):
            self._moved = time
            return Decision(0.0, 0.0, 1.0, interventions=("decision: not a number",))

        wanted = decision.throttle, decision.steer, decision.brake
        named: list[str] = []
        allowed = None
        if rules.red_light:
            allowed = self._red.step(decision.red_light, observation.speed, time)
        if allowed is not None:
            slower = _slowed(decision, observation.speed, allowed, rules.red_brake)
            named += ["red light"] if slower is not decision else []
            decision = slower

        gap = np.inf
        if rules.emergency_brake and observation.depth is not None:
            seen = self._corridor.gap(observation.depth, decision.steer)
            gap = self._gap.step(seen, observation.speed, time)
        if rules.creep:
            decision, creeps = self._creep(decision, observation, gap, allowed is not None)
            named += ["creep"] if creeps else []
        if gap < self._needed(observation.speed) and decision.brake < 1.0:
            decision = replace(decision, throttle=0.0, brake=1.0)
            named.append("emergency brake")
        if not named:
            return decision
        return replace(
            decision,
            interventions=(*decision.interventions, *named),
            parts={**decision.parts, "driver": wanted},
        )

    def end(self) -> None:
        self.agent.end()

    def _needed(self, speed: float) -> float:
        """The gap below which to brake: both stop as hard as they can (Shalev-Shwartz et al.,
        arXiv 1708.06374, definition 1), what is ahead having the speed that the gap's change shows.
        """
        rules = self.rules
        ahead = max(0.0, speed - self._gap.closing)
        stopping = max(0.0, speed**2 - ahead**2) / (2 * rules.deceleration)
        return rules.standstill + max(speed, 0.0) * rules.reaction + stopping

    def _creep(
        self, decision: Decision, observation: Observation, gap: float, held: bool
    ) -> tuple[Decision, bool]:
        rules, time = self.rules, observation.time
        if self._moved is None or held or observation.speed > 0.5:
            self._moved = time
        if time < self._creep_until:
            self._moved = time
        elif time - self._moved < rules.stuck:
            return decision, False
        else:
            self._creep_until = time + rules.creep_for
        if gap < rules.creep_room or decision.throttle >= rules.creep_throttle:
            return decision, False
        return replace(decision, throttle=rules.creep_throttle, brake=0.0), True


class Hold:
    """Whether a red light holds the car: a probability with two thresholds and a limit of time.

    Where the line is, nobody says. The car is to stop at ``red_deceleration`` from the moment that
    the light is believed, from 8 m/s within 11 m; labels say "red" from 30 m on.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._since: float | None = None  # held since
        self._free: float | None = None  # when the probability first fell, while held
        self._deaf_until = -np.inf
        self._left = 0.0  # metres to stand after
        self._time = 0.0

    def step(self, probability: float | None, speed: float, time: float) -> float | None:
        """How fast the car may be, in m/s; None where no light holds it."""
        rules, passed = self.rules, time - self._time
        self._time = time
        if probability is None or time < self._deaf_until:
            self._since = None
            return None
        if self._since is None:
            if probability < rules.red_above:
                return None
            self._since, self._free = time, None
            self._left = speed**2 / (2 * rules.red_deceleration)
        else:
            self._left = max(0.0, self._left - max(speed, 0.0) * passed)
        if probability >= rules.red_below:
            self._free = None
        elif self._free is None:
            self._free = time
        if self._free is not None and time - self._free >= rules.red_release:
            self._since = None
        elif time - self._since >= rules.red_patience:
            self._since, self._deaf_until = None, time + rules.red_pause
        if self._since is None:
            return None
        return float(np.sqrt(2 * rules.red_deceleration * self._left))


def _slowed(decision: Decision, speed: float, allowed: float, brake: float) -> Decision:
    """``decision``, or one that brakes where it would not keep to ``allowed`` m/s."""
    if speed < allowed - 0.5:
        return decision
    level = min(1.0, brake * max(0.0, speed - allowed)) if allowed > 0.3 else brake
    if decision.throttle <= 0 and decision.brake >= level:
        return decision
    return replace(decision, throttle=0.0, brake=max(decision.brake, level))


class SensorWatch:
    """What is wrong with what the sensors give, in a few words; None where nothing is."""

    def __init__(self, rig: Rig, cameras: frozenset[str], rules: Rules) -> None:
        self.rig, self.cameras, self.rules = rig, cameras, rules
        self._frame = -1
        self._same: deque[int] = deque(maxlen=max(rules.frozen, 1))

    def trouble(self, observation: Observation) -> str | None:
        numbers = (observation.speed, observation.heading, *observation.position)
        if not np.isfinite([*numbers, *observation.target]).all():
            return "speed, position or target is not a number"
        if observation.frame <= self._frame:
            return "the same frame again"
        self._frame = observation.frame
        views = (len(self.rig.cameras), *self.rig.size)
        for kind, shape in (("rgb", (*views, 3)), ("depth", views)):
            if kind not in self.cameras:
                continue
            picture = getattr(observation, kind)
            if picture is None:
                return f"no {kind}"
            if picture.shape != shape:
                return f"{kind} of shape {picture.shape} instead of {shape}"
        if "depth" in self.cameras and observation.depth is not None:
            broken = ~(observation.depth[:, ::4, ::4] > 0)  # not a number, zero or negative
            for camera, share in zip(self.rig.cameras, broken.mean(axis=(1, 2))):
                if share > self.rules.broken_share:
                    return f"depth of camera {camera.name} is not a number"
        return self._frozen(observation)

    def _frozen(self, observation: Observation) -> str | None:
        pictures = [p for p in (observation.rgb, observation.depth) if p is not None]
        if not pictures:
            return None
        # every 16th row is enough: where the car moves, the road's texture does
        self._same.append(hash(tuple(p[:, ::16].tobytes() for p in pictures)))
        full = len(self._same) == self._same.maxlen
        if observation.speed > 1.0 and full and len(set(self._same)) == 1 and len(self._same) > 1:
            return "the pictures do not change"
        return None


def _is_number(decision: Decision) -> bool:
    return bool(np.isfinite([decision.throttle, decision.steer, decision.brake]).all())
