"""Dropout by gaps: each value on its own, at the rate asked for, and the gradient of what it did."""

from __future__ import annotations

import pytest
import torch

from core.ops.dropout import dropout, dropped

RATES = (0.01, 0.05, 0.3, 0.5, 0.95)


@pytest.mark.parametrize("rate", RATES)
def test_each_position_is_dropped_at_the_rate_and_on_its_own(rate: float) -> None:
    torch.manual_seed(0)
    tries, n = 4000, 12
    hit = torch.zeros(tries, n)
    for i in range(tries):
        hit[i, dropped(n, rate)] = 1
    error = (rate * (1 - rate) / tries) ** 0.5
    assert (hit.mean(0) - rate).abs().max() < 4.5 * error, "first and last like the others"
    together = (hit[:, :-1] * hit[:, 1:]).mean(0)
    assert (together - rate**2).abs().max() < 4.5 * error, "neighbours are independent"


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_positions_are_distinct_and_inside(n: int, rate: float) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        at = dropped(n, rate)
        assert at.dtype == torch.int64
        assert (at.diff() > 0).all()
        assert ((at >= 0) & (at < n)).all()


def test_bad_luck_draws_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # Gaps of 1 only: the first draw ends long before n.
    monkeypatch.setattr(torch, "rand", lambda n: torch.zeros(n))
    assert torch.equal(dropped(1000, 0.05), torch.arange(1000))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradient(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.rand(40, 50, 3, dtype=dtype).add(1).transpose(0, 1).requires_grad_()
    y = dropout(x, rate)
    kept = y != 0
    assert abs((~kept).float().mean() - rate) < 0.03
    assert y.dtype == dtype
    torch.testing.assert_close(y, torch.where(kept, x / (1 - rate), 0), rtol=1e-2, atol=0)
    g = torch.rand_like(y).add(1).transpose(0, 1).contiguous().transpose(0, 1)
    (got,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close(got, torch.where(kept, g / (1 - rate), 0), rtol=1e-2, atol=0)


def test_nothing_and_everything() -> None:
    x = torch.ones(7)
    assert dropout(x, 0.0) is x
    assert torch.equal(dropout(x, 1.0), torch.zeros(7))


def test_follows_the_seed() -> None:
    x = torch.ones(1000)
    torch.manual_seed(3)
    first = dropout(x, 0.1)
    assert not torch.equal(dropout(x, 0.1), first)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.1), first)
