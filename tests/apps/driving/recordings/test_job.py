"""What a route draws, and how its process is told."""

from __future__ import annotations

import itertools
from dataclasses import replace

from apps.driving.recordings.job import Job

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
    assert Job.from_json(JOB.as_json()) == JOB
