"""What a forecaster learns from, minimises and is chosen by: this application's training task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from apps.timeseries.data.windows import Rows
from apps.timeseries.metrics import median_index
from apps.timeseries.models.base import Loss
from core.errors import UsageError, unknown

LOSSES = ("mse", "mae", "weighted-mae", "pinball")

VALIDATION_WINDOWS = 8192
"""At most so many windows, evenly spread, are forecast at each validation."""

Watch = Callable[[dict[str, float]], None]
"""Is told the metrics of each validation; what it raises ends the run."""


def make_loss(name: str, quantiles: tuple[float, ...] = ()) -> Loss:
    """(forecast, truth (B, H, N)) -> scalar.

    "weighted-mae" weighs step h by h ** -0.5 (Wang et al., CARD, ICLR 2024, equation 11; as OLinear);
    "pinball" wants a forecast (B, H, N, Q) of ``quantiles`` (Koenker and Bassett, 1978).
    """
    if name not in LOSSES:
        raise UsageError(unknown("loss", name, LOSSES))
    if (name == "pinball") != bool(quantiles):
        raise UsageError("loss 'pinball' and quantiles belong together; give both or neither.")

    def mse(forecast: Tensor, truth: Tensor) -> Tensor:
        return (forecast - truth).square().mean()

    def mae(forecast: Tensor, truth: Tensor) -> Tensor:
        return (forecast - truth).abs().mean()

    def weighted(forecast: Tensor, truth: Tensor) -> Tensor:
        steps = torch.arange(1, truth.shape[1] + 1, device=truth.device, dtype=truth.dtype)
        return ((forecast - truth).abs() * steps.rsqrt().view(1, -1, 1)).mean()

    def pinball(forecast: Tensor, truth: Tensor) -> Tensor:
        q = torch.tensor(quantiles, device=truth.device, dtype=truth.dtype)
        error = truth.unsqueeze(-1) - forecast
        return torch.maximum(q * error, (q - 1) * error).mean()

    return {"mse": mse, "mae": mae, "weighted-mae": weighted, "pinball": pinball}[name]


class ForecastTask:
    """Minimise ``loss`` on training windows; choose by the same loss on validation windows."""

    monitor = "loss"
    mode: Literal["max", "min"] = "min"

    def __init__(
        self,
        rows: Rows,
        validation: np.ndarray,
        lookback: int,
        horizon: int,
        *,
        loss: str,
        quantiles: tuple[float, ...] = (),
        watch: Watch | None = None,
    ) -> None:
        step = -(-len(validation) // VALIDATION_WINDOWS)
        self.rows, self.validation = rows, validation[::step]
        self.lookback, self.horizon = lookback, horizon
        self.criterion, self.quantiles = make_loss(loss, quantiles), quantiles
        self.watch = watch

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        past, known = batch.get("past"), batch.get("known")
        return network.training_loss(batch["x"], batch["y"], past, known, self.criterion), {}  # type: ignore[operator]

    def validate(self, network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        sums = np.zeros(3)
        for at in range(0, len(self.validation), 256):
            chosen = self.validation[at : at + 256]
            batch = self.rows.gather(chosen, self.lookback, self.horizon)
            batch = {key: value.to(device) for key, value in batch.items()}
            y = batch.pop("y")
            found = network(**batch)
            loss = float(self.criterion(found, y).detach())
            if self.quantiles:
                found = found[..., median_index(self.quantiles)]
            error = found - y
            # Means over a batch count by its windows: the last one is smaller.
            means = [loss, float(error.square().mean()), float(error.abs().mean())]
            sums += len(chosen) * np.array(means)
        loss, mse, mae = sums / len(self.validation)
        metrics = {"loss": float(loss), "mse": float(mse), "mae": float(mae)}
        if self.watch is not None:
            self.watch(metrics)
        return metrics
