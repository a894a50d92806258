"""Self-supervised pre-training of any pyramid's encoder, at rank 1 to 3, from images alone.

    pretext = build(MaeConfig(ratio=0.75), encoder, size=(64, 64))
    result = fit(pretext, PretrainTask(held_out), batches, TrainConfig(max_steps=1000), Path("run"))
    load_matching(network, load_weights(result.best), "run")

A *pretext* is a module that owns the encoder and what the task needs beside it (a mask token,
heads, task weights).  It takes a batch of images and gives scalars: the ``loss`` to minimise, and
``reconstruction`` with its ``floor``, what filling in the mean of what is seen would cost.

    mae         hide most of the image, predict the hidden voxels
    gmml        replace groups of connected patches by noise or by another image, restore them
    multitask   restore corrupted views, tell how they were turned, tell images apart; the weights of
                the three are learned

Letters: B batch, R rank, S image sizes, U sizes of the grid of mask units, u voxels of a unit.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from core.pretraining.config import (
    PRETEXTS,
    GmmlConfig,
    MaeConfig,
    MultitaskConfig,
    PretextConfig,
    pretext_config,
)

if TYPE_CHECKING:
    from core.pretraining.pretext import build
    from core.pretraining.task import PretrainTask
    from core.pretraining.transfer import Transfer, load_matching

__all__ = [
    "PRETEXTS",
    "GmmlConfig",
    "MaeConfig",
    "MultitaskConfig",
    "PretextConfig",
    "PretrainTask",
    "Transfer",
    "build",
    "load_matching",
    "pretext_config",
]

_HOMES = {
    "build": "pretext",
    "PretrainTask": "task",
    "Transfer": "transfer",
    "load_matching": "transfer",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = f"core.pretraining.{_HOMES[name]}"
        return getattr(import_module(home), name)
    raise AttributeError(f"module 'core.pretraining' has no attribute {name!r}")
