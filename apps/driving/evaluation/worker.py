"""One route in a process of its own: CARLA's client library ends a process when it fails badly.

    python -m apps.driving.evaluation.worker < job.json

A job is a JSON object (``Job``). What is said comes on standard output, a JSON object a line after
the mark ``@``, for the library prints there too: ``{"beat": percent}`` while it drives, and at the
end ``{"result": ...}`` or ``{"error": {"type", "message", "exit_code"}}``.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import DataError, TriptychError

if TYPE_CHECKING:
    from apps.driving.agents.base import Agent
    from apps.driving.evaluation.episode import Moment
    from apps.driving.routes.files import RouteSpec

MARK = "@"
BEAT_S = 1.0


@dataclass(frozen=True)
class Job:
    """``routes`` are RouteSpecs as dictionaries: one to drive, or all of them to ``check``.

    ``seed`` decides the traffic and the agent, ``weather`` are fields of ``carla.WeatherParameters``
    or None for what the route says. ``video``: a file to write, ``trace``: a folder, or None.
    """

    town: str
    routes: list[dict[str, Any]]
    agent: str
    supervisor: bool = False
    check: bool = False
    seed: int = 0
    traffic: int = 0
    walkers: int = 0
    host: str | None = None
    port: int = 2000
    weather: dict[str, float] | None = None
    interval: float = 0.1
    blocked_after: float = 180.0
    min_speed: bool = False
    max_seconds: float | None = None
    renderer: str = "numpy"
    device: str = "cpu"
    threads: int | None = None
    video: str | None = None
    trace: str | None = None

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def work(job: Job, say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Check all routes of a job (their lengths), or drive its one route (``RouteResult.as_dict``)."""
    from apps.driving.agents.catalog import make_agent
    from apps.driving.evaluation.criteria import CriteriaOptions
    from apps.driving.evaluation.episode import drive_route
    from apps.driving.evaluation.trace_writer import TraceWriter
    from apps.driving.routes.files import RouteSpec
    from apps.driving.routes.planner import Planner
    from apps.driving.simulator.session import open_session

    specs = [RouteSpec(**_tuples(route)) for route in job.routes]
    agent = make_agent(job.agent, supervisor=job.supervisor, device=job.device, threads=job.threads)
    with open_session(
        job.town,
        host=job.host,
        port=job.port,
        seed=job.seed,
        traffic=0 if job.check else job.traffic,
        walkers=0 if job.check else job.walkers,
        renderer=job.renderer,
    ) as session:
        require_town(specs, session.town, job.town)
        planner = Planner(session.map)
        if job.check:
            return {"lengths": {s.id: planner.plan_route(s).length for s in specs}}
        spec = specs[0]
        weather = job.weather or spec.weather
        if weather:
            session.set_weather(weather)
        with ExitStack() as stack:
            watch = [_heart(say)]
            show: dict[str, int] = {}
            tracing: TraceWriter | None = None
            if job.trace:
                tracing = TraceWriter(Path(job.trace), spec.id, agent.name, job.seed)
                watch.append(tracing.watch)
                show |= TraceWriter.show(job.interval)
            if job.video:
                watch.append(_camera(stack, Path(job.video), job, agent))
                show["rgb"] = 1
            result = drive_route(
                session,
                spec,
                planner.plan_route(spec),
                agent,
                seed=job.seed,
                interval=job.interval,
                options=CriteriaOptions(job.blocked_after, job.min_speed, job.max_seconds),
                show=show,
                watch=watch,
            )
            if tracing is not None:
                tracing.finish(result)
        return result.as_dict()


def require_town(specs: list[RouteSpec], town: str, given: str) -> None:
    """DataError naming the first route that belongs to another town."""
    for spec in specs:
        if spec.town and plain_name(spec.town) != plain_name(town):
            raise DataError(
                f"route {spec.id}: is for {spec.town}, but --town {given} is {town}; "
                "give that town, or routes for this one"
            )


def plain_name(town: str) -> str:
    """A town's name without folders, case and CARLA's suffix for layered maps."""
    return town.rsplit("/", 1)[-1].lower().replace(":", "").removesuffix("_opt")


def _tuples(route: dict[str, Any]) -> dict[str, Any]:
    """A RouteSpec's fields, JSON's lists as the tuples they were."""
    return {
        **route,
        "waypoints": tuple(tuple(point) for point in route["waypoints"]),
        "scenarios": tuple(route["scenarios"]),
    }


def _heart(say: Callable[[dict[str, Any]], None]) -> Callable[[Moment], None]:
    """Says now and then how far the car is, so that a hanging client can be told from a slow one."""
    last = [0.0]

    def beat(moment: Moment) -> None:
        if time.monotonic() - last[0] >= BEAT_S:
            last[0] = time.monotonic()
            say({"beat": round(moment.criteria.completion, 1)})

    return beat


def _camera(stack: ExitStack, path: Path, job: Job, agent: Agent) -> Callable[[Moment], None]:
    """Films every decision. A video is made anew where a route is driven again."""
    from apps.driving.evaluation.video import VideoWriter

    video = stack.enter_context(VideoWriter(path, 1 / job.interval, rig=agent.rig, force=True))

    def film(moment: Moment) -> None:
        criteria = moment.criteria
        video.write(
            moment.observation,
            moment.decision,
            title=f"{agent.name}, route {job.routes[0]['id']}",
            lines=(f"{criteria.completion:.0f} % of {criteria.progress.s[-1]:.0f} m",),
            warnings=[f"{found.time:.0f} s: {found.message}" for found in criteria.infractions],
        )

    return film


def main() -> int:
    """Read the job, do it, say what came of it; the exit code is the error's."""
    out = sys.stdout

    def say(message: dict[str, Any]) -> None:
        out.write(f"{MARK}{json.dumps(message)}\n")
        out.flush()

    try:
        job = Job(**json.load(sys.stdin))
        say({"result": work(job, say)})
        return 0
    except TriptychError as error:
        code, message = error.exit_code, str(error)
        kind = type(error).__name__
    except Exception as error:
        traceback.print_exc()
        code, message = 1, f"{type(error).__name__}: {error}"
        kind = type(error).__name__
    say({"error": {"type": kind, "message": " ".join(message.split()), "exit_code": code}})
    return code


if __name__ == "__main__":
    sys.exit(main())
