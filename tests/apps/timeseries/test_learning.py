"""Losses against their formulas, and validation that counts every window once."""

from __future__ import annotations

import pytest
import torch

from apps.timeseries.data.splits import origins
from apps.timeseries.data.windows import Rows, scalings
from apps.timeseries.learning import ForecastTask, make_loss
from apps.timeseries.metrics import median_index
from core.errors import UsageError


def test_losses() -> None:
    truth = torch.tensor([[[1.0], [2.0]]])
    forecast = torch.tensor([[[0.0], [4.0]]])
    assert float(make_loss("mse")(forecast, truth)) == 2.5
    assert float(make_loss("mae")(forecast, truth)) == 1.5
    weighted = float(make_loss("weighted-mae")(forecast, truth))
    assert weighted == pytest.approx((1 + 2 / 2**0.5) / 2)


def test_pinball_is_least_at_the_quantile() -> None:
    truth = torch.arange(101.0).view(-1, 1, 1)
    loss = make_loss("pinball", (0.1, 0.9))
    values = torch.stack([loss(torch.tensor([10.0, float(q)]).expand(101, 1, 1, 2), truth)
                          for q in range(101)])  # fmt: skip
    assert int(values.argmin()) == 90


def test_unknown_loss_and_quantiles_without_pinball() -> None:
    with pytest.raises(UsageError, match="Did you mean 'mse'"):
        make_loss("mze")
    with pytest.raises(UsageError, match="belong together"):
        make_loss("mse", (0.5,))
    assert median_index((0.1, 0.5, 0.9)) == 1


class Zero(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, past=None, known=None):
        return x[:, :6] * self.weight


def test_validation_means_are_over_windows_not_over_batches(make_panel) -> None:
    panel = make_panel(rows=700)  # 259 validation windows: a batch of 256 and one of three
    rows = Rows(panel, scalings(panel, [400]), marks=False)
    chosen = origins(430, 694, 12, 6)
    task = ForecastTask(rows, chosen, 12, 6, loss="mse")
    assert len(chosen) == 259
    y = rows.gather(chosen, 12, 6)["y"]
    found = task.validate(Zero())
    assert found["mse"] == pytest.approx(float(y.square().mean()), rel=1e-5)
    assert found["loss"] == found["mse"]
    assert found["mae"] == pytest.approx(float(y.abs().mean()), rel=1e-5)
