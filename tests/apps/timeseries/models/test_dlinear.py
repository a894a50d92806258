"""DLinear: equal to its definition stamp by stamp, at every kernel and length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from apps.timeseries.models.base import Shape, build
from apps.timeseries.models.dlinear import DLinear, moving_average
from core.errors import UsageError


def averages(x: Tensor, kernel: int) -> Tensor:
    """Stamp by stamp, by index: beyond the ends stands the nearest value."""
    L = x.shape[-1]
    rows = []
    for t in range(L):
        around = range(t - (kernel - 1) // 2, t + kernel // 2 + 1)
        rows.append(x[..., [min(max(s, 0), L - 1) for s in around]].mean(-1))
    return torch.stack(rows, -1)


@pytest.mark.parametrize("kernel", [1, 2, 3, 24, 25, 60])
@pytest.mark.parametrize("length", [1, 2, 7, 24, 97])
def test_moving_average(kernel: int, length: int) -> None:
    x = torch.randn(2, 3, length, dtype=torch.float64)
    got = moving_average(x, kernel)
    assert got.shape == x.shape
    torch.testing.assert_close(got, averages(x, kernel))


def test_moving_average_of_a_line_is_the_line_inside() -> None:
    x = torch.arange(50.0, dtype=torch.float64).expand(1, 1, 50)
    torch.testing.assert_close(moving_average(x, 25)[..., 12:-12], x[..., 12:-12])
    torch.testing.assert_close(moving_average(x, 4)[..., 1:-2], x[..., 1:-2] + 0.5)


@pytest.mark.parametrize("individual", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_equals_two_linear_layers(individual: bool, outputs: int) -> None:
    torch.manual_seed(0)
    shape = Shape(lookback=31, horizon=7, variates=3, outputs=outputs)
    model = build("dlinear", shape, individual=individual)
    assert isinstance(model, DLinear)
    x = torch.randn(4, 31, 3)
    columns = []
    for n in range(3):
        series = x[:, :, n]
        trend = averages(series, 25)
        y = torch.zeros(4, 7 * outputs)
        for maps, part in ((model.trend, trend), (model.rest, series - trend)):
            layer = nn.Linear(31, 7 * outputs)
            layer.weight.data = maps.weight[n if individual else 0].data
            layer.bias.data = maps.bias[n if individual else 0].data
            y = y + layer(part)
        columns.append(y.reshape(4, 7, outputs))
    want = torch.stack(columns, 2)
    want = want if outputs > 1 else want.squeeze(-1)
    torch.testing.assert_close(model(x), want, atol=1e-6, rtol=1e-5)


def test_published_size() -> None:
    shape = Shape(lookback=96, horizon=96, variates=7)
    sizes = [
        sum(p.numel() for p in build("dlinear", shape, individual=i).parameters())
        for i in (False, True)
    ]
    assert sizes == [18_624, 7 * 18_624]


def test_variates_do_not_meet() -> None:
    model = build("dlinear", Shape(lookback=31, horizon=7, variates=3))
    x = torch.randn(2, 31, 3)
    y = model(x)
    x[..., 0] += torch.randn(2, 31)
    assert torch.equal(model(x)[..., 1:], y[..., 1:])


def test_kernel_must_be_positive() -> None:
    with pytest.raises(UsageError, match="kernel 0"):
        build("dlinear", Shape(lookback=31, horizon=7, variates=3), kernel=0)
