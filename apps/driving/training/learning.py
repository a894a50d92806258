"""What ``core.training.fit`` trains: a driver with the weights of its tasks, and its task.

A batch is a dictionary of tensors (see ``batches``), so that it moves between processes and devices
without knowing the model's own types; this module is where it becomes ``Inputs``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from apps.driving.models.base import Driver, Inputs
from apps.driving.training.balance import Balance
from apps.driving.training.config import TASKS
from apps.driving.training.losses import Losses
from apps.driving.training.metrics import Metrics

Batch = Mapping[str, Tensor]


def inputs_of(batch: Batch) -> Inputs:
    """What of a batch a driver sees."""
    return Inputs(
        batch["rgb"], batch["depth"], batch["speed_input"], batch["target"], batch["command"]
    )


class Trainee(nn.Module):
    """A driver and the state of its balance, together in one checkpoint. The average has both too."""

    def __init__(self, model: Driver, balance: Balance) -> None:
        super().__init__()
        self.model = model
        self.balance = balance

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The fields of the model's ``Outputs``, by name."""
        outputs: dict[str, Tensor] = self.model(inputs_of(batch))._asdict()
        return outputs


class DrivingTask:
    """The balanced losses of a batch; chosen by the losses of validation frames at fixed weights."""

    monitor = "loss"
    mode: Literal["max", "min"] = "min"

    def __init__(
        self,
        trainee: Trainee,
        losses: Losses,
        weights: Sequence[float],
        validation: Callable[[], Iterator[Batch]],
    ) -> None:
        # Read for its weights and its cropping of labels; what is forwarded comes from the loop.
        self.trainee, self.losses = trainee, losses
        self.weights, self.validation = torch.tensor(weights), validation

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        model, balance = self.trainee.model, self.trainee.balance
        before = balance.current()
        losses = self.losses(network(batch), self.truth(batch))
        # Recomputed layers would not see the same graph twice: the norms come before the backward.
        total = balance(losses, model.fusion_parameters())
        parts = dict(zip(TASKS, losses.detach().tolist()))
        return total, parts | {f"w_{k}": w for k, w in zip(TASKS, before.tolist())}

    def validate(self, network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        metrics = Metrics(self.trainee.model.config.classes)
        sums, frames = torch.zeros(len(TASKS)), 0
        for given in self.validation():
            batch = {name: value.to(device) for name, value in given.items()}
            outputs, truth = network(batch), self.truth(batch)
            count = len(batch["speed"])
            sums += self.losses(outputs, truth).detach().cpu() * count
            frames += count
            metrics.add(outputs, truth)
        means = sums / frames
        parts = {f"loss_{name}": float(value) for name, value in zip(TASKS, means)}
        return {"loss": float((self.weights * means).sum())} | metrics.brief() | parts

    def truth(self, batch: Batch) -> dict[str, Tensor]:
        """The labels of a batch as ``losses`` and ``metrics`` want them."""
        names = ("waypoints", "control", "red_light", "stop_sign", "speed")
        labels = self.trainee.model.semantic_targets(batch["semantics"])
        return {"semantics": labels} | {name: batch[name] for name in names}


@torch.no_grad()
def measure(model: Driver, given: Batch, device: torch.device | str, *metrics: Metrics) -> None:
    """Add what ``model``, in evaluation mode, says of a batch to each of ``metrics``."""
    trainee = Trainee(model, Balance([1.0] * len(TASKS)))
    task = DrivingTask(trainee, Losses(()), (), lambda: iter(()))
    batch = {name: value.to(device) for name, value in given.items()}
    outputs, truth = trainee(batch), task.truth(batch)
    for each in metrics:
        each.add(outputs, truth)
