"""Driving many routes: each in a process of its own, written as soon as it is done, resumable.

    OUT/settings.json        what decides the results; a resumed run must agree with it
    OUT/routes/<id>.json     one route's result, ``RouteResult.as_dict``
    OUT/<id>.mp4             its video
    OUT/<id>.trace/          its trace (``trace``)
    OUT/routes.csv           a line a route
    OUT/summary.json         the report that ``drive`` returns

A process that dies or hangs, or whose simulator does, costs its route and no other: that route is
driven once more, and then counts as "failed: simulation crashed" with nothing driven.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from apps.driving.evaluation.processes import Crew, Lost
from apps.driving.evaluation.report import CSV, SUMMARY, write_csv
from apps.driving.evaluation.statistics import CRASHED, summarise
from apps.driving.evaluation.trace import SUFFIX, clear
from apps.driving.evaluation.worker import Job
from apps.driving.routes.files import RouteSpec, read_routes
from core.errors import DataError, ResourceError, UsageError
from core.files import leftovers, read_json, require_writable, sha256, write_json
from core.progress import Progress, SilentProgress
from core.reporting import environment

ANEW = "delete it and resume"
SETTINGS = "settings.json"
ROUTES = "routes"
WEATHERS = ("routes", "varied", "clear")
ATTEMPTS = 2


def drive(
    town: str,
    routes: str | Path | Sequence[RouteSpec],
    agent: str | Path,
    *,
    out: str | Path,
    traffic: int = 0,
    walkers: int = 0,
    seed: int = 0,
    host: str | None = None,
    port: int = 2000,
    video: bool = True,
    trace: bool = False,
    supervisor: bool = False,
    jobs: int = 1,
    limit: int | None = None,
    weather: str = "routes",
    interval: float = 0.1,
    blocked_after: float = 180.0,
    min_speed: bool = False,
    max_seconds: float | None = None,
    renderer: str = "numpy",
    device: str = "cpu",
    threads: int | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Drive the routes of a file (the first ``limit``) with an agent, and write and return a report.

    ``town``: an .xodr file, procedural:SEED, or with ``host`` a town of that CARLA. ``weather``:
    "routes" (what the file says), "varied" (drawn from the seed) or "clear". ``seed`` decides
    traffic, weather and agent, for each route in its own way. ``jobs`` routes at once, in as many
    embedded worlds. ``interval`` s between decisions. ``trace`` writes what the car sees, means and
    does as it goes on, for ``trace.Trace`` to read. After ``max_seconds`` s of the simulator's time
    a route has timed out, if it has not before.

    The report has the means ``driving_score_2_1``, ``driving_score_1_0``, ``route_completion`` and
    their ``intervals``, ``infractions`` by kind, and ``routes``, one ``RouteResult`` each.

    Raises UsageError for options, an agent or an ``out`` that will not do; DataError for a route that
    is for another town, or cannot be driven, before any is driven. What ``progress`` raises ends the
    run within a second or two; the routes that were done are resumed.
    """
    out = Path(out)
    progress = progress or SilentProgress()
    if host is not None and jobs > 1:
        raise UsageError(f"--jobs {jobs}: one CARLA at {host} drives one route at a time")
    if jobs < 1 or (limit is not None and limit < 1):
        raise UsageError(f"--jobs {jobs}, --limit {limit}: must be 1 or more")
    if weather not in WEATHERS:
        raise UsageError(f"--weather {weather}: must be one of {', '.join(WEATHERS)}")
    specs = read_routes(routes) if isinstance(routes, str | Path) else list(routes)
    specs = specs[:limit]
    if not specs:
        raise DataError(f"{routes}: no route to drive")
    if not 0.05 <= interval <= 1:
        raise UsageError(f"--interval {interval}: give 0.05 to 1 second")
    if max_seconds is not None and not max_seconds > 0:
        raise UsageError(f"--max-seconds {max_seconds:g}: must be above 0")
    job = Job(
        town=str(town),
        routes=[],
        agent=str(agent),
        supervisor=supervisor,
        seed=seed,
        traffic=traffic,
        walkers=walkers,
        host=host,
        port=port,
        interval=interval,
        blocked_after=blocked_after,
        min_speed=min_speed,
        max_seconds=max_seconds,
        renderer=renderer,
        device=device,
        threads=threads,
    )
    settings = _settings(job, weather)
    done = _prepare(out, settings, specs, resume=resume, force=force)
    waiting = [spec for spec in specs if spec.id not in done]
    shares = {spec.id: 0.0 for spec in waiting}  # of the routes that are being driven
    with progress.task(f"drive {agent}", total=len(specs)) as task, Crew() as crew:

        def show(note: str | None = None) -> None:
            task.done = len(done) + sum(shares.values())
            task.advance(0, note)

        if done:
            show("already driven")
        if waiting:
            progress.message(f"{agent}: checking {len(waiting)} routes in {town}")
            show(f"checking {len(waiting)} routes")
            every = replace(job, routes=[asdict(spec) for spec in waiting], check=True)
            lengths = _check(crew, every, show)

        def one(spec: RouteSpec) -> dict[str, Any]:
            own = replace(
                _own_job(job, spec, weather),
                video=str(out / f"{spec.id}.mp4") if video else None,
                trace=str(out / f"{spec.id}{SUFFIX}") if trace else None,
            )

            def beat(share: float) -> None:
                shares[spec.id] = share / 100
                show(f"{spec.id}: {share:.0f} %")

            _sweep(out, spec)
            show(f"{spec.id}: starting")
            row = _attempt(crew, own, spec, lengths[spec.id], beat, show)
            # the file of a route says the run's seed; its own is drawn from it
            row["seed"] = seed
            write_json(out / ROUTES / f"{spec.id}.json", row, force=True)
            return row

        with ThreadPoolExecutor(jobs) as pool:
            try:
                # as they end, so that the first that fails ends the others
                for future in as_completed([pool.submit(one, spec) for spec in waiting]):
                    row = future.result()
                    shares[row["route"]] = 0.0
                    done[row["route"]] = row
                    show(f"{row['route']}: {row['status']}")
            except BaseException:
                crew.stop()
                pool.shutdown(cancel_futures=True)
                raise
    rows = [done[spec.id] for spec in specs]
    report = {**settings, **summarise(rows, seed=seed), "environment": environment(seed)}
    report["routes"] = rows
    write_csv(out / CSV, rows)
    write_json(out / SUMMARY, report, force=True)
    return report


def evaluate(
    town: str,
    routes: str | Path | Sequence[RouteSpec],
    agents: Iterable[str | Path],
    *,
    out: str | Path,
    seeds: Sequence[int] = (0, 1, 2),
    supervisor: Sequence[bool] = (False,),
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Several agents, each with each seed: a row an agent, with 95 % intervals over routes and seeds.

    ``supervisor``: (False, True) drives each agent without and with it, in rows of their own. The
    runs are in ``out/<agent>[+supervisor]/seed<k>``; ``options`` are those of ``drive``. ``rows``
    hold what ``statistics.summarise`` gives.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"--seeds {list(seeds)}: give one or more, each once")
    names = list(agents)
    if not names:
        raise UsageError("no agent to evaluate; name one or more")
    rows = []
    for name in names:
        for guarded in supervisor:
            label = f"{Path(name).name}{'+supervisor' if guarded else ''}"
            results: list[dict[str, Any]] = []
            for seed in seeds:
                report = drive(
                    town, routes, name, out=Path(out) / label / f"seed{seed}", seed=seed,
                    supervisor=guarded, progress=progress, **options,
                )  # fmt: skip
                results += report["routes"]
            rows.append({"agent": label, **summarise(results), "results": results})
    report = {
        "town": str(town),
        "seeds": list(seeds),
        "rows": rows,
        "environment": environment(seeds[0]),
    }
    write_json(Path(out) / SUMMARY, report, force=True)
    return report


def route_seed(seed: int, route: str) -> int:
    """A route's own seed below 2**31, from the run's: other routes, other traffic."""
    return int(np.random.default_rng([seed, 202, zlib.crc32(route.encode())]).integers(2**31))


def _own_job(job: Job, spec: RouteSpec, weather: str) -> Job:
    seed = route_seed(job.seed, spec.id)
    drawn: dict[str, float] | None = None
    if weather == "varied":
        from apps.driving.routes.sampling import sample_weather

        drawn = sample_weather(seed)
    fields = asdict(spec)
    if weather == "clear":
        fields["weather"] = None
    return replace(job, routes=[fields], seed=seed, weather=drawn)


def _check(crew: Crew, job: Job, pulse: Callable[[], None]) -> dict[str, float]:
    """Each route's length in m, once it is known that all of them can be driven."""
    try:
        return dict(crew.do(job, pulse=pulse)["lengths"])
    except Lost as lost:
        where = f"CARLA at {job.host}:{job.port}" if job.host else "the embedded world"
        raise ResourceError(f"{job.town}: {where} failed before the first route: {lost}") from lost


def _attempt(
    crew: Crew,
    job: Job,
    spec: RouteSpec,
    length: float,
    beat: Callable[[float], None],
    pulse: Callable[[], None],
) -> dict[str, Any]:
    """A route's result, after another try where the simulator or its client died."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return {**crew.do(job, beat, pulse), "attempts": attempt}
        except Lost as lost:
            reason = str(lost)
    from apps.driving.evaluation.episode import RouteResult

    result = RouteResult(
        route=spec.id,
        town=spec.town or job.town,
        agent=job.agent,
        seed=job.seed,
        status=CRASHED,
        completion=0.0,
        length=length,
        error=reason,
    )
    return {**result.as_dict(), "attempts": ATTEMPTS}


def _settings(job: Job, weather: str) -> dict[str, Any]:
    """What decides a run's results."""
    known = asdict(job)
    for name in ("routes", "check", "video", "trace", "threads"):
        del known[name]
    known["weather"] = weather
    if job.town.endswith(".xodr") and Path(job.town).is_file():
        known["town_sha256"] = sha256(Path(job.town))
    weights = Path(job.agent) / "model.safetensors"
    if weights.is_file():
        known["agent_sha256"] = sha256(weights)
    return known


def _prepare(
    out: Path,
    settings: dict[str, Any],
    specs: Sequence[RouteSpec],
    *,
    resume: bool,
    force: bool,
) -> dict[str, dict[str, Any]]:
    """Make ``out`` ready; the results that are there already, by route, where ``resume``."""
    if resume and (out / SETTINGS).is_file():
        before = read_json(out / SETTINGS, advice=ANEW)
        for name in sorted(settings.keys() | before.keys()):
            if settings.get(name) != before.get(name):
                raise UsageError(
                    f"{out}: was begun with {name} {before.get(name)!r}, now it is "
                    f"{settings.get(name)!r}; resume with the same settings, or choose another --out"
                )
        return _finished(out, specs)
    if not resume:
        require_writable(out, (SETTINGS, ROUTES, SUMMARY, CSV), force)
    if force:
        for spec in specs:
            (out / ROUTES / f"{spec.id}.json").unlink(missing_ok=True)
            (out / f"{spec.id}.mp4").unlink(missing_ok=True)
            clear(out / f"{spec.id}{SUFFIX}")
        for name in (SUMMARY, CSV):
            (out / name).unlink(missing_ok=True)
    write_json(out / SETTINGS, settings, force=force)
    return {}


def _sweep(out: Path, spec: RouteSpec) -> None:
    """Remove the half of a video that a killed worker left behind."""
    for file in leftovers(out, f"{spec.id}.mp4"):
        file.unlink(missing_ok=True)


def _finished(out: Path, specs: Sequence[RouteSpec]) -> dict[str, dict[str, Any]]:
    """Routes that need not be driven again: all that have a result but those that crashed."""
    found = {}
    for spec in specs:
        file = out / ROUTES / f"{spec.id}.json"
        if file.is_file():
            row = read_json(file, advice=ANEW)
            if row.get("route") != spec.id or "infractions" not in row:
                raise DataError(f"{file}: not a result of route {spec.id}; {ANEW}")
            if row["status"] != CRASHED:
                found[spec.id] = row
    return found
