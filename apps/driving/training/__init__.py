"""Training a driver on recorded drives: recipe, batches, losses and their balance, metrics.

    report = train([Path("drives")], model="small", out=Path("mine"), max_minutes=60)

Importing this imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apps.driving.training.train import TrainReport, train

__all__ = ["TrainReport", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("apps.driving.training.train"), name)
    raise AttributeError(f"module 'apps.driving.training' has no attribute {name!r}")
