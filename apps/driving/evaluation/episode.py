"""One route, driven by one agent: spawn, observe, decide, tick, judge, until it is over.

Whatever the agent does wrong is recorded against it and never stops the evaluation: an exception, a
decision that is not a number. What the simulator does wrong is raised: ``ResourceError``.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.agents.base import Agent, Decision, Drive, Observation
from apps.driving.evaluation.criteria import Criteria, CriteriaOptions
from apps.driving.evaluation.scores import KINDS, Infraction, driving_score_2_1, score_route
from core.errors import ResourceError, TriptychError

if TYPE_CHECKING:
    import carla

    from apps.driving.routes.files import RouteSpec
    from apps.driving.routes.plan import Plan
    from apps.driving.simulator.cameras import Cameras, Frames
    from apps.driving.simulator.session import Session

BLIND_DECISIONS = 10  # without a picture, one after the other: then the route is given up
PATIENCE_S = 5.0  # for a picture


@dataclass(frozen=True)
class Moment:
    """One decision, for whoever watches: a video, a recorder, a progress bar.

    ``number`` counts decisions from 0 on, those without a picture too. ``milliseconds``: what the
    agent took to decide. ``frames``: the pictures of this moment, with what was asked for to be shown;
    the observation has only those that come with every decision, and never the simulator's semantics.
    """

    observation: Observation
    decision: Decision
    criteria: Criteria
    drive: Drive
    snapshot: carla.WorldSnapshot
    frames: Frames
    number: int
    milliseconds: float


@dataclass(frozen=True)
class RouteResult:
    """What became of a route.

    ``status``: "perfect", "completed" (with infractions) or "failed: " and why. ``error``: what the
    agent raised. ``completion`` percent, ``length`` m, ``duration`` s of the simulator's time,
    ``wall_s`` of ours. ``decision_ms``: the agent's own time, mean and 95th percentile.
    ``interventions``: how many decisions a supervisor changed, by its reason. ``blind``: decisions
    for which a picture did not come, in which the car was braked instead. ``traffic_speed``: mean
    speed in percent of the traffic's, by quarter of the route; ``slow``: the infractions that follow
    from it, where they are not among ``infractions``.
    """

    route: str
    town: str
    agent: str
    seed: int
    status: str
    completion: float
    length: float
    duration: float = 0.0
    wall_s: float = 0.0
    infractions: tuple[Infraction, ...] = ()
    error: str | None = None
    decisions: int = 0
    decision_ms: Mapping[str, float] = field(default_factory=dict)
    interventions: Mapping[str, int] = field(default_factory=dict)
    blind: int = 0
    traffic_speed: Sequence[float] = ()
    slow: tuple[Infraction, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON: scores by each formula, infractions by kind."""
        by_kind: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        for infraction in self.infractions:
            by_kind[infraction.kind].append(infraction.as_dict())
        scores = score_route(self.completion, self.infractions)
        counted = (*self.infractions, *self.slow)
        scores["driving_score_2_1_min_speed"] = driving_score_2_1(self.completion, counted)
        return {
            "route": self.route,
            "town": self.town,
            "agent": self.agent,
            "seed": self.seed,
            "status": self.status,
            "error": self.error,
            **{key: round(value, 4) for key, value in scores.items()},
            "length_m": round(self.length, 1),
            "duration_s": round(self.duration, 2),
            "wall_s": round(self.wall_s, 2),
            "decisions": self.decisions,
            "decision_ms": {k: round(v, 2) for k, v in self.decision_ms.items()},
            "interventions": dict(self.interventions),
            "blind_decisions": self.blind,
            "traffic_speed": [round(v, 1) for v in self.traffic_speed],
            "infractions": by_kind,
        }


class _AgentFailed(Exception):
    """The agent raised, or decided what cannot be done."""


def drive_route(
    session: Session,
    spec: RouteSpec,
    plan: Plan,
    agent: Agent,
    *,
    seed: int = 0,
    interval: float = 0.1,
    options: CriteriaOptions | None = None,
    show: Mapping[str, int] | None = None,
    watch: Sequence[Callable[[Moment], None]] = (),
) -> RouteResult:
    """Drive ``plan`` once, a decision every ``interval`` seconds; controls hold in between.

    ``show`` asks for cameras beyond those that the agent needs, for those who ``watch``: of "rgb",
    "depth" and "semantic", each with every n-th decision. They are called after each decision. The
    session's weather and traffic are as they are; the car is spawned here and destroyed at the end.

    Raises what ``Session.spawn_ego`` raises, ResourceError where the simulator or the car has gone or
    pictures stay away, and what a watcher raises.
    """
    from apps.driving.simulator.session import SimulatorGone

    began = time.perf_counter()
    start = (*plan.xy[0].tolist(), float(plan.z[0]), float(plan.yaw[0]))
    ego = session.spawn_ego(start)
    run = _Run(
        session, plan, agent, ego, seed=seed, interval=interval, options=options, show=show or {}
    )
    try:
        error: str | None = None
        try:
            run.until_over(watch)
        except _AgentFailed as failure:
            error = str(failure)
            session.tick()  # raises where it was the simulator that failed the agent
        infractions = run.criteria.finish()
    except SimulatorGone:
        run.close(gone=True)
        raise
    finally:
        run.close()
    state = run.criteria.state
    return RouteResult(
        route=spec.id,
        town=plan.town,
        agent=agent.name,
        seed=seed,
        status=f"failed: {run.stage}" if error else run.criteria.status,
        completion=run.criteria.completion,
        length=plan.length,
        duration=state.time if state else 0.0,
        wall_s=time.perf_counter() - began,
        infractions=infractions,
        error=error,
        decisions=len(run.decision_ms),
        decision_ms=_spread(run.decision_ms),
        interventions=dict(sorted(run.interventions.items())),
        blind=run.blind,
        traffic_speed=run.criteria.traffic_speed,
        slow=tuple(found for found in run.criteria.slow if found not in infractions),
    )


class _Run:
    """What lives as long as a route is driven."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        agent: Agent,
        ego: Any,
        *,
        seed: int,
        interval: float,
        options: CriteriaOptions | None,
        show: Mapping[str, int],
    ) -> None:
        from apps.driving.routes.plan import Navigator
        from apps.driving.simulator.cameras import Cameras

        self.session, self.plan, self.agent, self.ego = session, plan, agent, ego
        self.interval = interval
        self.stage = "agent could not be set up"
        self.decision_ms: list[float] = []
        self.interventions: Counter[str] = Counter()
        self.blind = self._blind_now = 0
        self._number = -1  # of this decision
        self._drive = Drive(
            client=session.client,
            world=session.world,
            map=session.map,
            ego=ego,
            plan=plan,
            rig=agent.rig,
            seed=seed,
            interval=interval,
        )
        self._navigator = Navigator(*plan.sparse())
        self._cameras: Cameras | None = None
        self._shown: dict[int, Cameras] = {}
        self._closed = False
        kinds = agent.cameras | {kind for kind, every in show.items() if every == 1}
        kinds -= {"semantic"}  # an observation must not have it
        rare: dict[int, set[str]] = {}
        for kind, every in show.items():
            if kind not in kinds:
                rare.setdefault(every, set()).add(kind)
        try:
            self.criteria = Criteria(session.world, session.map, ego, plan, options)
            # first those that are read by counting decisions, the first of which the others decide
            for every, some in rare.items():
                self._shown[every] = Cameras(session, ego, agent.rig, some, every * interval)
            if kinds:
                self._cameras = Cameras(session, ego, agent.rig, kinds=kinds, every=interval)
        except BaseException:
            self.close()
            raise

    def until_over(self, watch: Sequence[Callable[[Moment], None]]) -> None:
        """Decide and tick."""
        self._asked(lambda: self.agent.begin(self._drive))
        self.stage = "agent crashed"
        every = max(round(self.interval / self.session.step), 1)
        ticks = 0
        while True:
            snapshot = self.session.tick()
            self.criteria.update(snapshot)
            if self.criteria.over:
                return
            if self._cameras is None:
                due = ticks % every == 0
            else:
                due = self._cameras.due(snapshot.frame)
            ticks += 1
            if due:
                self._decide(snapshot, watch)

    def _decide(
        self, snapshot: carla.WorldSnapshot, watch: Sequence[Callable[[Moment], None]]
    ) -> None:
        import carla

        from apps.driving.simulator.cameras import SensorMissing, observe

        self._number += 1
        frames = None
        if self._cameras is not None:
            try:
                frames = self._cameras.read(snapshot.frame, PATIENCE_S)
                self._blind_now = 0
            except SensorMissing:
                self.blind += 1
                self._blind_now += 1
                if self._blind_now >= BLIND_DECISIONS:
                    raise
                self.session.ask(self.ego.apply_control, carla.VehicleControl(brake=1.0))
                return
        observation = observe(self.session, self.ego, self._navigator, frames, snapshot)
        began = time.perf_counter()
        decision = self._asked(lambda: self.agent.act(observation))
        self.decision_ms.append(1e3 * (time.perf_counter() - began))
        self.interventions.update(decision.interventions)
        self.session.ask(self.ego.apply_control, control(decision))
        moment = Moment(
            observation,
            decision,
            self.criteria,
            self._drive,
            snapshot,
            self._all_frames(snapshot.frame, frames),
            self._number,
            self.decision_ms[-1],
        )
        for watcher in watch:
            watcher(moment)

    def _all_frames(self, frame: int, frames: Frames | None) -> Frames:
        """What the agent saw and what is to be shown now; a picture that stays away is left out."""
        from apps.driving.simulator.cameras import Frames, SensorMissing

        found = frames or Frames(frame)
        for every, cameras in self._shown.items():
            if self._number % every == 0:
                with suppress(SensorMissing):
                    more = cameras.read(frame, PATIENCE_S)
                    some = {kind: getattr(more, kind) for kind in ("rgb", "depth", "semantics")}
                    found = replace(found, **{k: v for k, v in some.items() if v is not None})
        return found

    def _asked(self, call: Callable[[], Any]) -> Any:
        """What the agent answers, its failures as ``_AgentFailed``."""
        try:
            answer = call()
            if isinstance(answer, Decision):
                control(answer)
            return answer
        except TriptychError as error:
            raise _AgentFailed(str(error)) from error
        except Exception as error:
            raise _AgentFailed(f"{type(error).__name__}: {error}") from error

    def close(self, gone: bool = False) -> None:
        """Let the agent end, and take out of the world what was put into it; once.

        ``gone``: there is no world any more, and each attempt would wait for its time-out.
        """
        if self._closed:
            return
        self._closed = True
        with suppress(Exception):
            self.agent.end()
        if gone:
            return
        # RuntimeError and ResourceError: the simulator has gone in the meantime.
        with suppress(RuntimeError, ResourceError):
            for cameras in (self._cameras, *self._shown.values()):
                if cameras is not None:
                    cameras.destroy()
        with suppress(RuntimeError, ResourceError):
            if hasattr(self, "criteria"):
                self.criteria.finish()
        with suppress(RuntimeError, ResourceError):
            self.session.destroy([self.ego])


def control(decision: Decision) -> Any:
    """A decision as ``carla.VehicleControl``; values beyond the range are cut.

    Raises ValueError for what is not a number.
    """
    import carla

    values = (decision.throttle, decision.steer, decision.brake)
    if not all(math.isfinite(value) for value in values):
        named = ", ".join(f"{n} {v}" for n, v in zip(("throttle", "steer", "brake"), values))
        raise ValueError(f"a decision that is not a number: {named}")
    throttle, steer, brake = values
    return carla.VehicleControl(
        throttle=min(max(float(throttle), 0.0), 1.0),
        steer=min(max(float(steer), -1.0), 1.0),
        brake=min(max(float(brake), 0.0), 1.0),
    )


def _spread(milliseconds: Sequence[float]) -> dict[str, float]:
    if not milliseconds:
        return {}
    values = np.asarray(milliseconds)
    return {"mean": float(values.mean()), "p95": float(np.percentile(values, 95))}
