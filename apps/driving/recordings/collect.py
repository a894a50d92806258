"""Series of recorded routes: each in a process of its own, until there are enough frames.

    DATADIR/sampled/<town>/route_s<seed>_<number>

A route's folder appears when the route is whole, so what is there is finished: that is all that
resuming needs. A route whose process died is tried once more, then passed over; what follows does
not depend on it, for every route draws from its own number in the series.

In the embedded world the same series gives the same routes, weather, traffic and measurements again.
"""

from __future__ import annotations

import re
import resource
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from apps.driving.recordings import layout
from apps.driving.recordings.card import write_card
from apps.driving.recordings.job import Job
from apps.driving.recordings.process import RouteLost, in_process
from core.errors import ResourceError, UsageError
from core.files import leftovers, require_writable
from core.progress import Progress, SilentProgress, Task

SCENARIO = "sampled"
LOST_IN_A_ROW = 4  # then something is wrong with the simulator, not with a route

Runner = Callable[[Job, Callable[[int], None], threading.Event], dict[str, Any]]


@dataclass
class _Series:
    """What has become of the routes so far."""

    wanted: int
    frames: dict[int, int] = field(default_factory=dict)  # by route number, finished ones
    results: list[dict[str, Any]] = field(default_factory=list)
    lost: list[dict[str, Any]] = field(default_factory=list)
    in_a_row: int = 0

    @property
    def done(self) -> int:
        return sum(self.frames.values())


def collect(
    town: str,
    frames: int,
    out: Path,
    *,
    seed: int = 0,
    traffic: int = 20,
    walkers: int = 10,
    host: str | None = None,
    port: int = 2000,
    perturb: bool = True,
    jobs: int = 1,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    agent: str = "expert",
    command: str | None = None,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Record routes in ``town`` until this series has ``frames`` frames; write the data's card.

    ``seed`` names the series; ``resume`` goes on with it, ``force`` begins it anew, and other series
    and towns may share ``out``. ``perturb``: bursts of steering noise, whose frames are not kept, and
    starts a little beside the lane's middle. ``jobs`` routes at a time: then there may be more frames
    than asked for, by the routes that were under way. ``command`` is written into the card.

    Returns what was recorded, how fast (``frames_per_second``, and ``frames_per_cpu_second`` of a
    core), routes that were lost and why, and the card.

    Raises UsageError where the series is there already or a number makes no sense, DataError for a
    town that cannot be used, ResourceError where nothing can be written or one route after another
    is lost.
    """
    for name, value, least in (("frames", frames, 1), ("jobs", jobs, 1), ("traffic", traffic, 0)):
        if value < least:
            raise UsageError(f"{name} {value}: give {least} or more")
    if host is not None and jobs > 1:
        raise UsageError("a simulator of --host drives one route at a time; leave --jobs out")
    out = Path(out)
    require_writable(out, ())
    folder = out / SCENARIO / town_folder(town)
    pattern = re.compile(rf"route_s{seed}_(\d{{4,}})")
    there = {
        int(found.group(1)): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (found := pattern.fullmatch(path.name))
    }
    if there and not (resume or force):
        raise UsageError(
            f"{folder} has {len(there)} routes of seed {seed}; pass --resume to go on with them, "
            "--force to record them anew, or another --seed"
        )
    if force and not resume:
        for path in there.values():
            shutil.rmtree(path)
        there = {}
    _sweep(folder, seed)
    series = _Series(frames)
    series.frames = {number: _recorded(path) for number, path in there.items()}
    job = Job(
        town=_place(town, host),
        folder="",
        number=0,
        frames=frames,
        seed=seed,
        traffic=traffic,
        walkers=walkers,
        host=host,
        port=port,
        perturb=perturb,
        agent=agent,
        command=command,
        version=version(),
    )
    before, began, had = _cpu(), time.monotonic(), series.done
    with (progress or SilentProgress()).task("collect", frames) as task:
        task.advance(had, "resumed" if had else "starting")
        _record(series, job, folder, jobs, task, runner or in_process)
    seconds, cpu = time.monotonic() - began, _cpu() - before
    new = series.done - had
    return {
        "out": str(out),
        "town": folder.name,
        "seed": seed,
        "frames": series.done,
        "new_frames": new,
        "routes": len(series.frames),
        "seconds": round(seconds, 1),
        "frames_per_second": round(new / seconds, 2) if seconds > 0 else 0.0,
        "cpu_seconds": round(cpu, 1),
        "frames_per_cpu_second": round(new / cpu, 2) if cpu > 0 else 0.0,
        "simulated_seconds": round(sum(r.get("simulated_s", 0.0) for r in series.results), 1),
        "infractions": sum(len(r.get("infractions", ())) for r in series.results),
        "lost": series.lost,
        "card": write_card(out),
    }


def town_folder(town: str) -> str:
    """The name of a town's folder: ``Town01`` for a file of that name, ``procedural_7``."""
    name = Path(town).stem if town.endswith(".xodr") else town
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name) or "town"


def version() -> str:
    """Of this package and of CARLA's client, as far as they are installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    found = []
    for package in ("triptych", "carla"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {installed(package)}")
    return ", ".join(found)


def _record(series: _Series, job: Job, folder: Path, jobs: int, task: Task, runner: Runner) -> None:
    """Routes by rising number, ``jobs`` at a time, until the series has its frames."""
    lock, stop = threading.Lock(), threading.Event()
    number = 0
    under_way: dict[Future[dict[str, Any]], Job] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while series.done < series.wanted or under_way:
                while len(under_way) < jobs and series.done < series.wanted:
                    while number in series.frames:
                        number += 1
                    route = replace(
                        job,
                        number=number,
                        folder=str(folder / f"route_s{job.seed}_{number:04d}"),
                        frames=series.wanted - series.done,
                    )
                    under_way[pool.submit(_one, route, runner, _Counter(task, lock), stop)] = route
                    number += 1
                finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in finished:
                    _note(series, under_way.pop(future), future)
        except BaseException:
            stop.set()  # the series has failed, or was interrupted: no use in going on
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class _Counter:
    """Turns a route's own count of frames into steps of the whole task."""

    def __init__(self, task: Task, lock: threading.Lock) -> None:
        self._task, self._lock, self._frames = task, lock, 0

    def __call__(self, frames: int, note: str | None = None) -> None:
        with self._lock:
            self._task.advance(frames - self._frames, note)
        self._frames = frames


def _one(job: Job, runner: Runner, counter: _Counter, stop: threading.Event) -> dict[str, Any]:
    """A route, tried again where it was lost; RouteLost where it was lost again."""
    for last in (False, True):
        try:
            counter(0, Path(job.folder).name)
            facts = runner(job, counter, stop)
            counter(facts["frames"])
            return facts
        except RouteLost:
            counter(0)
            _sweep(Path(job.folder).parent, job.seed, job.number)
            if last or stop.is_set():
                raise
    raise AssertionError("two tries")


def _note(series: _Series, job: Job, future: Future[dict[str, Any]]) -> None:
    try:
        facts = future.result()
    except RouteLost as error:
        series.lost.append({"route": Path(job.folder).name, "reason": str(error)})
    else:
        if facts["frames"]:
            series.frames[job.number] = facts["frames"]
            series.results.append(facts)
            series.in_a_row = 0
            return
        reason = f"no frame was worth keeping ({facts['status']})"
        series.lost.append({"route": Path(job.folder).name, "reason": reason})
    series.in_a_row += 1
    if series.in_a_row >= LOST_IN_A_ROW:
        raise ResourceError(
            f"{series.in_a_row} routes after one another were lost, the last one: "
            f"{series.lost[-1]['reason']}; {series.done} frames are kept, go on with --resume"
        )


def _place(town: str, host: str | None) -> str:
    if town.endswith(".xodr") and (host is None or Path(town).exists()):
        return str(Path(town).resolve())
    return town


def _recorded(path: Path) -> int:
    """How many frames a finished route has."""
    return sum(1 for _ in (path / layout.MEASUREMENTS).glob("*.json"))


def _sweep(folder: Path, seed: int, number: int | None = None) -> None:
    """Remove what routes of this series left behind that were killed while they wrote."""
    which = "*" if number is None else f"{number:04d}"
    for path in leftovers(folder, f"route_s{seed}_{which}"):
        shutil.rmtree(path, ignore_errors=True)


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    own, children = (
        resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
