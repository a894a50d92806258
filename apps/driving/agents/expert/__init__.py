"""A driver that looks into the simulator: the teacher. After PDM-Lite, in words of our own.

What it follows of PDM-Lite (Beißwenger, "PDM-Lite: A Rule-Based Planner for CARLA Leaderboard 2.0",
2024; autonomousvision/carla_garage, branch leaderboard_2, team_code/autopilot.py): a dense route, the
intelligent driver model for what is ahead, forecasts of the others against the own way, lights and
stop signs as obstacles that stand. Where it differs: the others are forecast along the lanes they may
take and meet the own way in zones, each with the times at which it is theirs and ours, instead of by
boxes at constant controls; wheel and pedals invert the car's own physics instead of a fitted one.

It uses carla's public Python API only. The first use of ``Expert`` imports what is behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy_functions

if TYPE_CHECKING:
    from apps.driving.agents.expert.driver import Expert

__all__ = ["Expert"]

lazy_functions(__name__, {"Expert": "apps.driving.agents.expert.driver"})
