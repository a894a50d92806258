"""One recorded route: a session, a route drawn by seed, a driver at the wheel, frames on disk.

Run as a program it takes a ``Job`` as JSON from standard input and tells in JSON lines on standard
output what becomes of it; it ends when standard input is closed. CARLA's client can end a process
from within, and then no more than this route is lost.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.recordings import layout
from apps.driving.recordings.job import Job
from apps.driving.recordings.layout import Measurement
from apps.driving.recordings.noise import SteeringNoise
from apps.driving.recordings.standing import Standing
from apps.driving.recordings.writer import Recorder
from apps.driving.rig import LETFUSER
from core.errors import ResourceError, TriptychError

if TYPE_CHECKING:
    from apps.driving.agents.base import Decision, Observation
    from apps.driving.routes.plan import Plan
    from apps.driving.simulator.session import Session

DECIDE_S = 0.1
PATIENCE_S = 30.0  # for a picture
BLOCKED_S = 60.0  # without progress; no light is red that long
REGRET = 6  # frames before an infraction, 3 s, are not what to learn from
HOLDING_M = 12.0  # no noise that near to a junction


def record_route(job: Job, told: Callable[[int], None] = lambda frames: None) -> dict[str, Any]:
    """Drive and record one route; ``told`` hears how many frames there are.

    Returns frames, status, completion, infractions, distance and seconds. Frames of the 3 s before
    an infraction are taken back, a collision ends the route. Raises as ``open_session``,
    ``Recorder`` and the driver do.
    """
    from apps.driving.agents.catalog import make_agent
    from apps.driving.routes.planner import Planner
    from apps.driving.routes.sampling import sample_routes, sample_weather
    from apps.driving.simulator.session import open_session

    draws = job.draws()
    agent = make_agent(job.agent)
    with open_session(
        job.town,
        host=job.host,
        port=job.port,
        seed=draws["world"],
        traffic=job.traffic,
        walkers=job.walkers,
    ) as session:
        planner = Planner(session.map)
        spec = sample_routes(
            session.map, session.town, 1, draws["route"], length=job.length, planner=planner
        )[0]
        plan = planner.plan_route(spec)
        weather = sample_weather(draws["weather"])
        session.set_weather(weather)
        about = {
            "town": Path(job.folder).parent.name,
            "number": job.number,
            "seed": job.seed,
            "draws": draws,
            "agent": agent.name,
            "weather": weather,
            "waypoints": spec.waypoints,
            "traffic": job.traffic,
            "walkers": job.walkers,
            "perturb": job.perturb,
            "embedded": session.embedded,
            "version": job.version,
            "command": job.command,
        }
        with Recorder(Path(job.folder), LETFUSER, about=about, force=job.force) as recorder:
            drive = _Drive(session, plan, agent, recorder, job, told)
            try:
                facts = drive.until_over()
            finally:
                drive.close()
            recorder.finish(result=facts)
    return facts


class _Drive:
    """What lives as long as the route is driven."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        agent: Any,
        recorder: Recorder,
        job: Job,
        told: Callable[[int], None],
    ) -> None:
        from apps.driving.agents.base import Drive
        from apps.driving.evaluation.criteria import Criteria, CriteriaOptions
        from apps.driving.recordings.lights import LightsAhead
        from apps.driving.routes.plan import Navigator
        from apps.driving.simulator.cameras import Cameras

        self.session, self.plan, self.agent, self.recorder = session, plan, agent, recorder
        self._most, self._told = job.frames, told
        noise = job.draws()["noise"]
        self._noise = SteeringNoise(noise) if job.perturb else None
        self.ego = session.spawn_ego(_start(plan, noise, job.perturb))
        self._cameras: Cameras | None = None
        self._criteria: Criteria | None = None
        try:
            self._criteria = Criteria(
                session.world,
                session.map,
                self.ego,
                plan,
                CriteriaOptions(blocked_after=BLOCKED_S, min_speed=False),
            )
            front = self.ego.bounding_box.extent.x + self.ego.bounding_box.location.x
            self._lights = LightsAhead(session.world, session.map, plan, front)
            self._navigator = Navigator(*plan.sparse())
            self._cameras = Cameras(
                session,
                self.ego,
                LETFUSER,
                kinds=("rgb", "depth", "semantic"),
                every=layout.INTERVAL,
            )
            agent.begin(
                Drive(
                    client=session.client,
                    world=session.world,
                    map=session.map,
                    ego=self.ego,
                    plan=plan,
                    rig=LETFUSER,
                    seed=noise,
                    interval=DECIDE_S,
                )
            )
        except BaseException:
            self.close()
            raise
        self._standing = Standing()
        self._first: int | None = None
        self._at = 0

    def until_over(self) -> dict[str, Any]:
        """Tick, judge, decide, record."""
        assert self._criteria is not None
        assert self._cameras is not None
        every = max(1, round(DECIDE_S / self.session.step))
        began = time.perf_counter()
        ticks = 0
        while not self._criteria.over and self.recorder.frames < self._most:
            snapshot = self.session.tick()
            found = self._criteria.update(snapshot)
            if found:
                self._standing.forget()
                self.recorder.drop(REGRET)
                if any(i.kind.startswith("collision") for i in found):
                    break
            pictured = self._cameras.due(snapshot.frame)
            if ticks % every == 0 or pictured:
                self._step(snapshot.frame, pictured)
            ticks += 1
        for frame in self._standing.rest():
            self._keep(frame)
        infractions = self._criteria.finish()
        return {
            "frames": self.recorder.frames,
            "status": self._criteria.status,
            "completion": round(self._criteria.completion, 2),
            "infractions": [i.as_dict() for i in infractions],
            "length_m": round(self.plan.length, 1),
            "simulated_s": round(ticks * self.session.step, 2),
            "wall_s": round(time.perf_counter() - began, 2),
        }

    def _step(self, frame: int, pictured: bool) -> None:
        from apps.driving.evaluation.episode import control
        from apps.driving.simulator.cameras import observe

        observation = observe(self.session, self.ego, self._navigator, None)
        decision = self.agent.act(observation)
        wanted = control(decision)
        self._at, _ = self.plan.nearest(observation.position, around=self._at)
        burst = False
        if self._noise is not None:
            free = not any(decision.hazards.values()) and not self._near_junction()
            wanted.steer = self._noise.disturb(
                wanted.steer, observation.time, observation.speed, free
            )
            burst = self._noise.active
        self.ego.apply_control(wanted)
        if not pictured:
            return
        assert self._cameras is not None
        # read in any case: a picture left lying would be taken for a later one's
        frames = self._cameras.read(frame, PATIENCE_S)
        if self._first is None:
            self._first = frame
        if burst:
            self._standing.forget()
            return
        tick = round((frame - self._first) * self.session.step / layout.INTERVAL)
        measurement = self._measure(observation, decision, tick)
        picture = (frames.rgb, frames.depth, frames.semantics, measurement)
        for kept in self._standing.sift(picture, measurement.speed < 0.1):
            self._keep(kept)

    def _keep(self, frame: tuple[Any, ...]) -> None:
        if self.recorder.frames < self._most:
            self.recorder.add(*frame)
            self._told(self.recorder.frames)

    def _near_junction(self) -> bool:
        plan, at = self.plan, self._at
        reach = (plan.s > plan.s[at] - HOLDING_M) & (plan.s < plan.s[at] + HOLDING_M)
        return bool(plan.junction[reach].any())

    def _measure(self, observation: Observation, decision: Decision, tick: int) -> Measurement:
        """All of this frame: the decision was made on its state, before anything moved on."""
        from apps.driving.routes.plan import to_world

        red, distance = self._lights.ahead(float(self.plan.s[self._at]))
        place = self.ego.get_transform()
        return Measurement(
            position=observation.position,
            heading=observation.heading,
            speed=observation.speed,
            target=to_world(observation.target, observation.position, observation.heading),
            command=int(observation.command),
            steer=float(decision.steer),
            throttle=float(decision.throttle),
            brake=float(decision.brake),
            hazards=dict(decision.hazards),
            junction=bool(self.plan.junction[self._at]),
            target_speed=float(decision.target_speed or 0.0),
            waypoints=decision.waypoints,
            matrix=place.get_matrix(),
            tick=tick,
            frame=observation.frame,
            red_light=red,
            light_distance=distance,
            command_near=int(self.plan.command[self._at]),
        )

    def close(self) -> None:
        """Take out of the world what was put into it, as far as there still is one."""
        ends: list[Callable[[], Any]] = [self.agent.end]
        if self._cameras is not None:
            ends.append(self._cameras.destroy)
        if self._criteria is not None:
            ends.append(self._criteria.finish)
        ends.append(lambda: self.session.destroy([self.ego]))
        for end in ends:
            with suppress(RuntimeError, TriptychError):
                end()


def _start(plan: Plan, seed: int, perturb: bool) -> tuple[float, float, float, float]:
    """x, y, z, yaw: the plan's first point, with ``perturb`` a little beside and askew."""
    rng = np.random.default_rng([seed, 0x57A7])
    aside = float(np.clip(rng.normal(0, 0.3), -0.7, 0.7)) if perturb else 0.0
    askew = float(rng.uniform(-6, 6)) if perturb else 0.0
    yaw = float(plan.yaw[0])
    right = np.array([-np.sin(np.radians(yaw)), np.cos(np.radians(yaw))])
    x, y = plan.xy[0] + aside * right
    return float(x), float(y), float(plan.z[0]), yaw + askew


def main() -> int:
    """For ``collect``: a job in, lines of JSON out; the exit code is that of the error."""
    out = sys.stdout
    job = Job.from_json(sys.stdin.readline())

    def orphaned() -> None:
        sys.stdin.read()
        os._exit(1)  # nobody waits for this route any more

    threading.Thread(target=orphaned, daemon=True).start()

    def tell(**facts: Any) -> None:
        print(json.dumps(facts), file=out, flush=True)

    try:
        tell(done=record_route(job, lambda frames: tell(frames=frames)))
        return 0
    except TriptychError as error:
        # A disk that is full or a folder that is shut: no other route will go better.
        hopeless = isinstance(error.__cause__, OSError)
        tell(error=str(error), code=error.exit_code, hopeless=hopeless)
        return error.exit_code
    except RuntimeError as error:  # of CARLA's client
        tell(error=str(error), code=ResourceError.exit_code)
        return ResourceError.exit_code


if __name__ == "__main__":
    sys.exit(main())
