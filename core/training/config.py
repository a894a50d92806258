"""The settings of a training run, and the two formulas they stand for. No torch in here."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from core.config import StrictModel

Schedule = Literal["cosine", "poly", "constant", "halving"]


class TrainConfig(StrictModel):
    """How to train. At least one of ``max_steps`` and ``max_minutes`` must be given."""

    # Budget. Whichever limit is reached first ends the run; both may change on resume.
    max_steps: int | None = Field(None, ge=1)
    max_minutes: float | None = Field(None, gt=0)

    # Optimiser. Parameters with at most one axis (norms, biases) get no weight decay.
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW
    momentum: float = Field(0.9, ge=0, lt=1)  # SGD, Nesterov when above zero
    grad_clip: float | None = Field(1.0, gt=0)  # largest norm of all gradients together
    accumulate: int = Field(1, ge=1)  # batches per step

    # Learning rate over the run: by steps, or by time when only max_minutes is given.
    schedule: Schedule = "cosine"
    warmup_steps: int = Field(0, ge=0)
    halve_every: int | None = Field(None, ge=1)  # steps; for "halving", which needs it

    # Exponential moving average of the weights; it is what is validated and kept as best.
    ema_decay: float | None = Field(0.999, gt=0, lt=1)

    precision: Literal["float32", "bf16", "auto"] = "float32"
    seed: int = Field(0, ge=0)

    # Validation every so many steps (None: only at the end); stop after `patience` of them without
    # a better result.
    val_every: int | None = Field(None, ge=1)
    patience: int | None = Field(None, ge=1)

    # A checkpoint is written after each validation, at the end, and this often in between.
    save_every: int | None = Field(None, ge=1)
    save_minutes: float | None = Field(5.0, gt=0)
    log_every: int = Field(20, ge=1)
    workers: int = Field(
        0, ge=0
    )  # processes that prepare batches; the result does not depend on it
    threads: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _has_a_budget(self) -> TrainConfig:
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("give max_steps, max_minutes or both; a run needs an end")
        if (self.schedule == "halving") != (self.halve_every is not None):
            raise ValueError("schedule 'halving' and halve_every (in steps) go together")
        return self


# What may differ between a run and its continuation: the budget, and what changes no number.
RESUMABLE = frozenset(
    {"max_steps", "max_minutes", "save_every", "save_minutes", "log_every", "workers", "threads"}
)


def decay(schedule: Schedule, fraction: float) -> float:
    """Factor on the learning rate at ``fraction`` in [0, 1] of the budget.

    cosine: (1 + cos(pi f)) / 2 (Loshchilov & Hutter 2017, without restarts); poly: (1 - f)^0.9
    (DeepLab v2, nnU-Net); constant: 1.
    """
    fraction = min(max(fraction, 0.0), 1.0)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * fraction))
    if schedule == "poly":
        return (1.0 - fraction) ** 0.9
    return 1.0


def learning_rate(config: TrainConfig, step: int, fraction: float) -> float:
    """The learning rate of step ``step`` (from 0): linear warm-up times ``decay``.

    "halving" keeps the rate for two spans of ``halve_every`` steps and halves it after each further
    one: what Informer's code calls type1, with an epoch for a span (Zhou et al., AAAI 2021).
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.halve_every is not None:
        return config.lr * warmup * 0.5 ** max(0, step // config.halve_every - 1)
    return config.lr * warmup * decay(config.schedule, fraction)
