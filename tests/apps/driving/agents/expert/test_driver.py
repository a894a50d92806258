"""The expert in an embedded world: what it does at lights, signs, obstacles, people, in traffic."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apps.driving.agents.expert.yielding import Yielding

pytest.importorskip("carla")
PROGRAM = Path(__file__).with_name("scenes.py")


def drive(name: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), name], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def quiet() -> dict[str, Any]:
    return drive("quiet")


def test_where_it_means_to_be_is_where_it_is(quiet: dict[str, Any]) -> None:
    found = quiet["foreseen"]
    assert found["far"] > 4.0
    assert max(found["errors"]) < 0.5


def test_it_stands_behind_what_stands_and_goes_when_that_has_gone(quiet: dict[str, Any]) -> None:
    found = quiet["obstacle"]
    assert found["held"]
    assert found["speed"] < 0.05
    assert 1.5 < found["gap"] < 6.0
    assert found["then"] > 5.0
    assert found["kinds"] == []


def test_it_lets_people_cross(quiet: dict[str, Any]) -> None:
    found = quiet["walker"]
    assert found["held"]
    assert found["before"] > 5.0
    assert found["least"] < 2.0
    assert found["then"] > 4.0
    assert found["kinds"] == []


def test_it_stands_before_a_red_light_and_goes_at_green(quiet: dict[str, Any]) -> None:
    found = quiet["light"]
    assert found["held"]
    assert found["speed"] < 0.05
    assert 0.3 < found["gap"] < 4.0
    assert found["then"] > 3.0
    assert found["kinds"] == []


def test_it_stops_at_a_stop_sign() -> None:
    found = drive("stop")
    assert found["held"]
    assert found["least"] < 0.1
    assert found["kinds"] == []
    assert found["status"] == "perfect"


def test_a_route_among_others() -> None:
    found = drive("traffic")
    assert found["completion"] == pytest.approx(100.0, abs=0.5)
    assert found["kinds"] == []
    assert found["cost"] < 0.005  # s of the processor's time; 0.001 measured
    assert found["wheel"] < 0.05  # it does not shake
    assert found["pedals"]
    assert found["shape"] == [4, 2]


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; from apps.driving.agents import expert; "
        "assert not {'numpy', 'scipy', 'carla', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROGRAM.parents[5])


def test_yielding_forgets_who_has_gone(bodies) -> None:
    """Ids of vehicles that left are not kept."""
    yielding = Yielding(None)  # type: ignore[arg-type]
    yielding._watch(bodies((0.0, 0.0, 0.0, 0.0), (9.0, 0.0, 0.0, 0.0)), 0.1)
    yielding._watch(bodies((0.0, 0.0, 0.0, 0.0)), 0.1)
    assert yielding._stood == {1: pytest.approx(0.2)}
