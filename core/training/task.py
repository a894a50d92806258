"""What an application gives to ``fit``, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from core.errors import TriptychError
from core.training.budget import StopReason


class Task(Protocol):
    """What is trained. Keeps no state of its own between calls, or resuming would lose it."""

    monitor: str  # the metric that chooses the best weights
    mode: Literal["max", "min"]

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise for one batch (already on the device), and parts of it to log.

        ``network`` returns float32 whatever the precision.  Call it, or those of its methods that it
        names in a tuple ``forward_methods``; others would bypass DDP.
        """
        ...

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Metrics of ``network`` (the averaged weights, in evaluation mode, without gradients)."""
        ...


@dataclass(frozen=True)
class FitResult:
    """Where a run ended. ``best`` and ``last`` are checkpoint folders for ``load_weights``."""

    best: Path
    last: Path
    metrics: dict[str, float | None]  # of the best weights; None where a metric was not finite
    steps: int
    seconds: float  # training and validation, all sessions together
    stopped_because: StopReason
    # Of the sessions before this one, up to the checkpoint that it went on from.
    earlier_seconds: float = 0.0
    earlier_cpu_seconds: float = 0.0


class Interrupted(TriptychError):
    """A signal asked the run to stop; it did so after writing a checkpoint."""

    exit_code = 130
