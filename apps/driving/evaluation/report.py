"""Results for people: a line a route as CSV, tables in the terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apps.driving.evaluation.scores import KINDS
from core.files import atomic_path

SUMMARY, CSV = "summary.json", "routes.csv"
COLUMNS = (
    "town", "route", "agent", "seed", "status", "driving_score_2_1", "driving_score_2_0",
    "driving_score_1_0", "route_completion", "length_m", "duration_s", "wall_s", "attempts", "error",
)  # fmt: skip
SHORT = {
    "collisions_pedestrian": "walkers hit",
    "collisions_vehicle": "vehicles hit",
    "collisions_layout": "objects hit",
    "red_light": "red lights",
    "stop_infraction": "stop signs",
    "outside_route_lanes": "outside lanes",
    "min_speed_infractions": "too slow",
    "yield_emergency_vehicle_infractions": "did not yield",
    "scenario_timeouts": "scenario time-outs",
    "route_dev": "left the route",
    "vehicle_blocked": "blocked",
    "route_timeout": "timed out",
}


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line a route: scores, times, and the number of infractions of each kind."""
    with (
        atomic_path(path, force=True) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow((*COLUMNS, *KINDS))
        for row in rows:
            counts = [len(row["infractions"][kind]) for kind in KINDS]
            writer.writerow((*(row.get(name) for name in COLUMNS), *counts))


def with_interval(mean: float, bounds: Sequence[float] | None) -> str:
    """``87.3 [80.1, 93.0]``."""
    return f"{mean:.1f}" if bounds is None else f"{mean:.1f} [{bounds[0]:.1f}, {bounds[1]:.1f}]"


def print_drive(report: Mapping[str, Any]) -> None:
    """The routes of one run, and what they come to."""
    print(f"{'route':<14}{'status':<34}{'done %':>8}{'2.1':>7}{'1.0':>7}{'m':>7}{'s':>7}")
    for row in report["routes"]:
        print(
            f"{row['route'][:13]:<14}{row['status'][:33]:<34}{row['route_completion']:>8.1f}"
            f"{row['driving_score_2_1']:>7.1f}{row['driving_score_1_0']:>7.1f}"
            f"{row['length_m']:>7.0f}{row['duration_s']:>7.0f}"
        )
        for kind in KINDS:
            for found in row["infractions"][kind]:
                print(f"{'':<14}{found['time']:>6.1f} s  {found['message']}")
        if row["error"]:
            print(f"{'':<14}{row['error']}")
    print()
    bounds = report["intervals"]
    for key, name in (
        ("driving_score_2_1", "driving score (Leaderboard 2.1)"),
        ("driving_score_1_0", "driving score (Leaderboard 1.0)"),
        ("route_completion", "route completion, %"),
    ):
        print(f"{name:<34}{with_interval(report[key], bounds[key])}")
    print(f"{'infractions':<34}{_infractions(report['infractions'])}")
    if report["interventions"]:
        counted = ", ".join(f"{name} {count}" for name, count in report["interventions"].items())
        print(f"{'decisions the supervisor changed':<34}{counted}")


def print_evaluation(report: Mapping[str, Any]) -> None:
    """A row an agent, with 95 % intervals over routes and seeds."""
    width = max(12, *(len(row["agent"]) + 2 for row in report["rows"]))
    print(
        f"{'agent':<{width}}{'score 2.1':>22}{'score 1.0':>22}{'route completion %':>22}"
        f"{'success':>9}{'ms':>7}  infractions"
    )
    for row in report["rows"]:
        score, older, done = (
            with_interval(row[key], row["intervals"][key])
            for key in ("driving_score_2_1", "driving_score_1_0", "route_completion")
        )
        pace = row["decision_ms"]
        print(
            f"{row['agent']:<{width}}{score:>22}{older:>22}{done:>22}{row['success_rate']:>9.2f}"
            f"{pace:>7.1f}  {_infractions(row['infractions'])}"
        )


def _infractions(counts: Mapping[str, int]) -> str:
    found = [f"{SHORT[kind]} {counts[kind]}" for kind in KINDS if counts[kind]]
    return ", ".join(found) or "none"
