"""Every check of every client program, each in a process of its own.

    pytest tests/apps/driving/conformance                        # the embedded world
    CARLA_HOST=127.0.0.1 pytest tests/apps/driving/conformance   # a CARLA 0.9.16 that runs (port 2000)

What the checks assert holds for any CARLA; where this world documents a number, DOCUMENTED holds it
to one per cent here and to nothing elsewhere.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _checks() -> ModuleType:
    """checks.py beside this file, which is a program too and part of no package."""
    path = Path(__file__).with_name("checks.py")
    spec = importlib.util.spec_from_file_location("conformance_checks", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checks = _checks()

SLOW = {
    "traffic.autopilot",
    "traffic.stops_at_red",
    "traffic.keeps_its_distance",
    "traffic.speed",
    "walkers.controllers",
    "blueprints.every_walker",
    "body.collision_with_the_town",
    "lights.speed_signs_hold",
    "spawning.five_hundred_spawns",
}
"""Twenty simulated seconds and more, or very many actors."""

DOCUMENTED: dict[str, dict[str, float]] = {
    # apps/driving/world/motion/vehicles.py
    "driving.acceleration": {"seconds_0_50": 2.00},
    "driving.braking": {"metres_50_0": 10.8},
    "driving.turning_circle": {"turning_circle_m": 7.44},
    # apps/driving/world/traffic/lights.py
    "lights.times": {"green_s": 10.0, "yellow_s": 3.0, "red_s": 2.0},
}


def table() -> list[Any]:
    return [
        pytest.param(check, marks=pytest.mark.slow if check in SLOW else ())
        for check in checks.all_checks()
    ]


@pytest.mark.parametrize("check", table())
def test_check(server: Any, check: str) -> None:
    limit = 60 if server.embedded else 300
    outcome = checks.run_check(check, server.environment(), limit)
    if outcome.timed_out and not server.problem():
        # A synchronous Traffic Manager may hang (docs/driving.md). Ticks are watched; those of
        # apply_settings and apply_batch_sync are not. A server that hangs fails twice.
        warnings.warn(f"{check}: the client hung; once more", stacklevel=1)
        outcome = checks.run_check(check, server.environment(), limit)
    print(outcome.measured)
    problem = server.problem()
    assert outcome.passed, f"{outcome.error}\n{problem}"
    assert not problem, problem
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    if server.embedded:
        for name, wanted in DOCUMENTED.get(check, {}).items():
            assert outcome.measured[name] == pytest.approx(wanted, rel=0.01), name


def test_tables_name_checks_that_exist() -> None:
    known = set(checks.all_checks())
    assert set(DOCUMENTED) <= known
    assert known >= SLOW
    assert len(known) > 100


def test_coverage_table_counts_passed_checks_only() -> None:
    pytest.importorskip("carla")
    done = checks.Outcome("a.b", True, calls=("World.tick", "Actor.destroy"))
    failed = checks.Outcome("a.c", False, calls=("World.tick", "World.get_map"))
    text = checks.coverage_table([done, failed])
    assert "| `World.tick` | `a.b` |" in text
    assert "| `World.get_map` | none |" in text
    assert text.startswith("2 of ")


def drive(embedded: Any, *options: str) -> dict[str, str]:
    """The hashes of streams.drive on a server of its own, which must end cleanly."""
    server = embedded(*options)
    try:
        outcome = checks.run_check("streams.drive", server.environment(), 60)
        assert outcome.passed, f"{outcome.error}\n{server.problem()}"
        assert not server.problem()
    finally:
        code = server.stop()
    assert code in (0, 130), f"exit status {code} after SIGINT"
    hashes: dict[str, str] = outcome.measured
    return hashes


@pytest.fixture
def town(samples: Path) -> str:
    return str(samples / "Town01.xodr")


def test_same_seed_same_bytes_another_seed_other_traffic(embedded: Any, town: str) -> None:
    crowd = ("--town", town, "--traffic", "8", "--walkers", "6")
    first = drive(embedded, *crowd, "--seed", "11")
    again = drive(embedded, *crowd, "--seed", "11")
    different = [kind for kind in first if first[kind] != again[kind]]
    assert not different, f"these sensors sent other bytes in a second run: {different}"
    other = drive(embedded, *crowd, "--seed", "12")
    assert other["snapshot"] != first["snapshot"], "the seed changes nothing"


def test_a_reloaded_episode_repeats(server: Any) -> None:
    """The same drive twice on one server, with a reload before each: the same bytes."""
    if not server.embedded:
        pytest.skip("CARLA's pictures differ from run to run")
    first, again = (checks.run_check("streams.drive", server.environment(), 60) for _ in range(2))
    assert first.passed, first.error
    assert again.passed, again.error
    different = [kind for kind in first.measured if first.measured[kind] != again.measured[kind]]
    assert not different, f"after a reload these sensors sent other bytes: {different}"


@pytest.mark.slow
def test_a_generated_town_is_the_same_every_time(embedded: Any) -> None:
    first = drive(embedded, "--town", "procedural:4", "--seed", "2")
    again = drive(embedded, "--town", "procedural:4", "--seed", "2")
    assert first == again
