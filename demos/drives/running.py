"""Driving a choice in the background: the route is drawn if it must be, then driven, filmed, traced."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import DataError, ResourceError, UsageError, unknown
from core.progress import Progress
from demos.drives.choice import DRAWN_WEATHER, PROCEDURAL, WEATHERS, Choice
from demos.shared import jobs
from demos.shared.keys import key_of

if TYPE_CHECKING:
    from apps.driving.routes.files import RouteSpec

ROOT = Path(__file__).resolve().parents[2]
OUT = "drive"  # in the workspace of a choice
ROUTE = "1"  # what a route that was drawn is called
BLOCKED_S = 60.0  # of standing end a drive: the Leaderboard's 180 s are long to wait for
POLL_S = 0.1
KEPT = 64  # routes that were drawn


def missing() -> str | None:
    """What must be installed before anything can be driven, as a sentence."""
    lacking = [name for name in ("carla", "msgpack", "av") if find_spec(name) is None]
    if not lacking:
        return None
    return (
        f"Driving needs {', '.join(lacking)}, which this environment lacks: "
        "`pip install -e '.[driving]'` (Linux, Python up to 3.12)."
    )


def start(choice: Choice) -> jobs.Job:
    """The job of a choice, which is the same one however often it is asked for."""
    key = choice.key
    return jobs.submit(
        key,
        f"The drive by {choice.who}",
        lambda progress: drive_choice(choice, jobs.workspace(key), progress),
    )


def trace_folder(choice: Choice) -> Path | None:
    """Where a choice's trace is, once its drive has begun to write it."""
    found = sorted((jobs.workspace(choice.key) / OUT).glob("*.trace"))
    return found[0] if found else None


def drive_choice(choice: Choice, folder: Path, progress: Progress) -> Path:
    """Drive a choice into ``folder``; the folder of results that ``drive`` wrote.

    Raises what ``drive`` raises, and for a route that cannot be drawn.
    """
    from apps.driving.evaluation.runner import drive

    spec = route_of(choice, progress)
    weather = "varied" if choice.weather == DRAWN_WEATHER else "routes"
    pair = WEATHERS.get(choice.weather)
    if pair is not None:
        from apps.driving.routes.sampling import typical_weather

        spec = replace(spec, weather=typical_weather(*pair))
    out = folder / OUT
    drive(
        choice.town,
        [spec],
        choice.driver,
        out=out,
        traffic=choice.traffic,
        walkers=choice.walkers,
        seed=choice.seed,
        supervisor=choice.supervisor,
        weather=weather,
        blocked_after=BLOCKED_S,
        max_seconds=float(choice.max_seconds),
        trace=True,
        progress=progress,
    )
    return out


def route_of(choice: Choice, progress: Progress) -> RouteSpec:
    """The route of a choice: out of its file, or drawn through its town."""
    from apps.driving.routes.files import read_routes

    if choice.routes is None:
        return replace(_drawn(choice, progress), id=ROUTE)
    specs = {spec.id: spec for spec in read_routes(choice.routes)}
    if choice.route not in specs:
        raise UsageError(f"{Path(choice.routes).name}: {unknown('route', choice.route, specs)}")
    return specs[choice.route]


_routes: dict[str, RouteSpec] = {}  # those that were drawn: several drivers take each


def _drawn(choice: Choice, progress: Progress) -> RouteSpec:
    """Drawn by a process of its own: CARLA's library may end the process that it fails in."""
    from apps.driving.routes.files import read_routes

    town = choice.town if choice.town.startswith(PROCEDURAL) else Path(choice.town)
    key = key_of(town, choice.drawn, choice.metres)
    if key in _routes:
        return _routes[key]
    with tempfile.TemporaryDirectory(prefix="triptych-route-") as folder:
        file = Path(folder) / "route.xml"
        arguments = {
            "town": choice.town,
            "count": 1,
            "shortest": choice.metres[0],
            "longest": choice.metres[1],
            "seed": choice.drawn,
            "out": file,
        }
        options = [f"--{name}={value}" for name, value in arguments.items()]
        command = [sys.executable, str(ROOT / "apps/driving/run.py"), "routes", "--json", *options]
        with progress.task("draw a route") as task:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            try:
                while process.poll() is None:
                    task.advance(0, choice.town_name)  # raises when the person cancels
                    time.sleep(POLL_S)
                assert process.stdout is not None
                said = process.stdout.read()
            finally:
                process.kill()
                process.wait()
        if process.returncode:
            raise _failure(said, process.returncode, choice.town_name)
        if len(_routes) >= KEPT:
            _routes.clear()
        _routes[key] = read_routes(file)[0]
        return _routes[key]


def _failure(said: str, code: int, town: str) -> Exception:
    """The error that ``run.py --json`` told, as it was raised there."""
    try:
        error: dict[str, Any] = json.loads(said)["error"]
        kinds = {kind.exit_code: kind for kind in (UsageError, DataError, ResourceError)}
        return kinds[error["exit_code"]](str(error["message"]))
    except (ValueError, KeyError, TypeError):
        return ResourceError(f"{town}: no route could be drawn (the program ended with {code})")
