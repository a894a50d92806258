"""Runs of many routes: files, seeds, crashes and resumption, with workers played by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from apps.driving.evaluation import runner
from apps.driving.evaluation.episode import RouteResult
from apps.driving.evaluation.processes import Lost
from apps.driving.evaluation.report import print_drive, print_evaluation
from apps.driving.evaluation.runner import drive, evaluate, route_seed
from apps.driving.evaluation.scores import Infraction
from apps.driving.evaluation.statistics import CRASHED
from apps.driving.evaluation.worker import Job
from apps.driving.routes.files import RouteSpec
from core.errors import DataError, ResourceError, UsageError
from core.progress import Event, SilentProgress, Task

SPECS = [RouteSpec(name, "Town01", ((0.0, 0.0), (float(i), 50.0))) for i, name in enumerate("abc")]


class Workers:
    """Takes the place of ``Crew``; ``lost`` says how many attempts at a route fail."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.lost: dict[str, int] = {}
        self.fails: Exception | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def stop(self) -> None:
        pass

    def do(self, job: Job, beat: Any = None, pulse: Any = None) -> dict[str, Any]:
        self.jobs.append(job)
        if pulse is not None:
            pulse()
        if beat is not None:
            beat(50.0)
        if self.fails is not None:
            raise self.fails
        if job.check:
            return {"lengths": {route["id"]: 100.0 for route in job.routes}}
        name = job.routes[0]["id"]
        if self.lost.get(name, 0) > 0:
            self.lost[name] -= 1
            raise Lost("segmentation fault")
        light = Infraction("red_light", 3.0, (0.0, 1.0), "ran the red light 4")
        result = RouteResult(
            route=name,
            town="Town01",
            agent=job.agent,
            seed=job.seed,
            status="completed" if name == "b" else "perfect",
            completion=100.0,
            length=100.0,
            infractions=(light,) if name == "b" else (),
        )
        return result.as_dict()

    @property
    def driven(self) -> list[str]:
        return [job.routes[0]["id"] for job in self.jobs if not job.check]


@pytest.fixture
def workers(monkeypatch) -> Workers:
    found = Workers()
    monkeypatch.setattr(runner, "Crew", lambda: found)
    return found


def go(out: Path, **options: Any) -> dict[str, Any]:
    return drive("Town01.xodr", SPECS, "expert", out=out, **({"video": False} | options))


def test_the_report_and_the_files(workers, tmp_path, capsys):
    report = go(tmp_path / "out", traffic=5, seed=3)
    assert report["driving_score_2_1"] == pytest.approx((100 + 100 / 1.4 + 100) / 3, abs=1e-3)
    assert report["driving_score_1_0"] == pytest.approx(90)
    assert report["route_completion"] == 100
    assert report["infractions"]["red_light"] == 1
    assert [row["route"] for row in report["routes"]] == ["a", "b", "c"]
    assert {row["seed"] for row in report["routes"]} == {3}
    written = json.loads((tmp_path / "out/summary.json").read_text())
    assert written["driving_score_2_1"] == report["driving_score_2_1"]
    assert written["environment"]["seed"] == 3
    with open(tmp_path / "out/routes.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["red_light"] for row in rows] == ["0", "1", "0"]
    print_drive(report)
    shown = capsys.readouterr().out
    assert "Leaderboard 2.1" in shown
    assert "Leaderboard 1.0" in shown
    assert "ran the red light 4" in shown


def test_routes_are_checked_before_any_is_driven(workers, tmp_path):
    go(tmp_path / "out")
    assert [job.check for job in workers.jobs] == [True, False, False, False]
    workers.fails = DataError("route b: cannot be reached")
    with pytest.raises(DataError, match="route b"):
        go(tmp_path / "other")
    workers.fails = Lost("no answer")
    with pytest.raises(ResourceError, match="before the first route: no answer"):
        go(tmp_path / "third")


def test_each_route_has_its_own_seed_which_the_runs_seed_decides(workers, tmp_path):
    go(tmp_path / "one", seed=1)
    go(tmp_path / "two", seed=1)
    go(tmp_path / "three", seed=2)
    seeds = [job.seed for job in workers.jobs if not job.check]
    assert seeds[:3] == seeds[3:6]
    assert len(set(seeds)) == 6
    assert seeds[0] == route_seed(1, "a")


def test_a_crash_costs_one_more_try(workers, tmp_path):
    workers.lost = {"b": 1}
    report = go(tmp_path / "out")
    assert workers.driven == ["a", "b", "b", "c"]
    assert [row["attempts"] for row in report["routes"]] == [1, 2, 1]
    assert report["simulation_crashed"] == 0


def test_two_crashes_cost_the_route_and_no_other(workers, tmp_path):
    workers.lost = {"b": 2}
    report = go(tmp_path / "out")
    row = report["routes"][1]
    assert row["status"] == CRASHED
    assert row["error"] == "segmentation fault"
    assert row["driving_score_2_1"] == row["route_completion"] == 0
    assert report["simulation_crashed"] == 1
    assert report["route_completion"] == pytest.approx(200 / 3, abs=1e-3)


class Told(SilentProgress):
    """Remembers how much was done; raises at a note."""

    def __init__(self, at: str = "never") -> None:
        self.done: list[float] = []
        self.at = at

    def show(self, task: Task, event: Event) -> None:
        self.done.append(task.done)
        if event == "advance" and self.at in task.note:
            raise KeyboardInterrupt


def test_progress_counts_what_is_driven_of_a_route(workers, tmp_path):
    told = Told()
    go(tmp_path / "out", progress=told)
    assert told.done[0] == 0
    assert 0.5 in told.done
    assert told.done[-1] == 3
    again = Told()
    go(tmp_path / "out", progress=again, resume=True)
    assert again.done[-1] == 3


@pytest.mark.parametrize("jobs", [1, 3])
def test_whoever_watches_may_end_a_run_which_can_be_resumed(workers, tmp_path, jobs):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "out", progress=Told("b: 50 %"), jobs=jobs)
    assert not (tmp_path / "out/routes/b.json").exists()
    assert not (tmp_path / "out/summary.json").exists()
    workers.jobs.clear()
    assert len(go(tmp_path / "out", resume=True)["routes"]) == 3
    assert "b" in workers.driven


def test_half_a_video_of_a_killed_worker_goes_when_its_route_is_driven(workers, tmp_path):
    (tmp_path / "out").mkdir()
    for name in (".tmp-0a1b2c3d-a.mp4", ".tmp-0a1b2c3d-x-a.mp4", "a.mp4"):
        (tmp_path / "out" / name).write_text("half")
    go(tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").glob("*.mp4")) == [
        ".tmp-0a1b2c3d-x-a.mp4",
        "a.mp4",
    ]


def test_a_run_that_is_ended_during_the_check_drives_nothing(workers, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "out", progress=Told("checking"))
    assert workers.driven == []


def test_a_trace_is_asked_for_by_route(workers, tmp_path):
    go(tmp_path / "out", trace=True, limit=2)
    assert [job.trace for job in workers.jobs] == [
        None,
        *(str(tmp_path / "out" / f"{name}.trace") for name in "ab"),
    ]
    go(tmp_path / "out", limit=2, resume=True)  # it decides no result


def test_a_resumed_run_drives_what_is_missing_and_what_crashed(workers, tmp_path):
    workers.lost = {"b": 2}
    go(tmp_path / "out", limit=2)
    workers.jobs.clear()
    report = go(tmp_path / "out", resume=True)
    assert workers.driven == ["b", "c"]
    assert report["simulation_crashed"] == 0
    workers.jobs.clear()
    again = go(tmp_path / "out", resume=True)
    assert workers.jobs == []
    assert again["routes"] == report["routes"]


def test_resuming_with_other_settings_is_refused_by_name(workers, tmp_path):
    go(tmp_path / "out", traffic=5)
    with pytest.raises(UsageError, match="traffic 5, now it is 6"):
        go(tmp_path / "out", traffic=6, resume=True)


def test_a_damaged_result_is_named(workers, tmp_path):
    go(tmp_path / "out")
    (tmp_path / "out/routes/b.json").write_text("{")
    with pytest.raises(DataError, match=r"b\.json"):
        go(tmp_path / "out", resume=True)
    (tmp_path / "out/routes/b.json").write_text("{}")
    with pytest.raises(DataError, match=r"b\.json"):
        go(tmp_path / "out", resume=True)


def test_results_are_not_replaced_without_force(workers, tmp_path):
    go(tmp_path / "out")
    workers.jobs.clear()
    with pytest.raises(UsageError, match="--force"):
        go(tmp_path / "out")
    assert workers.jobs == []
    assert go(tmp_path / "out", force=True, seed=9)["seed"] == 9


def test_several_routes_at_once_give_the_same_report(workers, tmp_path):
    one, three = go(tmp_path / "one"), go(tmp_path / "three", jobs=3)
    assert one["routes"] == three["routes"]


def test_weather(workers, tmp_path):
    go(tmp_path / "file")
    go(tmp_path / "varied", weather="varied")
    first, drawn = (
        [job.weather for job in workers.jobs if not job.check][part]
        for part in (slice(0, 3), slice(3, 6))
    )
    assert first == [None] * 3
    assert all("sun_altitude_angle" in weather for weather in drawn)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"jobs": 0}, "--jobs 0"),
        ({"limit": 0}, "--limit 0"),
        ({"host": "somewhere", "jobs": 2}, "one CARLA"),
        ({"weather": "snow"}, "--weather snow"),
        ({"interval": 0.0}, "--interval"),
    ],
)
def test_options_that_will_not_do(workers, tmp_path, options, match):
    with pytest.raises(UsageError, match=match):
        go(tmp_path / "out", **options)
    assert workers.jobs == []
    assert not (tmp_path / "out").exists()


def test_no_routes_is_an_error(workers, tmp_path):
    with pytest.raises(DataError, match="no route"):
        drive("Town01.xodr", [], "expert", out=tmp_path / "out")


def test_an_evaluation_has_a_row_an_agent_over_all_seeds(workers, tmp_path, capsys):
    report = evaluate(
        "Town01.xodr",
        SPECS,
        ["expert", "blind"],
        out=tmp_path / "out",
        seeds=(0, 1),
        supervisor=(False, True),
        video=False,
    )
    names = [row["agent"] for row in report["rows"]]
    assert names == ["expert", "expert+supervisor", "blind", "blind+supervisor"]
    assert [row["routes_driven"] for row in report["rows"]] == [6] * 4
    assert (tmp_path / "out/blind+supervisor/seed1/routes/c.json").is_file()
    assert {job.supervisor for job in workers.jobs} == {False, True}
    print_evaluation(report)
    assert "blind+supervisor" in capsys.readouterr().out


def test_an_evaluation_needs_seeds_and_agents(workers, tmp_path):
    with pytest.raises(UsageError, match="seeds"):
        evaluate("Town01.xodr", SPECS, ["expert"], out=tmp_path, seeds=(1, 1))
    with pytest.raises(UsageError, match="agent"):
        evaluate("Town01.xodr", SPECS, [], out=tmp_path)
