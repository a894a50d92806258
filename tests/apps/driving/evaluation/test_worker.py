"""The worker itself: real processes, a real embedded world, one that is killed under the car."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from apps.driving.evaluation.processes import Crew, Lost
from apps.driving.evaluation.runner import drive
from apps.driving.evaluation.trace import Trace
from apps.driving.evaluation.worker import Job, plain_name, require_town
from apps.driving.routes.files import RouteSpec
from apps.driving.routes.sampling import sample_routes
from core.errors import DataError, UsageError
from core.progress import Event, Progress, Task

ROOT = Path(__file__).resolve().parents[4]
TOWN = "procedural:5"


@pytest.fixture(scope="module")
def route() -> RouteSpec:
    import carla

    from apps.driving.world.maps.procedural import generate

    town = carla.Map("Procedural5", generate(5))
    return sample_routes(town, "Procedural5", 1, 0, length=(40, 80))[0]


def test_a_route_is_driven_filmed_and_reported(route, tmp_path):
    report = drive(TOWN, [route], "expert", out=tmp_path / "out", traffic=4)
    (row,) = report["routes"]
    assert row["error"] is None
    assert row["route_completion"] > 0
    assert row["decisions"] > 20
    assert (tmp_path / "out" / f"{route.id}.mp4").stat().st_size > 1000
    again = drive(
        TOWN, [route], "expert", out=tmp_path / "again", traffic=4, video=False, trace=True
    )
    same = ("status", "route_completion", "duration_s", "decisions", "infractions", "traffic_speed")
    assert {name: again["routes"][0][name] for name in same} == {name: row[name] for name in same}
    trace = Trace(tmp_path / "again" / f"{route.id}.trace")
    assert trace.over
    assert len(trace) == row["decisions"]
    assert trace.kinds == ("rgb", "depth", "truth")
    assert trace.result["route_completion"] == row["route_completion"]


@pytest.mark.parametrize(
    ("changes", "kind", "match"),
    [
        ({"town": "Town05"}, DataError, "is for Town05, but --town procedural:5"),
        ({"waypoints": ((0.0, 0.0), (90000.0, 90000.0))}, DataError, "route"),
    ],
)
def test_routes_that_cannot_be_driven_are_named_before_the_start(
    route, tmp_path, changes, kind, match
):
    bad = RouteSpec(**{**asdict(route), "id": "bad", **changes})
    with pytest.raises(kind, match=match) as caught:
        drive(TOWN, [route, bad], "expert", out=tmp_path / "out", video=False)
    assert "bad" in str(caught.value)
    assert not list(tmp_path.glob("out/routes/*.json"))


def test_an_unknown_agent_and_an_unknown_town_are_named(route, tmp_path):
    with pytest.raises(UsageError, match="expret"):
        drive(TOWN, [route], "expret", out=tmp_path / "one", video=False)
    with pytest.raises((UsageError, DataError), match=r"Town99\.xodr"):
        drive("Town99.xodr", [route], "expert", out=tmp_path / "two", video=False)


class Enough(BaseException):
    """As a page's: no handler of errors may swallow it."""


class Impatient(Progress):
    """Has had enough ``after`` so many seconds of a note with ``word`` in it, and says so once.

    Or when another note comes: a quick machine may be through with it sooner.
    """

    def __init__(self, word: str, after: float = 0.0) -> None:
        self.word, self.after = word, after
        self.since: float | None = None
        self.raised: float | None = None

    def show(self, task: Task, event: Event) -> None:
        now = time.monotonic()
        seen = self.word in task.note
        if self.raised is not None or not (seen or self.since):
            return
        self.since = self.since or now
        if not seen or now - self.since >= self.after:
            self.raised = now
            raise Enough


def family(mark: str) -> list[str]:
    """The command lines of all processes that have inherited a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.parametrize(
    ("word", "after"),
    [
        ("checking", 0.0),  # the worker imports
        ("checking", 3.0),  # its world is being built
        ("starting", 2.0),
        (" %", 0.0),  # it drives
    ],
)
def test_a_run_that_nobody_wants_any_more_ends_at_once(route, tmp_path, monkeypatch, word, after):
    mark = f"TRIPTYCH_TEST_MARK={secrets.token_hex(8)}"
    monkeypatch.setenv(*mark.split("="))
    progress = Impatient(word, after)
    with pytest.raises(Enough):
        drive(TOWN, [route], "expert", out=tmp_path / "out", trace=True, progress=progress)
    assert time.monotonic() - progress.raised < 10  # a second, where nothing else runs
    deadline = time.monotonic() + 20
    while (left := family(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert not (tmp_path / "out/summary.json").exists()
    assert not list(tmp_path.glob("out/routes/*.json"))


def test_a_simulator_that_is_killed_under_the_car_loses_the_route(route):
    command = [sys.executable, "apps/driving/run.py", "world", "--town", TOWN, "--port", "0"]
    with subprocess.Popen(
        [*command, "--synchronous", "--quiet", "--json"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as world:  # fmt: skip
        port = json.loads(world.stdout.readline())["port"]
        job = Job(TOWN, [asdict(route)], "constant", host="127.0.0.1", port=port)
        beats: list[float] = []

        def kill(share: float) -> None:
            beats.append(share)
            world.kill()

        try:
            with Crew() as crew, pytest.raises(Lost):
                crew.do(job, kill)
        finally:
            world.kill()
    assert beats
    assert beats[-1] < 100


def test_towns_by_any_of_their_names():
    assert plain_name("Carla/Maps/Town10HD_Opt") == plain_name("Town10HD")
    assert plain_name("procedural:5") == plain_name("Procedural5")
    spec = RouteSpec("r", "Town01", ((0.0, 0.0), (1.0, 1.0)))
    require_town([spec], "Town01", "samples/Town01.xodr")
    with pytest.raises(DataError, match="route r: is for Town01"):
        require_town([spec], "Town02", "Town02.xodr")
