"""Which light holds, and how far ahead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import carla
import numpy as np
import pytest

from apps.driving.evaluation.signals import StopLine
from apps.driving.recordings import lights
from apps.driving.recordings.lights import LightsAhead
from apps.driving.routes.plan import Plan

RED, YELLOW, GREEN = (
    carla.TrafficLightState.Red,
    carla.TrafficLightState.Yellow,
    carla.TrafficLightState.Green,
)


def plan(n: int = 101) -> Plan:
    """A hundred metres to the east."""
    s = np.arange(n, dtype=float)
    return Plan(
        town="T",
        xy=np.stack([s, np.zeros(n)], -1),
        yaw=np.zeros(n),
        command=np.full(n, 4),
        junction=np.zeros(n, bool),
        speed_limit=np.full(n, 8.0),
        s=s,
    )


def line(x: float, y: float = 0.0, forward: tuple[float, float] = (1.0, 0.0)) -> StopLine:
    return StopLine(1, -1, forward, (x, y - 2), (x, y + 2))


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    def build(*found: tuple[Any, list[StopLine]]) -> LightsAhead:
        actors = [SimpleNamespace(state=state, lines=lines) for state, lines in found]
        monkeypatch.setattr(lights, "stop_lines", lambda light, town: light.lines)
        world = SimpleNamespace(get_actors=lambda: SimpleNamespace(filter=lambda pattern: actors))
        return LightsAhead(world, None, plan(), front=2.0)  # type: ignore[arg-type]

    return build


@pytest.mark.parametrize(("state", "holds"), [(RED, True), (YELLOW, True), (GREEN, False)])
def test_state(make: Any, state: Any, holds: bool) -> None:
    assert make((state, [line(50)])).ahead(30.0) == (holds, pytest.approx(18.0))


@pytest.mark.parametrize(
    ("s", "distance"), [(17.0, None), (18.5, 29.5), (48.0, 0.0), (49.0, -1.0), (49.6, None)]
)
def test_from_thirty_metres_until_the_bumper_is_over(
    make: Any, s: float, distance: float | None
) -> None:
    holds, found = make((RED, [line(50)])).ahead(s)
    assert holds == (distance is not None)
    assert found == (None if distance is None else pytest.approx(distance))


def test_lights_of_others_do_not_hold(make: Any) -> None:
    across = (RED, [line(52, forward=(0.0, 1.0))])
    oncoming = (RED, [line(48, -3.5, (-1.0, 0.0)), line(48, 0.0, (-1.0, 0.0))])
    beside = (RED, [line(50, 3.5)])
    assert make(across, oncoming, beside).ahead(40.0) == (False, None)


def test_the_nearest_counts(make: Any) -> None:
    seen = make((RED, [line(60)]), (GREEN, [line(50)]))
    assert seen.ahead(40.0) == (False, pytest.approx(8.0))
    assert seen.ahead(50.0) == (True, pytest.approx(8.0))
