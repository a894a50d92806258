"""Draws of a route, and which frames of a wait are kept."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np

from apps.driving.recordings.drive import Job, Standing, _start, as_json
from apps.driving.routes.plan import Plan

JOB = Job(town="procedural:0", folder="x", number=0, frames=10)


def test_every_route_draws_for_itself() -> None:
    drawn = [
        tuple(replace(JOB, seed=seed, number=number).draws().values())
        for seed, number in itertools.product(range(5), range(5))
    ]
    assert len({value for values in drawn for value in values}) == 25 * 4
    assert JOB.draws() == replace(JOB, frames=5, folder="y").draws()
    assert all(0 <= value < 2**31 for value in drawn[0])  # a world's seed is an int32


def test_a_job_survives_json() -> None:
    values = json.loads(as_json(JOB))
    assert Job(**{**values, "length": tuple(values["length"])}) == JOB


def keep(speeds: list[bool], begin: int = 3, end: int = 2) -> list[int]:
    standing = Standing(begin, end)
    kept = [k for i, stands in enumerate(speeds) for k in standing.sift(i, stands)]
    return kept + standing.rest()


def test_short_waits_are_kept_whole() -> None:
    assert keep([False, True, True, True, False]) == [0, 1, 2, 3, 4]
    assert keep([False] + [True] * 5 + [False]) == list(range(7))


def test_of_long_waits_the_beginning_and_the_end() -> None:
    assert keep([False] + [True] * 20 + [False, False]) == [0, 1, 2, 3, 19, 20, 21, 22]
    twice = ([True] * 10 + [False]) * 2
    assert keep(twice) == [0, 1, 2, 8, 9, 10, 11, 12, 13, 19, 20, 21]
    assert keep([True] * 10) == [0, 1, 2, 8, 9]  # the route ends before it goes on


def test_what_is_forgotten_does_not_come_back() -> None:
    standing = Standing(1, 5)
    for i in range(4):
        standing.sift(i, True)
    standing.forget()
    assert standing.sift(4, False) == [4]


def test_starts_beside_the_lane_but_not_far() -> None:
    n = 20
    plan = Plan(
        town="T",
        xy=np.stack([np.zeros(n), np.arange(n, dtype=float)], -1),
        yaw=np.full(n, 90.0),
        command=np.full(n, 4),
        junction=np.zeros(n, bool),
        speed_limit=np.full(n, 8.0),
        s=np.arange(n, dtype=float),
    )
    assert _start(plan, 0, perturb=False) == (0.0, 0.0, 0.0, 90.0)
    starts = np.array([_start(plan, seed, perturb=True) for seed in range(50)])
    assert np.abs(starts[:, 0]).max() <= 0.7  # across the road; along it nothing
    assert np.ptp(starts[:, 0]) > 0.5
    np.testing.assert_allclose(starts[:, 1], 0, atol=1e-9)
    assert (np.abs(starts[:, 3] - 90) <= 6).all()
    assert np.ptp(starts[:, 3]) > 5
