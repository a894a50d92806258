"""DLinear: one linear map for the trend of a window, one for what is left.

Paper: Zeng et al., "Are transformers effective for time series forecasting?", AAAI 2023 (section 4).
Code it corresponds to: cure-lab/LTSF-Linear, models/DLinear.py.

    trend = moving average of x over ``kernel`` stamps, x's ends repeated outwards       (B, N, L)
    forecast = Linear(L -> H)(trend) + Linear(L -> H)(x - trend)

Variates share both maps, or with ``individual`` each has its own.  Nothing is normalised: a level
that training never saw is met by the maps alone.

Deviates from the authors' code: an even kernel, which their padding cannot serve, has the longer
half ahead; several outputs for a stamp.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.models.base import Forecaster, Shape, register, split_outputs
from core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DLinearConfig:
    """``kernel`` 25 is the authors' for every data set, ``individual`` False their scripts'."""

    kernel: int = 25
    individual: bool = False


@register("dlinear", DLinearConfig)
class DLinear(Forecaster):
    """(B, L, N) -> (B, H, N) or (B, H, N, Q)."""

    def __init__(self, config: DLinearConfig, shape: Shape) -> None:
        super().__init__(shape)
        if config.kernel < 1:
            raise UsageError(f"kernel {config.kernel}: must be 1 or more stamps.")
        self.kernel = config.kernel
        maps = shape.variates if config.individual else 1
        self.trend = Maps(maps, shape.lookback, shape.horizon * shape.outputs)
        self.rest = Maps(maps, shape.lookback, shape.horizon * shape.outputs)

    def forward(self, x: Tensor, past: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        x = x.transpose(1, 2)
        trend = moving_average(x, self.kernel)
        return split_outputs(self.trend(trend) + self.rest(x - trend), self.shape)


class Maps(nn.Module):
    """(B, N, ``inputs``) -> (B, N, ``outputs``): a linear layer for each variate, or one for all.

    Drawn as ``nn.Linear`` draws: uniform within inputs ** -0.5.
    """

    def __init__(self, maps: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(maps, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(maps, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        if len(self.weight) == 1:
            return F.linear(x, self.weight[0], self.bias[0])
        return (x.transpose(0, 1) @ self.weight.mT).transpose(0, 1) + self.bias


def moving_average(x: Tensor, kernel: int) -> Tensor:
    """Means over ``kernel`` stamps around each: (B, N, L) -> (B, N, L), for any kernel and L.

    The first and the last value stand for what lies beyond them.  An even kernel covers the stamps
    t - kernel / 2 + 1 to t + kernel / 2.
    """
    ends = ((kernel - 1) // 2, kernel // 2)
    return F.avg_pool1d(F.pad(x, ends, mode="replicate"), kernel, stride=1)
