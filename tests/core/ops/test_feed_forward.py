"""The chunked feed-forward against its formula, gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.ops import feed_forward as module
from core.ops.dropout import dropped
from core.ops.feed_forward import NOTHING, feed_forward, reference


def tensors(rows: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(*rows, 5), (11, 5), (6, 11)]
    return [torch.randn(s, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("rows", [(1,), (4,), (3, 7), (2, 2, 5)])  # chunks of 4: below, on, above
def test_equals_the_formula(rows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES", 4 * 11 * 8)
    inputs = tensors(rows)
    got, wanted = feed_forward(*inputs), reference(*inputs)
    torch.testing.assert_close(got, wanted)
    assert got.shape == (*rows, 6)
    g = torch.randn_like(got)
    pairs = zip(
        torch.autograd.grad(got, inputs, g), torch.autograd.grad(wanted, inputs, g), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(feed_forward(*inputs), wanted)


def test_dropout_is_that_of_the_hidden_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES", 4 * 11 * 8)
    inputs, rate = tensors((10,)), 0.3
    torch.manual_seed(5)
    got = feed_forward(*inputs, rate)
    torch.manual_seed(5)
    keep = torch.ones(10, 11, dtype=torch.float64)
    for chunk in keep.split(4):
        chunk.view(-1)[dropped(chunk.numel(), rate)] = 0
    assert 0 < (keep == 0).sum() < 60
    x, w1, w2 = inputs
    wanted = F.linear(F.gelu(F.linear(x, w1)) * keep / (1 - rate), w2)
    torch.testing.assert_close(got, wanted)
    g = torch.randn_like(got)
    pairs = zip(
        torch.autograd.grad(got, inputs, g), torch.autograd.grad(wanted, inputs, g), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_stands_for_dropped_has_no_value_and_no_slope(dtype: torch.dtype) -> None:
    h = torch.full((64,), NOTHING, dtype=dtype, requires_grad=True)
    y = F.gelu(h)
    (slope,) = torch.autograd.grad(y.sum(), h)
    assert (y == 0).all()
    assert (slope == 0).all()


def test_autocast_and_bfloat16() -> None:
    inputs = tensors((600,), torch.float32)
    wanted = reference(*inputs)
    g = torch.randn_like(wanted)
    grads = torch.autograd.grad(wanted, inputs, g)
    with torch.autocast("cpu", torch.bfloat16):
        got = feed_forward(*inputs)
    assert got.dtype == torch.bfloat16
    assert (got.float() - wanted).abs().max() < 0.05 * wanted.abs().max()
    for a, b in zip(torch.autograd.grad(got, inputs, g.bfloat16()), grads, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() < 0.05 * b.abs().max()
