"""Plans and bodies made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from apps.driving.agents.expert.course import Course
from apps.driving.agents.expert.surroundings import Bodies
from apps.driving.routes.plan import Plan


def make_course(xy: Any, limit: float = 10.0, junction: Any = None, most: float = 30.0) -> Course:
    xy = np.asarray(xy, float)
    n = len(xy)
    way = np.diff(xy, axis=0)
    yaw = np.degrees(np.arctan2(way[:, 1], way[:, 0]))
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*way.T))])
    plan = Plan(
        town="made",
        xy=xy,
        yaw=np.append(yaw, yaw[-1]),
        command=np.full(n, 4),
        junction=np.zeros(n, bool) if junction is None else junction,
        speed_limit=np.full(n, limit),
        s=s,
    )
    return Course(plan, most, 1.0)


def make_bodies(*rows: tuple[float, ...]) -> Bodies:
    """Of (x, y, yaw in degrees, speed along it[, half length, half width])."""
    table = np.array([(*row, 2.4, 1.0)[:6] for row in rows], float).reshape(-1, 6)
    yaw = np.radians(table[:, 2])
    return Bodies(
        np.arange(1, len(table) + 1),
        table[:, :2],
        yaw,
        table[:, 3:4] * np.stack([np.cos(yaw), np.sin(yaw)], 1),
        table[:, 4:],
    )


@pytest.fixture
def course() -> Callable[..., Course]:
    return make_course


@pytest.fixture
def bodies() -> Callable[..., Bodies]:
    return make_bodies


@pytest.fixture
def straight() -> Course:
    """200 m along x, limit 10 m/s."""
    return make_course(np.stack([np.arange(201.0), np.zeros(201)], 1))
