"""Driving: record a teacher, train a driver, drive and score it, in CARLA or in an embedded world.

>>> from apps.driving import collect, drive, train
>>> collect("procedural:0", 2000, "drives")
>>> train(["drives"], out="mine", max_minutes=60)
>>> drive("samples/Town01.xodr", "samples/routes.xml", "mine", out="result")["driving_score_2_1"]

Importing this package costs nothing: the first use of a name imports what is behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy_functions

if TYPE_CHECKING:
    from apps.driving.evaluation.runner import drive, evaluate
    from apps.driving.recordings.collect import collect
    from apps.driving.training.train import train

__all__ = ["collect", "drive", "evaluate", "train"]

lazy_functions(
    __name__,
    {
        "collect": "apps.driving.recordings.collect",
        "drive": "apps.driving.evaluation.runner",
        "evaluate": "apps.driving.evaluation.runner",
        "train": "apps.driving.training.train",
    },
)
