"""How much of a run is used up, why it ends, and which weights are best. Pure functions."""

from __future__ import annotations

import math
from typing import Literal

from core.training.config import TrainConfig

StopReason = Literal["max_steps", "max_minutes", "patience"]


def usable_seconds(config: TrainConfig, slowest_validation: float) -> float:
    """Seconds for steps: the budget less room for a last validation (half of it at most)."""
    budget = 60 * (config.max_minutes if config.max_minutes is not None else math.inf)
    return max(budget - slowest_validation, 0.5 * budget)


def stop_reason(
    config: TrainConfig, step: int, waited: int, seconds: float, slowest_validation: float
) -> StopReason | None:
    """Why the run ends now; None while it goes on. ``waited``: validations since the best."""
    if config.patience is not None and waited >= config.patience:
        return "patience"
    if config.max_steps is not None and step >= config.max_steps:
        return "max_steps"
    if seconds >= usable_seconds(config, slowest_validation):
        return "max_minutes"
    return None


def schedule_fraction(
    config: TrainConfig, step: int, seconds: float, slowest_validation: float
) -> float:
    """Where the learning-rate schedule stands: by steps if they are limited, else by time."""
    if config.max_steps is not None:
        return min(1.0, step / config.max_steps)
    return min(1.0, seconds / usable_seconds(config, slowest_validation))


def percent_done(config: TrainConfig, step: int, seconds: float) -> float:
    """Of whichever limit is nearer."""
    shares = [
        step / config.max_steps if config.max_steps is not None else 0.0,
        seconds / (60 * config.max_minutes) if config.max_minutes is not None else 0.0,
    ]
    return round(100 * min(max(shares), 1.0), 1)


def is_better(value: float | None, best: float | None, mode: str) -> bool:
    """Whether a metric beats the best so far. None is an undefined one: any number beats it."""
    if value is None or best is None:
        return value is not None
    return value > best if mode == "max" else value < best
