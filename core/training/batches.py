"""Batches as a function of their index, so that a resumed run sees the very same ones."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from core.errors import TriptychError
from core.training.seeding import derive, seeded


class Batches(Protocol):
    """Endless training data without state."""

    def batch_at(self, index: int) -> Any:
        """Batch number ``index`` (from 0): tensors, or tuples, lists and dicts of them, on the CPU.

        Must depend on ``index`` alone. Global generators (random, numpy.random, torch) may be used
        freely: they are seeded from the run's seed and ``index`` before every call.
        """
        ...


@dataclass(frozen=True)
class _Failure:
    """An error a person can act on, carried out of a worker without the worker's traceback."""

    kind: type[TriptychError]
    message: str


class _Indexed(Dataset[Any]):
    def __init__(self, batches: Batches, seed: int) -> None:
        self.batches = batches
        self.seed = seed

    def __getitem__(self, index: int) -> Any:
        with seeded(derive(self.seed, "batch", index)):
            try:
                return self.batches.batch_at(index)
            except TriptychError as error:
                return _Failure(type(error), str(error))


class _From(Sampler[int]):
    """first, first + stride, first + 2 stride, ... without end."""

    def __init__(self, first: int, stride: int) -> None:
        self.first = first
        self.stride = stride

    def __iter__(self) -> Iterator[int]:
        index = self.first
        while True:
            yield index
            index += self.stride


def stream(
    batches: Batches,
    first: int,
    *,
    stride: int = 1,
    seed: int = 0,
    workers: int = 0,
    pin: bool = False,
) -> Generator[Any, None, None]:
    """Batches ``first``, ``first + stride``, ...: the same for any number of ``workers``."""
    loader: DataLoader[Any] = DataLoader(
        _Indexed(batches, seed),
        batch_size=None,  # an item is a batch already
        sampler=_From(first, stride),
        num_workers=workers,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(seed),  # or it draws from the network's generator
        pin_memory=pin,
    )
    for batch in loader:
        if isinstance(batch, _Failure):
            raise batch.kind(batch.message)
        yield batch


def _start_worker(worker: int) -> None:
    del worker
    # Ctrl-C reaches the whole process group; the parent finishes its step and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
