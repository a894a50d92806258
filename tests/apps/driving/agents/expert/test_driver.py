"""The expert in an embedded world: what it does at lights, signs, obstacles, people, in traffic."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apps.driving.agents.expert.driver import BEFORE_LINE, Expert
from apps.driving.agents.expert.signals import Line
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


def at_light(state: str, front: float, speed: float, elapsed: float = 0.0) -> float:
    """Metres to stand at for a light at s = 50 whose yellow lasts 3 s."""
    import carla

    light = SimpleNamespace(
        state=getattr(carla.TrafficLightState, state),
        get_yellow_time=lambda: 3.0,
        get_elapsed_time=lambda: elapsed,
    )
    expert = Expert()
    expert._signals = SimpleNamespace(lines=[Line(50.0, light, 1)])  # type: ignore[assignment]
    expert._around = SimpleNamespace(half=np.array([2.4, 1.0]))  # type: ignore[assignment]
    return expert._lines(front, speed)[0]


def test_lights() -> None:
    assert at_light("Red", 40.0, 8.0) == pytest.approx(10.0 - BEFORE_LINE)
    assert at_light("Green", 40.0, 8.0) == math.inf
    assert at_light("Red", 51.5, 5.0) == math.inf  # in the junction already
    assert at_light("Red", 51.5, 0.0) < 0.0  # stood there before it was red: does not drive on


def test_yellow_lights() -> None:
    assert at_light("Yellow", 45.0, 8.0) == math.inf  # the rear is over the line in time
    assert at_light("Yellow", 30.0, 8.0, elapsed=1.5) == pytest.approx(20.0 - BEFORE_LINE)
    assert at_light("Yellow", 46.0, 12.0, elapsed=2.9) == math.inf  # cannot stop any more
    assert at_light("Yellow", 45.0, 2.0) == pytest.approx(5.0 - BEFORE_LINE)
