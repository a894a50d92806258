"""One training loop for every application: Lightning Fabric below, run folders around it.

    result = fit(network, task, batches, TrainConfig(max_steps=1000), Path("runs/mine"))
    tensors = load_weights(result.best)

The loop knows steps, seconds and a metric's name; what a batch, a loss or a metric is belongs to
the ``Task``. ``TrainConfig`` imports no torch; everything else here does, at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.training.config import TrainConfig

if TYPE_CHECKING:
    from core.training.batches import Batches
    from core.training.checkpoint import load_weights
    from core.training.loop import fit
    from core.training.task import FitResult, Interrupted, Task

__all__ = ["Batches", "FitResult", "Interrupted", "Task", "TrainConfig", "fit", "load_weights"]

_HOMES = {"Batches": "batches", "load_weights": "checkpoint", "fit": "loop"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(f"core.training.{_HOMES.get(name, 'task')}"), name)
    raise AttributeError(f"module 'core.training' has no attribute {name!r}")
