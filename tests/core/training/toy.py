"""A network, a task and batches small enough to train in milliseconds; also a process to kill.

Run as a script it imports once, then forks a fresh process for every JSON command on standard
input and answers with that process's exit status. So a test may kill a training with SIGKILL,
wherever it likes, and resume it in another process, without paying for imports each time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.training import TrainConfig, fit
from core.training.seeding import seed_generators


def network(seed: int = 0, width: int = 8) -> nn.Module:
    """Everything that makes resuming hard: dropout, running statistics, a buffer."""
    seed_generators(seed)
    return nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.GELU(), nn.Dropout(0.2), nn.Linear(width, 1)
    )


def plain_network() -> nn.Module:
    """No randomness and no statistics: a step depends on the batches alone."""
    seed_generators(3)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))


class Batches:
    """y = sum of x, with x from the global generator, as an augmentation would draw it."""

    def batch_at(self, index: int) -> dict[str, Tensor]:
        x = torch.randn(16, 4)
        return {"x": x, "y": x.sum(1, keepdim=True), "index": torch.tensor(index)}


class Task:
    """Mean squared error. ``at`` maps the count of calls of ``loss`` to something to do there."""

    monitor = "error"
    mode = "min"

    def __init__(self) -> None:
        self.calls = 0
        self.at: dict[int, Any] = {}
        self.seen: list[int] = []
        self.generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(64, 4, generator=self.generator)

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        self.calls += 1
        self.seen.append(int(batch["index"]))
        error = (network(batch["x"]) - batch["y"]).square().mean()
        if self.calls in self.at:
            error = self.at[self.calls](error)
        return error, {"mse": float(error.detach())}

    def validate(self, network: nn.Module) -> dict[str, float]:
        torch.rand(3)  # a validation that draws numbers must not disturb the training
        error = (network(self.x) - self.x.sum(1, keepdim=True)).square().mean()
        return {"error": float(error)}


def die(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _run(
    run: str, config: dict[str, Any], resume: bool = False, kill: str = "", at: int = 0
) -> None:
    import core.training.checkpoint as checkpoint

    task, count = Task(), [0]
    if kill == "step":
        task.at[at] = die
    elif kill == "tensors":  # half of the file is on disk
        write = checkpoint.write_tensors

        def half(path: Path, tensors: Any) -> None:
            count[0] += 1
            write(path, tensors)
            if count[0] == at:
                os.truncate(path, path.stat().st_size // 2)
                die()

        checkpoint.write_tensors = half
    elif kill == "commit":  # the tensors are there, the state still names the old ones
        commit = checkpoint.write_json

        def never(*args: Any, **options: Any) -> None:
            count[0] += 1
            die() if count[0] == at else commit(*args, **options)

        checkpoint.write_json = never
    fit(network(), task, Batches(), TrainConfig(**config), Path(run), resume=resume)


def _serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _run(**json.loads(line))
                status = 0
            except BaseException:
                traceback.print_exc()  # os._exit would take it along
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    import lightning.fabric  # noqa: F401  (before the forks: the slow import is shared)

    _serve()
