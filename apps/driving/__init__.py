"""Driving: record a teacher, train a driver, drive and score it, in CARLA or in an embedded world.

>>> from apps.driving import collect, drive, train
>>> collect("procedural:0", 2000, "drives")
>>> train(["drives"], out="mine", max_minutes=60)
>>> drive("samples/Town01.xodr", "samples/routes.xml", "mine", out="result")["driving_score_2_1"]

Importing this package costs nothing: the first use of a name imports what is behind it. The names
below are the public interface; docs/python.md describes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy_functions

if TYPE_CHECKING:
    from apps.driving.agents.catalog import names as list_agents
    from apps.driving.agents.environment import DrivingEnv
    from apps.driving.evaluation.above import draw_above
    from apps.driving.evaluation.runner import drive, evaluate
    from apps.driving.evaluation.trace import Trace
    from apps.driving.recordings.collect import collect
    from apps.driving.recordings.reader import open_dataset
    from apps.driving.routes.draw import draw_routes
    from apps.driving.routes.files import read_routes
    from apps.driving.training.train import train
    from apps.driving.world.server import serve

__all__ = [
    "DrivingEnv",
    "Trace",
    "collect",
    "draw_above",
    "draw_routes",
    "drive",
    "evaluate",
    "list_agents",
    "open_dataset",
    "read_routes",
    "serve",
    "train",
]

lazy_functions(
    __name__,
    {
        "DrivingEnv": "apps.driving.agents.environment",
        "Trace": "apps.driving.evaluation.trace",
        "collect": "apps.driving.recordings.collect",
        "draw_above": "apps.driving.evaluation.above",
        "draw_routes": "apps.driving.routes.draw",
        "drive": "apps.driving.evaluation.runner",
        "evaluate": "apps.driving.evaluation.runner",
        "list_agents": "apps.driving.agents.catalog:names",
        "open_dataset": "apps.driving.recordings.reader",
        "read_routes": "apps.driving.routes.files",
        "serve": "apps.driving.world.server",
        "train": "apps.driving.training.train",
    },
)
