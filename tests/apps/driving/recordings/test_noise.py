"""Steering noise: when, how long, how strong."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from apps.driving.recordings import noise
from apps.driving.recordings.noise import SteeringNoise


def bursts(seed: int, speed: float, seconds: float = 600.0) -> list[list[tuple[float, float]]]:
    """(time, steer) of each burst at a constant speed, decisions at 10 Hz."""
    source = SteeringNoise(seed)
    found: list[list[tuple[float, float]]] = []
    before = False
    for k in range(round(seconds * 10)):
        steer = source.disturb(0.0, k / 10, speed, free=True)
        if source.active:
            if not before:
                found.append([])
            found[-1].append((k / 10, steer))
        else:
            assert steer == 0
        before = source.active
    return found


def test_same_seed_same_noise() -> None:
    assert bursts(3, 8.0) == bursts(3, 8.0)
    assert bursts(3, 8.0) != bursts(4, 8.0)


def test_apart_and_as_long_as_said() -> None:
    found = bursts(0, 8.0)
    for one, next_one in itertools.pairwise(found):
        gap = next_one[0][0] - one[-1][0]
        assert noise.APART_S[0] - 0.2 <= gap <= noise.APART_S[1] + 0.3
    lengths = [burst[-1][0] - burst[0][0] for burst in found]
    assert all(noise.LASTS_S[0] - 0.2 <= length <= noise.LASTS_S[1] + 0.1 for length in lengths)
    sides = [np.sign(burst[len(burst) // 2][1]) for burst in found]
    assert {-1.0, 1.0} == set(sides)


@pytest.mark.parametrize("speed", [3.5, 6.0, 12.0])
def test_turns_a_car_by_the_angle_drawn_at_any_speed(speed: float) -> None:
    """A bicycle model of the car integrates the wheel; the frame's times are exact here."""
    source = SteeringNoise(1)
    turns, turn, dt = [], 0.0, 0.01
    for k in range(60_000):
        steer = source.disturb(0.0, k * dt, speed, free=True)
        if source.active:
            turn += speed / 2.9 * np.tan(np.radians(70) * steer) * dt
        elif turn:
            turns.append(abs(np.degrees(turn)))
            turn = 0.0
    assert len(turns) > 20
    assert 0.8 * noise.TURNS_DEG[0] < min(turns)
    assert max(turns) < 1.4 * noise.TURNS_DEG[1]  # tan of a large angle is more than the angle


def test_none_where_it_would_not_be_safe() -> None:
    slow, held = SteeringNoise(0), SteeringNoise(0)
    for k in range(1000):
        assert slow.disturb(0.1, k / 10, noise.SLOWEST - 0.1, free=True) == 0.1
        assert held.disturb(0.1, k / 10, 9.0, free=False) == 0.1
    held.disturb(0.1, 100.1, 9.0, free=True)
    assert held.active


def test_the_driver_has_no_say_in_a_burst() -> None:
    obeyed, ignored = SteeringNoise(5), SteeringNoise(5)
    differs = 0
    for k in range(1000):
        before = ignored.active
        one = obeyed.disturb(0.1, k / 10, 8.0, free=True)
        other = ignored.disturb(-0.5 if before else 0.1, k / 10, 8.0, free=True)
        assert obeyed.active == ignored.active
        if ignored.active:
            assert one == other
            differs += abs(one - 0.1) > 0.01
    assert differs > 20
