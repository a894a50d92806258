"""Phases, times, freezing: what CARLA's clients see of traffic lights."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from apps.driving.world.geometry import Transform
from apps.driving.world.maps.sites import LightSite
from apps.driving.world.traffic.lights import Lights, State


def site(junction: int, group: int, name: str = "1") -> LightSite:
    box = (Transform(), (1.0, 1.0, 1.0))
    return LightSite(name, Transform(), junction, group, [], box, 0.0)


# A junction of two phases (lights 0 and 2 face each other), one of three, and a light alone.
PLAN = [(4, 0), (4, 1), (4, 0), (9, 2), (9, 5), (9, 7), (-1, 0), (-1, 0)]


@pytest.fixture
def lights() -> Lights:
    return Lights([site(j, g, str(i)) for i, (j, g) in enumerate(PLAN)])


def at(lights: Lights, seconds: float, dt: float = 0.05) -> list[int]:
    for _ in range(round(seconds / dt)):
        lights.step(dt)
    return lights.state.tolist()


R, Y, G = State.RED, State.YELLOW, State.GREEN


def test_a_phase_is_green_10_yellow_3_and_all_red_2_seconds(lights: Lights) -> None:
    assert lights.state.tolist() == [G, R, G, G, R, R, G, G]
    assert at(lights, 9.95)[:3] == [G, R, G]
    assert at(lights, 0.05)[:3] == [Y, R, Y]
    assert at(lights, 3.0) == [R] * 8
    assert at(lights, 2.0) == [R, G, R, R, G, R, G, G]
    assert at(lights, 15.0)[:6] == [G, R, G, R, R, G]
    assert at(lights, 15.0)[:6] == [R, G, R, G, R, R]


@pytest.mark.parametrize("dt", [0.01, 0.05, 0.1, 0.3, 1.0])
def test_never_two_phases_at_once_and_all_red_between(lights: Lights, dt: float) -> None:
    before = None
    for _ in range(round(60 / dt)):
        lights.step(dt)
        for junction in (4, 9):
            rows = [i for i, (j, _) in enumerate(PLAN) if j == junction]
            going = {PLAN[i][1] for i in rows if lights.state[i] != R}
            assert len(going) <= 1
            if junction == 4:
                if before and going:
                    assert going == before or dt >= 2.0
                before = going


def test_long_steps_keep_the_clock(lights: Lights) -> None:
    other = Lights(lights.sites)
    at(lights, 100.0, 0.05)
    at(other, 100.0, 4.0)
    assert lights.state.tolist() == other.state.tolist()
    assert lights.elapsed == pytest.approx(other.elapsed, abs=1e-6)


def test_elapsed_is_the_time_in_this_state(lights: Lights) -> None:
    at(lights, 4.0)
    assert lights.elapsed[0] == pytest.approx(4.0)
    at(lights, 7.0)
    assert lights.elapsed[0] == pytest.approx(1.0)
    assert lights.elapsed[1] == pytest.approx(11.0)  # still red


def test_times_are_the_controllers(lights: Lights) -> None:
    lights.set_green_time(2, 4.0)
    lights.set_yellow_time(0, 1.0)
    lights.set_red_time(0, 0.5)
    assert lights.green.tolist()[:3] == [4.0, 10.0, 4.0]
    assert at(lights, 4.0)[:3] == [Y, R, Y]
    assert at(lights, 1.0)[:3] == [R, R, R]
    assert at(lights, 0.5)[:3] == [R, G, R]


def test_frozen_junctions_stand_still_and_keep_what_is_set(lights: Lights) -> None:
    lights.freeze(1, True)
    assert lights.frozen.tolist() == [True] * 3 + [False] * 5
    lights.set_state(1, State.GREEN)
    lights.set_state(0, State.OFF)
    after = at(lights, 40.0)
    assert after[:3] == [State.OFF, G, G]
    assert after[3:6] != [G, R, R]
    lights.freeze(0, False)
    assert at(lights, 10.0)[:3] == [Y, R, Y]  # the clock goes on where it stood
    lights.freeze_all(True)
    assert lights.frozen.all()
    assert at(lights, 30.0) == at(lights, 30.0)


def test_a_state_that_is_set_lasts_to_the_next_change(lights: Lights) -> None:
    lights.set_state(1, State.GREEN)
    assert lights.elapsed[1] == 0.0
    assert at(lights, 9.0)[1] == G
    assert at(lights, 1.0)[:3] == [Y, R, Y]


def test_groups_are_junctions(lights: Lights) -> None:
    assert lights.group_of(1) == [0, 1, 2]
    assert lights.group_of(5) == [3, 4, 5]
    assert lights.group_of(7) == [7]


def test_resetting_starts_over(lights: Lights) -> None:
    start = lights.state.tolist()
    at(lights, 16.0)
    lights.reset_group(4)
    assert lights.state.tolist()[3:6] == start[3:6]
    assert lights.elapsed[3:6].tolist() == [0.0] * 3
    assert lights.state.tolist()[:3] != start[:3]
    lights.reset_all()
    assert lights.state.tolist() == start
    assert at(lights, 10.0)[:3] == [Y, R, Y]


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_bad_times_are_refused(lights: Lights, bad: float) -> None:
    for setter in (lights.set_green_time, lights.set_yellow_time, lights.set_red_time):
        with pytest.raises(ValueError, match="time"):
            setter(0, bad)
    with pytest.raises(ValueError, match="step"):
        lights.step(bad)
    with pytest.raises(ValueError):
        lights.set_state(0, 9)


def test_times_of_nought_do_not_hang(lights: Lights) -> None:
    for setter in (lights.set_green_time, lights.set_yellow_time, lights.set_red_time):
        for light in range(len(lights)):
            setter(light, 0.0)
    lights.step(0.05)
    assert len(lights.state) == 8


def test_no_lights_at_all() -> None:
    lights = Lights([])
    lights.step(0.05)
    assert len(lights) == 0


def test_a_hundred_lights_are_quick() -> None:
    lights = Lights([site(i // 4, i % 2, str(i)) for i in range(100)])
    start = time.process_time()
    for _ in range(2000):
        lights.step(0.05)
    assert (time.process_time() - start) / 2000 < 0.2e-3  # 0.02 ms measured
    assert np.isin(lights.state, (R, Y, G)).all()
